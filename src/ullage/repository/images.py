"""
Images and their names: look-ups, listing, tagging, pinning, removal, registration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from ullage.database import RuleBroken
from ullage.errors import (
    ImageAlreadyExists,
    ImageInUse,
    ImageNotFound,
    InvalidReference,
)
from ullage.repository.lookup import by_id, by_reference, find, found, resolved, table_of
from ullage.repository.records import Records
from ullage.repository.storage import doom_garbage, limit_exceeded
from ullage.schema import (
    held,
    images,
    metadata,
    repo_digests,
    repo_tags,
    store,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table
    from sqlalchemy.dialects.sqlite import Insert

    from ullage.digest import Digest
    from ullage.model import ImageStatus
    from ullage.reference import ImageSpec, Reference
    from ullage.repository.lookup import ImageKey

__all__ = ["Images", "name_image"]

#: Characters of a reference in a row; a check in the tables says the same.
_MAX_LENGTH: Final = 1024


def _naming(table: Table) -> Insert:
    row = upsert(table)
    moved = ("image_id", "manifest_id", "digest", "platform", "updated_at")
    return row.on_conflict_do_update(
        index_elements=[table.c.reference], set_={each: row.excluded[each] for each in moved}
    )


#: Built once, as in `pulls`.
_NAME: Final = {table: _naming(table) for table in (repo_tags, repo_digests)}


class Images(Records):
    """
    The part of `ImageRepository` that is about images and their names.
    """

    # ------------------------------------------------------------------ one write transaction each

    def register(
        self,
        spec: ImageSpec,
        *,
        image_id: Digest,
        digest: Digest | None,
        size: int,
        platform: str | None = None,
    ) -> ImageStatus:
        """
        An image whose bytes the host keeps elsewhere: checked, deduplicated, admitted and recorded. One write.

        A known reference is answered with its image, whatever the numbers.

        Raises:
            StorageLimitExceeded: *size* does not fit.
            ImageAlreadyExists: the image is here with its content.
        """
        reference = spec.normalised()
        with self._database.write() as connection:
            known = by_reference(connection, reference)
            if known is not None:
                return known
            here = connection.execute(
                select(images.c.id, images.c.registered_bytes).where(images.c.image_id == image_id)
            ).first()
            if here is not None and here.registered_bytes is None:
                raise ImageAlreadyExists(
                    f"image {image_id} is here with its content, and nothing of it is kept elsewhere",
                    reference=str(reference),
                    hint="tag it instead",
                )
            event = "registered" if here is None else None
            with self._acting().on_record(connection, event=event, reference=str(reference)):
                row_id = (
                    self._insert_registered(connection, spec, image_id, size, platform)
                    if here is None
                    else here.id
                )
                now = self._now()
                if reference.digest is None:
                    name_image(connection, repo_tags, str(reference), row_id, digest=digest, now=now)
                if digest is not None or reference.digest is not None:
                    named = reference.digest or digest
                    name_image(
                        connection, repo_digests, f"{reference.name}@{named}", row_id, digest=named, now=now
                    )
            return by_id(connection, row_id)

    def _insert_registered(
        self, connection: Connection, spec: ImageSpec, image_id: Digest, size: int, platform: str | None
    ) -> int:
        now = self._now()
        values = {
            "image_id": image_id,
            "size": size,
            "registered_bytes": size,
            "platform": platform,
            "spec_image_name": spec.image_name,
            "spec_tag": spec.tag,
            "spec_digest": spec.digest,
            "pulled_at": now,
            "last_used_at": now,
        }
        try:
            inserted = connection.execute(insert(images).values(values).returning(images.c.id))
        except RuleBroken as error:
            raise limit_exceeded(connection, error, needed_bytes=size) from error
        row_id: int = inserted.scalar_one()
        return row_id

    def tag(self, key: ImageKey, reference: Reference, *, move: bool = False) -> ImageStatus:
        """
        Give an image one more tag. One write; nothing changes when it has it.

        Raises:
            ImageNotFound: nothing is named *key*.
            ImageAlreadyExists: the tag denotes another image, and not *move*.
        """
        with self._database.write() as connection:
            status = found(connection, key)
            other = connection.execute(
                select(repo_tags.c.image_id).where(repo_tags.c.reference == str(reference))
            ).scalar()
            if other is not None and other != status.id and not move:
                raise ImageAlreadyExists(
                    f"{reference.familiar} denotes image {other}",
                    reference=str(reference),
                    hint="untag it first, or move it with --force",
                )
            if other != status.id:
                names = resolved(connection, key, status.id)
                acting = self._acting()
                with acting.on_record(connection):
                    name_image(connection, repo_tags, str(reference), status.id, now=acting.at, **names)
            return by_id(connection, status.id)

    def untag(self, reference: Reference) -> ImageStatus:
        """
        Take one reference away; the image stays, nameless if that was its last. One write.

        Raises:
            ImageNotFound: there is no such reference.
        """
        table = metadata.tables[table_of(reference)]
        with self._database.write() as connection:
            with self._acting().on_record(connection):
                row_id = connection.execute(
                    delete(table).where(table.c.reference == str(reference)).returning(table.c.image_id)
                ).scalar()
            if row_id is None:
                raise ImageNotFound(f"no such reference: {reference.familiar}", image=str(reference))
            return by_id(connection, row_id)

    def pin(self, key: ImageKey, *, pinned: bool) -> ImageStatus:
        """
        Set or clear `pinned`. One write.
        """
        with self._database.write() as connection:
            status = found(connection, key)
            connection.execute(update(images).where(images.c.id == status.id).values(pinned=int(pinned)))
            connection.execute(update(store).values(ledger=store.c.ledger + 1))  # no other mark: see `layout`
            return by_id(connection, status.id)

    def remove(self, key: ImageKey) -> ImageStatus | None:
        """
        Take an image away with all its names, and doom what it alone used. One write; None when it is not here.

        Raises:
            ImageInUse: somebody holds it.
        """
        with self._database.write() as connection:
            status = find(connection, key)
            if status is None:
                return None
            holders = connection.execute(
                select(held.c.owner, held.c.pid, held.c.since).where(held.c.id == status.id)
            ).all()
            if holders:
                said = tuple(f"{owner} (pid {pid}) since {since}" for owner, pid, since in holders)
                raise ImageInUse(
                    f"image {status.image_id} is held by {', '.join(said)}",
                    image=status.image_id,
                    holders=said,
                )
            with self._acting().on_record(connection):
                connection.execute(delete(images).where(images.c.id == status.id))
            doom_garbage(connection)
            return status


def name_image(
    connection: Connection,
    table: Table,
    reference: str,
    row_id: int,
    *,
    now: str,
    manifest_id: int | None = None,
    digest: str | None = None,
    platform: str | None = None,
) -> None:
    """
    Write one row of either table of references, moving the reference if it denotes something else.

    Raises:
        InvalidReference: it is longer than any that can be reached: only a domain can be that long.
    """
    if len(reference) > _MAX_LENGTH:
        raise InvalidReference(
            f"reference too long to keep: {len(reference)} characters, limit {_MAX_LENGTH}",
            reference=reference,
        )
    values = {
        "image_id": row_id,
        "manifest_id": manifest_id,
        "digest": digest,
        "platform": platform,
        "updated_at": now,
    }
    connection.execute(_NAME[table], {"reference": reference, **values})
