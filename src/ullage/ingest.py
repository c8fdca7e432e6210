"""
One blob being written: verified while it is written, whole and synced when it is finished.
"""

from __future__ import annotations

import errno
import functools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, Self, cast

from ullage.digest import Digest, Hasher
from ullage.errors import DigestMismatch, DiskFull, ImageError, SizeMismatch, StoreError, StoreReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["CHUNK_BYTES", "Ingest", "translated"]

#: What has come is taken, and this at most. Four times fewer reads and writes than of 256 KiB are 7% of what a large
#: blob costs a processor.
CHUNK_BYTES: Final = 1 << 20
#: So much is on its way to the disk while the next bytes come, instead of all of it at the end.
_WRITE_BACK_BYTES: Final = 8 << 20
_SYNC_FILE_RANGE_WRITE: Final = 2
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class Stream(Protocol):
    """
    The bytes of a blob from *offset* on.
    """

    offset: int

    def read(self, amount: int, /) -> bytes: ...


@contextmanager
def translated() -> Iterator[None]:
    """
    What the system says about files becomes what this package says.
    """
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        translated: ImageError
        if error.errno in _NO_ROOM:
            translated = DiskFull(f"no space left on the filesystem of the store ({what})")
        elif error.errno in _NO_RIGHT:
            translated = StoreReadOnly(f"no right to write to the store ({what})")
        else:
            translated = StoreError(f"input/output error in the store ({what})")
        raise translated from error


class Ingest:
    """
    One blob being written: verified while it is written, whole and synced after `finish`.

    `received_bytes` is where the next byte goes; what an earlier attempt left counts, and is hashed on opening.
    """

    def __init__(self, path: Path, digest: Digest, size: int) -> None:
        self._hasher = Hasher(digest)
        self._digest = digest
        self.size = size
        self.received_bytes = 0
        self._written_back_bytes = 0
        try:
            self._file = path.open("ab+", buffering=0)
        except PermissionError:
            path.chmod(0o644)  # finished by an attempt that failed later, and so made read-only
            self._file = path.open("ab+", buffering=0)
        try:
            self._hash_what_is_here()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()

    def receive(self, stream: Stream) -> Iterator[int]:
        """
        Append what a stream has, from where it starts; after each piece, how many bytes are here. None are, before the
        first, where what was here is thrown away.
        """
        if stream.offset < self.received_bytes:
            self.restart()
            yield self.received_bytes
        while chunk := stream.read(CHUNK_BYTES):
            self.write(chunk)
            yield self.received_bytes

    def write(self, data: bytes) -> None:
        """
        Append bytes.

        Raises:
            SizeMismatch: more came than the descriptor says. None of the excess is written.
            DiskFull: the filesystem has no room.
        """
        if self.received_bytes + len(data) > self.size:
            raise SizeMismatch(
                f"size mismatch: expected {self.size} bytes of {self._digest}, got more",
                expected_bytes=self.size,
                actual_bytes=self.received_bytes + len(data),
            )
        self._hasher.update(data)
        with translated():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self.received_bytes += len(data)
        if self.received_bytes - self._written_back_bytes >= _WRITE_BACK_BYTES:
            self._write_back()

    def restart(self) -> None:
        """
        Throw away what is here: the server starts from the first byte.
        """
        with translated():
            self._file.truncate(0)
        self._hasher = Hasher(self._digest)
        self.received_bytes = self._written_back_bytes = 0

    def finish(self) -> None:
        """
        Verify and sync. After this the file is what its digest says, and on disk.

        Raises:
            SizeMismatch: bytes are missing.
            DigestMismatch: they are others. The caller discards the file.
        """
        if self.received_bytes != self.size:
            raise SizeMismatch(
                f"size mismatch: expected {self.size} bytes of {self._digest}, got {self.received_bytes}",
                expected_bytes=self.size,
                actual_bytes=self.received_bytes,
            )
        if not self._hasher.matches:
            actual = self._hasher.digest()
            raise DigestMismatch(
                f"digest mismatch: expected {self._digest}, got {actual}",
                expected=self._digest,
                actual=actual,
            )
        with translated():
            os.fchmod(self._file.fileno(), 0o444)
            os.fdatasync(self._file.fileno())

    def _write_back(self) -> None:
        """
        Let the disk begin with what was written, and do not wait. The kernel would leave that to `finish`, or to half
        a minute from now; then a large blob takes the time of the network and that of the disk, one after the other.

        It makes nothing durable and reports nothing: both are what `finish` is for, as if this had not been.
        """
        if (sync_file_range := _sync_file_range()) is not None:
            start = self._written_back_bytes
            sync_file_range(self._file.fileno(), start, self.received_bytes - start, _SYNC_FILE_RANGE_WRITE)
        self._written_back_bytes = self.received_bytes

    def _hash_what_is_here(self) -> None:
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            self._hasher.update(chunk)
            self.received_bytes += len(chunk)
        if self.received_bytes > self.size:
            # Not ours, or of another descriptor: nothing to go on with.
            self.restart()
        self._written_back_bytes = self.received_bytes


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """
    The system call, which Python's `os` lacks; None where the C library does.
    """
    import ctypes  # noqa: PLC0415  for large blobs alone

    try:
        function = ctypes.CDLL(None).sync_file_range
    except AttributeError:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int]", function)
