"""
What this machine and this store are like: the things that go wrong where nobody looked.

Nothing here changes anything. Each finding is a sentence with a hint; none of them is an exception.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

from ullage.database import MINIMUM_SQLITE, Database
from ullage.errors import ImageError
from ullage.filesystem import SUITABLE, Mount, is_read_only, mount_of
from ullage.migrate import differences
from ullage.model import Finding
from ullage.revision import current_revision
from ullage.schema import HEAD_REVISION, REVISIONS
from ullage.sizes import human

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ullage.blobs import BlobFiles
    from ullage.repository import ImageRepository

__all__ = ["examine"]

# https://www.sqlite.org/wal.html#walresetbug: two connections that write or checkpoint at once may corrupt a
# database in WAL mode. Fixed in 3.51.3, and in these branches.
_WAL_RESET_FIXED: Final = (3, 51, 3)
#: urllib3-future numbers its releases so, to be told apart.
_FORK_PATCH: Final = 900
#: A WAL is folded back every 64 writes: one of this size was kept from it.
_LARGE_WAL_BYTES: Final = 64 << 20
_WAL_RESET_BRANCHES: Final = {(3, 44): 6, (3, 50): 7}


def examine(database: Database, repository: ImageRepository, files: BlobFiles) -> list[Finding]:
    """
    Every finding, the good ones too, in the order of the list in the manual.
    """
    return [
        *_sqlite(),
        *_filesystem(files.root),
        *_told("journal", _journal(database)),
        *_told("schema", _schema(database)),
        *_told("limit", _room(repository, files)),
        *_told("accounting", _leftovers(repository, files)),
        *_libraries(),
    ]


def _told(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """
    What cannot even be asked is a finding, too.
    """
    try:
        yield from findings
    except (ImageError, OSError) as error:
        yield Finding(subject, "fail", f"cannot be told: {error}", "`ullage check` says what is damaged")


def _sqlite() -> Iterator[Finding]:
    this = sqlite3.sqlite_version_info
    said = f"SQLite {sqlite3.sqlite_version}"
    if this < MINIMUM_SQLITE:
        yield Finding("sqlite", "fail", f"{said} knows no STRICT tables", "3.37 or later is needed")
        return
    if this >= _WAL_RESET_FIXED or this[2] >= _WAL_RESET_BRANCHES.get(this[:2], sys.maxsize):
        yield Finding("sqlite", "ok", f"{said} has the fix of the WAL-reset bug")
    else:
        yield Finding(
            "sqlite",
            "warn",
            f"{said} has the WAL-reset bug; this package never lets a commit meet a checkpoint, which is what it needs",
            "do not write to ullage.db with other programs while the store is busy, or use SQLite 3.51.3 or later",
        )


def _filesystem(root: Path) -> Iterator[Finding]:
    mount = mount_of(root)
    if mount is None:
        yield Finding("filesystem", "warn", "cannot tell which filesystem the root is on")
        return
    said = f"{root} is on {mount.kind} ({mount.point})"
    if mount.kind in SUITABLE:
        yield Finding("filesystem", "ok", said)
    elif mount.is_remote:
        yield Finding(
            "filesystem", "fail", f"{said}: no locks and no shared memory to rely on", "use a local disk"
        )
    else:
        yield Finding("filesystem", "warn", f"{said}, which nobody has tried here")
    if _is_volatile(mount):
        yield Finding("durability", "warn", f"{mount.kind} is gone after a restart, and the store with it")


def _is_volatile(mount: Mount) -> bool:
    return mount.kind in ("tmpfs", "ramfs")


def _journal(database: Database) -> Iterator[Finding]:
    with database.read() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
    if database.is_of_one_moment:
        yield Finding("journal", "ok", "none: nobody has the store open, and it was read at once")
    elif is_read_only(database.path.parent):
        yield Finding("journal", "ok", f"journal_mode={mode}: nothing is written here")
    elif mode == "wal" and synchronous == 2:
        yield Finding("journal", "ok", "journal_mode=wal, synchronous=full")
    else:
        yield Finding(
            "journal",
            "fail",
            f"journal_mode={mode}, synchronous={synchronous}; the store needs wal and 2 (full)",
            "PRAGMA journal_mode = WAL; in the sqlite3 shell, while nobody uses the store",
        )
    wal = database.path.with_name(f"{database.path.name}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    if size > _LARGE_WAL_BYTES:
        yield Finding(
            "journal",
            "warn",
            f"{wal.name} has grown to {human(size)}: somebody had, or still has, a read transaction open for long",
            "look for a forgotten sqlite3 shell (`fuser ullage.db`); it goes when everybody has closed the store",
        )


def _schema(database: Database) -> Iterator[Finding]:
    """
    Tables, indexes, triggers and views against those that a new store gets.
    """
    with database.read() as connection:
        revision = current_revision(connection)
        if revision is None or revision not in REVISIONS:
            yield Finding(
                "schema",
                "warn",
                f"at revision {revision}, of a later release: this one knows {HEAD_REVISION}",
            )
            return
        wrong = differences(connection, revision)
    if wrong:
        yield Finding(
            "schema",
            "fail",
            f"at revision {revision}, but {'; '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}",
            "somebody changed the schema by hand: the rules of the store may not hold",
        )
    else:
        yield Finding("schema", "ok", f"at revision {revision} of {HEAD_REVISION}, each rule in place")


def _room(repository: ImageRepository, files: BlobFiles) -> Iterator[Finding]:
    usage = repository.usage()
    figures = os.statvfs(files.root)
    total, free = figures.f_blocks * figures.f_frsize, files.free_bytes()
    min_free = repository.min_free()
    said = f"limit {usage.max_bytes}, used {usage.used_bytes}, reserved {usage.reserved_bytes}"
    said += f"; the disk has {free} free"
    if is_read_only(files.root):
        yield Finding("limit", "ok", f"{said}, and is mounted read-only: nothing is written here")
        return
    if usage.max_bytes > total - min_free:
        yield Finding(
            "limit",
            "warn",
            f"{said} of {total}: the limit cannot be reached",
            "lower it with `ullage quota --max`, so that it is the limit and not the disk that says no",
        )
    elif usage.available_bytes > free - min_free:
        yield Finding(
            "limit", "warn", f"{said}: less than the limit still allows", "free the disk, or lower the limit"
        )
    elif usage.used_bytes + usage.reserved_bytes > usage.max_bytes:
        yield Finding(
            "limit", "warn", f"{said}: over the limit, nothing more is admitted", "`ullage quota --evict`"
        )
    else:
        yield Finding("limit", "ok", said)
    if figures.f_files and figures.f_favail < figures.f_files // 100:
        yield Finding("inodes", "warn", f"{figures.f_favail} inodes free of {figures.f_files}")
    if (files.root / "headroom").exists():
        yield Finding("headroom", "ok", "room is set aside for removing on a full disk")
    else:
        yield Finding(
            "headroom", "warn", "no room is set aside for removing on a full disk", "free some; `ullage gc`"
        )


def _leftovers(repository: ImageRepository, files: BlobFiles) -> Iterator[Finding]:
    doomed = len(repository.doomed(1000))
    trash = len(os.listdir(files.root / "trash"))  # noqa: PTH208 -- names are enough
    drift = repository.view("accounting_drift")
    partial = repository.usage().reserved_bytes
    if drift:
        yield Finding(
            "accounting",
            "fail",
            "; ".join(f"{each['name']} says {each['counter']}, is {each['actual']}" for each in drift[:5]),
            "`ullage check --repair` recounts",
        )
    else:
        yield Finding("accounting", "ok", "every counter is right")
    if doomed or trash:
        yield Finding(
            "leftovers",
            "warn",
            f"{doomed} doomed blobs and {trash} files in trash/ wait",
            "`ullage gc` removes them",
        )
    else:
        yield Finding(
            "leftovers", "ok", f"nothing waits to be removed; {partial} bytes are on their way or resumable"
        )


def _libraries() -> Iterator[Finding]:
    # Asked of the modules themselves: what is installed under a name may be overwritten by another package.
    found = {name: str(import_module(name).__version__) for name in ("sqlalchemy", "alembic", "urllib3")}
    for name, release in found.items():
        patch = release.rsplit(".", 1)[-1]
        if name == "urllib3" and patch.isdigit() and int(patch) >= _FORK_PATCH:
            yield Finding(
                name,
                "warn",
                f"urllib3 {release} is urllib3-future under another's name: TLS is several times slower",
                "uninstall niquests and urllib3-future from this environment",
            )
        else:
            yield Finding(name, "ok", f"{name} {release}")
