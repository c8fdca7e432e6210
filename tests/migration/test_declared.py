"""
``ullage.schema`` declares what a store is made of, as far as queries need it, and nothing else.

The text of CHECKs, triggers and views is in the golden schema; what SQLAlchemy would make of the declarations is
compared here with what the revisions made, by SQLite's own account of both.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import create_engine

from ullage.schema import metadata, views

TABLES = [table for table in metadata.sorted_tables if not table.info.get("is_view")]
#: Declared where they are, which nobody else may have read yet.
VIEWS = [table for table in views.metadata.sorted_tables if table.info.get("is_view")]


@pytest.fixture(scope="module")
def declared(tmp_path_factory):
    """
    A database made of the declarations alone.
    """
    path = tmp_path_factory.mktemp("declared") / "declared.db"
    engine = create_engine(f"sqlite:///{path}")
    metadata.create_all(engine, tables=TABLES)
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        yield connection


@pytest.fixture(scope="module")
def made(template):
    """
    One made by the revisions.
    """
    with closing(sqlite3.connect(template / "ullage.db")) as connection:
        yield connection


def columns(connection, table):
    return {
        name: (kind, bool(required), _plain(default), key)
        for _, name, kind, required, default, key, _ in connection.execute(f"PRAGMA table_xinfo({table})")
    }


def _plain(default):
    """
    Without the blanks and the comments that a revision may have behind a default.
    """
    return None if default is None else re.sub(r"\s*(/\*.*?\*/|--.*)?$", "", default)


def indexes(connection, table):
    """
    By name: whether unique, its columns, and for which rows it is.
    """
    found = {}
    for _, name, unique, origin, _ in connection.execute(f"PRAGMA index_list({table})"):
        parts = [each[2] for each in connection.execute(f"PRAGMA index_info({name})")]
        # The key of a table without row ids has no row there.
        (sql,) = connection.execute("SELECT max(sql) FROM sqlite_schema WHERE name = ?", [name]).fetchone()
        condition = re.sub(r".*\bWHERE ", "", " ".join(sql.split())) if sql and " WHERE " in sql else ""
        found[name if origin == "c" else f"({', '.join(parts)})"] = (unique, parts, condition)
    return found


def foreign_keys(connection, table):
    rows = connection.execute(f"PRAGMA foreign_key_list({table})")
    return sorted(
        (column, parent, target, update, delete) for _, _, parent, column, target, update, delete, _ in rows
    )


def form(connection, table):
    (row,) = connection.execute("SELECT wr, strict FROM pragma_table_list WHERE name = ?", [table])
    return row


def test_every_table_and_view_is_declared_and_no_other(made):
    rows = made.execute(
        "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view')"
        " AND name NOT GLOB 'sqlite_*' AND name <> 'alembic_version'"
    ).fetchall()

    assert {name for kind, name in rows if kind == "table"} == {table.name for table in TABLES}
    assert {name for kind, name in rows if kind == "view"} == {view.name for view in VIEWS}


@pytest.mark.parametrize("name", [table.name for table in TABLES])
@pytest.mark.parametrize("look", [columns, indexes, foreign_keys, form])
def test_a_table_is_what_is_declared(look, name, declared, made):
    assert look(declared, name) == look(made, name)


@pytest.mark.parametrize("name", [view.name for view in VIEWS])
def test_a_view_has_the_columns_that_are_declared_in_their_order(name, made):
    cursor = made.execute(f"SELECT * FROM {name} LIMIT 0")

    assert [column for column, *_ in cursor.description] == [
        column.name for column in metadata.tables[name].columns
    ]
