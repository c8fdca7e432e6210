"""
The bytes of a blob, as they arrive, and again where they broke off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ullage.errors import RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from ullage.registry.elsewhere import Elsewhere
    from ullage.registry.patience import Patience
    from ullage.registry.peer import Peer
    from ullage.registry.request import Group
    from ullage.registry.transport import Answer

__all__ = ["BlobStream", "Opened"]

#: After this many bytes a break is a new one: what failed before does not count any more.
PROGRESS_BYTES: Final = 1024 * 1024
_SKIP_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Opened:
    """
    An answer whose body is a blob from *offset* on, and the peer that gives it.
    """

    answer: Answer
    offset: int
    peer: Peer | Elsewhere

    @property
    def etag(self) -> str:
        """
        The strong validator of the bytes; '' without one. A weak one says nothing of bytes (RFC 9110 §13.1.5).
        """
        etag = self.answer.header("ETag")
        return etag if etag.startswith('"') else ""


class BlobStream:
    """
    The body of one blob. Read it in one thread; `abort` may come from any.

    ``offset`` is where its bytes start in the blob: what was asked for when
    the registry can resume, else 0. From there on they come without a gap:
    where a body breaks off or stalls, the rest is asked for, and where the
    registry cannot give the rest alone, all of it is, and what was read before
    is skipped. Nothing here is verified: whoever reads hashes and counts.
    *count* is told of every byte that came, of those skipped too.
    """

    def __init__(
        self,
        opened: Opened,
        reopen: Callable[[Opened, int], Opened],
        *,
        size: int,
        group: Group,
        patience: Patience,
        count: Callable[[str, int], None],
    ) -> None:
        self._count = count
        self.offset = opened.offset
        self._opened = opened
        self._reopen = reopen
        self._size = size
        self._group = group
        self._retries = patience.retries()
        self._position = opened.offset
        self._skip = 0
        self._settled = opened.offset
        opened.answer.stream(start_bytes=opened.offset, total_bytes=size)

    def read(self, amount: int = 262144) -> bytes:
        """
        The next bytes, at most *amount*; b'' at the end.

        Raises:
            RegistryUnavailable: the connection broke, stalled or was too slow,
                more often than we are patient; the message says after how many bytes.
            ContentError: the registry does not have the blob any more, or another one.
            PullCancelled: `abort` was called.
        """
        while True:
            try:
                while self._skip:
                    skipped = self._opened.answer.read(min(self._skip, _SKIP_BYTES))
                    if not skipped:
                        return b""  # shorter than before: the reader counts
                    self._count(self._opened.peer.name, len(skipped))
                    self._skip -= len(skipped)
                data = self._opened.answer.read(amount)
            except RegistryUnavailable as error:
                broken = error
            else:
                self._count(self._opened.peer.name, len(data))
                self._position += len(data)
                return data
            self._go_on(broken)

    def abort(self) -> None:
        """
        End it from another thread: a read that waits raises at once.
        """
        self._group.abort()

    def close(self) -> None:
        """
        Done. A connection whose body was read to its end is kept for the next request.
        """
        self._opened.answer.close()
        self._group.leave()

    def _go_on(self, error: RegistryUnavailable) -> None:
        """
        Open the rest; *error* is what broke the last attempt.
        """
        from ullage.registry.faults import may_pass  # noqa: PLC0415  loaded by now: there was a request

        if self._position - self._settled >= PROGRESS_BYTES:
            self._settled = self._position
            self._retries.start_over()
        in_body = True
        while True:
            wait = self._retries.wait_seconds(error.retry_after_seconds)
            if wait is None or not may_pass(error, in_body=in_body):
                raise error
            self._group.pause(wait)
            in_body = False
            try:
                opened = self._reopen(self._opened, self._position)
            except RegistryUnavailable as again:
                error = again
                continue
            self._opened = opened
            self._skip = self._position - opened.offset
            opened.answer.stream(start_bytes=opened.offset, total_bytes=self._size)
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
