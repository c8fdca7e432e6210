"""
At which revision a store is, and what this release may do with it.

A *level* is a revision's ordinal, in ``user_version``: what two releases can compare when one of them does not know
the other's revisions. ``store.min_reader`` and ``store.min_writer`` are the lowest levels that may read the store and
write to it; each revision declares its own (migrations/script.py.mako).
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from ullage.database import APPLICATION_ID
from ullage.errors import SchemaTooNew, SchemaTooOld, StoreCorrupt, StoreError
from ullage.refusal import is_of_the_schema
from ullage.schema import HEAD_REVISION, LEVEL, REVISIONS
from ullage.snapshot import Snapshot

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = [
    "GUARD",
    "current_revision",
    "guard",
    "is_at_head",
    "known_revision",
    "marks_of",
    "require_known",
    "require_level",
]

#: All that opening a store at head asks.
_AT_HEAD: Final = """\
SELECT a.application_id, v.version_num, s.one FROM pragma_application_id AS a, alembic_version AS v, store AS s"""
#: What a write asks first: whether it is still the schema that it was when the store was opened.
GUARD: Final = "SELECT min_reader, min_writer, user_version FROM store, pragma_user_version"


def current_revision(connection: Connection | Snapshot) -> str | None:
    """
    The revision that the store says it is at; None for a file with nothing in it yet.

    Raises:
        StoreCorrupt: it is no store of ours, or does not say.
    """
    application_id = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    if (
        application_id == 0
        and connection.exec_driver_sql("SELECT 1 FROM sqlite_schema LIMIT 1").first() is None
    ):
        return None
    if application_id != APPLICATION_ID:
        raise StoreCorrupt(
            f"ullage.db is a database of another application (application_id {application_id:#x})",
            hint="is this the right root?",
        )
    if (
        connection.exec_driver_sql("SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'").first()
        is None
    ):
        raise StoreCorrupt("the store has no alembic_version, and so does not say at which revision it is")
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if not isinstance(revision, str):
        raise StoreCorrupt("the store does not say at which revision it is")
    return revision


def guard(connection: Connection | Snapshot, *, writing: bool) -> None:
    """
    See, in a transaction of an open store, that nobody changed its schema to one that is not for us.

    Raises:
        SchemaTooNew: a later release upgraded it.
        SchemaTooOld: somebody took it back to an earlier revision.
    """
    min_reader, min_writer, level = marks_of(connection)
    if (min_writer if writing else min_reader) > LEVEL:
        revision = str(current_revision(connection))
        raise _too_new(revision, writing=writing, readable=min_reader <= LEVEL)
    if level < LEVEL:
        revision = str(current_revision(connection))
        raise SchemaTooOld(
            f"the store was taken back to revision {revision} while it was open, "
            f"and this release works with {HEAD_REVISION}",
            revision=revision,
        )


def marks_of(connection: Connection | Snapshot) -> tuple[int, int, int]:
    """
    min_reader, min_writer and the level of the store.
    """
    driver = connection.driver if isinstance(connection, Snapshot) else connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    try:
        # Past SQLAlchemy, which takes five times as long as SQLite: this is asked in every write.
        min_reader, min_writer, level = driver.execute(GUARD).fetchone()
    except (sqlite3.Error, TypeError):
        row = connection.exec_driver_sql(GUARD).first()  # its errors are ours
        if row is None:  # tables that a developer made with Alembic, and that nobody opened yet
            level = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            return level, level, level
        min_reader, min_writer, level = row
    return min_reader, min_writer, level


def require_level(connection: Connection, revision: str, *, writing: bool) -> None:
    """
    See that a store of a later release lets us do what we are about to.
    """
    try:
        min_reader, min_writer, level = marks_of(connection)
    except StoreError as error:
        raise _too_new(revision, writing=writing, readable=False) from error
    # A revision that we do not know at a level that we do is not a later one, but nobody knows what.
    readable = min_reader <= LEVEL < level
    if not readable or (writing and min_writer > LEVEL):
        raise _too_new(revision, writing=writing, readable=readable)


def _too_new(revision: str, *, writing: bool, readable: bool) -> SchemaTooNew:
    look = writing and readable
    return SchemaTooNew(
        f"the store is at revision {revision}, this release knows {HEAD_REVISION}"
        + (" and may only look at it" if look else ""),
        revision=revision,
        hint="open it read-only, or with the release that wrote it, or a later one" if look else None,
    )


def known_revision(connection: Connection) -> str:
    revision = current_revision(connection)
    if revision is None:
        raise StoreCorrupt("the database is empty")
    if revision not in REVISIONS:
        raise _too_new(revision, writing=True, readable=False)
    return revision


def require_known(revision: str) -> None:
    if revision not in REVISIONS:
        raise StoreError(
            f"no revision {revision} is known to this release", hint=f"it knows {', '.join(REVISIONS)}"
        )


def is_at_head(snapshot: Snapshot) -> bool:
    try:
        found = snapshot.exec_driver_sql(_AT_HEAD)
    except sqlite3.Error as error:
        if is_of_the_schema(error):
            return False  # no such table: it will be told what it is
        raise
    return found == [(APPLICATION_ID, HEAD_REVISION, 1)]
