"""
Bring a store to the newest revision, or say why not.

A store at head costs one small query and imports no Alembic. A store behind is brought forward under the gate, all
pending revisions in one transaction (I12): a failed upgrade leaves the previous revision whole.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import insert, select, text

from ullage.database import APPLICATION_ID
from ullage.errors import SchemaTooNew, StoreCorrupt, StoreError
from ullage.schema import HEAD_REVISION, REVISIONS, store

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ullage.database import Database

__all__ = ["create", "current_revision", "ensure_head"]


def ensure_head(database: Database, *, max_bytes: int) -> None:
    """
    See that the store is at the revision of this release, upgrading it when it is behind.

    Raises:
        SchemaTooNew: a later release wrote it.
        StoreCorrupt: it is no store of ours.
        StoreReadOnly: it is behind and was opened read-only.
    """
    with database.read() as connection:
        revision = current_revision(connection)
        if revision == HEAD_REVISION and _has_row(connection):
            return
    if revision in (None, HEAD_REVISION):
        # A file without a table: whoever made it died first. Or tables that a developer made with Alembic.
        create(database, max_bytes=max_bytes)
        return
    with database.rebuild() as connection:
        # Looked at again: another process may have upgraded while we waited.
        if current_revision(connection) != HEAD_REVISION:
            _upgrade(connection)


def create(database: Database, *, max_bytes: int) -> None:
    """
    Make the tables and the store row in an empty file; harmless when another process just did.
    """
    with database.rebuild() as connection:
        if current_revision(connection) is None:
            _upgrade(connection)
        if _has_row(connection):
            return
        connection.execute(
            insert(store).values(
                uuid=str(uuid.uuid4()),
                created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                max_bytes=max_bytes,
            )
        )


def current_revision(connection: Connection) -> str | None:
    """
    The revision of the store; None for a file with nothing in it yet.
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
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if not isinstance(revision, str):
        raise StoreCorrupt("the store does not say at which revision it is")
    if revision not in REVISIONS:
        raise SchemaTooNew(
            f"the store is at revision {revision}, this release knows {HEAD_REVISION}", revision=revision
        )
    return revision


def _has_row(connection: Connection) -> bool:
    return connection.execute(select(store.c.one)).first() is not None


def _upgrade(connection: Connection) -> None:
    # Here and not above: Alembic is most of a second, and a store at head never needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util.exc import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(files("ullage.migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(f"the store could not be upgraded: {error}") from error
