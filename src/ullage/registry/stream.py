"""
The bytes of a blob, as they arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ullage.registry.transport import Answer

__all__ = ["BlobStream"]


class BlobStream:
    """
    The body of one blob. Read it in one thread; `abort` may come from any.

    ``offset`` is where its bytes start in the blob: what was asked for when
    the registry can resume, else 0. Nothing here is verified: whoever reads
    hashes and counts.
    """

    def __init__(self, answer: Answer, *, offset: int, size: int) -> None:
        self.offset = offset
        self._answer = answer
        answer.stream(start_bytes=offset, total_bytes=size)

    def read(self, amount: int = 262144) -> bytes:
        """
        The next bytes, at most *amount*; b'' at the end.

        Raises:
            RegistryUnavailable: the connection broke, stalled or was too slow;
                the message says after how many bytes.
            PullCancelled: `abort` was called.
        """
        return self._answer.read(amount)

    def abort(self) -> None:
        """
        End it from another thread: a read that waits raises at once.
        """
        self._answer.abort()

    def close(self) -> None:
        """
        Done. A connection whose body was read to its end is kept for the next request.
        """
        self._answer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
