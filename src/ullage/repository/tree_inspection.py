"""
What a check asks of the rows of trees, and the mending that is a matter of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, exists, or_, select, text, update

from ullage.database import RuleBroken
from ullage.digest import Digest
from ullage.repository.admission import as_json
from ullage.repository.records import Records
from ullage.schema import lease_trees, leases, manifest_trees, manifests, tree_ingests, trees

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import Connection

__all__ = ["TreeInspection", "TreeRow", "repair_trees"]

_EXPLAINED = text(
    "SELECT chain_id FROM tree_ingests WHERE chain_id IN (SELECT value FROM json_each(:digests))"
    " UNION SELECT chain_id FROM trees WHERE NOT :ingests_only AND chain_id IN (SELECT value FROM json_each(:digests))"
)
_STACKED_ON = exists().where(manifest_trees.c.tree_id == trees.c.id)
_KEPT = exists().where(lease_trees.c.tree_id == trees.c.id)


class TreeRow(NamedTuple):
    """
    A tree as a check sees it.
    """

    id: int
    chain_id: Digest
    space_bytes: int
    inodes: int


class TreeInspection(Records):
    """
    The part of `ImageRepository` that checks and mends trees.
    """

    # ------------------------------------------------------------------ one read transaction each

    def tree_rows(self, *, after: int, limit: int) -> list[TreeRow]:
        """
        Ready trees with greater ids than *after*, in order. One read.
        """
        statement = (
            select(trees.c.id, trees.c.chain_id, trees.c.space_bytes, trees.c.inodes)
            .where(trees.c.id > after, trees.c.state == "ready")
            .order_by(trees.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                TreeRow(row_id, Digest(chain_id), space_bytes, inodes)
                for row_id, chain_id, space_bytes, inodes in connection.execute(statement)
            ]

    def tree_still_ready(self, row_id: int) -> bool:
        """
        Whether the very row is still there and ready: ids are never reused. One read.
        """
        with self._database.read() as connection:
            return connection.execute(select(trees.c.state).where(trees.c.id == row_id)).scalar() == "ready"

    def explained_trees(self, chain_ids: Collection[Digest], *, ingests_only: bool) -> set[Digest]:
        """
        Those of *chain_ids* that an ingest announces, or that are trees in whatever state. One read.
        """
        with self._database.read() as connection:
            rows = connection.execute(
                _EXPLAINED, {"digests": as_json(chain_ids), "ingests_only": ingests_only}
            )
            return {Digest(chain_id) for chain_id in rows.scalars()}

    # ------------------------------------------------------------------ one write transaction each

    def forget_tree(self, row_id: int) -> bool:
        """
        Doom a tree, whatever stacks on it: blobs make it again. One write; False when somebody has it, and it stays.
        """
        with self._database.write() as connection:
            try:
                connection.execute(delete(manifest_trees).where(manifest_trees.c.tree_id == row_id))
            except RuleBroken:
                return False  # an image of it is held
            doomed = connection.execute(
                update(trees)
                .where(trees.c.id == row_id, trees.c.state == "ready", ~_KEPT)
                .values(state="doomed")
            )
            return bool(doomed.rowcount)

    def remove_stray_tree(
        self, chain_ids: Collection[Digest], remove: Callable[[], None], *, ingests_only: bool
    ) -> bool:
        """
        Remove a directory under the gate, if no row explains it still. One write; whether it went.
        """
        with self._database.write() as connection:
            parameters = {"digests": as_json(chain_ids), "ingests_only": ingests_only}
            if connection.execute(_EXPLAINED, parameters).first() is not None:
                return False
            remove()
            return True


def repair_trees(connection: Connection) -> None:
    """
    Drop rows of trees that point nowhere, undo dooms of trees that are in use, set what can be worked out to the truth.
    """
    for child, column, parent in (
        (manifest_trees, manifest_trees.c.manifest_id, manifests),
        (manifest_trees, manifest_trees.c.tree_id, trees),
        (lease_trees, lease_trees.c.lease_id, leases),
    ):
        connection.execute(delete(child).where(~exists().where(parent.c.id == column)))
    orphaned = (tree_ingests.c.lease_id.is_not(None), ~exists().where(leases.c.id == tree_ingests.c.lease_id))
    connection.execute(update(tree_ingests).where(*orphaned).values(lease_id=None))
    connection.execute(
        update(trees).where(trees.c.state == "doomed", or_(_STACKED_ON, _KEPT)).values(state="ready")
    )
    connection.execute(update(trees).where(trees.c.referenced == 0, _STACKED_ON).values(referenced=1))
    connection.execute(update(trees).where(trees.c.referenced == 1, ~_STACKED_ON).values(referenced=0))
