"""
System calls that Python's ``os`` does not have, and flags that it does not name.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from typing import Final

__all__ = ["DIRECTORY_FLAGS", "clone_file", "spread_directories", "sync_filesystem"]

#: Opens a directory to stand in: never through a link, for nothing but ``*at`` calls.
DIRECTORY_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_FICLONE: Final = 0x40049409
_FS_IOC_GETFLAGS: Final = 0x80086601
_FS_IOC_SETFLAGS: Final = 0x40086602
_FS_TOPDIR_FL: Final = 0x00020000


def sync_filesystem(descriptor: int) -> None:
    """
    Make everything durable that was written to the filesystem of *descriptor*: one call for a whole tree.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def clone_file(source: int, target: int) -> None:
    """
    Let *target* share the blocks of *source*. Fails where the filesystem cannot (EOPNOTSUPP, EXDEV, EINVAL …).
    """
    fcntl.ioctl(target, _FICLONE, source)


def spread_directories(directory: int) -> None:
    """
    Ask ext4 to spread what is made below *directory* over the disk, as it does below ``/``. A hint: never fails.

    Measured on an aged ext4, making a file below a crowded directory took ten times as long without it, for every tool.
    """
    with contextlib.suppress(OSError):
        flags = bytearray(8)
        fcntl.ioctl(directory, _FS_IOC_GETFLAGS, flags)
        (present,) = struct.unpack_from("i", flags)
        fcntl.ioctl(directory, _FS_IOC_SETFLAGS, struct.pack("l", present | _FS_TOPDIR_FL))
