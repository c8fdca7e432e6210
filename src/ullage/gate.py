"""
The gate: where all who write to a store queue, threads of a process first, then processes.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ullage.errors import StoreBusy, StoreReadOnly
from ullage.locks import CHECK_SECONDS, FileLock, LockWaits
from ullage.refusal import require_room_to_change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Gate"]


class Gate:
    """
    One turn at a time, on the whole machine.

    Args:
        path: the file whose lock it is.
        timeout_seconds: how long to wait for a turn.
    """

    def __init__(self, path: Path, *, timeout_seconds: float) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._turn = threading.Lock()
        self._waiting = threading.local()
        self.waits = LockWaits()

    @contextmanager
    def patience(self, check: Callable[[], None]) -> Iterator[None]:
        """
        While this thread waits for its turn, inside the block, *check* is called: it ends the wait by raising.
        """
        before = getattr(self._waiting, "check", None)
        self._waiting.check = check
        try:
            yield
        finally:
            self._waiting.check = before

    @contextmanager
    def turn(self) -> Iterator[None]:
        """
        Be the only one while the block runs.

        Raises:
            StoreBusy: the turn did not come within the timeout.
            StoreReadOnly: the file cannot be locked.
            DiskFull: changing the database could kill us: see `require_room_to_change`.
        """
        started = time.monotonic()
        check = getattr(self._waiting, "check", None)
        while not self._turn.acquire(timeout=min(CHECK_SECONDS, self._timeout_seconds)):
            waited = time.monotonic() - started
            if waited >= self._timeout_seconds:
                raise StoreBusy("another thread is writing to this store", waited_seconds=waited)
            if check is not None:
                check()
        try:
            left = self._timeout_seconds - (time.monotonic() - started)
            try:
                lock = FileLock.acquire(self._path, timeout_seconds=left, check=check)
            except OSError as error:
                raise StoreReadOnly(f"cannot lock {self._path}: {error.strerror}") from error
            if lock is None:
                raise StoreBusy(
                    f"another process has been writing to this store for {self._timeout_seconds:g} s",
                    waited_seconds=time.monotonic() - started,
                )
            waited = time.monotonic() - started
            self.waits = LockWaits(self.waits.count + 1, self.waits.waited_seconds + waited)
            try:
                require_room_to_change(self._path.parent)
                yield
            finally:
                lock.release()
        finally:
            self._turn.release()

    def after_fork(self) -> None:
        """
        In a child: whoever had the turn is not here.
        """
        self._turn = threading.Lock()
