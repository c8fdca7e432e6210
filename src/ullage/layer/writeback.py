"""
What is written goes to the disk while more is written, so that the sync at the end finds little left to do.

Left to itself the kernel begins after half a minute, or when a tenth of the memory waits: a pull is done by then, and
its last step would be to wait for a disk that was idle until then. Measured, a tree of 600 MB took a fifth less.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

from ullage.layer.syscalls import sync_filesystem

if TYPE_CHECKING:
    from ullage.layer.options import Budget

__all__ = ["Writeback"]

#: How much is written before the disk is set to work. Less would be many commits of its journal for little.
_STEP_BYTES: Final = 64 << 20


class Writeback:
    """
    Syncs the filesystem of a directory in a thread of its own each time that so much more was written, and at last.

    There is no thread before there is that much. What the disk says is kept, whichever sync it says it to: it tells
    each error but once, and to those only who had the filesystem open when it happened.

    Args:
        directory: a descriptor that was opened before anything was written, and is good until the end.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._changed = threading.Condition()
        self._waiting_bytes = 0
        self._ended = False
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()

    def finish(self) -> None:
        """
        All that was written is on disk when this returns.

        Raises:
            OSError: it is not.
        """
        self._end()
        if self._error is not None:
            raise self._error
        sync_filesystem(self._directory)

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def of(self, budget: Budget) -> Budget:
        """
        *budget*, asked in steps, by which we know what is written.
        """
        return _Observed(budget, self)

    def wrote(self, count: int) -> None:
        """
        So many bytes more.
        """
        with self._changed:
            self._waiting_bytes += count
            if self._waiting_bytes < _STEP_BYTES:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="ullage-writeback", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: all of it is for `finish`
                    return
                self._thread = thread
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._waiting_bytes < _STEP_BYTES and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                self._waiting_bytes = 0
            try:
                sync_filesystem(self._directory)
            except OSError as error:
                self._error = error
                return


class _Observed:
    """
    A budget that tells a `Writeback` what is asked of it.
    """

    def __init__(self, budget: Budget, writeback: Writeback) -> None:
        self._budget = budget
        self._writeback = writeback
        self._told_bytes = 0

    def reserve(self, space_bytes: int, inodes: int) -> tuple[int, int]:
        self._writeback.wrote(space_bytes - self._told_bytes)
        self._told_bytes = space_bytes
        granted_bytes, granted_inodes = self._budget.reserve(space_bytes, inodes)
        return min(granted_bytes, space_bytes + _STEP_BYTES), granted_inodes
