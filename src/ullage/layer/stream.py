"""
The tar stream of a layer: read once, hashed on both sides of the decompression, verified at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ullage.digest import Digest, Hasher
from ullage.errors import DigestMismatch, SizeMismatch, UnsafeLayer
from ullage.layer.ahead import Ahead
from ullage.layer.decompress import decompressed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

__all__ = ["LayerStream", "Readable"]

_NOTHING: Final = memoryview(b"")


class Readable(Protocol):
    """
    Where a blob comes from: a file, or a download in progress. Fewer bytes than asked for are no end; none are.
    """

    def read(self, size: int, /) -> bytes: ...


class LayerStream:
    """
    One layer, from its blob: decompressed, hashed, handed out in exact amounts.

    With *threads*, decompressing and hashing run in threads of their own, ahead of the reader. `finish` reads what
    is left and verifies; `close` (or leaving the ``with``) ends the threads. The blob itself is not closed.

    Args:
        diff_id: what the uncompressed stream has to be; None where nobody knows, then `finish` says what it was.
        digest: what the blob has to be, for a blob that was not verified before.
        size: its length, checked with *digest*.
    """

    def __init__(
        self,
        blob: Readable,
        *,
        diff_id: Digest | None = None,
        digest: Digest | None = None,
        size: int | None = None,
        threads: bool = True,
    ) -> None:
        self._blob = blob
        self._size = size
        self._blob_hasher = None if digest is None else Hasher(digest)
        self._expected = diff_id
        self._hasher = Hasher(diff_id or Digest("sha256:" + "0" * 64))
        #: The piece at hand, and how far it is read.
        self._piece = b""
        self._view = _NOTHING
        self._at = self._end = 0
        #: Bytes of the blob that were read, and bytes that came out of it.
        self.compressed_bytes = 0
        self.uncompressed_bytes = 0
        self._stages: list[Ahead[bytes]] = []
        try:
            self._pieces = self._start(threads=threads)
        except BaseException:  # of a second thread that cannot be had the first would never know
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """
        Stop reading. Harmless after the end, and when repeated.
        """
        for stage in reversed(self._stages):
            stage.close()
        self._stages.clear()

    # ------------------------------------------------------------------ the stages

    def _start(self, *, threads: bool) -> Iterator[bytes]:
        pieces = decompressed(self._read)
        if threads:
            pieces = self._staged(pieces, "ullage-decompress")
        pieces = self._hashed(pieces)
        if threads:
            pieces = self._staged(pieces, "ullage-hash")
        return pieces

    def _staged(self, pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
        stage = Ahead(pieces, name=name)
        self._stages.append(stage)
        return stage

    def _read(self, size: int) -> bytes:
        data = self._blob.read(size)
        self.compressed_bytes += len(data)
        if self._size is not None and (self.compressed_bytes > self._size or not data):
            self._require_size(self._size)
        if self._blob_hasher is not None:
            self._blob_hasher.update(data)
            if not data and not self._blob_hasher.matches:
                raise _mismatch(self._blob_hasher, "blob")
        return data

    def _require_size(self, size: int) -> None:
        if self.compressed_bytes != size:
            raise SizeMismatch(
                f"size mismatch: expected {size} bytes of a layer, got {self.compressed_bytes}",
                expected_bytes=size,
                actual_bytes=self.compressed_bytes,
            )

    def _hashed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._hasher.update(piece)
            yield piece

    # ------------------------------------------------------------------ reading

    def _next(self) -> bool:
        piece = next(self._pieces, b"")
        self._piece, self._view, self._at, self._end = piece, memoryview(piece), 0, len(piece)
        self.uncompressed_bytes += len(piece)
        return bool(piece)

    def take(self, size: int, *, after: int = 0) -> bytes:
        """
        Exactly *size* bytes, *after* so many that are passed over; or what there is before the end.
        """
        at = self._at + after
        end = at + size
        if end <= self._end:
            self._at = end
            return self._piece[at:end]
        self.skip(after)
        return b"".join(bytes(part) for part in self.parts(size))

    def part(self, size: int) -> memoryview | None:
        """
        The next *size* bytes in one part, where they lie so in memory; None, and nothing read, where they do not.
        """
        at = self._at
        end = at + size
        if end > self._end:
            return None
        self._at = end
        return self._view[at:end]

    def parts(self, size: int) -> Iterator[memoryview]:
        """
        The next *size* bytes as they lie in memory, uncopied; fewer at the end of the stream.

        Stopping early leaves the rest unread. A part is good until the next one is asked for.
        """
        while size > 0:
            if self._at >= self._end and not self._next():
                return
            part = self._view[self._at : self._at + size]
            size -= len(part)
            self._at += len(part)
            yield part

    def skip(self, size: int) -> bool:
        """
        Pass over *size* bytes; False when the stream ends before.
        """
        end = self._at + size
        if end <= self._end:
            self._at = end
            return True
        for part in self.parts(size):
            size -= len(part)
        return not size

    def finish(self, *, max_bytes: int) -> Digest:
        """
        Read what is left after the end of the archive and verify all of it.

        Returns:
            The diff id.

        Raises:
            DigestMismatch, SizeMismatch: the layer is another one than was promised.
            UnsafeLayer: more than *max_bytes* follow the archive.
        """
        for part in self.parts(max_bytes + 1):
            max_bytes -= len(part)
        if max_bytes < 0:
            raise UnsafeLayer("unsafe layer: no end of bytes after the end of its archive")
        self.close()
        if self._expected is not None and not self._hasher.matches:
            raise _mismatch(self._hasher, "layer")
        return self._hasher.digest()


def _mismatch(hasher: Hasher, what: str) -> DigestMismatch:
    actual = hasher.digest()
    return DigestMismatch(
        f"digest mismatch of a {what}: expected {hasher.expected}, got {actual}",
        expected=hasher.expected,
        actual=actual,
    )
