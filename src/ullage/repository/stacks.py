"""
Stacks: which trees an image's manifest stands on, and the layers that they are made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import func, insert, select, text, update

from ullage.errors import ImageNotFound, StoreCorrupt
from ullage.repository.admission import as_json
from ullage.repository.leases import end_lease, lease_id_of
from ullage.repository.records import Records
from ullage.repository.standing import stack_of
from ullage.repository.storage import doom_garbage
from ullage.schema import leases, manifest_trees, manifests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from ullage.digest import Digest
    from ullage.repository.holding import Owner
    from ullage.repository.lookup import ImageKey
    from ullage.repository.standing import Stack

__all__ = ["Stacks", "stack_on"]


_LEASE_LAYERS: Final = text(
    "INSERT OR IGNORE INTO lease_blobs (lease_id, blob_id)"
    " SELECT :lease_id, blob_id FROM manifest_blobs WHERE manifest_id = :manifest_id"
)
_STACKED: Final = text(
    "INSERT INTO manifest_trees (manifest_id, position, tree_id)"
    " SELECT :manifest_id, e.key, t.id FROM json_each(:chain) AS e JOIN trees AS t ON t.chain_id = e.value"
    " WHERE NOT EXISTS (SELECT 1 FROM manifest_trees WHERE manifest_id = :manifest_id AND position = e.key)"
)


class Stacks(Records):
    """
    The part of `ImageRepository` that is about what images stack on.
    """

    # ------------------------------------------------------------------ one write transaction each

    def begin_unpacking(self, owner: Owner, key: ImageKey) -> Stack:
        """
        Take a lease on the blobs of an image that is here, to unpack it. One write.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.write() as connection:
            stack, manifest_id = stack_of(connection, key)
            lease_id = connection.execute(
                insert(leases)
                .values(
                    token=owner.token,
                    purpose="pull",
                    reference=str(key),
                    status="extracting",
                    owner=owner.name,
                    pid=owner.pid,
                    created_at=self._now(),
                )
                .returning(leases.c.id)
            ).scalar_one()
            connection.execute(_LEASE_LAYERS, {"lease_id": lease_id, "manifest_id": manifest_id})
            return stack

    def finish_unpacking(self, token: str, manifest_digest: Digest, chain: Sequence[Digest]) -> None:
        """
        Stack a manifest on its trees, which our lease keeps, and end that. One write.

        Raises:
            ImageNotFound: the image was removed meanwhile.
        """
        with self._database.write() as connection:
            lease_id = lease_id_of(connection, token)
            manifest_id = connection.execute(
                select(manifests.c.id).where(manifests.c.digest == manifest_digest)
            ).scalar()
            if manifest_id is None:
                raise ImageNotFound("the image was removed while it was unpacked", image=manifest_digest)
            stack_on(connection, lease_id, manifest_id, chain)
            end_lease(connection, token)
            doom_garbage(connection)


def stack_on(connection: Connection, lease_id: int, manifest_id: int, chain: Sequence[Digest]) -> None:
    """
    Say which trees a manifest stacks on; in the transaction in which the lease that keeps them ends.
    """
    connection.execute(update(leases).where(leases.c.id == lease_id).values(status="complete"))
    connection.execute(_STACKED, {"manifest_id": manifest_id, "chain": as_json(chain)})
    stacked = connection.execute(
        select(func.count()).select_from(manifest_trees).where(manifest_trees.c.manifest_id == manifest_id)
    ).scalar_one()
    if stacked != len(chain):
        raise StoreCorrupt("an image stacks on other trees than its layers make")
