"""
Blobs that are on their way, read while they come.

Whoever reads one early reads bytes that nobody has verified yet: what is made of them must not be shown to anybody,
nor anything give way to it, before they are. They may turn out to be others (a mirror was wrong, an earlier attempt's
bytes were torn), and then come again from the start: who has read some of them hears of it, and begins again as well.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from ullage.errors import ContentError
from ullage.ingest import CHUNK_BYTES, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ullage.blobs import BlobFiles
    from ullage.digest import Digest

__all__ = ["Arrivals", "Blob"]

_TICK_SECONDS: Final = 0.05


class Blob(Protocol):
    """
    The bytes of a blob, from its first on.
    """

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class Arrivals:
    """
    Which blobs are here, and how far others have come. Told by those who fetch, asked by those who unpack.
    """

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._changed = threading.Condition()
        self._here: set[Digest] = set()
        #: Of ingests of ours: what they are to have, and what they have.
        self._sizes: dict[Digest, int] = {}
        self._received: dict[Digest, int] = {}
        self._restarts: Counter[Digest] = Counter()
        #: Those that were opened before they were here, and how often they had been begun again by then.
        self._early: dict[Digest, int] = {}

    # ------------------------------------------------------------------ told

    def claimed(self, present: Iterable[Digest], ours: Mapping[Digest, int]) -> None:
        """
        These are here, and those are ours to fetch, with their sizes.
        """
        with self._changed:
            self._sizes.update(ours)
        self.here(present)

    def here(self, digests: Iterable[Digest]) -> None:
        """
        These may be read to their end: published, or finished ingests of ours.
        """
        with self._changed:
            self._here.update(digests)
            self._changed.notify_all()

    def received(self, digest: Digest, received_bytes: int) -> None:
        """
        So much of an ingest of ours is written. Less than before: it was begun again.
        """
        with self._changed:
            if received_bytes < self._received.get(digest, 0):
                self._restarts[digest] += 1
            self._received[digest] = received_bytes
            self._changed.notify_all()

    # ------------------------------------------------------------------ asked

    @property
    def is_early(self) -> bool:
        """
        Something was read that is not verified, or was begun again since.
        """
        return bool(self._early)

    @property
    def outstanding_bytes(self) -> int:
        """
        How much is still to be written by those who fetch, at least: room that was found for it, and is no one else's.
        """
        with self._changed:
            # Of those that come a piece may be written, and not told yet.
            return sum(
                max(0, size - self._received[digest] - CHUNK_BYTES) if digest in self._received else size
                for digest, size in self._sizes.items()
                if digest not in self._here
            )

    def open(self, digest: Digest, size: int, check: Callable[[], None]) -> Blob:
        """
        A blob of *size* bytes, as soon as some of it is here. *check* is called while it is waited for.
        """
        with self._changed:
            self._wait(lambda: digest in self._here or self._received.get(digest, 0) > 0, check)
            if digest in self._here:
                return self._files.open_arrived(digest)
            restarts = self._restarts[digest]
            # Of a layer that is there twice the first to read it counts: the other may begin after a restart.
            self._early.setdefault(digest, restarts)
        return _Coming(self, self._files.open_arrived(digest), digest, size, restarts, check)

    def settle(self, digest: Digest, check: Callable[[], None]) -> None:
        """
        Wait until a blob is whole and verified, and all that was read early: other layers hold room as well. After
        this nothing was read too early.

        Raises:
            ContentError: one was begun again, and what was read of it is worth nothing.
        """
        with self._changed:
            self._wait(lambda: self._here.issuperset((digest, *self._early)), check)
            for each, restarts in self._early.items():
                self._require_same(each, restarts)
            self._early.clear()

    def forget(self, digests: Iterable[Digest], check: Callable[[], None]) -> None:
        """
        Wait until all of these are here: what was made of them is thrown away, and they are read again.
        """
        with self._changed:
            self._wait(lambda: self._here.issuperset(digests), check)
            self._early.clear()

    def wait_beyond(self, digest: Digest, position: int, restarts: int, check: Callable[[], None]) -> int:
        """
        Wait until bytes behind *position* have come, and say how far they go.

        Raises:
            ContentError: they come from the start again.
        """
        with self._changed:
            self._wait(
                lambda: self._received.get(digest, 0) > position or self._restarts[digest] != restarts, check
            )
            self._require_same(digest, restarts)
            return self._received[digest]

    def require_same(self, digest: Digest, restarts: int) -> None:
        """
        Raises:
            ContentError: it was begun again.
        """
        with self._changed:
            self._require_same(digest, restarts)

    def _require_same(self, digest: Digest, restarts: int) -> None:
        if self._restarts[digest] != restarts:
            raise ContentError(f"blob {digest} was begun again while it was unpacked")

    def _wait(self, done: Callable[[], bool], check: Callable[[], None]) -> None:
        while not done():
            self._changed.wait(_TICK_SECONDS)
            check()


class _Coming:
    """
    A blob that is written while it is read.
    """

    def __init__(
        self,
        arrivals: Arrivals,
        file: BinaryIO,
        digest: Digest,
        size: int,
        restarts: int,
        check: Callable[[], None],
    ) -> None:
        self._arrivals = arrivals
        self._file = file
        self._digest = digest
        self._size = size
        self._restarts = restarts
        self._check = check
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """
        Up to *size* bytes; none at its end, whether or not that is verified yet.
        """
        if self._at == self._size:
            return b""
        received = self._arrivals.wait_beyond(self._digest, self._at, self._restarts, self._check)
        with translated():
            data = self._file.read(min(size, received - self._at))
        # Cut off and written anew between our question and our reading, or since.
        self._arrivals.require_same(self._digest, self._restarts)
        if not data:
            raise ContentError(f"blob {self._digest} was begun again while it was unpacked")
        self._at += len(data)
        return data

    def close(self) -> None:
        self._file.close()
