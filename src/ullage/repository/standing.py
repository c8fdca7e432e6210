"""
What images stand on: which trees an image's manifest is stacked on, and the layers that they are made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ullage.digest import Digest
from ullage.repository.lookup import found, resolved
from ullage.repository.records import Records

if TYPE_CHECKING:
    from ullage.model import ImageStatus
    from ullage.repository.lookup import ImageKey, Reading

__all__ = ["Stack", "Standing", "stack_of"]


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


_DIGEST: Final = "SELECT digest FROM manifests WHERE id = :manifest_id"
_CONFIG: Final = "SELECT config FROM images WHERE id = :image_id"
_LAYERS: Final = (
    "SELECT b.digest, b.size FROM manifest_blobs AS e JOIN blobs AS b ON b.id = e.blob_id"
    " WHERE e.manifest_id = :manifest_id AND e.role = 'layer' ORDER BY e.position"
)
_TREES: Final = (
    "SELECT t.chain_id, t.rootless, t.forgiven FROM manifest_trees AS e JOIN trees AS t ON t.id = e.tree_id"
    " WHERE e.manifest_id = :manifest_id ORDER BY e.position"
)
_LACKS: Final = (
    "SELECT (SELECT config IS NOT NULL FROM images WHERE id = :image_id),"
    " (SELECT count(*) FROM manifest_blobs WHERE manifest_id = :manifest_id AND role = 'layer')"
    " <> (SELECT count(*) FROM manifest_trees WHERE manifest_id = :manifest_id)"
)


class Standing(Records):
    """
    The part of `Lookups` that is about what images stack on.
    """

    # ------------------------------------------------------------------ one read transaction each

    def stack_of(self, key: ImageKey) -> Stack:
        """
        What the image that *key* names is unpacked from, and to. One read.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.glance() as snapshot:
            return stack_of(snapshot, key)[0]

    def lacks_trees(self, key: ImageKey) -> bool | None:
        """
        Whether an image that is here is still to be unpacked; None when it has nothing to unpack. One read.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.glance() as snapshot:
            image = found(snapshot, key)
            manifest_id = resolved(snapshot, key, image.id).get("manifest_id")
            asked = {"manifest_id": manifest_id, "image_id": image.id}
            unpacks, lacks = snapshot.exec_driver_sql(_LACKS, asked).one()
        return None if manifest_id is None or not unpacks else bool(lacks)


def stack_of(connection: Reading, key: ImageKey) -> tuple[Stack, int | None]:
    """
    The same inside a transaction, with the row of the manifest.
    """
    image = found(connection, key)
    manifest_id: int | None = resolved(connection, key, image.id).get("manifest_id")
    here = {"manifest_id": manifest_id}
    digest = connection.exec_driver_sql(_DIGEST, here).scalar()
    stack = Stack(
        image=image,
        manifest_digest=None if digest is None else Digest(digest),
        config=connection.exec_driver_sql(_CONFIG, {"image_id": image.id}).scalar(),
        layers=tuple((Digest(layer), size) for layer, size in connection.exec_driver_sql(_LAYERS, here)),
        trees=tuple(
            (Digest(chain_id), bool(rootless), forgiven)
            for chain_id, rootless, forgiven in connection.exec_driver_sql(_TREES, here)
        ),
    )
    return stack, manifest_id
