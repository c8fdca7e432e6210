"""
The protocol with one mistake in it, put on from outside: what the crash tests must catch.

Each of these changes the process that it is called in, for the rest of its life.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text

import ullage.blobs
import ullage.ingest
import ullage.pull
import ullage.recovery
import ullage.trees
from ullage.blobs import BlobFiles
from ullage.layer import Writeback
from ullage.locks import FileLock, LeaseLock
from ullage.repository import admission, images, pulls
from ullage.repository.storage import doomed_blobs
from ullage.schema import leases
from ullage.trees import TreeFiles

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MUTANTS"]


def _root_of(connection: Any) -> str:
    (row,) = connection.exec_driver_sql("PRAGMA database_list").all()
    return str(row[2]).removesuffix("/ullage.db")


# ---------------------------------------------------------------------- on the way out


def _file_before_row() -> None:
    """
    The files of an image go in the transaction that removes it, which may not come to its end.
    """
    doom = images.doom_garbage

    def doom_and_unlink(connection: Any) -> None:
        doom(connection)
        for digest, _ in doomed_blobs(connection):
            Path(f"{_root_of(connection)}/blobs/{digest.algorithm}/{digest.encoded}").unlink()

    images.doom_garbage = doom_and_unlink


def _moved_before_doomed() -> None:
    """
    The files of an image are moved aside, and synced, in the transaction that removes it.
    """
    doom = images.doom_garbage

    def doom_and_move(connection: Any) -> None:
        doom(connection)
        root = _root_of(connection)
        for digest, _ in doomed_blobs(connection):
            Path(f"{root}/blobs/{digest.algorithm}/{digest.encoded}").rename(
                f"{root}/trash/{digest.encoded}.{secrets.token_hex(4)}"
            )
        for name in ("blobs/sha256", "trash"):
            descriptor = os.open(f"{root}/{name}", os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    images.doom_garbage = doom_and_move


def _unlinked_before_the_row_ends() -> None:
    """
    What is moved aside is unlinked at once, under the gate.
    """
    trash = BlobFiles.trash

    def trash_and_empty(self: BlobFiles, digests: Any) -> None:
        trash(self, digests)
        self.empty_trash()

    BlobFiles.trash = trash_and_empty  # type: ignore[method-assign]


# ---------------------------------------------------------------------- syncs


def _no_sync_of_files() -> None:
    ullage.ingest.os = _Without("fdatasync")  # type: ignore[assignment]


def _no_sync_of_directories() -> None:
    ullage.blobs._sync_directory = lambda _directory: None


class _Without:
    """
    The module os with one call that does nothing.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name == self._name else getattr(os, name)


# ---------------------------------------------------------------------- leases


def _lease_seen_before_locked() -> None:
    """
    The file of a lease has its name before it is locked: the first bug of the protocol that was tried.
    """

    def create(cls: type[LeaseLock], directory: Path) -> LeaseLock:
        path = directory / secrets.token_hex(16)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        next(directory.iterdir(), None)  # here somebody passes by
        ullage.locks.fcntl.flock(descriptor, ullage.locks.fcntl.LOCK_EX)
        return cls(path, FileLock(path, descriptor))

    LeaseLock.create = classmethod(create)  # type: ignore[assignment, method-assign]


def _lease_taken_without_its_lock() -> None:
    """
    Whoever finds a lease takes it for one of the dead.
    """

    def take(cls: type[LeaseLock], directory: Path, token: str) -> LeaseLock:
        path = directory / token
        return cls(path, FileLock(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)))

    LeaseLock.take = classmethod(take)  # type: ignore[assignment, method-assign]


def _lease_not_told_by_its_token() -> None:
    """
    The newest lease is taken for ours.
    """

    def lease_id_of(connection: Any, _token: str) -> int:
        newest: int = connection.execute(select(func.max(leases.c.id))).scalar_one()
        return newest

    pulls.lease_id_of = lease_id_of


def _present_blobs_without_a_lease() -> None:
    admission._LEASE = text("SELECT :lease_id WHERE :digests IS NULL")  # type: ignore[misc]


# ---------------------------------------------------------------------- recovery


def _row_without_its_file() -> None:
    """
    A partial blob is given up, and its file stays.
    """
    BlobFiles.discard = lambda _self, _digests: None  # type: ignore[method-assign]


def _published_files_forgotten() -> None:
    """
    Recovery looks for partial blobs where they are written, not where they may have been renamed to already.
    """

    def received_bytes(self: BlobFiles, digest: Any, size: int) -> int:
        path = self.ingest_path(digest)
        return min(path.stat().st_size, size) if path.exists() else 0

    def discard(self: BlobFiles, digests: Any) -> None:
        for digest in digests:
            self.ingest_path(digest).unlink(missing_ok=True)

    BlobFiles.received_bytes = received_bytes  # type: ignore[method-assign]
    BlobFiles.discard = discard  # type: ignore[method-assign]


def _torn_partials_kept() -> None:
    ullage.recovery._give_up_torn = lambda _repository, _files: None


# ---------------------------------------------------------------------- trees


def _no_sync_of_trees() -> None:
    Writeback.finish = lambda self: self._end()  # type: ignore[method-assign]


def _no_sync_of_the_directories_of_trees() -> None:
    ullage.trees._sync_directory = lambda _directory: None


def _half_trees_left() -> None:
    """
    What a dead owner began is forgotten, and its directory stays.
    """
    TreeFiles.discard = lambda _self, _chain_ids: None  # type: ignore[method-assign]


# ---------------------------------------------------------------------- pulls


def _nothing_published_before_waiting() -> None:
    """
    A pull that waits for others keeps what it has to itself.
    """
    ullage.pull.Pull._publish = lambda _self, _token: None  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "file before row": _file_before_row,
    "moved before doomed": _moved_before_doomed,
    "unlinked before the row ends": _unlinked_before_the_row_ends,
    "no sync of files": _no_sync_of_files,
    "no sync of directories": _no_sync_of_directories,
    "lease seen before locked": _lease_seen_before_locked,
    "lease taken without its lock": _lease_taken_without_its_lock,
    "lease not told by its token": _lease_not_told_by_its_token,
    "present blobs without a lease": _present_blobs_without_a_lease,
    "row without its file": _row_without_its_file,
    "published files forgotten": _published_files_forgotten,
    "torn partials kept": _torn_partials_kept,
    "no sync of trees": _no_sync_of_trees,
    "no sync of the directories of trees": _no_sync_of_the_directories_of_trees,
    "half trees left": _half_trees_left,
    "nothing published before waiting": _nothing_published_before_waiting,
}
