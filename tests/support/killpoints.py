"""
Dying, failing or stopping at the n-th call: put around a process from outside, for the product has no hooks.

    points = Points(root, action="die", at=7)
    points.install()
    points.armed = True

Every call that touches a file of *root*, by its path or by descriptors, every SQL statement, every commit is a `Call`
(the end of a transaction that only read is an "end"). The wrapper records it and, when its turn comes, kills the
process, raises, or stops it until somebody continues it. It is for processes that end soon after: nothing is put back.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import re
import signal
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ullage.layer import writeback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["CHANGES", "OUTSIDE", "READS", "Action", "Call", "Points"]

Action = Literal["record", "die", "fail", "fail on", "fail after", "stop", "step"]

#: What leaves the store different from before, as another process sees it.
CHANGES = frozenset(
    {
        "create",
        "mkdir",
        "write",
        "truncate",
        "rename",
        "unlink",
        "chmod",
        "fallocate",
        "commit",
        "checkpoint",
    }
)
#: What only looks.
READS = frozenset({"stat", "statvfs", "list", "open", "read", "connect", "pragma", "begin", "select", "end"})

_SQLITE_IOERR, _SQLITE_FULL, _SQLITE_READONLY = 10, 13, 8
_DATABASE_FILES = ("ullage.db", "ullage.db-wal", "ullage.db-shm")
_REAL_OPEN = io.open
_REAL_READLINK = os.readlink
_DESCRIPTORS = "/proc/self/fd/"

#: What is called like the root with this after it is watched as well: where a flow makes directories of its own.
OUTSIDE = ".out"


class Call(NamedTuple):
    """
    One call: what kind, of what. Paths are below the root; statements are as SQLite gets them.
    """

    kind: str
    what: str

    @property
    def shape(self) -> str:
        """
        The same for calls that differ in digests, tokens and numbers only, or in what they create.
        """
        if self.what.startswith("CREATE "):
            return " ".join(self.what.split()[:2])
        return re.sub(r"[0-9a-f]{8,}|\d+", "#", f"{self.kind} {self.what}")


class Points:
    """
    The wrapper of one process.

    Args:
        action: what happens at call number *at*: nothing, SIGKILL, the error *code*, that error from then on, the
            call and then the error, SIGSTOP, or SIGSTOP from then on.
        kinds: the kinds of call that count; None for all of them.
        outside_gate: calls made while this process has the gate do not count.
    """

    def __init__(
        self,
        root: Path,
        *,
        action: Action = "record",
        at: int = 0,
        kinds: frozenset[str] | None = None,
        code: int = errno.EIO,
        outside_gate: bool = False,
    ) -> None:
        self.armed = False
        self.calls: list[Call] = []
        self.fired: Call | None = None
        #: Commits that grew what is charged past the limit: I7, looked at from inside each of them.
        self.overfilled: list[str] = []
        self._root = os.fspath(root)
        self._action, self._at, self._kinds, self._code = action, at, kinds, code
        self._outside_gate = outside_gate
        self._has_gate = False
        self._mutex = threading.Lock()

    # ------------------------------------------------------------------ the turn of a call

    def around(
        self,
        kind: str,
        what: str,
        call: Callable[[], Any],
        *,
        torn: Callable[[], object] | None = None,
        error: Callable[[int], BaseException] | None = None,
    ) -> Any:
        """
        Make *call*, unless its turn has come.

        Args:
            torn: half of the call, for a death in the middle of it.
            error: the exception that the call would raise; OSError without it.
        """
        if not self._is_due(kind, what):
            return call()
        if self._action == "die":
            if torn is not None:
                torn()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._action in ("stop", "step"):
            os.kill(os.getpid(), signal.SIGSTOP)
            return call()
        if self._action == "fail after":
            call()
        raise (
            OSError(self._code, os.strerror(self._code), f"{self._root}/{what}")
            if error is None
            else error(self._code)
        )

    def _is_due(self, kind: str, what: str) -> bool:
        if not self.armed:
            return False
        with self._mutex:
            if self._kinds is not None and kind not in self._kinds:
                return False
            if self._outside_gate and self._has_gate:
                return False
            self.calls.append(Call(kind, what))
            number = len(self.calls)
            due = self._action != "record" and (
                number == self._at or (self._action in ("fail on", "step") and number > self._at)
            )
            if due:
                self.fired = self.calls[-1]
            return due

    # ------------------------------------------------------------------ paths

    def _below(self, path: object, directory: int | None = None) -> str | None:
        """
        The path below the root, or below the directory beside it (`OUTSIDE`); None for one that is none of ours.
        """
        text = _path_of(path) if isinstance(path, int) else os.fsdecode(path)  # type: ignore[arg-type]
        if directory is not None and text is not None and not text.startswith("/"):
            above = _path_of(directory)
            text = None if above is None else f"{above}/{text}"
        if text is not None and text.startswith(_DESCRIPTORS):
            number, _, name = text.removeprefix(_DESCRIPTORS).partition("/")
            above = _path_of(int(number))
            text = None if above is None else f"{above}/{name}"
        if text is None:
            return None
        if text == self._root:
            return "."
        for above, shown in ((self._root, ""), (self._root + OUTSIDE, f"{OUTSIDE[1:]}/")):
            if text.startswith(above + "/"):
                below = shown + text[len(above) + 1 :]
                return None if below in _DATABASE_FILES else below
        return None

    # ------------------------------------------------------------------ putting it on

    def install(self) -> None:
        """
        Wrap this process: once, for the rest of its life.
        """
        for name, kind in (
            ("mkdir", "mkdir"),
            ("mknod", "create"),
            ("mkfifo", "create"),
            ("unlink", "unlink"),
            ("remove", "unlink"),
            ("rmdir", "unlink"),
            ("chmod", "chmod"),
            ("fchmod", "chmod"),
            ("chown", "chmod"),
            ("fchown", "chmod"),
            ("utime", "chmod"),
            ("setxattr", "chmod"),
            ("removexattr", "chmod"),
            ("write", "write"),
            ("pwrite", "write"),
            ("fsync", "fsync"),
            ("fdatasync", "fdatasync"),
            ("posix_fallocate", "fallocate"),
            ("truncate", "truncate"),
            ("ftruncate", "truncate"),
            ("stat", "stat"),
            ("lstat", "stat"),
            ("readlink", "stat"),
            ("statvfs", "statvfs"),
            ("listdir", "list"),
            ("scandir", "list"),
        ):
            setattr(os, name, self._on_path(getattr(os, name), kind))
        writeback.sync_filesystem = self._on_path(writeback.sync_filesystem, "syncfs")
        for name in ("rename", "replace", "link"):
            setattr(os, name, self._on_two_paths(getattr(os, name), "rename"))
        os.symlink = self._symlink(os.symlink)
        os.open = self._open_descriptor(os.open)  # type: ignore[assignment]
        fcntl.flock = self._flock(fcntl.flock)
        io.open = builtins.open = self._open_file  # type: ignore[assignment]
        sqlite3.connect = self._connect(sqlite3.connect)  # type: ignore[assignment]

    def _on_path(self, real: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def wrapped(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            below = self._below(path, options.get("dir_fd"))
            if below is None:
                return real(path, *arguments, **options)
            return self.around(kind, below, lambda: real(path, *arguments, **options))

        return wrapped

    def _on_two_paths(self, real: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def wrapped(source: Any, target: Any, **options: Any) -> Any:
            below = self._below(source, options.get("src_dir_fd"))
            if below is None:
                return real(source, target, **options)
            what = f"{below} -> {self._below(target, options.get('dst_dir_fd'))}"
            return self.around(kind, what, lambda: real(source, target, **options))

        return wrapped

    def _symlink(self, real: Callable[..., None]) -> Callable[..., None]:
        def wrapped(target: Any, path: Any, **options: Any) -> None:
            below = self._below(path, options.get("dir_fd"))
            if below is None:
                real(target, path, **options)
            else:
                self.around("create", below, lambda: real(target, path, **options))

        return wrapped

    def _open_descriptor(self, real: Callable[..., int]) -> Callable[..., int]:
        def wrapped(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            directory = options.get("dir_fd")
            below = self._below(path, directory)
            if below is None:
                return real(path, flags, *arguments, **options)
            is_new = flags & os.O_CREAT and not os.access(path, os.F_OK, dir_fd=directory)
            kind = "create" if is_new else "open"
            opened: int = self.around(kind, below, lambda: real(path, flags, *arguments, **options))
            return opened

        return wrapped

    def _flock(self, real: Callable[[int, int], None]) -> Callable[[int, int], None]:
        def wrapped(descriptor: int, operation: int) -> None:
            below = self._below(descriptor)
            if below is None:
                real(descriptor, operation)
                return
            if operation == fcntl.LOCK_UN:
                if below == "gate":
                    self._has_gate = False
                real(descriptor, operation)
                return
            self.around("lock", below, lambda: real(descriptor, operation))
            if below == "gate":
                self._has_gate = True

        return wrapped

    def _open_file(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        below = None if isinstance(file, int) else self._below(file)
        if below is None or "b" not in mode:
            return _REAL_OPEN(file, mode, buffering, *rest, **options)
        kind = "open" if "r" in mode or os.access(file, os.F_OK) else "create"
        raw = self.around(kind, below, lambda: _File(file, mode.replace("b", ""), self, below))
        if buffering == 0:
            return raw
        return io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw)

    # ------------------------------------------------------------------ SQL

    def _connect(self, real: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
        points = self

        class Wrapped(_Connection):
            _points = points

        def connect(database: Any, **options: Any) -> sqlite3.Connection:
            if self._root not in os.fspath(database):
                return real(database, **options)
            connected: sqlite3.Connection = self.around(
                "connect",
                "ullage.db",
                lambda: real(database, factory=Wrapped, **options),
                error=lambda code: _sql_error(code, "connect"),
            )
            return connected

        return connect

    def of_sql(self, connection: _Connection, sql: str, call: Callable[[], Any]) -> Any:
        """
        The turn of a statement.
        """
        words = " ".join(sql.split())

        def error(code: int) -> BaseException:
            raised = _sql_error(code, words)
            if raised.sqlite_errorcode in (_SQLITE_IOERR, _SQLITE_FULL):
                sqlite3.Connection.rollback(connection)  # which SQLite does by itself then
            return raised

        return self.around(_kind_of(words), words, call, error=error)


class _File(io.FileIO):
    def __init__(self, file: Any, mode: str, points: Points, below: str) -> None:
        super().__init__(file, mode)
        self._points, self._path = points, below

    def write(self, data: Any) -> int:
        view = memoryview(data)
        written: int = self._points.around(
            "write",
            self._path,
            lambda: super(_File, self).write(data),
            torn=lambda: super(_File, self).write(view[: len(view) // 2]),
        )
        return written

    def truncate(self, size: int | None = None) -> int:
        length: int = self._points.around("truncate", self._path, lambda: super(_File, self).truncate(size))
        return length

    def readinto(self, buffer: Any) -> int:
        count: int = self._points.around("read", self._path, lambda: super(_File, self).readinto(buffer))
        return count

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._points.around("read", self._path, lambda: super(_File, self).read(size))
        return data

    def readall(self) -> bytes:
        data: bytes = self._points.around("read", self._path, lambda: super(_File, self).readall())
        return data


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, *parameters: Any) -> Any:
        connection: Any = self.connection
        result = connection._points.of_sql(
            connection, sql, lambda: super(_Cursor, self).execute(sql, *parameters)
        )
        if sql.startswith("BEGIN"):
            connection.note_begin(sql)
        return result


class _Connection(sqlite3.Connection):
    _points: Points
    _total_at_begin: int | None = None
    _writes = False

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, sql: str, *parameters: Any) -> Any:
        return self.cursor().execute(sql, *parameters)

    def commit(self) -> None:
        if self.in_transaction:
            self._look_at_the_limit()
            self._points.of_sql(self, "COMMIT" if self._writes else "END", super().commit)

    def note_begin(self, sql: str) -> None:
        self._writes = sql == "BEGIN IMMEDIATE"
        ledger = self._ledger() if self._writes else None
        self._total_at_begin = None if ledger is None else ledger[0]

    def _look_at_the_limit(self) -> None:
        before, self._total_at_begin = self._total_at_begin, None
        ledger = None if before is None else self._ledger()
        if before is not None and ledger is not None and ledger[0] > before and ledger[0] > ledger[1]:
            self._points.overfilled.append(f"a commit grew {before} to {ledger[0]}, the limit is {ledger[1]}")

    def _ledger(self) -> tuple[int, int] | None:
        try:
            row: tuple[int, int] = sqlite3.Connection.execute(
                self, "SELECT used_bytes + reserved_bytes, max_bytes FROM storage_usage"
            ).fetchone()
        except sqlite3.Error:
            return None  # there is no such view while a store is being made
        return row


def _path_of(descriptor: int) -> str | None:
    try:
        return _REAL_READLINK(f"{_DESCRIPTORS}{descriptor}").removesuffix(" (deleted)")
    except OSError:
        return None


def _kind_of(sql: str) -> str:
    word = sql.partition(" ")[0].upper()
    if word == "PRAGMA":
        return "checkpoint" if "wal_checkpoint" in sql or "journal_mode" in sql else "pragma"
    return word.lower() if word in ("SELECT", "BEGIN", "COMMIT", "END") else "statement"


def _sql_error(code: int, sql: str) -> sqlite3.OperationalError:
    writes = _kind_of(sql) in ("statement", "commit", "checkpoint") or sql == "BEGIN IMMEDIATE"
    text, number = {
        errno.ENOSPC: ("database or disk is full", _SQLITE_FULL),
        errno.EACCES: ("attempt to write a readonly database", _SQLITE_READONLY),
    }.get(code if writes else errno.EIO, ("disk I/O error", _SQLITE_IOERR))
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = number
    return error
