"""
An iterator that is run in a thread of its own, a few items ahead of whoever reads them.

What is run so (reading, decompressing, hashing) lets go of the interpreter while it works, so that the stages of a
layer overlap with writing it. Threads rather than processes: measured, they are as fast, and nothing is forked.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

__all__ = ["Ahead"]

T = TypeVar("T")

#: Items between two stages. With pieces of a MiB this is four MiB, and absorbs the writer's pauses.
_DEPTH: Final = 4


class Ahead(Generic[T]):
    """
    Runs *source* ahead. Its exception, if any, is raised where its items are read.

    `close` stops the thread and waits for it; an iterator that was read to its end or its exception needs no closing.
    """

    def __init__(self, source: Iterator[T], *, name: str) -> None:
        self._source = source
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._abandoned = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
            if self._items:
                item = self._items.popleft()
                # Woken when it has room for several: a switch of threads costs more than an item.
                if len(self._items) == _DEPTH // 2:
                    self._changed.notify()
                return item
        self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def close(self) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._source:
                with self._changed:
                    while len(self._items) >= _DEPTH and not self._abandoned:
                        self._changed.wait()
                    if self._abandoned:
                        break
                    self._items.append(item)
                    if len(self._items) == 1:
                        self._changed.notify()
        except BaseException as error:  # noqa: BLE001 -- it is raised again, in the thread that reads
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()
