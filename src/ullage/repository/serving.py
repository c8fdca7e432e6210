"""
What a repo serves: the content that its references resolve to, and nothing else of the store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select, text

from ullage.digest import Digest
from ullage.repository.records import Records
from ullage.schema import repo_digests, repo_tags

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Referrer", "ServedContent", "Serving"]

#: The manifests that a repo's references resolve to: few, so that all else starts from them.
_OF_REPO: Final = (
    "SELECT manifest_id FROM repo_tags WHERE reference >= :first_tag AND reference < :last_tag"
    " UNION SELECT manifest_id FROM repo_digests WHERE reference >= :first_digest AND reference < :last_digest"
)
_TAGGED: Final = text(
    "SELECT m.image_id, b.digest, b.size, e.media_type, e.role FROM repo_tags AS r"
    " CROSS JOIN manifests AS m ON m.id = r.manifest_id AND m.complete = 1"
    " CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id AND e.role IN ('manifest', 'index')"
    " CROSS JOIN blobs AS b ON b.id = e.blob_id AND b.digest = r.digest"
    " WHERE r.reference = :reference LIMIT 1"
)
_CONTENT: Final = text(
    "SELECT m.image_id, b.digest, b.size, e.media_type, e.role FROM blobs AS b"
    f" CROSS JOIN ({_OF_REPO}) AS r"
    " CROSS JOIN manifest_blobs AS e ON e.manifest_id = r.manifest_id AND e.blob_id = b.id"
    " CROSS JOIN manifests AS m ON m.id = r.manifest_id AND m.complete = 1"
    " WHERE b.digest = :digest AND b.state = 'ready' LIMIT 1"
)
_REFERRERS: Final = text(
    "SELECT m.digest, m.media_type, b.size, coalesce(m.artifact_type,"
    "  (SELECT e.media_type FROM manifest_blobs AS e WHERE e.manifest_id = m.id AND e.role = 'config')) AS kind,"
    " m.annotations"
    f" FROM ({_OF_REPO}) AS r CROSS JOIN manifests AS m ON m.id = r.manifest_id AND m.complete = 1"
    " CROSS JOIN blobs AS b ON b.digest = m.digest"
    " WHERE m.subject = :digest ORDER BY m.id"
)
_NAMED: Final = text(
    "SELECT EXISTS (SELECT 1 FROM repo_tags WHERE reference >= :first_tag AND reference < :last_tag)"
    " OR EXISTS (SELECT 1 FROM repo_digests WHERE reference >= :first_digest AND reference < :last_digest)"
)
#: The names of one registry under which a blob is known, those used last first.
_WITH: Final = text(
    "SELECT r.reference FROM blobs AS b CROSS JOIN manifest_blobs AS e ON e.blob_id = b.id"
    " CROSS JOIN (SELECT manifest_id, reference, updated_at FROM repo_tags UNION ALL"
    "  SELECT manifest_id, reference, updated_at FROM repo_digests) AS r ON r.manifest_id = e.manifest_id"
    " WHERE b.digest = :digest AND r.reference >= :first AND r.reference < :last"
    " ORDER BY r.updated_at DESC LIMIT 50"
)
_TAGS: Final = text("SELECT reference FROM repo_tags WHERE reference >= :first_tag AND reference < :last_tag")


@dataclass(frozen=True, slots=True)
class ServedContent:
    """
    A blob of a repo; ``role`` is manifest, index, config or layer, ``image`` the row of the image that needs it.
    """

    image: int
    digest: Digest
    size: int
    media_type: str
    role: str

    @property
    def is_document(self) -> bool:
        """
        It is a manifest or an index.
        """
        return self.role in {"manifest", "index"}


@dataclass(frozen=True, slots=True)
class Referrer:
    """
    A manifest of a repo that names another one as its subject.
    """

    digest: Digest
    media_type: str
    size: int
    artifact_type: str
    annotations: Mapping[str, str] | None


class Serving(Records):
    """
    The part of `ImageRepository` that is about what others may read.

    A repo is a normalised name, ``docker.io/library/alpine``. It serves what its tags and digests resolve to.
    """

    # ------------------------------------------------------------------ one read transaction each

    def is_repo(self, name: str) -> bool:
        """
        Whether any reference is of that name. One read.
        """
        with self._database.read() as connection:
            return bool(connection.execute(_NAMED, _range(name)).scalar())

    def repos(self) -> list[str]:
        """
        Every name that references have. One read.
        """
        with self._database.read() as connection:
            tagged = connection.execute(select(repo_tags.c.reference)).scalars()
            names = {reference.rpartition(":")[0] for reference in tagged}
            digests = connection.execute(select(repo_digests.c.reference)).scalars()
            return sorted(names | {reference.partition("@")[0] for reference in digests})

    def repos_with(self, domain: str, digest: Digest) -> list[str]:
        """
        Repos of the registry of *domain* that have a blob, by what is known here; a few of them. One read.
        """
        parameters = {"digest": digest, "first": f"{domain}/", "last": f"{domain}0"}
        with self._database.read() as connection:
            references = connection.execute(_WITH, parameters).scalars().all()
        names = (each.partition("@")[0] if "@" in each else each.rpartition(":")[0] for each in references)
        return list(dict.fromkeys(names))

    def tags_of(self, name: str) -> list[str]:
        """
        The tags of a repo. One read.
        """
        with self._database.read() as connection:
            return [
                reference.rpartition(":")[2]
                for reference in connection.execute(_TAGS, _range(name)).scalars()
            ]

    def tagged(self, reference: str) -> ServedContent | None:
        """
        The manifest or index that a tag was resolved to; None when there is none, or no content to it. One read.
        """
        with self._database.read() as connection:
            row = connection.execute(_TAGGED, {"reference": reference}).first()
        return None if row is None else _content(row)

    def content_in(self, name: str, digest: Digest) -> ServedContent | None:
        """
        What *digest* is in a repo; None when it is nothing there. One read.
        """
        with self._database.read() as connection:
            row = connection.execute(_CONTENT, {"digest": digest, **_range(name)}).first()
        return None if row is None else _content(row)

    def referrers_of(self, name: str, digest: Digest) -> list[Referrer]:
        """
        The manifests of a repo that have *digest* as their subject, the oldest first. One read.
        """
        with self._database.read() as connection:
            rows = connection.execute(_REFERRERS, {"digest": digest, **_range(name)}).all()
        return [
            Referrer(Digest(row[0]), row[1], row[2], row[3] or "", json.loads(row[4]) if row[4] else None)
            for row in rows
        ]


def _content(row: Any) -> ServedContent:  # noqa: ANN401  SQLAlchemy's rows of text() have no type
    return ServedContent(row[0], Digest(row[1]), row[2], row[3], row[4])


def _range(name: str) -> dict[str, str]:
    # References of one name lie together in the index: ';' follows ':', and 'A' follows '@'.
    return {
        "first_tag": f"{name}:",
        "last_tag": f"{name};",
        "first_digest": f"{name}@",
        "last_digest": f"{name}A",
    }
