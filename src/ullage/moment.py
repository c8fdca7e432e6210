"""
A database as of one moment, in memory: for who may read a store and not write beside it.

SQLite reads a database in WAL mode by way of two more files, and makes them when they are not there: that is what it is
not allowed to then. But when they are not there, nobody has the store open and the database alone is all of it, so that
it can be read as a file that nobody changes (``immutable=1``). For as long as that is so: whoever opens the store next
changes it, without a lock that we could hold. So what is read that way is read at once, and once more if something
changed meanwhile.

A process has one copy of a moment, however many connections read it, and none larger than SQLite holds in memory.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from ullage.errors import StoreReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["MAX_COPY_BYTES", "MIXED", "Copy", "Moment", "moment_of", "readable"]

#: What SQLite's ``memdb`` holds, unless whoever built it says otherwise.
MAX_COPY_BYTES: Final = 1 << 30

#: What was written so lately could be written again without another time on it.
_SETTLED_SECONDS: Final = 0.05
_ATTEMPTS: Final = 100
#: How long the two files may be half made or half gone.
_PATIENCE_SECONDS: Final = 0.5

_READONLY, _FULL, _CANTOPEN = 8, 13, 14


class Moment(NamedTuple):
    """
    What a file is when nothing else tells: the same twice, and nobody wrote to it between.
    """

    inode: int
    size: int
    changed_ns: int


class Copy:
    """
    A database in memory, for all who read it in this process: there until the last of them is closed.

    Args:
        source: what is copied; without, there is nothing to connect to.
    """

    def __init__(self, moment: Moment, source: sqlite3.Connection | None = None) -> None:
        self.moment = moment
        self._uri = f"file:/ullage-{os.urandom(8).hex()}?vfs=memdb"
        self._holder: sqlite3.Connection | None = None
        if source is not None:
            self._holder = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            source.backup(self._holder)

    def __del__(self) -> None:
        if self._holder is not None:
            self._holder.close()

    def connect(self, arguments: dict[str, Any]) -> sqlite3.Connection:
        """
        One more connection to it, which keeps it alive.
        """
        # It says of itself that it is in WAL mode, for which there is no shared memory here: nobody changes it, either.
        connection: sqlite3.Connection = sqlite3.connect(f"{self._uri}&immutable=1", uri=True, **arguments)
        return connection


#: For connections that are not all of one moment: no file is of this one.
MIXED: Final = Copy(Moment(-1, -1, -1))

#: By path and moment, for as long as anybody has them.
_copies: weakref.WeakValueDictionary[tuple[str, Moment], Copy] = weakref.WeakValueDictionary()
_copying = threading.Lock()


def readable(
    connect: Callable[[], sqlite3.Connection], path: Path, arguments: dict[str, Any]
) -> tuple[sqlite3.Connection, Copy | None]:
    """
    A connection that can read; else one to a copy of the whole database in memory, and that.

    Args:
        arguments: of `sqlite3.connect`, for what is in memory.

    Raises:
        StoreReadOnly: it cannot be read without the right to write beside it, or is too large to be copied.
        sqlite3.Error: it cannot be read.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        connection = connect()
        try:
            connection.execute("PRAGMA schema_version").fetchall()
        except sqlite3.Error as error:
            connection.close()
            if (
                getattr(error, "sqlite_errorcode", 0) & 0xFF not in (_READONLY, _CANTOPEN)
                or not path.is_file()
            ):
                raise
            with _copying:  # who comes second has what the first has made
                found = _read_at_once(path)
            if found is not None:
                return found.connect(arguments), found
            # Somebody may be just opening the store, or closing it.
            if time.monotonic() > until:
                raise StoreReadOnly(
                    f"cannot look into {path} without the right to write beside it: {error}",
                    hint="somebody who has that opens the store, or makes you a file: `ullage db snapshot FILE`",
                ) from error
            time.sleep(_PATIENCE_SECONDS / 50)
        else:
            return connection, None


def moment_of(path: Path) -> Moment | None:
    """
    The moment of a database that nobody has open; None while somebody has, or when it cannot be told.
    """
    try:
        if os.path.lexists(f"{path}-wal"):
            return None
        status = path.stat()
    except OSError:
        return None
    return Moment(status.st_ino, status.st_size, status.st_mtime_ns)


def _read_at_once(path: Path) -> Copy | None:
    """
    The whole database in memory; None while others write to it.
    """
    for _ in range(_ATTEMPTS):
        before = moment_of(path)
        if before is None:
            return None
        if abs(time.time() - before.changed_ns / 1e9) < _SETTLED_SECONDS:
            time.sleep(_SETTLED_SECONDS)
            continue
        found = _copies.get((str(path), before)) or _copied(path, before)
        if moment_of(path) == before:
            _copies[str(path), before] = found
            return found
    return None


def _copied(path: Path, moment: Moment) -> Copy:
    if moment.size > MAX_COPY_BYTES:
        raise _too_large(path, moment)
    source = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)
    try:
        return Copy(moment, source)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == _FULL:
            raise _too_large(path, moment) from error
        raise
    finally:
        source.close()


def _too_large(path: Path, moment: Moment) -> StoreReadOnly:
    return StoreReadOnly(
        f"cannot look into {path} without the right to write beside it: {moment.size} bytes are too many to be read"
        " into memory",
        hint="while somebody has the store open, you can; or they make you a file: `ullage db snapshot FILE`",
    )


def _after_fork_in_child() -> None:
    # Whoever was copying is not here; what was copied is.
    global _copying  # noqa: PLW0603 -- a lock that nobody will ever open
    _copying = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
