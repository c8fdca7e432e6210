"""
Where the bytes are, and the way out for those that nothing names: usage, the limit, dooming and sweeping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, exists, func, select, update

from ullage.database import RuleBroken
from ullage.digest import Digest
from ullage.errors import StorageLimitExceeded
from ullage.model import ImageStorage, StorageUsage
from ullage.repository.records import Records
from ullage.schema import (
    accounting_drift,
    blobs,
    image_storage,
    in_flight,
    ingests,
    lease_blobs,
    problems,
    reclaimable,
    storage_usage,
    store,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Table

__all__ = ["LIMIT_RULE", "Storage", "doom_garbage", "limit_exceeded"]

#: The sentence of the trigger ``store_limit``.
LIMIT_RULE: Final = "storage limit exceeded"

_LEASED = exists().where(lease_blobs.c.blob_id == blobs.c.id)
_GARBAGE = (blobs.c.referenced == 0, ~_LEASED)


class Storage(Records):
    """
    The part of `ImageRepository` that is about bytes.
    """

    # ------------------------------------------------------------------ one read transaction each

    def usage(self) -> StorageUsage:
        """
        The row of ``storage_usage``. One read, at the same cost however large the store.
        """
        with self._database.read() as connection:
            return usage(connection)

    def image_storage(self, row_id: int | None = None) -> list[ImageStorage]:
        """
        Rows of ``image_storage``: of one image, or of all. One read.
        """
        statement = select(image_storage)
        if row_id is not None:
            statement = statement.where(image_storage.c.id == row_id)
        with self._database.read() as connection:
            return [ImageStorage(**row) for row in connection.execute(statement).mappings()]

    def view(self, name: str) -> list[dict[str, Any]]:
        """
        The rows of one of the views for people, as dictionaries. One read.
        """
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(select(_VIEWS[name])).mappings()]

    def doomed(self, limit: int) -> list[tuple[Digest, int]]:
        """
        Digests and sizes of blobs whose files are to go, at most *limit*. One read.
        """
        with self._database.read() as connection:
            return _doomed(connection, limit)

    # ------------------------------------------------------------------ one write transaction each

    def set_limit(self, max_bytes: int) -> StorageUsage:
        """
        Set the storage limit. One write.

        Below what is used it admits nothing more, removes nothing, and fails no pull that was admitted.
        """
        with self._database.write() as connection:
            connection.execute(update(store).values(max_bytes=max_bytes))
            return usage(connection)

    def doom(self) -> None:
        """
        Doom every blob that no image names and no lease keeps. One write.
        """
        with self._database.write() as connection:
            doom_garbage(connection)

    def discard_partials(self, remove: Callable[[Sequence[Digest]], None]) -> list[tuple[Digest, int]]:
        """
        Give up the partial blobs that nobody fetches: *remove* moves their files aside. One write.
        """
        with self._database.write() as connection:
            return discard_partials(connection, remove)

    def sweep(self, remove: Callable[[Sequence[Digest]], None], limit: int) -> list[tuple[Digest, int]]:
        """
        End the rows of at most *limit* doomed blobs, after *remove* moved their files aside and synced. One write.
        """
        with self._database.write() as connection:
            doomed = _doomed(connection, limit)
            if doomed:
                digests = [digest for digest, _ in doomed]
                remove(digests)
                connection.execute(update(blobs).where(blobs.c.digest.in_(digests)).values(state="swept"))
            return doomed


def usage(connection: Connection) -> StorageUsage:
    return StorageUsage(**connection.execute(select(storage_usage)).mappings().one())


def doom_garbage(connection: Connection) -> None:
    """
    Doom what nothing names. O(garbage), by the partial index.
    """
    connection.execute(update(blobs).where(blobs.c.state == "ready", *_GARBAGE).values(state="doomed"))


def discard_partials(
    connection: Connection, remove: Callable[[Sequence[Digest]], None], *, keep: Sequence[Digest] = ()
) -> list[tuple[Digest, int]]:
    rows = connection.execute(
        select(ingests.c.digest, ingests.c.reserved_bytes).where(
            ingests.c.lease_id.is_(None), ingests.c.digest.not_in(keep)
        )
    ).all()
    discarded = [(Digest(digest), size) for digest, size in rows]
    if discarded:
        digests = [digest for digest, _ in discarded]
        remove(digests)
        connection.execute(update(ingests).where(ingests.c.digest.in_(digests)).values(state="discarded"))
    return discarded


def limit_exceeded(connection: Connection, error: RuleBroken, *, needed_bytes: int) -> Exception:
    """
    The refusal of ``store_limit`` with its numbers; any other refusal as it is.
    """
    if error.rule != LIMIT_RULE:
        return error
    now = usage(connection)
    free = connection.execute(select(func.coalesce(func.sum(reclaimable.c.bytes), 0))).scalar_one()
    return StorageLimitExceeded(
        needed_bytes=needed_bytes,
        available_bytes=now.available_bytes,
        max_bytes=now.max_bytes,
        used_bytes=now.used_bytes,
        reserved_bytes=now.reserved_bytes,
        reclaimable_bytes=free,
    )


def _doomed(connection: Connection, limit: int) -> list[tuple[Digest, int]]:
    rows = connection.execute(
        select(blobs.c.digest, blobs.c.size).where(blobs.c.state == "doomed").limit(limit)
    )
    return [(Digest(digest), size) for digest, size in rows]


_VIEWS: Final[dict[str, Table]] = {
    view.name: view for view in (accounting_drift, in_flight, problems, reclaimable)
}
