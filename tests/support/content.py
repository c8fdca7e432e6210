"""
What is in a store, table by table, so that two revisions of it can be compared.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Content", "content_of", "lost"]

#: By table: the columns, and the rows in the order of their values.
Content = dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]]

#: What says at which revision a store is, and so is another in each; and how often a counter changed.
_MARKS = ("min_reader", "min_writer", "ledger")


def content_of(root: Path) -> Content:
    """
    Every row of every table, Alembic's apart.
    """
    found: Content = {}
    with closing(sqlite3.connect(root / "ullage.db", timeout=10.0)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('alembic_version', 'sqlite_stat1')"
        ).fetchall()
        for (table,) in tables:
            columns = tuple(
                name
                for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")
                if table != "store" or name not in _MARKS
            )
            rows = connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
            found[table] = (columns, sorted(rows, key=repr))
    return found


def lost(before: Content, after: Content) -> list[str]:
    """
    What *before* says and *after* does not, as far as *after* has a place for it. Rows, not counts of changes.
    """
    said = []
    for table, (columns, rows) in before.items():
        if table not in after:
            continue
        their_columns, their_rows = after[table]
        common = [each for each in columns if each in their_columns]
        mine = sorted((_picked(columns, common, row) for row in rows), key=repr)
        theirs = sorted((_picked(their_columns, common, row) for row in their_rows), key=repr)
        said += [f"{table}: {row}" for row in mine if row not in theirs]
        if len(mine) != len(theirs):
            said.append(f"{table}: {len(mine)} rows, and {len(theirs)}")
    return said


def _picked(columns: tuple[str, ...], wanted: list[str], row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(row[columns.index(each)] for each in wanted)
