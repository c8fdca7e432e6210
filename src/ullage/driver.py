"""
A connection of the standard library's to the database of a store, with the settings that all of ours have.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ullage.moment import readable
from ullage.refusal import SHELL_BUSY_MS, translate

if TYPE_CHECKING:
    from pathlib import Path

    from ullage.moment import Copy

__all__ = ["connect"]


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
