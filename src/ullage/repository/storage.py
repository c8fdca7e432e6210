"""
Where the bytes are, and the way out for those that nothing names: usage, the limit, dooming and sweeping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, exists, func, or_, select, update

from ullage.digest import Digest
from ullage.errors import StorageLimitExceeded
from ullage.repository.lookup import usage
from ullage.repository.records import Records
from ullage.schema import (
    blobs,
    images,
    ingests,
    lease_blobs,
    lease_images,
    lease_trees,
    manifest_blobs,
    manifest_trees,
    reclaimable,
    store,
    trees,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement

    from ullage.database import RuleBroken
    from ullage.model import StorageUsage

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
]

#: The sentence of the trigger ``store_limit``.
LIMIT_RULE: Final = "storage limit exceeded"
#: And that of ``store_inodes``, with what of the limit stands for an inode.
INODES_RULE: Final = "storage limit exceeded by inodes"
BYTES_OF_AN_INODE: Final = 4096

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


class Storage(Records):
    """
    The part of `ImageRepository` that is about bytes.
    """

    # ------------------------------------------------------------------ one read transaction each

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
