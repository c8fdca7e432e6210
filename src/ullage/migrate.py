"""
Bring a store to another revision, or say why not.

A store behind is brought forward under the gate, all pending revisions in one transaction (I12), after a look at the
room and with a backup: a failed upgrade leaves the previous revision whole.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullage.backup import Watch, copy, forget_backups, path_of_backup, require_room
from ullage.engine import make_engine
from ullage.errors import DowngradeLoses, StoreError
from ullage.model import Loss, UpgradeProgress
from ullage.revision import known_revision, require_known
from ullage.schema import HEAD_REVISION, REVISIONS
from ullage.schema.script import statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from sqlalchemy import Connection

    from ullage.database import Database
    from ullage.model import UpgradeCallback

__all__ = ["differences", "downgrade", "notes", "upgrade"]


def upgrade(
    database: Database, revision: str = HEAD_REVISION, *, on_upgrade: UpgradeCallback | None = None
) -> None:
    """
    Bring the store forward to *revision*; harmless when it is there, or when another process just did it.

    Raises:
        StoreError: it is past that revision, or it is none that we know.
    """
    require_known(revision)
    with database.rebuild() as connection:
        # Looked at under the gate: another process may have upgraded while we waited.
        here = known_revision(connection)
        if here == revision:
            return
        if REVISIONS.index(here) > REVISIONS.index(revision):
            raise StoreError(
                f"the store is at revision {here}, past {revision}", hint=f"`ullage db downgrade {revision}`"
            )
        backup = _Course(database, here, revision, on_upgrade)
        backup.make(connection)
        with backup.watching(connection):
            _alembic("upgrade", connection, revision, on_step=backup.step)
    backup.done()


def downgrade(
    database: Database,
    revision: str,
    *,
    accept_losses: bool = False,
    on_upgrade: UpgradeCallback | None = None,
) -> tuple[tuple[Loss, ...], tuple[str, ...]]:
    """
    Bring the store back to *revision*, for an earlier release.

    Returns what that lost, the newest revision first, and the directories that no release up to *revision* knows.

    Raises:
        DowngradeLoses: something would be lost, and that was not accepted; nothing was changed.
        StoreError: the store is before that revision, or it is none that we know.
    """
    require_known(revision)
    lost: list[Loss] = []
    with database.rebuild() as connection:
        here = known_revision(connection)
        steps = REVISIONS[REVISIONS.index(revision) : REVISIONS.index(here) + 1][::-1]
        if not steps:
            raise StoreError(
                f"the store is at revision {here}, before {revision}", hint=f"`ullage db upgrade {revision}`"
            )
        directories = _directories_after(revision)
        if len(steps) == 1:
            return (), directories
        backup = _Course(database, here, revision, on_upgrade)
        # Each step says what it loses of the schema that it finds, which is the one it was written for.
        with backup.watching(connection):
            for above, below in pairwise(steps):
                lost += _losses_of(connection, above)
                _alembic("downgrade", connection, below, on_step=backup.step)
        if lost and not accept_losses:
            raise DowngradeLoses(
                f"a downgrade from {here} to {revision} loses {'; '.join(map(_told, lost))}",
                losses=tuple(lost),
            )
        # Made by another connection, which sees the store as it was before this transaction.
        backup.make(connection)
    backup.done()
    return tuple(lost), directories


def notes() -> list[tuple[str, str]]:
    """
    Each revision, oldest first, with the first sentence of its text.
    """
    found = []
    for revision in REVISIONS:
        text = str(_module(revision).__doc__).strip().partition("\n\n")[0]
        found.append((revision, " ".join(text.split())))
    return found


def differences(connection: Connection, revision: str) -> list[str]:
    """
    How the schema that *connection* sees differs from that of *revision*, which is made anew to be compared: in memory,
    for who asks may have no room and no right to write anywhere.
    """
    here = _schema_of(connection)
    memory = partial(sqlite3.connect, ":memory:", isolation_level=None)
    engine = make_engine(memory, Path(":memory:"), begin="BEGIN", timeout_seconds=0.0)
    with engine.connect() as made, made.begin():
        if revision == HEAD_REVISION:
            for statement in statements()[0]:
                made.exec_driver_sql(statement)
        else:
            _alembic("upgrade", made, revision)
        right = _schema_of(made)
    return [
        *(f"{name} is missing" for name in sorted(right.keys() - here.keys())),
        *(f"{name} is unknown" for name in sorted(here.keys() - right.keys())),
        *(f"{name} is different" for name in sorted(right.keys() & here.keys()) if right[name] != here[name]),
    ]


def _losses_of(connection: Connection, revision: str) -> list[Loss]:
    """
    What taking *revision* back would lose, of a store that is at it.
    """
    queries = getattr(_module(revision), "losses", ())
    found = [Loss(*row) for sql in queries for row in connection.exec_driver_sql(sql)]
    return [each for each in found if each.count]


def _directories_after(revision: str) -> tuple[str, ...]:
    later = REVISIONS[REVISIONS.index(revision) + 1 :]
    return tuple(name for each in later for name in getattr(_module(each), "directories", ()))


def _schema_of(connection: Connection) -> dict[str, str | None]:
    # Alembic's own table is laid out one way by Alembic and another by its script.
    rows = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_schema WHERE name NOT GLOB 'sqlite_*' AND tbl_name <> 'alembic_version'"
    )
    return {str(name): sql for name, sql in rows}


def _told(loss: Loss) -> str:
    return f"{loss.count} {loss.what}" + (f" ({loss.size} bytes)" if loss.size else "")


# ---------------------------------------------------------------------- how it is done


class _Course:
    """
    One change of revision: its backup, and what is told of it.
    """

    def __init__(self, database: Database, here: str, there: str, tell: UpgradeCallback | None) -> None:
        self._database, self._here, self._there, self._tell = database, here, there, tell
        self._revision = here
        self._started = time.monotonic()
        self._backup = path_of_backup(database.path, here)

    def make(self, connection: Connection) -> None:
        """
        Look at the room, and make the backup. *connection* has the write lock: nobody else changes anything meanwhile.
        """
        pages, unused, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
        live = (pages - unused) * size
        require_room(self._database.path, live_bytes=live, file_bytes=pages * size)
        self._report("backup", total=live)
        copy(
            self._database,
            self._backup,
            beside=self._backup.with_name(f"{self._backup.name}.new"),
            keeps_wal=True,
            report=lambda written: self._report("backup", written, live),
        )

    @contextmanager
    def watching(self, connection: Connection) -> Iterator[None]:
        """
        Tell how far the statements of *connection* are, by what they wrote so far.
        """
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        wal = self._database.path.with_name(f"{self._database.path.name}-wal")
        watch = Watch(lambda: self._report("schema", wal.stat().st_size if wal.exists() else 0))
        self._report("schema")
        # Even if nobody listens: Ctrl-C ends what is watched.
        with watch.over(driver):
            yield

    def step(self, revision: str) -> None:
        self._revision = revision
        self._report("schema")

    def done(self) -> None:
        """
        It is committed: earlier backups have served.
        """
        forget_backups(self._database.path, but=self._backup)
        self._report("done")

    def _report(self, stage: str, written: int = 0, total: int = 0) -> None:
        if self._tell is not None:
            elapsed = time.monotonic() - self._started
            self._tell(
                UpgradeProgress(stage, self._here, self._there, self._revision, written, total, elapsed)
            )


def _module(revision: str) -> Any:  # noqa: ANN401 -- a module
    from alembic.script import ScriptDirectory  # noqa: PLC0415 -- a third of a second, and a store at head never needs it

    return ScriptDirectory.from_config(_config()).get_revision(revision).module


def _config() -> Config:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(files("ullage.migrations")))
    config.set_main_option("path_separator", "os")
    return config


def _alembic(verb: str, connection: Connection, revision: str, *, on_step: Any = None) -> None:  # noqa: ANN401
    from alembic import command  # noqa: PLC0415
    from alembic.util.exc import CommandError  # noqa: PLC0415

    config = _config()
    config.attributes["connection"] = connection
    config.attributes["on_step"] = on_step
    try:
        {"upgrade": command.upgrade, "downgrade": command.downgrade}[verb](config, revision)
    except CommandError as error:
        raise StoreError(f"the schema could not be changed: {error}") from error
