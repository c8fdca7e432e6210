"""
A file that is written beside its place and renamed to it: whole, synced, or not there.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ullage.errors import DiskFull, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Beside", "Stdout", "beside_name", "sync_directory", "writing"]

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_STDOUT: Final = 1


@contextmanager
def writing(path: str) -> Iterator[None]:
    """
    What the system says about a place that is written to becomes what this package says.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(f"no space left where {path} is written", hint="free space there") from error
        raise ImageError(f"cannot write {path}: {error.strerror}") from error


def beside_name(name: str) -> str:
    """
    What a thing is called until it is whole: hidden, and of one attempt.
    """
    return f".{name[:200]}.{secrets.token_hex(6)}"


def sync_directory(descriptor: int) -> None:
    """
    What was renamed in it is on disk.
    """
    with suppress(OSError):  # not every filesystem that one exports to can
        os.fsync(descriptor)


class Beside:
    """
    A file below the directory *parent*, which is closed with it.
    """

    def __init__(self, parent: int, name: str, shown: str) -> None:
        self._parent = parent
        self._name = name
        self._shown = shown
        self._temporary = beside_name(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with writing(shown):
                self._descriptor = os.open(self._temporary, flags, 0o666, dir_fd=parent)
        except BaseException:
            os.close(parent)
            raise

    @classmethod
    def at(cls, path: str) -> Beside:
        """
        The same for a path as it was typed.
        """
        directory, name = os.path.split(path)
        with writing(path):
            parent = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not name or os.path.isdir(path):  # noqa: PTH112 -- a path as it was typed
            os.close(parent)
            raise ImageError(f"cannot write {path}: it is a directory")
        return cls(parent, name, path)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with writing(self._shown):
            while view:
                view = view[os.write(self._descriptor, view) :]

    def patch(self, at: int, data: bytes) -> None:
        """
        Write over what is there already.
        """
        with writing(self._shown):
            os.pwrite(self._descriptor, data, at)

    def tell(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def finish(self) -> None:
        """
        Sync, and put it in its place: what was there before is there until then.
        """
        with writing(self._shown):
            os.fsync(self._descriptor)
            os.rename(self._temporary, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            self._temporary = ""
            sync_directory(self._parent)
        self.discard()

    def discard(self) -> None:
        """
        Let go; what did not get its place is gone.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if self._temporary:
                with suppress(OSError):
                    os.unlink(self._temporary, dir_fd=self._parent)
            os.close(self._parent)


class Stdout:
    """
    Standard output in the place of a file. What was written there was written.
    """

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with writing("standard output"):
            while view:
                view = view[os.write(_STDOUT, view) :]

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass
