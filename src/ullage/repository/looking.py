"""
What is here, and what it takes: the look-ups of every day.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from ullage.model import ImageStorage
from ullage.repository.lookup import KNOWN_DIGEST, KNOWN_TAG, LIST, find, resolved, usage
from ullage.repository.records import Records
from ullage.repository.rows import image_status

if TYPE_CHECKING:
    from ullage.digest import Digest
    from ullage.model import ImageStatus, StorageUsage
    from ullage.reference import Reference
    from ullage.repository.lookup import ImageKey

__all__ = ["Looking"]

_CONTENT: Final = (
    "SELECT e.role, b.digest, e.media_type FROM manifest_blobs AS e JOIN blobs AS b ON b.id = e.blob_id"
    " WHERE e.manifest_id = :manifest_id ORDER BY e.position"
)
_CONFIG: Final = "SELECT config FROM images WHERE id = :id"
_STORAGE: Final = f"SELECT {', '.join(each.name for each in fields(ImageStorage))} FROM image_storage"
#: What images take unpacked; those that are not, are not in it.
_UNPACKED: Final = (
    "SELECT image_id, sum(space_bytes) FROM (SELECT DISTINCT m.image_id AS image_id, t.id AS id,"
    " t.space_bytes AS space_bytes FROM manifest_trees AS e JOIN manifests AS m ON m.id = e.manifest_id"
    " JOIN trees AS t ON t.id = e.tree_id WHERE :image_id IS NULL OR m.image_id = :image_id) GROUP BY image_id"
)
#: Those for people that are asked for by name.
_VIEWS: Final = ("accounting_drift", "in_flight", "problems", "reclaimable")


class Looking(Records):
    """
    The part of `Lookups` that is about images and bytes.
    """

    # ------------------------------------------------------------------ one read transaction each

    def find(self, key: ImageKey) -> ImageStatus | None:
        """
        The image that *key* names; None when there is none. One read.

        A string is read as a reference first, then as an image id or a prefix of one (four digits at least).

        Raises:
            InvalidReference: *key* is neither, or a prefix of several ids.
        """
        with self._database.glance() as snapshot:
            return find(snapshot, key)

    def all(self) -> list[ImageStatus]:
        """
        Every image by id, of one moment. One read.
        """
        with self._database.glance() as snapshot:
            rows = snapshot.exec_driver_sql(LIST)
        return [image_status(row) for row in rows]

    def known(
        self,
        reference: Reference,
        *,
        platform: str | None = None,
        digest: Digest | None = None,
        or_unasked: bool = False,
    ) -> ImageStatus | None:
        """
        The image that a pull of *reference* for *platform* would find here. One read.

        With *digest*, only when the reference was resolved to that; with *or_unasked*, also one of another platform
        that came without a choice.
        """
        statement = KNOWN_TAG if reference.digest is None else KNOWN_DIGEST
        parameters = {
            "reference": str(reference),
            "platform": platform,
            "digest": digest,
            "or_unasked": or_unasked,
        }
        with self._database.glance() as snapshot:
            row = snapshot.exec_driver_sql(statement, parameters).first()
        return None if row is None else image_status(row)

    def content_of(self, key: ImageKey) -> list[tuple[str, str, str]] | None:
        """
        (role, digest, media type) of the blobs of an image's manifest, in order; None when it is not here. One read.

        Of several manifests of one config it is the one that the reference was resolved to, or, for an id, the first
        that came: a later manifest may pair a known config with other layers, and stands in for none.
        """
        with self._database.glance() as snapshot:
            status = find(snapshot, key)
            if status is None:
                return None
            manifest_id = resolved(snapshot, key, status.id).get("manifest_id")
            return list(snapshot.exec_driver_sql(_CONTENT, {"manifest_id": manifest_id}))

    def config_of(self, image_row_id: int) -> str | None:
        """
        The config of the image, as it came; None for an artifact. One read.
        """
        with self._database.glance() as snapshot:
            config: str | None = snapshot.exec_driver_sql(_CONFIG, {"id": image_row_id}).scalar()
            return config

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
        statement = _STORAGE if row_id is None else f"{_STORAGE} WHERE id = :id"
        with self._database.glance() as snapshot:
            return [ImageStorage(*row) for row in snapshot.exec_driver_sql(statement, {"id": row_id})]

    def on_disk(self, key: ImageKey | None = None) -> list[tuple[ImageStatus, int]]:
        """
        One image, or all by id, with what each takes: its blobs and its trees. One read, of one moment.

        What images share is in each of them. Empty when *key* names none.
        """
        with self._database.glance() as snapshot:
            if key is None:
                found = [image_status(row) for row in snapshot.exec_driver_sql(LIST)]
            else:
                status = find(snapshot, key)
                found = [] if status is None else [status]
            only = {"image_id": None if key is None or not found else found[0].id}
            unpacked = {row_id: int(size) for row_id, size in snapshot.exec_driver_sql(_UNPACKED, only)}
        return [(status, status.size + unpacked.get(status.id, 0)) for status in found]

    def view(self, name: str) -> list[dict[str, Any]]:
        """
        The rows of one of the views for people, as dictionaries. One read.
        """
        if name not in _VIEWS:
            raise KeyError(name)
        with self._database.glance() as snapshot:
            return snapshot.dictionaries(f"SELECT * FROM {name}")

    def min_free(self) -> int:
        """
        Bytes that pulls leave free on the filesystem. One read.
        """
        with self._database.glance() as snapshot:
            found: int = snapshot.exec_driver_sql("SELECT min_free_bytes FROM store").scalar()
            return found
