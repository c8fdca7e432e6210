"""
One small file of a root filesystem, read as a process inside would see it.

Links on the way, and the file's own, lead where they lead below the root, as in `Walk`; every step is by descriptor and
none through a link, so a tree that somebody planted links in shows nothing from outside. Unlike a walk this changes
nothing, not even a mode.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from ullage.layer.refused import Refused
from ullage.layer.syscalls import DIRECTORY_FLAGS

if TYPE_CHECKING:
    from typing import Self

__all__ = ["read_inside", "write_new"]

#: As many as the kernel follows.
_MAX_LINKS: Final = 40
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)
#: Neither waits for the other end of a fifo nor takes a terminal for ours.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read_inside(root: int, path: bytes, *, max_bytes: int) -> bytes | None:
    """
    The bytes of the file at *path* below the directory *root*; None where there is none.

    Raises:
        Refused: it is no regular file, longer than *max_bytes*, or there is no end of links.
        OSError: we may not read it, or the filesystem fails.
    """
    found = _found(root, path)
    if found is None:
        return None
    directory, name = found
    try:
        if not stat.S_ISREG(os.lstat(name, dir_fd=directory).st_mode):
            raise Refused("no regular file")
        file = os.open(name, _READ, dir_fd=directory)
    finally:
        os.close(directory)
    with open(file, "rb") as opened:  # noqa: PTH123 -- a descriptor
        data = opened.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Refused(f"longer than {max_bytes} bytes")
    return data


def write_new(directory: int, name: str, data: bytes) -> None:
    """
    Write a file that is not there yet into the directory.
    """
    with open(os.open(name, _NEW, 0o644, dir_fd=directory), "wb") as file:  # noqa: PTH123 -- a descriptor
        file.write(data)


def _found(root: int, path: bytes) -> tuple[int, bytes] | None:
    """
    The directory that *path* is in, open, and its name there, which is no link; None where there is nothing.
    """
    with _Way(root) as way:
        to_go = path.split(b"/")[::-1]
        links = 0
        try:
            while to_go:
                part = to_go.pop()
                if part == b"..":
                    way.up()
                elif part not in (b"", b"."):
                    target = way.link(part)
                    if target is None:
                        if not any(each not in (b"", b".") for each in to_go):
                            return way.taken(), part
                        way.down(part)
                        continue
                    links += 1
                    if links > _MAX_LINKS:
                        raise Refused("too many links in its name")
                    way.restart(target)
                    to_go.extend(target.split(b"/")[::-1])
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return None


class _Way:
    """
    The directories from the root to where we are, all open: going up is going back, never through ``..``.
    """

    def __init__(self, root: int) -> None:
        self._open = [os.open(b".", DIRECTORY_FLAGS, dir_fd=root)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for each in self._open:
            os.close(each)

    def link(self, name: bytes) -> bytes | None:
        """
        The target of a link; None where it is none.
        """
        if not stat.S_ISLNK(os.lstat(name, dir_fd=self._open[-1]).st_mode):
            return None
        return os.readlink(name, dir_fd=self._open[-1])

    def down(self, name: bytes) -> None:
        self._open.append(os.open(name, DIRECTORY_FLAGS, dir_fd=self._open[-1]))

    def up(self) -> None:
        if len(self._open) > 1:
            os.close(self._open.pop())

    def restart(self, target: bytes) -> None:
        """
        An absolute link begins at the root.
        """
        while target.startswith(b"/") and len(self._open) > 1:
            self.up()

    def taken(self) -> int:
        """
        The directory where we are, to be closed by whoever asked.
        """
        return self._open.pop()
