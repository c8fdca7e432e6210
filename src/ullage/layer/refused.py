"""
Refusals of an entry, and what the operating system says about it, as this package's exceptions.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ullage.errors import DiskFull, StoreError, StoreReadOnly, UnsafeLayer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Refused", "printable", "translated"]

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
#: What the kernel says when it is the entry that cannot be.
_ENTRYS_FAULT: Final = (
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.EMLINK,
    errno.EINVAL, errno.EFBIG, errno.EOVERFLOW, errno.ENOTEMPTY,
)  # fmt: skip


class Refused(Exception):
    """
    An entry is no header, or may not be applied. Stays in this package: it leaves as `UnsafeLayer`, with the name.
    """


def printable(name: bytes) -> str:
    """
    A name for a message: bytes that are no UTF-8, and control characters, as escapes.
    """
    text = name.decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


@contextmanager
def translated(entry: bytes = b"", *, blames_entry: bool = True) -> Iterator[None]:
    """
    Refusals and errors of the operating system leave as this package's, with the name of the entry.

    Some of those errors say that the entry cannot be; not so where we work on our own account, with *entry* a path.
    """
    try:
        yield
    except Refused as error:
        name = printable(entry) or "."
        raise UnsafeLayer(f"unsafe layer: {name}: {error}", entry=name) from error
    except OSError as error:
        name = printable(entry) or "."
        what = f"{name}: {error.strerror}"
        if error.errno in _NO_ROOM:
            raise DiskFull(f"no space left to unpack a layer ({what})") from error
        if blames_entry and error.errno in _ENTRYS_FAULT:
            raise UnsafeLayer(f"unsafe layer: {what}", entry=name) from error
        if error.errno in _NO_RIGHT:
            raise StoreReadOnly(
                f"no right to unpack a layer ({what})",
                hint="unpack as root, in a user namespace, or rootless",
            ) from error
        raise StoreError(f"input/output error while unpacking ({what})") from error
    except (
        OverflowError,
        ValueError,
    ) as error:  # a NUL in a name, a time or an id that the kernel has no room for
        name = printable(entry) or "."
        raise UnsafeLayer(f"unsafe layer: {name}: {error}", entry=name) from error
