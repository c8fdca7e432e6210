"""
Connections of the standard library's to the database of a store, with the settings that all of ours have.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import sys
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from ullage.errors import StoreBusy
from ullage.moment import readable
from ullage.refusal import SHELL_BUSY_MS, translate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine.interfaces import DBAPIConnection

    from ullage.moment import Copy

__all__ = ["Connections", "checkpoint", "connect", "shorten"]

_log = logging.getLogger(__name__)

#: Of one process at once, and of those that wait for the next who reads.
_MOST: Final = 32
_KEPT: Final = 5


class Connections:
    """
    Connections that are lent and given back; the one that was used last, which has the statements prepared, goes first.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, timeout_seconds: float) -> None:
        self._connect = connect
        self._timeout_seconds = timeout_seconds
        self._inherited: list[object] = []
        self._begin()

    def _begin(self) -> None:
        self._turn = threading.Condition()
        self._idle: list[sqlite3.Connection] = []
        self._lent: set[object] = set()

    def take(self) -> sqlite3.Connection:
        """
        One that nobody else has, until it is given back.

        Raises:
            StoreBusy: too many are lent, for too long.
        """
        place = object()
        with self._turn:
            if len(self._lent) >= _MOST and not self._turn.wait_for(
                lambda: len(self._lent) < _MOST, self._timeout_seconds
            ):
                busy = "every connection for reading is in use"
                raise StoreBusy(busy, waited_seconds=self._timeout_seconds)
            if self._idle:
                connection = self._idle.pop()
                self._lent.add(connection)
                return connection
            self._lent.add(place)
        try:
            connection = self._connect()
        except BaseException:
            with self._turn:
                self._lent.discard(place)
                self._turn.notify()
            raise
        with self._turn:
            if place in self._lent:
                self._lent.remove(place)
                self._lent.add(connection)
        return connection

    def give(self, connection: sqlite3.Connection, *, whole: bool = True) -> None:
        """
        Give one back; it is closed when it is not *whole*, when the others went meanwhile, or when there are enough.
        """
        with self._turn:
            if connection in self._lent:
                self._lent.remove(connection)
                self._turn.notify()
                if whole and len(self._idle) < _KEPT:
                    self._idle.append(connection)
                    return
        connection.close()

    def dispose(self) -> None:
        """
        Close all that nobody has, and the rest when they are given back.
        """
        with self._turn:
            idle, self._idle, self._lent = self._idle, [], set()
            self._turn.notify_all()
        for connection in idle:
            connection.close()

    def forget(self) -> None:
        """
        In a forked child: have none. The parent's are not ours to use, and not ours to close.
        """
        self._inherited.append((self._idle, self._lent))
        self._begin()


def connect(
    path: Path, *, mode: str, query_only: bool, foreign_keys: bool
) -> tuple[sqlite3.Connection, Copy | None]:
    """
    A connection in no transaction; and, where who only reads has to do with a copy in memory, that.

    Raises:
        StoreCorrupt: SQLite has no words for what is there.
        sqlite3.Error: there is none to be had.
    """
    arguments: dict[str, Any] = {
        "check_same_thread": False,
        "timeout": SHELL_BUSY_MS / 1000,
        "cached_statements": 256,
        "isolation_level": None,
    }
    if sys.version_info >= (3, 12):
        # Stated, because it stops being the default one day: transactions are begun in `Database` and nowhere else.
        arguments["autocommit"] = sqlite3.LEGACY_TRANSACTION_CONTROL
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}"
    opened = functools.partial(sqlite3.connect, uri, uri=True, **arguments)
    connection, copy = readable(opened, path, arguments) if mode == "ro" else (opened(), None)
    try:
        for pragma in (
            f"foreign_keys = {'ON' if foreign_keys else 'OFF'}",
            "synchronous = FULL",  # I3: a row change is durable before its file moves
            "wal_autocheckpoint = 0",  # checkpoints are made under the gate
            "trusted_schema = OFF",
            "cell_size_check = ON",
            f"query_only = {'ON' if query_only else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException as error:
        connection.close()
        if isinstance(error, UnicodeDecodeError):
            raise translate(
                error, path
            ) from error  # SQLite's word for a schema that is rubbish is rubbish, too
        raise
    return connection, copy


def checkpoint(driver: DBAPIConnection | sqlite3.Connection) -> bool:
    """
    Move what is in the WAL into the database, as far as readers let us; whoever calls has the gate. Whether that went.

    The result row counts, not an exception: a reader in the way is no error. Never TRUNCATE: a WAL that keeps its size
    is room to delete in when the disk is full.
    """
    try:
        driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.Error as error:
        _log.warning("checkpoint failed: %s", error)  # follows a commit (I10); the next one tries again
        return False
    return True


def shorten(driver: DBAPIConnection) -> None:
    """
    After a rebuild, whose WAL may be as large as the database: put it all there, and start a short one.
    """
    try:
        driver.execute("PRAGMA busy_timeout = 0")
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        _log.warning("checkpoint failed: %s", error)  # follows a commit (I10): the WAL is long, and right
