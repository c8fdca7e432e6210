"""
The database of a store, and that it is at head, the revision of this release: made so, brought there, or refused.

A store at head costs one small query. A new one is made by ``migrations/head.sql``, which is what all revisions come
to: docs/decisions/0016-head-as-a-script.md. Alembic is imported for a store that is behind, and for no other.
"""

from __future__ import annotations

import stat
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ullage.database import Database
from ullage.errors import SchemaTooOld, StoreCorrupt, StoreError, StoreReadOnly
from ullage.filesystem import mount_of, require_suitable
from ullage.ingest import translated
from ullage.revision import current_revision, is_at_head, require_level
from ullage.schema import HEAD_REVISION, REVISIONS
from ullage.schema.script import statements

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from ullage.database import Guard
    from ullage.model import UpgradeCallback

__all__ = ["create", "database_in", "ensure_head"]


#: One page of the smallest kind.
_SMALLEST_DATABASE_BYTES: Final = 512


def database_in(
    root: Path, *, read_only: bool, timeout_seconds: float = 60.0, guard: Guard | None = None
) -> Database:
    """
    The database of the store in *root*. Nothing was asked of it yet, not even whether it is one of ours.

    Raises:
        StoreError: there is none to look at.
        StoreCorrupt: there is a file in its place that is no database.
        StoreReadOnly: we may not look into *root*.
        UnsuitableFilesystem: *root* is on another machine's disk.
    """
    require_suitable(root)
    path = root / "ullage.db"
    with translated():
        found = path.stat() if path.exists() else None
    if found is None and read_only:
        raise StoreError(f"there is no store in {root}")
    # SQLite takes a file that has no whole header for an empty one, and would write over it; it waits for whoever
    # writes to a pipe.
    if found is not None and (
        not stat.S_ISREG(found.st_mode) or 0 < found.st_size < _SMALLEST_DATABASE_BYTES
    ):
        raise StoreCorrupt(
            f"{path} is no database",
            hint="is this the right root? If it is, `ullage db salvage` makes a database of the blobs that are there",
        )
    return Database(
        path,
        gate=root / "gate",
        read_only=read_only,
        immutable=read_only and _nobody_can_write(root),
        timeout_seconds=timeout_seconds,
        guard=guard,
    )


def _nobody_can_write(root: Path) -> bool:
    """
    Whether the store is on a filesystem that is mounted read-only, and all of it is in its one file.

    There SQLite can make none of the files that it shares with writers, and needs none.
    """
    mount = mount_of(root)
    if mount is None or not mount.never_written:
        return False
    wal = root / "ullage.db-wal"
    return not wal.exists() or wal.stat().st_size == 0


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
        StoreReadOnly: it is still to be made, and was opened so.
        StoreCorrupt: it is no store of ours.
        DiskFull: there is no room for the upgrade and its backup.
    """
    with database.glance() as snapshot:
        if is_at_head(snapshot):
            return
    with database.read() as connection:
        revision = current_revision(connection)
        if revision is not None and revision not in REVISIONS:
            require_level(connection, revision, writing=not database.read_only)
            return
    if revision in (None, HEAD_REVISION) and database.read_only:
        raise StoreReadOnly(
            f"{database.path} has no tables: whoever was making the store did not get that far",
            hint="they are made by whoever opens it to change something, as `ullage pull` does",
        )
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
