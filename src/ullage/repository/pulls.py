"""
Pulls: admission before the first byte, completion after the last.

Admission is one write transaction before the first byte: what is here is leased, what somebody fetches is waited
for, what nobody fetches is taken over, and the rest is reserved, all of it or nothing. Completion is another: the
reservations become blobs, the image gets its rows and its names, the lease goes. Nothing is held between the two but
the lease, which lives by a lock.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, insert, select, text

from ullage.digest import Digest
from ullage.errors import StoreCorrupt
from ullage.repository.access import grant
from ullage.repository.admission import BLOBS, Admission, Untouched, as_json
from ullage.repository.history import Origin, note_sources
from ullage.repository.images import name_image
from ullage.repository.leases import end_lease, lease_id_of
from ullage.repository.lookup import find
from ullage.repository.records import Records
from ullage.repository.stacks import stack_on
from ullage.schema import images, leases, manifests, repo_digests, repo_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from ullage.model import ImageStatus
    from ullage.repository.acting import Acting
    from ullage.repository.admission import Claims, Files
    from ullage.repository.holding import Owner
    from ullage.repository.records import Edge, Naming, NewImage

__all__ = ["Pulls"]

_UNSAID: Final = Origin()

_ARRIVED: Final = text(
    "UPDATE ingests SET received_bytes = size, state = 'arrived'"
    " WHERE lease_id = :lease_id AND digest IN (SELECT value FROM json_each(:digests))"
)
_COMPLETES: Final = text("UPDATE leases SET status = 'complete' WHERE id = :lease_id")
_PUBLISH: Final = text(
    "INSERT INTO blobs (digest, size, created_at) SELECT digest, size, :now FROM ingests"
    " WHERE lease_id = :lease_id AND digest IN (SELECT value FROM json_each(:digests))"
)
_EDGES: Final = text(
    "INSERT INTO manifest_blobs (manifest_id, position, blob_id, role, media_type)"
    " SELECT :manifest_id, :first + e.key, b.id, json_extract(e.value, '$[1]'), json_extract(e.value, '$[2]')"
    " FROM json_each(:edges) AS e JOIN blobs AS b ON b.digest = json_extract(e.value, '$[0]')"
    " ORDER BY e.key"  # edges are numbered one after the other
)
_MISSING_INDEXES: Final = text(
    "SELECT e.value FROM json_each(:digests) AS e WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs AS m"
    " JOIN blobs AS b ON b.id = m.blob_id WHERE m.manifest_id = :manifest_id AND b.digest = e.value)"
)
_NEXT_POSITION: Final = text("SELECT max(position) + 1 FROM manifest_blobs WHERE manifest_id = :manifest_id")
# The manifest behind a digest that a registry answered with: that very one, or what its index was resolved to for the
# platform before. A config that says so is not enough: an index may hold several that differ in what only it says.
_RESOLVED: Final = text(
    "SELECT m.id, m.image_id, :asked AS platform FROM manifests AS m JOIN images AS i ON i.id = m.image_id"
    " WHERE m.digest = :digest AND m.complete = 1 AND (:asked IS NULL OR i.platform = :asked)"
    " UNION ALL SELECT m.id, m.image_id, :platform FROM blobs AS b CROSS JOIN manifest_blobs AS e ON e.blob_id = b.id"
    " AND e.role = 'index' CROSS JOIN manifests AS m ON m.id = e.manifest_id AND m.complete = 1"
    " WHERE b.digest = :digest AND (EXISTS (SELECT 1 FROM repo_tags AS r WHERE r.image_id = m.image_id"
    " AND r.manifest_id = m.id AND r.digest = :digest AND r.platform = :platform)"
    " OR EXISTS (SELECT 1 FROM repo_digests AS r WHERE r.image_id = m.image_id"
    " AND r.manifest_id = m.id AND r.digest = :digest AND r.platform = :platform)) LIMIT 1"
)
# Built once: what a statement is made of costs SQLAlchemy more than to run it.
_NEW_LEASE: Final = insert(leases).returning(leases.c.id)
_NEW_IMAGE: Final = insert(images).returning(images.c.id)
_NEW_MANIFEST: Final = insert(manifests).returning(manifests.c.id)
_IMAGE_ROW: Final = select(images.c.id).where(images.c.image_id == bindparam("image_id"))
_MANIFEST_ROW: Final = select(manifests.c.id).where(manifests.c.digest == bindparam("digest"))
_ALL_EDGES_ARE_HERE: Final = text("UPDATE manifests SET complete = 1 WHERE id = :manifest_id")
_USED: Final = text("UPDATE images SET last_used_at = :now WHERE id = :row_id")
_DISPLACED: Final = (
    select(repo_digests.c.image_id, repo_digests.c.manifest_id, manifests.c.digest)
    .join(manifests, manifests.c.id == repo_digests.c.manifest_id)
    .where(
        repo_digests.c.reference == bindparam("reference"),
        repo_digests.c.image_id != bindparam("image_row_id"),
    )
)


class Pulls(Records):
    """
    The part of `ImageRepository` that is about pulls.
    """

    # ------------------------------------------------------------------ one read transaction each

    def ready(self, digest: Digest) -> bool:
        """
        Whether a blob is here. One read. Only a lease keeps it here.
        """
        with self._database.glance() as snapshot:
            row = snapshot.exec_driver_sql(BLOBS.text, {"digests": as_json([digest])}).first()
        return row is not None and row[3] == "ready"

    # ------------------------------------------------------------------ one write transaction each

    def adopt(self, naming: Naming, *, asked: str | None, origin: Origin = _UNSAID) -> ImageStatus | None:
        """
        Name an image that is here by what the registry resolved the name to. One write; None when it is not here.

        An index stands for the platform of *naming*; a manifest for whatever it is, unless a platform was *asked*.
        """
        parameters = {"digest": naming.digest, "platform": naming.platform, "asked": asked}
        with self._database.write() as connection:
            row = connection.execute(_RESOLVED, parameters).first()
            if row is None:
                return None
            named = replace(naming, platform=row.platform)
            acting = self._acting()
            with acting.on_record(connection, event=origin.event):
                self._name(connection, named, image_row_id=row.image_id, manifest_id=row.id)
            status = _used(connection, row.image_id, acting.at)
            _record(connection, acting, origin, naming, status)
            return status

    def admit(
        self, owner: Owner, reference: str, wanted: Mapping[Digest, int], files: Files, *, evict: bool = False
    ) -> Claims:
        """
        Take a lease and claim every blob that an image needs. One write, before the first byte.

        *wanted* has the size of each. Either all that is missing is reserved, or nothing changes. With *evict*, images
        may go to make room: the least recently used first, and only if it all fits then.

        Raises:
            StorageLimitExceeded: what is missing does not fit under the limit.
            DiskFull: it does not fit on the filesystem, with what is reserved for others and is to stay free.
            SizeMismatch: a blob that is here has another size than the manifest says.
        """
        with self._database.write() as connection:
            lease_id = self._insert_lease(connection, owner, reference)
            return self._admission(connection, lease_id, files, evict=evict).claim(wanted)

    def rehearse(
        self, owner: Owner, reference: str, wanted: Mapping[Digest, int], files: Files, *, evict: bool = False
    ) -> Claims:
        """
        What `admit` would do, by the same transaction rolled back. One write that leaves nothing. Raises the same.
        """
        with self._database.write() as connection:
            lease_id = self._insert_lease(connection, owner, reference)
            claims = self._admission(connection, lease_id, Untouched(files), evict=evict).claim(wanted)
            connection.rollback()
            return claims

    def claim(self, token: str, wanted: Mapping[Digest, int], files: Files, *, evict: bool = False) -> Claims:
        """
        Claim once more what others were fetching, under a lease that we have. One write. Raises what `admit` does.
        """
        with self._database.write() as connection:
            return self._admission(connection, lease_id_of(connection, token), files, evict=evict).claim(
                wanted
            )

    def publish(
        self, token: str, digests: Sequence[Digest], *, sources: Mapping[Digest, str] | None = None
    ) -> None:
        """
        Make blobs of finished ingests, for others who wait for them. One write; their files are in place before.

        *sources* has the host that each came from.
        """
        with self._database.write() as connection:
            self._publish(connection, lease_id_of(connection, token), digests, sources or {})

    def complete(
        self,
        token: str,
        arrived: Sequence[Digest],
        image: NewImage,
        naming: Naming,
        others: Sequence[tuple[NewImage, Naming]] = (),
        *,
        origin: Origin = _UNSAID,
        chain: Sequence[Digest] = (),
    ) -> ImageStatus:
        """
        Everything that a pull leaves: blobs, image, edges and names, a line of history, its lease gone. One write.

        *arrived* are our finished ingests, their files in place; *others* are images of other platforms that came
        with this one; *origin* is where they came from; *chain* are the trees that the image's manifest stacks on,
        which the lease keeps. Durable on return.
        """
        with self._database.write() as connection:
            lease_id = lease_id_of(connection, token)
            self._publish(connection, lease_id, arrived, origin.sources)
            connection.execute(_COMPLETES, {"lease_id": lease_id})
            acting = self._acting()
            with acting.on_record(connection, event=origin.event):
                for each, names in (*others, (image, naming)):
                    row_id = self._insert_image(connection, each, names)
                    manifest_id = self._insert_manifest(connection, each, row_id)
                    self._name(connection, names, image_row_id=row_id, manifest_id=manifest_id)
            if chain:
                stack_on(connection, lease_id, manifest_id, chain)
            status = _used(connection, row_id, acting.at)
            for each, names in others:
                _record_other(connection, acting, origin.event, each, names, beside=naming)
            _record(connection, acting, origin, naming, status)
            end_lease(connection, token)
            return status

    # ------------------------------------------------------------------ inside those transactions

    def _insert_lease(self, connection: Connection, owner: Owner, reference: str) -> int:
        values = {
            "token": owner.token,
            "purpose": "pull",
            "reference": reference,
            "status": "downloading",
            "owner": owner.name,
            "pid": owner.pid,
            "created_at": self._now(),
        }
        lease_id: int = connection.execute(_NEW_LEASE, values).scalar_one()
        return lease_id

    def _admission(self, connection: Connection, lease_id: int, files: Files, *, evict: bool) -> Admission:
        return Admission(connection, lease_id, files, evict=evict, acting=self._acting())

    def _publish(
        self,
        connection: Connection,
        lease_id: int,
        digests: Sequence[Digest],
        sources: Mapping[Digest, str],
    ) -> None:
        if not digests:
            return
        parameters = {"lease_id": lease_id, "digests": as_json(digests), "now": self._now()}
        connection.execute(_ARRIVED, parameters)
        published = connection.execute(_PUBLISH, parameters).rowcount
        if published != len(digests):
            raise StoreCorrupt("ingests of a live pull are gone from the database")
        note_sources(connection, {each: sources[each] for each in digests if each in sources})

    def _insert_image(self, connection: Connection, image: NewImage, naming: Naming) -> int:
        row_id: int | None = connection.execute(_IMAGE_ROW, {"image_id": image.image_id}).scalar()
        if row_id is not None:
            return row_id
        now = self._now()
        values = {
            "image_id": image.image_id,
            "platform": image.platform,
            "uid": image.uid,
            "username": image.username,
            "config": image.config,
            "spec_image_name": naming.spec_image_name,
            "spec_tag": naming.spec_tag,
            "spec_digest": naming.spec_digest,
            "pulled_at": now,
            "last_used_at": now,
        }
        inserted: int = connection.execute(_NEW_IMAGE, values).scalar_one()
        return inserted

    def _insert_manifest(self, connection: Connection, image: NewImage, row_id: int) -> int:
        known: int | None = connection.execute(_MANIFEST_ROW, {"digest": image.manifest_digest}).scalar()
        if known is not None:
            # Only the indexes by which it came can be new.
            indexes = {edge.digest: edge for edge in image.edges if edge.role == "index"}
            parameters = {"digests": as_json(indexes), "manifest_id": known}
            missing = connection.execute(_MISSING_INDEXES, parameters).scalars().all()
            if missing:
                first = connection.execute(_NEXT_POSITION, parameters).scalar_one()
                self._insert_edges(connection, known, first, [indexes[Digest(digest)] for digest in missing])
            return known
        values = {
            "digest": image.manifest_digest,
            "image_id": row_id,
            "media_type": image.media_type,
            "artifact_type": image.artifact_type,
            "subject": image.subject,
            "annotations": image.annotations,
            "created_at": self._now(),
        }
        manifest_id: int = connection.execute(_NEW_MANIFEST, values).scalar_one()
        self._insert_edges(connection, manifest_id, 0, image.edges)
        connection.execute(_ALL_EDGES_ARE_HERE, {"manifest_id": manifest_id})
        return manifest_id

    def _insert_edges(
        self, connection: Connection, manifest_id: int, first: int, edges: Sequence[Edge]
    ) -> None:
        listed = json.dumps([(edge.digest, edge.role, edge.media_type) for edge in edges])
        inserted = connection.execute(
            _EDGES, {"manifest_id": manifest_id, "first": first, "edges": listed}
        ).rowcount
        if inserted != len(edges):
            raise StoreCorrupt("blobs of a live pull are gone from the database")

    def _name(self, connection: Connection, naming: Naming, *, image_row_id: int, manifest_id: int) -> None:
        now = self._now()
        if naming.credential is not None:
            grant(connection, image_row_id, naming.repo, naming.credential, now)
        if naming.repo is None:
            return
        resolved: dict[str, Any] = {
            "manifest_id": manifest_id,
            "digest": naming.digest,
            "platform": naming.platform,
            "now": now,
        }
        displaced = connection.execute(
            _DISPLACED, {"reference": naming.repo_digest, "image_row_id": image_row_id}
        ).first()
        if displaced is not None:
            # An index goes with the platform that was pulled last; the other image keeps the name of its manifest.
            name_image(
                connection,
                repo_digests,
                f"{naming.repo}@{displaced.digest}",
                displaced.image_id,
                manifest_id=displaced.manifest_id,
                digest=displaced.digest,
                now=now,
            )
        name_image(connection, repo_digests, naming.repo_digest, image_row_id, **resolved)
        if naming.repo_tag is not None:
            name_image(connection, repo_tags, naming.repo_tag, image_row_id, **resolved)


def _record(
    connection: Connection, acting: Acting, origin: Origin, naming: Naming, status: ImageStatus
) -> None:
    acting.record(
        connection,
        origin.event,
        reference=naming.reference,
        image_id=status.image_id,
        received_bytes=None if origin.received is None else sum(origin.received.values()),
        hosts=" ".join(sorted(origin.received or ())) or None,
    )


def _record_other(
    connection: Connection, acting: Acting, event: str, image: NewImage, naming: Naming, *, beside: Naming
) -> None:
    """
    An image of another platform that came with the one asked for, and whose bytes are counted there.
    """
    acting.record(
        connection,
        event,
        reference=naming.reference,
        image_id=image.image_id,
        detail=f"with {beside.reference}",
    )


def _used(connection: Connection, row_id: int, now: str) -> ImageStatus:
    connection.execute(_USED, {"row_id": row_id, "now": now})
    status = find(connection, row_id)
    assert status is not None
    return status
