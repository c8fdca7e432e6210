"""
A store whose database is damaged or gone: its rows made anew, of the content that is there.

The manifests under ``blobs/`` say which images there are, and ``index.json``, where there is one, what they are
called. Nothing is believed: every blob is hashed before a row says that it is here. Rows are made as a pull makes them,
by admission and completion, so that every rule of the store holds for them.

The new database is made beside the old one, which nobody touches but to rename it when all is done: whatever goes wrong
before that changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ullage.blobs import BlobFiles
from ullage.database import Database
from ullage.errors import StoreBusy, StoreCorrupt, StoreError
from ullage.filesystem import require_suitable
from ullage.head import create
from ullage.ingest import translated
from ullage.locks import FileLock
from ullage.model import DEFAULT_MAX_STORAGE
from ullage.remains import Finds, InPlace, Listing
from ullage.repository import ImageRepository, Origin, Owner, owner_name
from ullage.revision import current_revision
from ullage.vocabulary import INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.model import ImageStatus
    from ullage.remains import Found

__all__ = ["Salvaged", "salvage"]

_DATABASE: Final = "ullage.db"
_BESIDE: Final = "ullage.db.salvage"
_ENDS: Final = ("", "-wal", "-shm")
_GATE_SECONDS: Final = 10.0
#: What an admission may never lack while the limit is not known yet.
_NO_LIMIT: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class Salvaged:
    """
    What a salvage recovered, and what it could not.

    ``lost`` has a digest or a name, and the reason, for each manifest and each name that did not come back.
    ``unused_count`` and ``unused_bytes`` are of files under ``blobs/`` that no image needs: `ullage check --repair`
    removes them. ``moved_aside`` is where the damaged database is now; None where there was none.
    """

    images: tuple[ImageStatus, ...]
    lost: tuple[tuple[str, str], ...]
    unused_count: int
    unused_bytes: int
    max_bytes: int
    names_from: str | None
    moved_aside: str | None


def salvage(root: Path, *, force: bool = False) -> Salvaged:
    """
    Make the database of the store in *root* anew. Durable on return; on any exception the store is as it was.

    Costs what hashing all blobs costs. The gate is locked meanwhile: nobody else changes the store.

    Args:
        force: also where nothing is wrong with the database that is there.

    Raises:
        StoreError: there are no blobs to make one of, or the database is not damaged, and not *force*.
        StoreBusy: somebody is using the store.
    """
    root = root.absolute()
    require_suitable(root)
    if not (root / "blobs").is_dir():
        raise StoreError(f"there is no store in {root}: no blobs/ to salvage", hint="is this the right root?")
    files = BlobFiles(root)
    with translated():
        gate = FileLock.acquire(root / "gate", timeout_seconds=_GATE_SECONDS)
    if gate is None:
        raise StoreBusy(f"somebody is writing to the store in {root}", waited_seconds=_GATE_SECONDS)
    try:
        _require_idle(files)
        if not force:
            _require_damage(root)
        with _made_beside(root) as (database, limits):
            result = _fill(database, files, limits)
        with translated():
            aside = _put_in_place(root)
    finally:
        gate.release()
    images, lost, unused, unused_bytes, max_bytes, names_from = result
    return Salvaged(images, lost, unused, unused_bytes, max_bytes, names_from, aside)


# ---------------------------------------------------------------------- before


def _require_idle(files: BlobFiles) -> None:
    """
    See that nobody is at work. Whoever only has the store open finds out at the next statement.
    """
    for token in files.lease_tokens() if files.leases.is_dir() else ():
        lock = files.take_lease(token)
        if lock is None:
            raise StoreBusy(
                "somebody is pulling into this store, or holds an image of it", waited_seconds=0.0
            )
        lock.let_go()


def _require_damage(root: Path) -> None:
    with _copy_of_the_damaged(root) as copied:
        if copied is None:
            return
        try:
            database = Database(copied, gate=copied.with_name("gate"), read_only=True)
            try:
                with database.read() as connection:
                    revision = current_revision(connection)
                    lines = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalars().all()
            finally:
                database.close()
        except StoreCorrupt:
            return
        except StoreError as error:
            raise StoreError(
                f"the database is not damaged, but: {error}", hint="--force salvages it all the same"
            ) from error
        if revision is not None and lines == ["ok"]:
            raise StoreError(
                f"the database is not damaged: it is at revision {revision}, and its file is sound",
                hint="`ullage check --repair` mends rows and blobs; --force salvages all the same",
            )


@contextlib.contextmanager
def _copy_of_the_damaged(root: Path) -> Iterator[Path | None]:
    """
    A copy to look at: SQLite would write beside the original, and perhaps tidy up.
    """
    if not (root / _DATABASE).is_file() or not (root / _DATABASE).stat().st_size:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ullage-salvage-", dir=root) as directory:
        with translated():
            for end in ("", "-wal"):
                if (root / f"{_DATABASE}{end}").is_file():
                    shutil.copy(root / f"{_DATABASE}{end}", Path(directory, f"{_DATABASE}{end}"))
        yield Path(directory, _DATABASE)


def _limits_of(root: Path) -> tuple[int, int]:
    """
    The limit and what is to stay free, as the damaged database says if it still can; else those of a new store.
    """
    with _copy_of_the_damaged(root) as copied:
        if copied is not None:
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(sqlite3.connect(copied)) as connection,
            ):
                max_bytes, min_free = connection.execute(
                    "SELECT max_bytes, min_free_bytes FROM store"
                ).fetchone() or (None, None)
                if isinstance(max_bytes, int) and isinstance(min_free, int):
                    return max_bytes, min_free
    return DEFAULT_MAX_STORAGE, 0


# ---------------------------------------------------------------------- beside


@contextlib.contextmanager
def _made_beside(root: Path) -> Iterator[tuple[Database, tuple[int, int]]]:
    """
    A new database beside the old one; gone when the block raises.
    """
    limits = _limits_of(root)
    _remove_beside(root)
    try:
        # The gate of the store is ours already, and a lock is not taken twice.
        database = Database(root / _BESIDE, gate=root / f"{_BESIDE}.gate")
        try:
            create(database, max_bytes=_NO_LIMIT)
            yield database, limits
        finally:
            database.close()
    except BaseException:
        _remove_beside(root)
        raise


def _remove_beside(root: Path) -> None:
    for end in (*_ENDS, ".gate"):
        with contextlib.suppress(OSError):
            (root / f"{_BESIDE}{end}").unlink()


def _fill(
    database: Database, files: BlobFiles, limits: tuple[int, int]
) -> tuple[tuple[ImageStatus, ...], tuple[tuple[str, str], ...], int, int, int, str | None]:
    repository = ImageRepository(database)
    listing = Listing.read(files.root / INDEX)
    finds = Finds(files, listing)
    lost: list[tuple[str, str]] = []
    for found in finds.images():
        if found.problem is None:
            _make(repository, InPlace(files), found)
        else:
            lost.append((found.digest, found.problem))
    lost += repository.restore_names(listing.names)
    images = repository.all()
    for image in images:
        if image.image_id in listing.pinned:
            repository.pin(image.id, pinned=True)
    used = repository.usage().used_bytes
    # Never below what is here: nobody should find a store that admits nothing.
    max_bytes = max(limits[0], used)
    repository.set_limits(max_bytes=max_bytes, min_free_bytes=limits[1])
    unused, unused_bytes = finds.unused(repository.content())
    return tuple(repository.all()), tuple(lost), unused, unused_bytes, max_bytes, listing.source


def _make(repository: ImageRepository, files: InPlace, found: Found) -> None:
    """
    One image, by admission and completion: its files are in their place, as after a pull's last byte.
    """
    assert found.plan is not None
    assert found.image is not None
    owner = Owner(secrets.token_hex(16), owner_name(), os.getpid())
    claims = repository.admit(owner, f"salvage of {found.digest}", found.plan.wanted, files)
    repository.complete(
        owner.token,
        sorted(claims.owned),
        found.image,
        found.plan.naming,
        origin=Origin(received=None, how="salvaged"),
    )


# ---------------------------------------------------------------------- in place


def _put_in_place(root: Path) -> str | None:
    """
    Rename the old one aside and the new one into its place; where that fails, back again.
    """
    assert not (root / f"{_BESIDE}-wal").exists(), "closing it folded that back"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    moved: list[tuple[Path, Path]] = []
    try:
        _sync(root / _BESIDE)
        for end in reversed(_ENDS):  # the database last: with it there, nobody takes the store for a new one
            path, target = root / f"{_DATABASE}{end}", root / f"{_DATABASE}.damaged-{stamp}{end}"
            if os.path.lexists(path):
                path.rename(target)
                moved.append((path, target))
        (root / _BESIDE).rename(root / _DATABASE)
    except BaseException:
        for path, target in reversed(moved):
            with contextlib.suppress(OSError):
                target.rename(path)
        _remove_beside(root)
        raise
    _sync(root)
    _remove_beside(root)
    return next((str(target) for path, target in moved if path.name == _DATABASE), None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
