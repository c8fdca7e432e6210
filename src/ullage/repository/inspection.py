"""
What a check asks of the rows, and the mending that is a matter of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, exists, func, or_, select, text, update

from ullage.digest import Digest
from ullage.errors import StoreCorrupt
from ullage.model import Problem
from ullage.repository.admission import as_json
from ullage.repository.history import note_sources
from ullage.repository.records import Records
from ullage.repository.tree_inspection import repair_trees
from ullage.schema import (
    access,
    blob_sources,
    blobs,
    images,
    ingests,
    lease_blobs,
    lease_images,
    leases,
    manifest_blobs,
    manifests,
    problems,
    repo_digests,
    repo_tags,
    store,
    tree_ingests,
    trees,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Column, ColumnElement, Connection, Table

__all__ = ["BlobRow", "Inspection", "Sources"]

_EXPLAINED = text(
    "SELECT digest FROM ingests WHERE digest IN (SELECT value FROM json_each(:digests))"
    " UNION SELECT digest FROM blobs WHERE NOT :ingests_only AND digest IN (SELECT value FROM json_each(:digests))"
)


class BlobRow(NamedTuple):
    """
    A blob as a check sees it.
    """

    id: int
    digest: Digest
    size: int
    referenced: bool


class Sources(NamedTuple):
    """
    Where a blob may come from again.
    """

    references: list[str]
    #: Whether it is a manifest or an index.
    is_document: bool
    #: The manifests that name it, each with its media type: they may say where else it is.
    manifests: dict[Digest, str]


class Inspection(Records):
    """
    The part of `ImageRepository` that checks and mends.
    """

    # ------------------------------------------------------------------ one read transaction each

    def damage(self, *, thorough: bool) -> list[str]:
        """
        What SQLite itself finds wrong with the file: lines of its integrity check. One read.
        """
        with self._database.read() as connection:
            pragma = "integrity_check" if thorough else "quick_check"
            lines = [str(line) for line in connection.exec_driver_sql(f"PRAGMA {pragma}(20)").scalars()]
        return [] if lines == ["ok"] else lines

    def row_problems(self) -> list[Problem]:
        """
        The view ``problems``, and what foreign keys say. One read.
        """
        with self._database.read() as connection:
            found = [
                Problem(
                    row.invariant, row.problem, str(row.object), "" if row.detail is None else str(row.detail)
                )
                for row in connection.execute(select(problems))
            ]
            orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        found += [
            Problem("I5", f"row of {table} that points nowhere", str(row_id), f"to {to}")
            for table, row_id, to, _ in orphans
        ]
        return found

    def blob_rows(self, *, after: int, limit: int) -> list[BlobRow]:
        """
        Ready blobs with greater ids than *after*, in order. One read.
        """
        statement = (
            select(blobs.c.id, blobs.c.digest, blobs.c.size, blobs.c.referenced)
            .where(blobs.c.id > after, blobs.c.state == "ready")
            .order_by(blobs.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                BlobRow(row_id, Digest(digest), size, bool(referenced))
                for row_id, digest, size, referenced in connection.execute(statement)
            ]

    def still_ready(self, row_id: int) -> bool:
        """
        Whether the very row is still there and ready: ids are never reused. One read.
        """
        with self._database.read() as connection:
            return connection.execute(select(blobs.c.state).where(blobs.c.id == row_id)).scalar() == "ready"

    def sources_of(self, blob_id: int) -> Sources:
        """
        References of the images that name the blob, and what tells how to ask for it. One read.
        """
        edges = select(
            manifest_blobs.c.role, manifests.c.image_id, manifests.c.digest, manifests.c.media_type
        ).join(manifests, manifests.c.id == manifest_blobs.c.manifest_id)
        with self._database.read() as connection:
            rows = connection.execute(edges.where(manifest_blobs.c.blob_id == blob_id).limit(100)).all()
            owners = [row.image_id for row in rows]
            references = [
                reference
                for table in (repo_digests, repo_tags)
                for reference in connection.execute(
                    select(table.c.reference).where(table.c.image_id.in_(owners)).order_by(table.c.reference)
                ).scalars()
            ]
        return Sources(
            references,
            any(row.role in ("manifest", "index") for row in rows),
            {Digest(row.digest): row.media_type for row in rows},
        )

    def explained(self, digests: Collection[Digest], *, ingests_only: bool) -> set[Digest]:
        """
        Those of *digests* that an ingest announces, or that are blobs in whatever state. One read.
        """
        with self._database.read() as connection:
            rows = connection.execute(_EXPLAINED, {"digests": as_json(digests), "ingests_only": ingests_only})
            return {Digest(digest) for digest in rows.scalars()}

    def resumable(self) -> list[tuple[Digest, int, int]]:
        """
        Digest, size and received bytes of partial blobs that nobody fetches. One read.
        """
        statement = select(ingests.c.digest, ingests.c.size, ingests.c.received_bytes).where(
            ingests.c.lease_id.is_(None)
        )
        with self._database.read() as connection:
            return [
                (Digest(digest), size, received) for digest, size, received in connection.execute(statement)
            ]

    def resumable_bytes(self, digest: Digest) -> int | None:
        """
        What is said to be here of a partial blob; None when somebody fetches it, or it is no more. One read.
        """
        statement = select(ingests.c.received_bytes).where(
            ingests.c.digest == digest, ingests.c.lease_id.is_(None)
        )
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    # ------------------------------------------------------------------ one write transaction each

    def note_verified(self, row_ids: Sequence[int]) -> None:
        """
        Note that blobs were hashed just now, and right. One write that costs no fsync.
        """
        with self._database.write(durable=False) as connection:
            connection.execute(update(blobs).where(blobs.c.id.in_(row_ids)).values(verified_at=self._now()))

    def doom_one(self, row_id: int) -> None:
        """
        Doom a blob that nothing names. One write.
        """
        with self._database.write() as connection:
            connection.execute(
                update(blobs).where(blobs.c.id == row_id, blobs.c.state == "ready").values(state="doomed")
            )

    def replace_file(
        self,
        row_id: int,
        put: Callable[[], None],
        *,
        received_bytes: int | None = None,
        host: str | None = None,
    ) -> None:
        """
        Put other bytes in the place of a blob's, under the gate, while its row stands. One write.

        The history says so, and with *received_bytes* and *host* where they came from.

        Raises:
            StoreCorrupt: the row went meanwhile.
        """
        with self._database.write() as connection:
            row = connection.execute(
                select(blobs.c.digest, blobs.c.state).where(blobs.c.id == row_id)
            ).first()
            if row is None or row.state != "ready":
                raise StoreCorrupt("the blob went while it was fetched again")
            put()
            acting = self._acting()
            connection.execute(update(blobs).where(blobs.c.id == row_id).values(verified_at=acting.at))
            acting.record(
                connection, "repaired", received_bytes=received_bytes, hosts=host, detail=f"blob {row.digest}"
            )
            if host is not None:
                note_sources(connection, {Digest(row.digest): host})

    def remove_stray(
        self, digests: Collection[Digest], remove: Callable[[], None], *, ingests_only: bool
    ) -> bool:
        """
        Remove a file under the gate, if no row explains it still. One write; whether it went.
        """
        with self._database.write() as connection:
            parameters = {"digests": as_json(digests), "ingests_only": ingests_only}
            if connection.execute(_EXPLAINED, parameters).first() is not None:
                return False
            remove()
            return True

    def is_torn(self, digest: Digest, received: int, size: Callable[[], int]) -> bool:
        """
        Whether a partial blob that nobody fetches is said to have *received* bytes, and *size* says otherwise.

        Looked at with the gate locked, so that nobody is giving it up meanwhile. One write that changes nothing.
        """
        statement = select(ingests.c.received_bytes).where(
            ingests.c.digest == digest, ingests.c.lease_id.is_(None)
        )
        with self._database.write(durable=False) as connection:
            return connection.execute(statement).scalar() == received and size() != received

    def discard_partial(self, digest: Digest, remove: Callable[[Sequence[Digest]], None]) -> None:
        """
        Give up a partial blob, if nobody has taken it over. One write.
        """
        with self._database.write() as connection:
            mine = (ingests.c.digest == digest, ingests.c.lease_id.is_(None))
            if connection.execute(select(ingests.c.id).where(*mine)).first() is not None:
                remove([digest])
                connection.execute(update(ingests).where(*mine).values(state="discarded"))

    def repair_rows(self) -> None:
        """
        Recount the counters, set what the database can work out to the truth, drop rows that point nowhere. One write.
        """
        with self._database.write() as connection:
            limit = connection.execute(select(store.c.max_bytes)).scalar_one()
            # The truth may be over the limit, which a change of counters may not be: it is out of the way meanwhile.
            connection.execute(update(store).values(max_bytes=1 << 60))
            acting = self._acting()
            with acting.on_record(connection, detail="check --repair"):
                _recount(connection)  # first, so that what follows changes counters that are right
                _drop_orphans(connection)
                _take_back(connection)
                _set_to_the_truth(connection)
                repair_trees(connection)
            connection.execute(update(store).values(max_bytes=limit))
            acting.record(connection, "repaired", detail="rows and counters")


def _take_back(connection: Connection) -> None:
    """
    Blobs that are doomed and in use: the doom is the mistake. Whether their bytes are still here is checked next.
    """
    in_use = or_(
        exists().where(manifest_blobs.c.blob_id == blobs.c.id),
        exists().where(lease_blobs.c.blob_id == blobs.c.id),
    )
    connection.execute(update(blobs).where(blobs.c.state == "doomed", in_use).values(state="ready"))


def _drop_orphans(connection: Connection) -> None:
    """
    Rows whose parent is gone. Only a forger or a damaged file leaves them; the guards let them go.
    """
    for table in (repo_tags, repo_digests):
        # By a manifest that is another image's, or no image's: what it denotes is anybody's guess.
        its_own = exists().where(
            manifests.c.id == table.c.manifest_id, manifests.c.image_id == table.c.image_id
        )
        connection.execute(delete(table).where(table.c.manifest_id.is_not(None), ~its_own))
    for child, column, parent in (
        (repo_tags, repo_tags.c.image_id, images),
        (repo_digests, repo_digests.c.image_id, images),
        (manifests, manifests.c.image_id, images),
        (manifest_blobs, manifest_blobs.c.manifest_id, manifests),
        (blob_sources, blob_sources.c.blob_id, blobs),
        (access, access.c.image_id, images),
        (lease_blobs, lease_blobs.c.lease_id, leases),
        (lease_images, lease_images.c.lease_id, leases),
    ):
        connection.execute(delete(child).where(column.is_not(None), ~exists().where(parent.c.id == column)))
    # What they were fetching is nobody's now; the check of partial blobs compares it with the files.
    orphaned = (ingests.c.lease_id.is_not(None), ~exists().where(leases.c.id == ingests.c.lease_id))
    connection.execute(
        update(ingests).where(*orphaned).values(lease_id=None, reserved_bytes=ingests.c.received_bytes)
    )


def _set_to_the_truth(connection: Connection) -> None:
    named = exists().where(manifest_blobs.c.blob_id == blobs.c.id)
    connection.execute(update(blobs).where(blobs.c.referenced == 0, named).values(referenced=1))
    connection.execute(update(blobs).where(blobs.c.referenced == 1, ~named).values(referenced=0))
    for row_id in connection.execute(select(images.c.id)).scalars().all():
        of_image = (
            select(manifest_blobs.c.blob_id)
            .join(manifests, manifests.c.id == manifest_blobs.c.manifest_id)
            .where(manifests.c.image_id == row_id, manifests.c.complete == 1)
        )
        content = (
            select(func.coalesce(func.sum(blobs.c.size), 0)).where(blobs.c.id.in_(of_image)).scalar_subquery()
        )
        truth = content + func.coalesce(images.c.registered_bytes, 0)
        connection.execute(
            update(images).where(images.c.id == row_id, images.c.size != truth).values(size=truth)
        )


def _recount(connection: Connection) -> None:
    def total(column: Column[int], *where: ColumnElement[bool]) -> int:
        value: int = connection.execute(select(func.coalesce(func.sum(column), 0)).where(*where)).scalar_one()
        return value

    def count(table: Table, *where: ColumnElement[bool]) -> int:
        value: int = connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
        return value

    ready, doomed = blobs.c.state == "ready", blobs.c.state == "doomed"
    ready_trees, doomed_trees = trees.c.state == "ready", trees.c.state == "doomed"
    counters = {
        "image_count": count(images),
        "blob_count": count(blobs, ready),
        "blob_bytes": total(blobs.c.size, ready),
        "tree_count": count(trees, ready_trees),
        "tree_bytes": total(trees.c.space_bytes, ready_trees),
        "tree_inodes": total(trees.c.inodes, ready_trees),
        "doomed_bytes": total(blobs.c.size, doomed) + total(trees.c.space_bytes, doomed_trees),
        "registered_bytes": total(images.c.registered_bytes),
        "reserved_bytes": total(ingests.c.reserved_bytes) + total(tree_ingests.c.reserved_bytes),
        "reserved_inodes": total(tree_ingests.c.reserved_inodes),
        "logical_bytes": total(images.c.size),
    }
    connection.execute(update(store).values(**counters, ledger=store.c.ledger + 1))
