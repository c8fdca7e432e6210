"""
Where the bytes are, and the way out for those that nothing names: usage, the limit, dooming and sweeping.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, exists, func, or_, select, text, update

from ullage.digest import Digest
from ullage.errors import StorageLimitExceeded
from ullage.model import ImageStorage, StorageUsage
from ullage.repository.lookup import LIST, find
from ullage.repository.records import Records
from ullage.repository.rows import image_status
from ullage.schema import (
    accounting_drift,
    blobs,
    image_storage,
    images,
    in_flight,
    ingests,
    lease_blobs,
    lease_images,
    lease_trees,
    manifest_blobs,
    manifest_trees,
    problems,
    reclaimable,
    storage_usage,
    store,
    trees,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement, Table

    from ullage.database import RuleBroken
    from ullage.model import ImageStatus
    from ullage.repository.lookup import ImageKey, Reading

__all__ = [
    "INODES_RULE",
    "LIMIT_RULE",
    "Storage",
    "discard_partials",
    "doom_garbage",
    "doomed_blobs",
    "doomed_trees",
    "limit_exceeded",
    "set_limits",
    "usage",
]

#: The sentence of the trigger ``store_limit``.
LIMIT_RULE: Final = "storage limit exceeded"
#: And that of ``store_inodes``, with what of the limit stands for an inode.
INODES_RULE: Final = "storage limit exceeded by inodes"
BYTES_OF_AN_INODE: Final = 4096

_USAGE = select(*(storage_usage.c[each.name] for each in fields(StorageUsage)))
_LEASED = exists().where(lease_blobs.c.blob_id == blobs.c.id)
_NAMED = exists().where(manifest_blobs.c.blob_id == blobs.c.id)
_HELD = exists().where(lease_images.c.image_id == images.c.id)
# What is doomed is out of the accounts already, and does not make room a second time.
_RECLAIMABLE_BYTES = select(func.coalesce(func.sum(reclaimable.c.bytes), 0)).where(
    reclaimable.c.kind != "doomed tree",
    or_(
        reclaimable.c.kind != "blob",
        reclaimable.c.digest.not_in(select(blobs.c.digest).where(blobs.c.state == "doomed")),
    ),
)
_GARBAGE = (blobs.c.referenced == 0, ~_LEASED)
_TREE_LEASED = exists().where(lease_trees.c.tree_id == trees.c.id)
_STACKED_ON = exists().where(manifest_trees.c.tree_id == trees.c.id)
_GARBAGE_TREES = (trees.c.referenced == 0, ~_TREE_LEASED)


#: What images take unpacked; those that are not, are not in it.
_UNPACKED: Final = text(
    "SELECT image_id, sum(space_bytes) AS bytes FROM (SELECT DISTINCT m.image_id AS image_id, t.id AS id,"
    " t.space_bytes AS space_bytes FROM manifest_trees AS e JOIN manifests AS m ON m.id = e.manifest_id"
    " JOIN trees AS t ON t.id = e.tree_id WHERE :image_id IS NULL OR m.image_id = :image_id) GROUP BY image_id"
)


class Storage(Records):
    """
    The part of `ImageRepository` that is about bytes.
    """

    # ------------------------------------------------------------------ one read transaction each

    def usage(self) -> StorageUsage:
        """
        The row of ``storage_usage``. One read, at the same cost however large the store.
        """
        with self._database.glance() as snapshot:
            return usage(snapshot)

    def image_storage(self, row_id: int | None = None) -> list[ImageStorage]:
        """
        Rows of ``image_storage``: of one image, or of all. One read.
        """
        statement = select(image_storage)
        if row_id is not None:
            statement = statement.where(image_storage.c.id == row_id)
        with self._database.read() as connection:
            return [ImageStorage(**row) for row in connection.execute(statement).mappings()]

    def on_disk(self, key: ImageKey | None = None) -> list[tuple[ImageStatus, int]]:
        """
        One image, or all by id, with what each takes: its blobs and its trees. One read, of one moment.

        What images share is in each of them. Empty when *key* names none.
        """
        with self._database.read() as connection:
            if key is None:
                found = [image_status(row) for row in connection.execute(LIST)]
            else:
                status = find(connection, key)
                found = [] if status is None else [status]
            only = {"image_id": None if key is None or not found else found[0].id}
            unpacked = {row.image_id: int(row.bytes) for row in connection.execute(_UNPACKED, only)}
        return [(status, status.size + unpacked.get(status.id, 0)) for status in found]

    def view(self, name: str) -> list[dict[str, Any]]:
        """
        The rows of one of the views for people, as dictionaries. One read.
        """
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(select(_VIEWS[name])).mappings()]

    def min_free(self) -> int:
        """
        Bytes that pulls leave free on the filesystem. One read.
        """
        with self._database.read() as connection:
            found: int = connection.execute(select(store.c.min_free_bytes)).scalar_one()
            return found

    def doomed(self, limit: int) -> list[tuple[Digest, int]]:
        """
        Digests and sizes of blobs whose files are to go, at most *limit*. One read.
        """
        with self._database.read() as connection:
            return doomed_blobs(connection, limit)

    # ------------------------------------------------------------------ one write transaction each

    def set_limits(self, *, max_bytes: int | None = None, min_free_bytes: int | None = None) -> StorageUsage:
        """
        Set the storage limit, or what pulls leave free on the filesystem, or both. One write.

        A limit below what is used admits nothing more, removes nothing, and fails no pull that was admitted.
        """
        with self._database.write() as connection:
            set_limits(connection, max_bytes=max_bytes, min_free_bytes=min_free_bytes)
            return usage(connection)

    def sweep(self, remove: Callable[[Sequence[Digest]], None], limit: int) -> list[tuple[Digest, int]]:
        """
        End the rows of at most *limit* doomed blobs, after *remove* moved their files aside and synced. One write.

        One that is doomed and in use all the same is a forger's: it is left to `ullage check --repair`.
        """
        with self._database.write() as connection:
            doomed = doomed_blobs(connection, limit, unused=True)
            if doomed:
                digests = [digest for digest, _ in doomed]
                # The rules are asked before a file is touched; the row is gone for others when this commits.
                connection.execute(update(blobs).where(blobs.c.digest.in_(digests)).values(state="swept"))
                remove(digests)
            return doomed


def set_limits(
    connection: Connection, *, max_bytes: int | None = None, min_free_bytes: int | None = None
) -> None:
    values = {"max_bytes": max_bytes, "min_free_bytes": min_free_bytes}
    connection.execute(
        update(store).values({key: value for key, value in values.items() if value is not None})
    )


def usage(connection: Reading) -> StorageUsage:
    return StorageUsage(*connection.execute(_USAGE).one())


def doom_garbage(connection: Connection) -> None:
    """
    Doom what nothing names. O(garbage), by the partial index.
    """
    connection.execute(update(blobs).where(blobs.c.state == "ready", *_GARBAGE).values(state="doomed"))
    connection.execute(update(trees).where(trees.c.state == "ready", *_GARBAGE_TREES).values(state="doomed"))


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
        connection.execute(update(ingests).where(ingests.c.digest.in_(digests)).values(state="discarded"))
        remove(digests)
    return discarded


def limit_exceeded(
    connection: Connection,
    error: RuleBroken,
    *,
    needed_bytes: int,
    needed_inodes: int = 0,
    before: StorageUsage | None = None,
    taken_bytes: int = 0,
) -> Exception:
    """
    The refusal of ``store_limit`` with its numbers; any other refusal as it is.

    *before* is the usage before room was made, which was not enough: what that freed was reclaimable, and is undone,
    and so are *taken_bytes*, which were reserved already.
    """
    if error.rule not in (LIMIT_RULE, INODES_RULE):
        return error
    now = usage(connection)
    said = now if before is None else before
    freed_bytes = said.used_bytes + said.reserved_bytes + taken_bytes - now.used_bytes - now.reserved_bytes
    reclaimable_bytes: int = connection.execute(_RECLAIMABLE_BYTES).scalar_one()
    total = images.c.size
    pinned: int = connection.execute(select(_sum(total)).where(images.c.pinned == 1)).scalar_one()
    held: int = connection.execute(select(_sum(total)).where(_HELD)).scalar_one()
    return StorageLimitExceeded(
        needed_bytes=needed_bytes,
        available_bytes=said.available_bytes,
        max_bytes=said.max_bytes,
        used_bytes=said.used_bytes,
        reserved_bytes=said.reserved_bytes,
        reclaimable_bytes=reclaimable_bytes + freed_bytes,
        pinned_bytes=pinned,
        held_bytes=held,
        needed_inodes=needed_inodes if error.rule == INODES_RULE else 0,
        available_inodes=max(0, said.max_bytes // BYTES_OF_AN_INODE - said.tree_inodes),
    )


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


def doomed_blobs(
    connection: Connection, limit: int = -1, *, unused: bool = False
) -> list[tuple[Digest, int]]:
    """
    Digests and sizes of doomed blobs, at most *limit* of them if that is not negative; with *unused*, of those that
    no manifest and no lease has.
    """
    statement = select(blobs.c.digest, blobs.c.size).where(blobs.c.state == "doomed").limit(limit)
    if unused:
        statement = statement.where(~_NAMED, ~_LEASED)
    rows = connection.execute(statement)
    return [(Digest(digest), size) for digest, size in rows]


def doomed_trees(
    connection: Connection, limit: int = -1, *, unused: bool = False
) -> list[tuple[Digest, int]]:
    """
    The same of trees: chain ids, and what they occupy.
    """
    statement = select(trees.c.chain_id, trees.c.space_bytes).where(trees.c.state == "doomed").limit(limit)
    if unused:
        statement = statement.where(~_STACKED_ON, ~_TREE_LEASED)
    return [(Digest(chain_id), size) for chain_id, size in connection.execute(statement)]


_VIEWS: Final[dict[str, Table]] = {
    view.name: view for view in (accounting_drift, in_flight, problems, reclaimable)
}
