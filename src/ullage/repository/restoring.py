"""
Names given back to images whose database was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from ullage.database import RuleBroken
from ullage.digest import Digest
from ullage.reference import Reference
from ullage.repository.images import name_image
from ullage.repository.records import Records
from ullage.schema import blobs, images, manifests, repo_digests, repo_tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

__all__ = ["RestoredName", "Restoring"]


@dataclass(frozen=True, slots=True)
class RestoredName:
    """
    A name as something outside the database remembers it: of which manifest, and by which digest that was found.
    """

    reference: str
    is_tag: bool
    manifest: Digest
    digest: Digest
    platform: str | None


class Restoring(Records):
    """
    The part of `ImageRepository` that a salvage needs and nobody else.
    """

    # ------------------------------------------------------------------ one read transaction each

    def content(self) -> set[Digest]:
        """
        The digests of all blobs. One read.
        """
        with self._database.read() as connection:
            return {Digest(digest) for digest in connection.execute(select(blobs.c.digest)).scalars()}

    # ------------------------------------------------------------------ one write transaction each

    def restore_names(self, names: Sequence[RestoredName]) -> list[tuple[str, str]]:
        """
        Give images their names back; those that cannot be given, and why. One write.
        """
        lost = []
        acting = self._acting()
        with self._database.write() as connection, acting.on_record(connection, event="salvaged"):
            for name in names:
                reason = _restore(connection, name, acting.at)
                if reason is not None:
                    lost.append((name.reference, reason))
        return lost


def _restore(connection: Connection, name: RestoredName, now: str) -> str | None:
    row = connection.execute(
        select(manifests.c.id, manifests.c.image_id).where(
            manifests.c.digest == name.manifest, manifests.c.complete == 1
        )
    ).first()
    if row is None:
        return f"its manifest {name.manifest} did not come back"
    # An index may be lost where the image is not: a tag does without.
    for digest in (name.digest, name.manifest) if name.is_tag else (name.digest,):
        try:
            with connection.begin_nested():
                name_image(
                    connection,
                    repo_tags if name.is_tag else repo_digests,
                    name.reference,
                    row.image_id,
                    manifest_id=row.id,
                    digest=digest,
                    platform=name.platform,
                    now=now,
                )
        except RuleBroken:
            continue
        reference = Reference.parse(name.reference)
        connection.execute(
            update(images)
            .where(images.c.id == row.image_id, images.c.spec_image_name == "")
            .values(
                spec_image_name=reference.familiar_name,
                spec_tag=reference.tag or "",
                spec_digest=reference.digest or "",
            )
        )
        return None
    return f"the index {name.digest} did not come back"
