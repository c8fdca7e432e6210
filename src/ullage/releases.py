"""
The store as those see it who carry it from one release to another: at which revision it is, forward, back, and copies.

Nothing here opens an `ImageService`: what is asked of a store is asked of it as it is, whatever its revision.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from ullage.backup import backups, copy
from ullage.errors import StoreError
from ullage.head import database_in
from ullage.ingest import translated
from ullage.layer import remove_tree
from ullage.migrate import differences, downgrade, notes, upgrade
from ullage.model import Problem, RevisionNote, StoreRevision
from ullage.revision import current_revision, marks_of
from ullage.schema import HEAD_REVISION, REVISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from ullage.database import Database
    from ullage.model import Loss, UpgradeCallback

__all__ = ["back", "backup", "check", "current", "forward", "history", "snapshot"]


def current(root: Path) -> StoreRevision:
    """
    At which revision the store is, and what this release may do with it.
    """
    with _looking(root) as connection:
        revision = _revision(connection)
        min_reader, min_writer, level = marks_of(connection)
    known = revision in REVISIONS
    return StoreRevision(
        revision=revision,
        head=HEAD_REVISION,
        level=level,
        min_reader=min_reader,
        min_writer=min_writer,
        pending=REVISIONS[REVISIONS.index(revision) + 1 :] if known else (),
        may_read=level == len(REVISIONS) or min_reader <= len(REVISIONS) < level,
        may_write=level == len(REVISIONS) or min_writer <= len(REVISIONS) < level,
        backups=tuple(str(path) for path in backups(root / "ullage.db")),
    )


def history(root: Path | None) -> list[RevisionNote]:
    """
    Every revision that this release knows, oldest first, and whether the store in *root* has it.
    """
    here = 0
    if root is not None:
        with _looking(root) as connection:
            *_, here = marks_of(connection)
    return [
        RevisionNote(revision, what, level <= here, level == here)
        for level, (revision, what) in enumerate(notes(), 1)
    ]


def forward(root: Path, revision: str, *, on_upgrade: UpgradeCallback | None = None) -> str:
    """
    Upgrade the store to *revision*; the one that it was at.
    """
    before = current(root).revision
    with _changing(root) as database:
        upgrade(database, revision, on_upgrade=on_upgrade)
    return before


def back(
    root: Path, revision: str, *, accept_losses: bool = False, on_upgrade: UpgradeCallback | None = None
) -> tuple[str, tuple[Loss, ...]]:
    """
    Downgrade the store to *revision*; the one that it was at, and what was lost.

    Raises:
        DowngradeLoses: something would be lost, and that was not accepted; nothing was changed.
    """
    before = current(root).revision
    with _changing(root) as database:
        lost, directories = downgrade(database, revision, accept_losses=accept_losses, on_upgrade=on_upgrade)
    # Row first, file second: whoever is killed here leaves files that no row explains, and a downgrade to the same
    # revision removes them.
    for name in directories:
        with translated():
            if (root / name).exists():
                (root / name).chmod(0o700)
                remove_tree(root / name)
    return before, lost


def check(root: Path) -> list[Problem]:
    """
    What is wrong with the database alone, at whatever revision it is: damage, foreign schema, rows that contradict.
    """
    found: list[Problem] = []
    with _looking(root) as connection:
        revision = _revision(connection)
        damage = [line for (line,) in connection.exec_driver_sql("PRAGMA integrity_check(20)")]
        if damage != ["ok"]:
            found += [Problem("I12", "damage", "ullage.db", line) for line in damage]
        if revision in REVISIONS:
            found += [
                Problem("I12", "not the schema of its revision", revision, each)
                for each in differences(connection, revision)
            ]
        found += [
            Problem("I12", "row that points nowhere", f"{table} {row}", f"to {parent}")
            for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check")
        ]
        if not any(each.problem == "not the schema of its revision" for each in found):
            found += [
                Problem(invariant, problem, str(thing), "" if detail is None else str(detail))
                for invariant, problem, thing, detail in connection.exec_driver_sql("SELECT * FROM problems")
            ]
    return found


def backup(root: Path, target: Path) -> int:
    """
    Copy the database to *target*, a file that is not there yet; the bytes of it. Any revision, beside everybody else.

    Raises:
        StoreError: *target* is there, or cannot be made.
    """
    if target.exists() or target.is_symlink():
        raise StoreError(f"{target} is there already", hint="name a file that is not there")
    with _looking(root) as connection:
        _revision(connection)
    database = database_in(root, read_only=True)
    try:
        copy(
            database,
            target,
            beside=target.with_name(f".{target.name}.{secrets.token_hex(4)}"),
            keeps_wal=True,
        )
    finally:
        database.close()
    return target.stat().st_size


def snapshot(root: Path, target: Path, *, replace: bool = False) -> int:
    """
    Copy the database to *target* as one file that can be looked at from anywhere; the bytes of it.

    Of one moment, beside everybody else, and whole or not there at all. No right to write to *root* is needed.

    Args:
        replace: what is there goes, when the copy is whole.

    Raises:
        StoreError: *target* is there, or cannot be made.
    """
    if not replace and (target.exists() or target.is_symlink()):
        raise StoreError(f"{target} is there already", hint="--force replaces it")
    if target.is_dir():
        raise StoreError(f"{target} is a directory")
    if target.exists() and target.samefile(root / "ullage.db"):
        raise StoreError(f"{target} is the database of the store itself")
    if target.with_name(f"{target.name}-wal").exists():
        # It would be taken for the new file's.
        raise StoreError(
            f"{target} is a database in use, or one that somebody died on", hint="name another file"
        )
    with _looking(root) as connection:
        _revision(connection)
    database = database_in(root, read_only=True)
    try:
        copy(database, target, beside=target.with_name(f".{target.name}.{secrets.token_hex(4)}"))
    finally:
        database.close()
    return target.stat().st_size


@contextlib.contextmanager
def _looking(root: Path) -> Iterator[Connection]:
    database = database_in(root, read_only=True)
    try:
        with database.read() as connection:
            yield connection
    finally:
        database.close()


@contextlib.contextmanager
def _changing(root: Path) -> Iterator[Database]:
    database = database_in(root, read_only=False)
    try:
        yield database
    finally:
        database.close()


def _revision(connection: Connection) -> str:
    revision = current_revision(connection)
    if revision is None:
        raise StoreError("the database is empty: whoever was to make the store did not get to it")
    return revision
