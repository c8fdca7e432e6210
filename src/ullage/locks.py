"""
Advisory file locks: what a lease lives by, and the gate that writers queue at.

``flock(2)`` belongs to the open file description: it goes when the process dies, however it dies; it is no
business of process ids or clocks; and two threads that open the file apart exclude each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

__all__ = ["CHECK_SECONDS", "FileLock", "LeaseLock", "LockWaits"]

#: How often somebody who waits looks whether to go on.
CHECK_SECONDS: Final = 0.05

_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class LockWaits:
    """
    How many write transactions this process has had with a store, and how long they waited for their turn, together.
    """

    count: int = 0
    waited_seconds: float = 0.0


class FileLock:
    """
    One exclusive lock on one file, held by this object.

    The lock is let go by `release`, by the end of the process, and by nothing else: a child that was forked
    meanwhile closes its copy of the descriptor, so that it cannot keep a dead parent's lock alive.
    """

    __slots__ = ("__weakref__", "_descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        _held.add(self)

    @classmethod
    def try_acquire(cls, path: Path) -> Self | None:
        """
        Take the lock if it is free, making the file if need be; None when somebody has it.
        """
        descriptor = os.open(path, _OPEN_FLAGS, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    @classmethod
    def acquire(
        cls, path: Path, *, timeout_seconds: float, check: Callable[[], None] | None = None
    ) -> Self | None:
        """
        Wait for the lock in the kernel's queue; None when *timeout_seconds* passed first.

        *check* is called now and then while it waits, and ends the wait by raising.

        ``flock`` has no timeout and polling has no fairness, so a thread waits in the queue for us. One that was
        given up lets go as soon as it gets the lock.
        """
        lock = cls.try_acquire(path)
        if lock is not None or timeout_seconds <= 0:
            return lock
        waiter = _Waiter(path)
        descriptor = waiter.wait(timeout_seconds, check)
        if descriptor is None:
            return None
        lock = cls(path, descriptor)
        waiter.hand_over()
        return lock

    @property
    def is_held(self) -> bool:
        return self._descriptor >= 0

    def is_of(self, path: Path) -> bool:
        """
        Whether the file that is locked is the one at *path* now.
        """
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(path))  # noqa: PTH116 -- beside fstat
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """
        Let go. Harmless when already done, and in a forked child, which never had the lock.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _let_go(descriptor)

    def _forget_after_fork(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(
                OSError
            ):  # nothing depends on it: the copy goes with the child at the latest
                os.close(descriptor)


class LeaseLock:
    """
    What a lease lives by: the lock on ``leases/<token>``, for as long as its owner has it.

    The file appears under its name only when it is locked, so nobody finds a live owner's lock free.
    """

    __slots__ = ("_lock", "path", "token")

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self.token = path.name
        self._lock = lock

    @classmethod
    def create(cls, directory: Path) -> Self:
        """
        A new token with its lock held.
        """
        while True:
            path = directory / secrets.token_hex(16)
            hidden = path.with_name(f".{path.name}")
            lock = FileLock.try_acquire(hidden)
            if lock is None:
                continue  # a recovery that passed by took it for a leftover: it will go, we try another
            try:
                hidden.rename(path)
            except FileNotFoundError:
                lock.release()  # that recovery had it before us, and removed it
                continue
            except BaseException:
                lock.release()
                raise
            if lock.is_of(path):
                return cls(path, lock)
            # One recovery removed our file, and another made one of that name to look at: ours is the one that is gone.
            lock.release()

    @classmethod
    def take(cls, directory: Path, token: str) -> Self | None:
        """
        The lock of a dead owner's lease; None while the owner lives.
        """
        path = directory / token
        lock = FileLock.try_acquire(path)
        if lock is None:
            return None
        if not lock.is_of(path):
            # Whoever had it removed the file before we got its lock; a third may have made and locked it anew.
            lock.release()
            return None
        return cls(path, lock)

    @property
    def is_held(self) -> bool:
        return self._lock.is_held

    def let_go(self) -> None:
        """
        Let go of a lease that was only looked at: its row stands, and whoever ends it takes the lock again.
        """
        self._lock.release()

    def drop(self) -> None:
        """
        Remove the file and let go. The lease's row is ended before this, or was never written.
        """
        if self._lock.is_held:
            # This follows a commit, so it cannot fail (I10): a file without a row and without a lock is nobody's,
            # and goes when the store is opened next.
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._lock.release()


class _Waiter:
    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, _OPEN_FLAGS, 0o600)
        self._arrived = threading.Event()
        self._mutex = threading.Lock()
        self._given_up = False
        _waiting.add(self)
        threading.Thread(target=self._queue, name=f"ullage-wait-{path.name}", daemon=True).start()

    def _queue(self) -> None:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError:
            with self._mutex:
                os.close(self._descriptor)
                self._descriptor = None
        with self._mutex:
            if self._given_up and self._descriptor is not None:
                _let_go(self._descriptor)
                self._descriptor = None
            self._arrived.set()

    def wait(self, timeout_seconds: float, check: Callable[[], None] | None) -> int | None:
        until = time.monotonic() + timeout_seconds
        try:
            # The place in the queue is kept from look to look.
            while not self._arrived.wait(min(CHECK_SECONDS, max(0.0, until - time.monotonic()))):
                if time.monotonic() >= until:
                    break
                if check is not None:
                    check()
        except BaseException:
            # Ctrl-C while waiting: the lock must not arrive at nobody.
            if self._give_up() and self._descriptor is not None:
                _let_go(self._descriptor)
                self._descriptor = None
            raise
        return None if not self._give_up() else self._descriptor

    def hand_over(self) -> None:
        """
        The descriptor is somebody else's now.
        """
        self._descriptor = None

    def forget_after_fork(self) -> None:
        """
        In a child there is nobody to wait; a copy of the descriptor would keep a lock that arrives at the parent.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # closed already, with the lock that it became
                os.close(descriptor)

    def _give_up(self) -> bool:
        """
        Stop waiting; whether the lock had arrived.
        """
        with self._mutex:
            self._given_up = not self._arrived.is_set()
            return not self._given_up


def _let_go(descriptor: int) -> None:
    # Unlocking before closing lets go even while a forked child still has a copy of the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()
_waiting: weakref.WeakSet[_Waiter] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock._forget_after_fork()  # noqa: SLF001 -- same module
    _held.clear()
    for waiter in list(_waiting):
        waiter.forget_after_fork()
    _waiting.clear()


os.register_at_fork(after_in_child=_forget_all)
