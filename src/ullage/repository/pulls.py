"""
Pulls: admission, completion, and the leases and ingests between them.

Admission is one write transaction before the first byte: what is here is leased, what somebody fetches is waited
for, what nobody fetches is taken over, and the rest is reserved, all of it or nothing. Completion is another: the
reservations become blobs, the image gets its rows and its names, the lease goes. Nothing is held between the two but
the lease, which lives by a lock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import Connection, TextClause, bindparam, insert, select, text, update

from ullage.database import RuleBroken
from ullage.digest import Digest
from ullage.errors import DiskFull, ImageNotFound, SizeMismatch, StoreCorrupt, StoreError
from ullage.repository.images import find, name_image
from ullage.repository.records import Records
from ullage.repository.storage import discard_partials, doom_garbage, limit_exceeded
from ullage.schema import images, ingests, leases, manifests, repo_digests, repo_tags

if TYPE_CHECKING:
    from ullage.model import ImageStatus
    from ullage.repository.images import ImageKey
    from ullage.repository.records import Edge, Naming, NewImage

__all__ = ["Claims", "Files", "Owner", "Pulls"]


class Files(Protocol):
    """
    What admission asks of the files: `ullage.blobs.BlobFiles` has it.
    """

    def is_here(self, digest: Digest, size: int) -> bool: ...

    def discard(self, digests: Sequence[Digest]) -> None: ...

    def free_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Owner:
    """
    Who takes a lease: the token of its lock, and what people want to know.
    """

    token: str
    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class Claims:
    """
    How the blobs of a pull are shared out: here and leased, ours to fetch, or somebody else's to wait for.
    """

    present: frozenset[Digest]
    owned: frozenset[Digest]
    awaited: frozenset[Digest]


# json_each hands a list over in one statement that is compiled once, however long the list. These run on our own
# connections; the schema itself stays free of JSON functions.
_BLOBS: Final = text(
    "SELECT digest, id, size, state FROM blobs WHERE digest IN (SELECT value FROM json_each(:digests))"
)
_INGESTS: Final = text(
    "SELECT digest, size, lease_id, received_bytes FROM ingests WHERE digest IN (SELECT value FROM json_each(:digests))"
)
_TAKE_BACK: Final = text(
    "UPDATE blobs SET state = 'ready' WHERE state = 'doomed' AND digest IN (SELECT value FROM json_each(:digests))"
)
_SWEPT: Final = text(
    "UPDATE blobs SET state = 'swept' WHERE digest IN (SELECT value FROM json_each(:digests))"
)
_LEASE: Final = text(
    "INSERT OR IGNORE INTO lease_blobs (lease_id, blob_id)"
    " SELECT :lease_id, id FROM blobs WHERE digest IN (SELECT value FROM json_each(:digests))"
)
_TAKE_OVER: Final = text(
    "UPDATE ingests SET lease_id = :lease_id, reserved_bytes = size"
    " WHERE lease_id IS NULL AND digest IN (SELECT value FROM json_each(:digests))"
)
_RESERVE: Final = text(
    "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at)"
    " SELECT key, value, :lease_id, value, :now FROM json_each(:sizes)"
)
_RECEIVED: Final = text(
    "UPDATE ingests SET received_bytes = (SELECT value FROM json_each(:received) WHERE key = digest)"
    " WHERE lease_id = (SELECT id FROM leases WHERE token = :token)"
    " AND digest IN (SELECT key FROM json_each(:received))"
)
_ARRIVED: Final = text(
    "UPDATE ingests SET received_bytes = size"
    " WHERE lease_id = :lease_id AND digest IN (SELECT value FROM json_each(:digests))"
)
_PUBLISH: Final = text(
    "INSERT INTO blobs (digest, size, created_at) SELECT digest, size, :now FROM ingests"
    " WHERE lease_id = :lease_id AND digest IN (SELECT value FROM json_each(:digests))"
)
_EDGES: Final = text(
    "INSERT INTO manifest_blobs (manifest_id, position, blob_id, role, media_type)"
    " SELECT :manifest_id, :first + e.key, b.id, json_extract(e.value, '$[1]'), json_extract(e.value, '$[2]')"
    " FROM json_each(:edges) AS e JOIN blobs AS b ON b.digest = json_extract(e.value, '$[0]')"
)
_MISSING_INDEXES: Final = text(
    "SELECT e.value FROM json_each(:digests) AS e WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs AS m"
    " JOIN blobs AS b ON b.id = m.blob_id WHERE m.manifest_id = :manifest_id AND b.digest = e.value)"
)
_NEXT_POSITION: Final = text("SELECT max(position) + 1 FROM manifest_blobs WHERE manifest_id = :manifest_id")
_ROOM: Final = text(
    "SELECT (SELECT min_free_bytes FROM store) AS min_free_bytes,"
    " (SELECT coalesce(sum(reserved_bytes - received_bytes), 0) FROM ingests) AS outstanding_bytes"
)
# The manifest behind a digest that a registry answered with: that very one, or what its index chose for a platform.
_RESOLVED: Final = text(
    "SELECT m.id, m.image_id, :asked AS platform FROM manifests AS m JOIN images AS i ON i.id = m.image_id"
    " WHERE m.digest = :digest AND m.complete = 1 AND (:asked IS NULL OR i.platform = :asked)"
    " UNION ALL SELECT m.id, m.image_id, :platform FROM blobs AS b CROSS JOIN manifest_blobs AS e ON e.blob_id = b.id"
    " AND e.role = 'index' CROSS JOIN manifests AS m ON m.id = e.manifest_id AND m.complete = 1"
    " CROSS JOIN images AS i ON i.id = m.image_id AND i.platform = :platform WHERE b.digest = :digest LIMIT 1"
)
_LEASE_ID: Final = select(leases.c.id).where(leases.c.token == bindparam("token"))


class Pulls(Records):
    """
    The part of `ImageRepository` that is about pulls, leases and ingests.
    """

    # ------------------------------------------------------------------ one read transaction each

    def ready(self, digest: Digest) -> bool:
        """
        Whether a blob is here. One read. Only a lease keeps it here.
        """
        with self._database.read() as connection:
            row = connection.execute(_BLOBS, {"digests": _json([digest])}).first()
        return row is not None and row.state == "ready"

    def tokens(self) -> list[str]:
        """
        The tokens of all leases. One read.
        """
        with self._database.read() as connection:
            return list(connection.execute(select(leases.c.token)).scalars())

    def ingests_of(self, token: str) -> list[tuple[Digest, int]]:
        """
        Digest and size of what a lease is fetching. One read.
        """
        statement = (
            select(ingests.c.digest, ingests.c.size)
            .join(leases, leases.c.id == ingests.c.lease_id)
            .where(leases.c.token == token)
        )
        with self._database.read() as connection:
            return [(Digest(digest), size) for digest, size in connection.execute(statement)]

    def awaited(self, digests: Sequence[Digest]) -> dict[Digest, tuple[int, str | None]]:
        """
        Of blobs on their way: bytes received, and the token of who fetches them. One read.
        """
        statement = (
            select(ingests.c.digest, ingests.c.received_bytes, leases.c.token)
            .join(leases, leases.c.id == ingests.c.lease_id, isouter=True)
            .where(ingests.c.digest.in_(digests))
        )
        with self._database.read() as connection:
            return {
                Digest(digest): (received, token) for digest, received, token in connection.execute(statement)
            }

    # ------------------------------------------------------------------ one write transaction each

    def adopt(self, naming: Naming, *, asked: str | None) -> ImageStatus | None:
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
            self._name(connection, named, image_row_id=row.image_id, manifest_id=row.id)
            return _used(connection, row.image_id, self._now())

    def admit(self, owner: Owner, reference: str, wanted: Mapping[Digest, int], files: Files) -> Claims:
        """
        Take a lease and claim every blob that an image needs. One write, before the first byte.

        *wanted* has the size of each. Either all that is missing is reserved, or nothing changes.

        Raises:
            StorageLimitExceeded: what is missing does not fit under the limit.
            DiskFull: it does not fit on the filesystem, with what is reserved for others and is to stay free.
            SizeMismatch: a blob that is here has another size than the manifest says.
        """
        with self._database.write() as connection:
            lease_id = connection.execute(
                insert(leases)
                .values(
                    token=owner.token,
                    purpose="pull",
                    reference=reference,
                    status="downloading",
                    owner=owner.name,
                    pid=owner.pid,
                    created_at=self._now(),
                )
                .returning(leases.c.id)
            ).scalar_one()
            return self._claim(connection, lease_id, wanted, files)

    def claim(self, token: str, wanted: Mapping[Digest, int], files: Files) -> Claims:
        """
        Claim once more what others were fetching, under a lease that we have. One write. Raises what `admit` does.
        """
        with self._database.write() as connection:
            return self._claim(connection, _lease_id(connection, token), wanted, files)

    def publish(self, token: str, digests: Sequence[Digest]) -> None:
        """
        Make blobs of finished ingests, for others who wait for them. One write; their files are in place before.
        """
        with self._database.write() as connection:
            self._publish(connection, _lease_id(connection, token), digests)

    def complete(self, token: str, arrived: Sequence[Digest], image: NewImage, naming: Naming) -> ImageStatus:
        """
        Everything that a pull leaves: blobs, image, edges and names, and its lease gone. One write.

        *arrived* are our finished ingests, their files in place. Durable on return.
        """
        with self._database.write() as connection:
            lease_id = _lease_id(connection, token)
            self._publish(connection, lease_id, arrived)
            row_id = self._insert_image(connection, image, naming)
            manifest_id = self._insert_manifest(connection, image, row_id)
            self._name(connection, naming, image_row_id=row_id, manifest_id=manifest_id)
            status = _used(connection, row_id, self._now())
            _end(connection, token)
            return status

    def progress(self, token: str, received: Mapping[Digest, int]) -> None:
        """
        Let the shell and waiters see how far our ingests are. One write that costs no fsync.
        """
        with self._database.write(durable=False) as connection:
            connection.execute(_RECEIVED, {"received": json.dumps(received), "token": token})

    def end(self, token: str, received: Mapping[Digest, int]) -> None:
        """
        End a lease that will not complete, ours or a dead owner's whose lock we have. One write.

        *received* says what is on disk of each of its ingests: that stays, charged and resumable; what has
        nothing goes. Harmless when the lease is gone.
        """
        with self._database.write() as connection:
            connection.execute(_RECEIVED, {"received": json.dumps(received), "token": token})
            _end(connection, token)
            doom_garbage(connection)

    def hold(self, owner: Owner, key: ImageKey) -> ImageStatus:
        """
        Take a lease on an image: nobody removes it until the lease ends. One write.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.write() as connection:
            status = find(connection, key)
            if status is None:
                raise ImageNotFound(f"no such image: {key}", image=str(key))
            connection.execute(
                insert(leases).values(
                    token=owner.token,
                    purpose="hold",
                    reference=str(key),
                    owner=owner.name,
                    pid=owner.pid,
                    created_at=self._now(),
                )
            )
            connection.execute(
                text(
                    "INSERT INTO lease_images (lease_id, image_id)"
                    " SELECT id, :image_id FROM leases WHERE token = :token"
                ),
                {"image_id": status.id, "token": owner.token},
            )
            return status

    # ------------------------------------------------------------------ inside those transactions

    def _claim(
        self, connection: Connection, lease_id: int, wanted: Mapping[Digest, int], files: Files
    ) -> Claims:
        digests = _json(list(wanted))
        present, gone, doomed = set(), set(), set()
        for row in connection.execute(_BLOBS, {"digests": digests}):
            digest = Digest(row.digest)
            if row.size != wanted[digest]:
                raise SizeMismatch(
                    f"size mismatch: the manifest says {wanted[digest]} bytes, blob {digest} has {row.size}",
                    expected_bytes=wanted[digest],
                    actual_bytes=row.size,
                )
            if row.state == "ready":
                present.add(digest)
            elif files.is_here(digest, row.size):
                doomed.add(digest)
            else:
                gone.add(digest)  # moved aside by a sweep that died before it ended the row
        owned, awaited, resumable, unusable = set(), set(), {}, []
        for row in connection.execute(_INGESTS, {"digests": digests}):
            digest = Digest(row.digest)
            if row.lease_id == lease_id:
                owned.add(digest)
            elif row.lease_id is not None:
                awaited.add(digest)
            elif row.size == wanted[digest]:
                resumable[digest] = row.received_bytes
            else:
                unusable.append(
                    digest
                )  # announced with another size by a manifest that was wrong, or by this one
        if gone:
            connection.execute(_SWEPT, {"digests": _json(gone)})
        if unusable:
            files.discard(unusable)
            connection.execute(
                update(ingests).where(ingests.c.digest.in_(unusable)).values(state="discarded")
            )
        absent = {
            d: size
            for d, size in wanted.items()
            if d not in present | doomed | owned | awaited and d not in resumable
        }
        growth = (
            sum(absent.values())
            + sum(wanted[d] for d in doomed)
            + sum(wanted[d] - n for d, n in resumable.items())
        )
        if growth:
            self._check_disk(connection, growth - sum(wanted[d] for d in doomed), files)
            self._reserve(connection, lease_id, absent, list(resumable), list(doomed), growth, files)
        if present | doomed:
            connection.execute(_LEASE, {"lease_id": lease_id, "digests": _json(present | doomed)})
        return Claims(
            present=frozenset(present | doomed),
            owned=frozenset(owned | set(absent) | set(resumable)),
            awaited=frozenset(awaited),
        )

    def _reserve(
        self,
        connection: Connection,
        lease_id: int,
        absent: Mapping[Digest, int],
        resumable: Sequence[Digest],
        doomed: Sequence[Digest],
        growth: int,
        files: Files,
    ) -> None:
        steps: list[tuple[TextClause, Collection[Digest], dict[str, Any]]] = [
            (_TAKE_BACK, doomed, {"digests": _json(doomed)}),
            (_TAKE_OVER, resumable, {"digests": _json(resumable), "lease_id": lease_id}),
            (_RESERVE, absent, {"sizes": json.dumps(absent), "lease_id": lease_id, "now": self._now()}),
        ]
        for statement, what, parameters in steps:
            if not what:
                continue
            try:
                connection.execute(statement, parameters)
            except RuleBroken as error:
                # Partial blobs that nobody fetches are the first to go when room is needed.
                if not discard_partials(connection, files.discard, keep=resumable):
                    raise limit_exceeded(connection, error, needed_bytes=growth) from error
                try:
                    connection.execute(statement, parameters)
                except RuleBroken as again:
                    raise limit_exceeded(connection, again, needed_bytes=growth) from again

    def _check_disk(self, connection: Connection, growth: int, files: Files) -> None:
        room = connection.execute(_ROOM).one()
        free = files.free_bytes()
        if growth > free - room.outstanding_bytes - room.min_free_bytes:
            raise DiskFull(
                f"the filesystem has no room: needed {growth} bytes, free {free}, "
                f"of which {room.outstanding_bytes} are promised to other pulls "
                f"and {room.min_free_bytes} are to stay free"
            )

    def _publish(self, connection: Connection, lease_id: int, digests: Sequence[Digest]) -> None:
        if not digests:
            return
        parameters = {"lease_id": lease_id, "digests": _json(digests), "now": self._now()}
        connection.execute(_ARRIVED, parameters)
        published = connection.execute(_PUBLISH, parameters).rowcount
        if published != len(digests):
            raise StoreCorrupt("ingests of a live pull are gone from the database")

    def _insert_image(self, connection: Connection, image: NewImage, naming: Naming) -> int:
        row_id: int | None = connection.execute(
            select(images.c.id).where(images.c.image_id == image.image_id)
        ).scalar()
        if row_id is not None:
            return row_id
        now = self._now()
        inserted: int = connection.execute(
            insert(images)
            .values(
                image_id=image.image_id,
                platform=image.platform,
                uid=image.uid,
                username=image.username,
                config=image.config,
                spec_image_name=naming.spec_image_name,
                spec_tag=naming.spec_tag,
                spec_digest=naming.spec_digest,
                pulled_at=now,
                last_used_at=now,
            )
            .returning(images.c.id)
        ).scalar_one()
        return inserted

    def _insert_manifest(self, connection: Connection, image: NewImage, row_id: int) -> int:
        known: int | None = connection.execute(
            select(manifests.c.id).where(manifests.c.digest == image.manifest_digest)
        ).scalar()
        if known is not None:
            # Only the indexes by which it came can be new.
            indexes = {edge.digest: edge for edge in image.edges if edge.role == "index"}
            parameters = {"digests": _json(indexes), "manifest_id": known}
            missing = connection.execute(_MISSING_INDEXES, parameters).scalars().all()
            if missing:
                first = connection.execute(_NEXT_POSITION, parameters).scalar_one()
                self._insert_edges(connection, known, first, [indexes[Digest(digest)] for digest in missing])
            return known
        manifest_id: int = connection.execute(
            insert(manifests)
            .values(
                digest=image.manifest_digest,
                image_id=row_id,
                media_type=image.media_type,
                artifact_type=image.artifact_type,
                subject=image.subject,
                annotations=image.annotations,
                created_at=self._now(),
            )
            .returning(manifests.c.id)
        ).scalar_one()
        self._insert_edges(connection, manifest_id, 0, image.edges)
        connection.execute(update(manifests).where(manifests.c.id == manifest_id).values(complete=1))
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
        resolved: dict[str, Any] = {
            "manifest_id": manifest_id,
            "digest": naming.digest,
            "platform": naming.platform,
            "now": now,
        }
        displaced = connection.execute(
            select(repo_digests.c.image_id, repo_digests.c.manifest_id, manifests.c.digest)
            .join(manifests, manifests.c.id == repo_digests.c.manifest_id)
            .where(repo_digests.c.reference == naming.repo_digest, repo_digests.c.image_id != image_row_id)
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


def _lease_id(connection: Connection, token: str) -> int:
    lease_id: int | None = connection.execute(_LEASE_ID, {"token": token}).scalar()
    if lease_id is None:
        raise StoreError("the lease of this pull was ended by somebody else")
    return lease_id


def _end(connection: Connection, token: str) -> None:
    connection.execute(update(leases).where(leases.c.token == token).values(ended_token=token))


def _used(connection: Connection, row_id: int, now: str) -> ImageStatus:
    connection.execute(update(images).where(images.c.id == row_id).values(last_used_at=now))
    status = find(connection, row_id)
    assert status is not None
    return status


def _json(digests: Collection[Digest]) -> str:
    return json.dumps(list(digests))
