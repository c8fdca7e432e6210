"""
What is asked, and what is under way: no HTTP library in here, so that it costs nothing to load.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ullage.errors import PullCancelled
from ullage.registry.route import DIRECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ullage.registry.route import Route
    from ullage.registry.wire import Exchange

__all__ = ["Group", "Request", "Stream"]

#: What is handed to the socket at a time: so often an abort and the time are looked at.
_PIECE_BYTES: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Stream:
    """
    A body of *length* bytes that is uploaded. ``pieces`` gives it from its start, each time that it is called.
    """

    length: int
    pieces: Callable[[], Iterator[bytes | memoryview]]

    @classmethod
    def of(cls, data: bytes) -> Stream:
        """
        Bytes that are here.
        """

        def pieces() -> Iterator[memoryview]:
            view = memoryview(data)
            return (view[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES))

        return cls(len(data), pieces)


@dataclass(frozen=True, slots=True)
class Request:
    """
    One GET, HEAD or token POST, which are safe to send again; or an upload, which has a `Stream` and is not.

    ``doing`` opens the message when it fails: ``fetching the manifest of app:1``.
    """

    method: str
    url: str = field(repr=False)
    doing: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Stream | None = field(default=None, repr=False)
    route: Route = DIRECT


class Group:
    """
    The exchanges of one pull, so that they can be aborted together; a `child` can be aborted alone as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self._children: set[Group] = set()
        self._parent: Group | None = None
        self._aborted = threading.Event()

    def child(self) -> Group:
        """
        A group that ends with this one, or before it. `leave` it when its work is done.
        """
        group = Group()
        group._parent = self
        with self._lock:
            self._children.add(group)
        if self._aborted.is_set():
            group.abort()
        return group

    def leave(self) -> None:
        """
        The parent need not know any more.
        """
        if self._parent is not None:
            self._parent.forget(self)

    def forget(self, child: Group) -> None:
        with self._lock:
            self._children.discard(child)

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
            ended: tuple[Exchange | Group, ...] = (*self._exchanges, *self._children)
        for each in ended:
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
