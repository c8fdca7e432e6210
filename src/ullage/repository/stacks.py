"""
Stacks: which trees an image's manifest stands on, and the layers that they are made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, func, insert, select, text, update

from ullage.digest import Digest
from ullage.errors import ImageNotFound, StoreCorrupt
from ullage.repository.admission import as_json
from ullage.repository.images import resolved
from ullage.repository.leases import end_lease, lease_id_of
from ullage.repository.lookup import found
from ullage.repository.records import Records
from ullage.repository.storage import doom_garbage
from ullage.schema import blobs, images, leases, manifest_blobs, manifest_trees, manifests, trees

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from ullage.model import ImageStatus
    from ullage.repository.leases import Owner
    from ullage.repository.lookup import ImageKey

__all__ = ["Stack", "Stacks", "stack_on"]


@dataclass(frozen=True, slots=True)
class Stack:
    """
    What an image is unpacked from, and to: the manifest that a reference was resolved to, its layers (digest, size)
    and its trees (chain id, whether it was made without privilege, and how much was left out for that), both from the
    lowest up.
    """

    image: ImageStatus
    manifest_digest: Digest | None
    config: str | None
    layers: tuple[tuple[Digest, int], ...]
    trees: tuple[tuple[Digest, bool, int], ...]


_LAYERS: Final = (
    select(blobs.c.digest, blobs.c.size)
    .join(manifest_blobs, manifest_blobs.c.blob_id == blobs.c.id)
    .where(manifest_blobs.c.manifest_id == bindparam("manifest_id"), manifest_blobs.c.role == "layer")
    .order_by(manifest_blobs.c.position)
)
_TREES: Final = (
    select(trees.c.chain_id, trees.c.rootless, trees.c.forgiven)
    .join(manifest_trees, manifest_trees.c.tree_id == trees.c.id)
    .where(manifest_trees.c.manifest_id == bindparam("manifest_id"))
    .order_by(manifest_trees.c.position)
)
_LACKS: Final = text(
    "SELECT (SELECT config IS NOT NULL FROM images WHERE id = :image_id) AS unpacks,"
    " (SELECT count(*) FROM manifest_blobs WHERE manifest_id = :manifest_id AND role = 'layer')"
    " <> (SELECT count(*) FROM manifest_trees WHERE manifest_id = :manifest_id) AS lacks"
)
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

    # ------------------------------------------------------------------ one read transaction each

    def stack_of(self, key: ImageKey) -> Stack:
        """
        What the image that *key* names is unpacked from, and to. One read.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.read() as connection:
            return _stack(connection, key)[0]

    def lacks_trees(self, key: ImageKey) -> bool | None:
        """
        Whether an image that is here is still to be unpacked; None when it has nothing to unpack. One read.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.read() as connection:
            image = found(connection, key)
            manifest_id = resolved(connection, key, image.id).get("manifest_id")
            row = connection.execute(_LACKS, {"manifest_id": manifest_id, "image_id": image.id}).one()
        return None if manifest_id is None or not row.unpacks else bool(row.lacks)

    # ------------------------------------------------------------------ one write transaction each

    def begin_unpacking(self, owner: Owner, key: ImageKey) -> Stack:
        """
        Take a lease on the blobs of an image that is here, to unpack it. One write.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.write() as connection:
            stack, manifest_id = _stack(connection, key)
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


def _stack(connection: Connection, key: ImageKey) -> tuple[Stack, int | None]:
    image = found(connection, key)
    manifest_id: int | None = resolved(connection, key, image.id).get("manifest_id")
    here = {"manifest_id": manifest_id}
    digest = connection.execute(select(manifests.c.digest).where(manifests.c.id == manifest_id)).scalar()
    stack = Stack(
        image=image,
        manifest_digest=None if digest is None else Digest(digest),
        config=connection.execute(select(images.c.config).where(images.c.id == image.id)).scalar(),
        layers=tuple((Digest(layer), size) for layer, size in connection.execute(_LAYERS, here)),
        trees=tuple(
            (Digest(chain_id), bool(rootless), forgiven)
            for chain_id, rootless, forgiven in connection.execute(_TREES, here)
        ),
    )
    return stack, manifest_id


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
