"""
The store as an OCI image layout: ``oci-layout`` and ``index.json`` in the root, for readers from outside.

``index.json`` follows the database and is never in its way. A commit only notes that there was one; some time later,
once for all that came meanwhile, or when the store is closed, the file is written beside its place and renamed. It may
be behind, after a crash for longer: whoever opens the store next, or `ullage index`, makes it right. Nothing here reads
it but for the state that it was written of.

To work that state out takes a look at each name. So what the database says of itself in one row, its mark, is kept in
``index.lock`` beside the state that it was found to have then: whoever opens the store and finds both as they were is
done. What is there is no more than a memory, and may be lost.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ullage.errors import ImageError, StoreBusy
from ullage.ingest import translated
from ullage.locks import FileLock
from ullage.vocabulary import INDEX, LAYOUT, LAYOUT_FILE, OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ullage.repository import Lookups

__all__ = ["LayoutIndex"]

_log = logging.getLogger(__name__)

#: How long after a change the file is written: what follows until then is in it too.
_DELAY_SECONDS: Final = 1.0
#: Of a large store it is written less often, so that it takes one part in so many of the time.
_SHARE: Final = 20
#: How long to wait for another process that is writing it; one that is stuck in it keeps nobody longer.
_PATIENCE_SECONDS: Final = 1.0
_STATE_BYTES: Final = 1024
_LOCK: Final = "index.lock"


class LayoutIndex:
    """
    Keeps the ``index.json`` of one open store.
    """

    def __init__(self, lookups: Lookups, root: Path) -> None:
        self._lookups = lookups
        self._root = root
        self._begin()
        _open_indexes.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._timer: threading.Timer | None = None
        self._is_behind = False
        self._closed = False
        self._delay_seconds = _DELAY_SECONDS

    # ------------------------------------------------------------------ by itself

    def note(self) -> None:
        """
        The database was changed: the file is, too, some time later. Costs next to nothing, and never fails.
        """
        if self._pid != os.getpid():
            self._begin()  # in a forked child: the parent's timer is the parent's
        with self._mutex:
            self._is_behind = True
            if self._timer is None and not self._closed:
                self._start()

    def look(self) -> None:
        """
        Whether the file is behind as the store is opened: somebody died, or typed in the shell.
        """
        try:
            written = self._written_state()
            if self._remembered() == f"{self._lookups.layout_mark()} {written}":
                return
            mark, state = self._lookups.layout_state()
            if state == written:
                self._remember(mark, state)
            else:
                self.note()
        except ImageError as error:
            _log.info("nobody can say whether %s is behind: %s", INDEX, error)

    def close(self) -> None:
        """
        Write what is not written yet, and stop. Never fails.
        """
        if self._pid != os.getpid():
            return
        _open_indexes.discard(self)
        with self._mutex:
            self._closed = True
        self._stop()
        if self._is_behind:
            self._write_quietly()

    def _start(self) -> None:
        timer = threading.Timer(self._delay_seconds, self._due)
        timer.name = "ullage-index"
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError as error:  # no more threads: closing writes it
            _log.info("%s is written later: %s", INDEX, error)
            return
        self._timer = timer

    def _stop(self) -> None:
        """
        Have no thread; one that is writing is waited for.
        """
        with self._mutex:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            timer.join()

    def _before_fork(self) -> None:
        # A child gets no threads, and Python warns of forks beside some. Whoever forks is not to know of ours.
        if self._pid == os.getpid():
            self._stop()

    def _after_fork_in_parent(self) -> None:
        if self._pid != os.getpid():
            return  # a child that forks: what it has of us is its parent's
        with self._mutex:
            if self._is_behind and self._timer is None and not self._closed:
                self._start()

    def _due(self) -> None:
        self._is_behind = False
        started = time.monotonic()
        done = self._write_quietly()
        self._delay_seconds = max(_DELAY_SECONDS, _SHARE * (time.monotonic() - started))
        with self._mutex:
            # What was changed meanwhile may be in it or not.
            self._is_behind = self._is_behind or not done
            is_stopped, self._timer = self._timer is None, None
            if self._is_behind and not is_stopped and not self._closed:
                self._start()

    def _write_quietly(self) -> bool:
        """
        Whether it got its turn. A failure is no business of whoever changed the store, for the file may be behind.
        """
        try:
            return self._write()
        except ImageError as error:
            _log.warning("%s stays as it is: %s", INDEX, error)
        return True

    # ------------------------------------------------------------------ now

    def write(self, *, timeout_seconds: float) -> bool:
        """
        Make the file what the database says now, whatever it is; False where it has been so already.

        Raises:
            StoreBusy: another process was writing it for too long.
            StoreError: it cannot be written.
        """
        with self._turn(timeout_seconds) as lock:
            if lock is None:
                raise StoreBusy(
                    f"another process has been writing {INDEX} for {timeout_seconds:g} s",
                    waited_seconds=timeout_seconds,
                )
            mark, state, entries = self._lookups.layout_entries()
            document = _document(state, entries)
            path = self._root / INDEX
            is_behind = not path.exists() or path.read_bytes() != document
            if is_behind:
                self._replace(INDEX, document)
            self._remember(mark, state)
        return is_behind

    def _write(self) -> bool:
        with self._turn(_PATIENCE_SECONDS) as lock:
            # Read with the lock: whoever writes last has read last.
            if lock is not None:
                mark, state = self._lookups.layout_state()
                if self._written_state() != state:
                    mark, state, entries = self._lookups.layout_entries()
                    self._replace(INDEX, _document(state, entries))
                self._remember(mark, state)
            return lock is not None

    @contextmanager
    def _turn(self, timeout_seconds: float) -> Iterator[FileLock | None]:
        with translated():
            lock = FileLock.acquire(self._root / _LOCK, timeout_seconds=timeout_seconds)
            try:
                if lock is not None:
                    self._replace(LAYOUT_FILE, LAYOUT, unless_there=True)
                yield lock
            finally:
                if lock is not None:
                    lock.release()

    def _replace(self, name: str, content: bytes, *, unless_there: bool = False) -> None:
        if unless_there and (self._root / name).exists():
            return
        beside = self._root / f"{name}.new"
        with beside.open("wb", buffering=0) as file:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            # Or a power cut could leave an empty file under the name, and that is worse than an old one.
            os.fdatasync(file.fileno())
        beside.rename(self._root / name)

    def _remembered(self) -> str:
        with translated():
            try:
                return (self._root / _LOCK).read_text("ascii", "replace")
            except FileNotFoundError:
                return ""

    def _remember(self, mark: str, state: str) -> None:
        with translated():
            (self._root / _LOCK).write_text(f"{mark} {state}", "ascii")

    def _written_state(self) -> str:
        """
        What the file was written of; '' for one that is not there, or not ours.
        """
        with translated():
            try:
                with (self._root / INDEX).open("rb", buffering=0) as file:
                    head = file.read(_STATE_BYTES)
            except FileNotFoundError:
                return ""
        _, found, rest = head.partition(_HEAD)
        return rest.partition(b'"')[0].decode("ascii", "replace") if found else ""


#: The state stands at the very start, where it is read without the rest.
_HEAD: Final = f'{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","annotations":{{"ullage.state":"'.encode()


def _document(state: str, entries: str) -> bytes:
    return b'%s%s"},"manifests":[%s]}' % (_HEAD, state.encode(), entries.encode())


_open_indexes: weakref.WeakSet[LayoutIndex] = weakref.WeakSet()


def _before_fork() -> None:
    for index in list(_open_indexes):
        index._before_fork()  # noqa: SLF001 -- same module


def _after_fork_in_parent() -> None:
    for index in list(_open_indexes):
        index._after_fork_in_parent()  # noqa: SLF001 -- same module


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
