"""
What cannot be read twice, kept for as long as it is needed: a pipe, or an archive that comes out of a compressor.

It is kept in pieces, each an ingest of its own that a lease owns and nobody publishes. So it is charged before it is
written, refused where it does not fit, shown by ``in_flight``, and gone or charged whatever dies when.
"""

from __future__ import annotations

import bisect
import logging
import os
from typing import TYPE_CHECKING, Final

from ullage.digest import Digest, digest_of
from ullage.errors import DiskFull, ImageError, StorageLimitExceeded
from ullage.recovery import give_back, owner_name, reap, sweep, sweep_quietly
from ullage.repository import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ullage.blobs import BlobFiles
    from ullage.repository import ImageRepository

__all__ = ["Spool"]

_log = logging.getLogger(__name__)

#: What is held in memory, and charged and written in one step.
PIECE_BYTES: Final = 8 << 20


class Spool:
    """
    A stream that can be read from anywhere: `ullage.archive.Storage`. Close it, and its room is free again.

    Args:
        where: what it is, for people.
        evict: whether images may go to make room for it.
        piece_bytes: the size of a piece; the last one is smaller.
    """

    def __init__(
        self,
        repository: ImageRepository,
        files: BlobFiles,
        *,
        where: str,
        evict: bool,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self._repository = repository
        self._files = files
        self._where = where
        self._evict = evict
        self._piece_bytes = piece_bytes
        self._starts: list[int] = []
        self._pieces: list[Digest] = []
        self._lock = files.new_lease()
        self.size = 0

    @classmethod
    def of(
        cls,
        repository: ImageRepository,
        files: BlobFiles,
        pieces: Iterator[bytes],
        *,
        where: str,
        evict: bool,
        piece_bytes: int = PIECE_BYTES,
    ) -> Spool:
        """
        All that *pieces* gives, spooled.

        Raises:
            StorageLimitExceeded, DiskFull: there is no room for it. Nothing of it is left.
        """
        spool = cls(repository, files, where=where, evict=evict, piece_bytes=piece_bytes)
        try:
            spool._fill(pieces)
        except BaseException:
            spool.close()
            raise
        return spool

    def read_at(self, offset: int, size: int) -> bytes:
        """
        At most *size* bytes; none only at the end.
        """
        if offset >= self.size:
            return b""
        number = bisect.bisect_right(self._starts, offset) - 1
        return self._files.read_piece(self._pieces[number], offset - self._starts[number], size)

    def close(self) -> None:
        """
        Let go of the room. What goes wrong here is recovery's to mend.
        """
        if not self._lock.is_held:
            return
        try:
            if self._lock.token in self._repository.tokens():
                give_back(self._repository, self._files, self._lock.token, keep=False)
                sweep_quietly(self._repository, self._files)
        except ImageError as error:
            _log.warning("what was spooled of %s stays for recovery: %s", self._where, error)
        finally:
            self._lock.drop()

    def _fill(self, pieces: Iterator[bytes]) -> None:
        owner = Owner(self._lock.token, owner_name(), os.getpid())
        self._repository.admit(owner, self._where, {}, self._files)
        held = bytearray()
        for piece in pieces:
            held += piece
            while len(held) >= self._piece_bytes:
                self._keep(bytes(held[: self._piece_bytes]))
                del held[: self._piece_bytes]
        if held:
            self._keep(bytes(held))

    def _keep(self, data: bytes) -> None:
        # A name that no content has: what is in a piece is nobody's blob, whatever its bytes.
        digest = digest_of(f"{self._lock.token} {len(self._pieces)}".encode())
        self._reserve(lambda: self._claim(digest, len(data)))
        self._files.write_piece(digest, data)
        self._repository.progress(self._lock.token, {digest: len(data)})
        self._starts.append(self.size)
        self._pieces.append(digest)
        self.size += len(data)

    def _claim(self, digest: Digest, size: int) -> None:
        claims = self._repository.claim(self._lock.token, {digest: size}, self._files, evict=self._evict)
        # What had to give way is unlinked before a byte is written in its place.
        if claims.evicted or self._repository.doomed(1):
            sweep(self._repository, self._files)
        self._files.empty_trash()

    def _reserve(self, claim: Callable[[], None]) -> None:
        try:
            claim()
        except (DiskFull, StorageLimitExceeded):
            # The dead may hold room that nobody gave back yet.
            if not reap(self._repository, self._files):
                raise
            claim()
