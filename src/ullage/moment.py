"""
A database as of one moment, in memory: for who may read a store and not write beside it.

SQLite reads a database in WAL mode by way of two more files, and makes them when they are not there: that is what it is
not allowed to then. But when they are not there, nobody has the store open and the database alone is all of it, so that
it can be read as a file that nobody changes (``immutable=1``). For as long as that is so: whoever opens the store next
changes it, without a lock that we could hold. So what is read that way is read at once, and once more if something
changed meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from ullage.errors import StoreReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["MIXED", "Moment", "moment_of", "readable"]

#: What was written so lately could be written again without another time on it.
_SETTLED_SECONDS: Final = 0.05
_ATTEMPTS: Final = 100
#: How long the two files may be half made or half gone.
_PATIENCE_SECONDS: Final = 0.5

_READONLY, _CANTOPEN = 8, 14


class Moment(NamedTuple):
    """
    What a file is when nothing else tells: the same twice, and nobody wrote to it between.
    """

    inode: int
    size: int
    changed_ns: int


#: Of connections that are not all of one moment: no file is of this one.
MIXED: Final = Moment(-1, -1, -1)


def readable(
    connect: Callable[[], sqlite3.Connection], path: Path, arguments: dict[str, Any]
) -> tuple[sqlite3.Connection, Moment | None]:
    """
    A connection that can read; else the whole database in memory, and the moment that it is of.

    Args:
        arguments: of `sqlite3.connect`, for what is in memory.

    Raises:
        StoreReadOnly: it cannot be read without the right to write beside it.
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
            found = _read_at_once(path, arguments)
            if found is not None:
                return found
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


def _read_at_once(path: Path, arguments: dict[str, Any]) -> tuple[sqlite3.Connection, Moment] | None:
    """
    The whole database in memory, and the moment that it is of; None while others write to it.
    """
    for _ in range(_ATTEMPTS):
        before = moment_of(path)
        if before is None:
            return None
        if abs(time.time() - before.changed_ns / 1e9) < _SETTLED_SECONDS:
            time.sleep(_SETTLED_SECONDS)
            continue
        source = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)
        memory = sqlite3.connect(":memory:", **arguments)
        try:
            source.backup(memory)
        except BaseException:
            memory.close()
            raise
        finally:
            source.close()
        if moment_of(path) == before:
            return memory, before
        memory.close()
    return None
