"""
What is asked, and what is under way: no HTTP library in here, so that it costs nothing to load.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ullage.errors import PullCancelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ullage.registry.wire import Exchange

__all__ = ["Group", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """
    One GET, HEAD or token POST; all of them are safe to send again.

    ``doing`` opens the message when it fails: ``fetching the manifest of app:1``.
    """

    method: str
    url: str = field(repr=False)
    doing: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)


class Group:
    """
    The exchanges of one pull, so that they can be aborted together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self._aborted = threading.Event()

    def add(self, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.add(exchange)
        if self._aborted.is_set():
            exchange.abort()

    def discard(self, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.discard(exchange)

    def abort(self) -> None:
        self._aborted.set()
        with self._lock:
            exchanges = tuple(self._exchanges)
        for each in exchanges:
            each.abort()

    def pause(self, seconds: float) -> None:
        """
        Wait, but not after an abort.
        """
        self._aborted.wait(seconds)
        self.check()

    def check(self) -> None:
        """
        Raises:
            PullCancelled: the group was aborted.
        """
        if self._aborted.is_set():
            raise PullCancelled("the requests of this pull were aborted")
