"""
A store at head, the revision that this release works with: made so, brought there, or refused with the reason.

A store at head costs one small query. A new one is made by ``migrations/head.sql``, which is what all revisions come
to: docs/decisions/0016-head-as-a-script.md. Alembic is imported for a store that is behind, and for no other.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ullage.errors import SchemaTooOld
from ullage.revision import current_revision, is_at_head, require_level
from ullage.schema import HEAD_REVISION, REVISIONS
from ullage.schema.script import statements

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ullage.database import Database
    from ullage.model import UpgradeCallback

__all__ = ["create", "ensure_head"]


def ensure_head(
    database: Database,
    *,
    max_bytes: int,
    migrate: bool = True,
    on_upgrade: UpgradeCallback | None = None,
) -> None:
    """
    See that the store is at a revision that this release works with, upgrading it when it is behind.

    Raises:
        SchemaTooNew: a later release wrote it, and does not let this one do what it was opened for.
        SchemaTooOld: it is behind, and was opened read-only or without *migrate*.
        StoreCorrupt: it is no store of ours.
        DiskFull: there is no room for the upgrade and its backup.
    """
    with database.read() as connection:
        if is_at_head(connection):
            return
    with database.read() as connection:
        revision = current_revision(connection)
        if revision is not None and revision not in REVISIONS:
            require_level(connection, revision, writing=not database.read_only)
            return
    if revision in (None, HEAD_REVISION):
        # A file without a table: whoever made it died first. Or tables that a developer made with Alembic.
        create(database, max_bytes=max_bytes)
    elif database.read_only or not migrate:
        how = "was opened read-only" if database.read_only else "is not to be upgraded here"
        raise SchemaTooOld(
            f"the store is at revision {revision}, this release works with {HEAD_REVISION}, and it {how}",
            revision=str(revision),
        )
    else:
        from ullage.migrate import upgrade  # noqa: PLC0415 -- of the store that is behind alone

        upgrade(database, on_upgrade=on_upgrade)


def create(database: Database, *, max_bytes: int) -> None:
    """
    Make the tables and the store row in an empty file; harmless when another process just did.
    """
    schema, row = statements()
    with database.rebuild() as connection:
        if current_revision(connection) is None:
            for statement in schema:
                connection.exec_driver_sql(statement)
        if not _has_row(connection):
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            connection.exec_driver_sql(
                row, {"uuid": str(uuid.uuid4()), "created_at": now, "max_bytes": max_bytes}
            )


def _has_row(connection: Connection) -> bool:
    return connection.exec_driver_sql("SELECT one FROM store").first() is not None
