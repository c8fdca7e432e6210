"""
The registry of the show: as slow as a network, so that there is something to see, and able to stop in the
middle.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ullage.demo.registry import LoopbackRegistry

if TYPE_CHECKING:
    from ullage.httpd import Asked, Connection, Reply

__all__ = ["PacedRegistry"]

_PIECE_BYTES: Final = 64 * 1024


class PacedRegistry(LoopbackRegistry):
    """
    Sends files at ``bytes_per_second`` in all. The file in ``stalled`` is sent by half, until `release`.
    """

    bytes_per_second: float = float("inf")
    stalled: Path | None = None

    def __init__(self, *, username: str, password: str) -> None:
        super().__init__(auth="token", username=username, password=password)
        self._pace = threading.Lock()
        self._next_at = 0.0
        self._released = threading.Event()

    def release(self) -> None:
        """
        Nothing stalls any more.
        """
        self.stalled = None
        self._released.set()

    def close(self, *, grace_seconds: float = 0.0) -> None:
        self.release()
        super().close(grace_seconds=grace_seconds)

    def deliver(self, connection: Connection, asked: Asked, reply: Reply) -> None:
        if asked.method != "GET" or not isinstance(reply.body, Path):
            super().deliver(connection, asked, reply)
            return
        self.log(asked, reply.status, reply.length)
        connection.send(self.head(connection, reply))
        stop_at = reply.length // 2 if reply.body == self.stalled else reply.length
        with reply.body.open("rb") as file:
            file.seek(reply.start)
            sent = 0
            while sent < reply.length:
                if sent >= stop_at:
                    self._released.wait()
                piece = file.read(min(_PIECE_BYTES, reply.length - sent))
                time.sleep(self._turn_seconds(len(piece)))
                connection.send(piece)
                sent += len(piece)

    def _turn_seconds(self, size: int) -> float:
        """
        How long to wait before the next *size* bytes: connections take turns.
        """
        with self._pace:
            now = time.monotonic()
            at = max(now, self._next_at)
            self._next_at = at + size / self.bytes_per_second
            return at - now
