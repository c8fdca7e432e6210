"""
Which image a key names: a row's id, an image id or a prefix of one, or a reference.

The statements are SQL, for they are run with and without SQLAlchemy: see `Lookups`.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from ullage.errors import ImageNotFound, InvalidReference
from ullage.model import StorageUsage
from ullage.reference import Reference
from ullage.repository.rows import image_status

if TYPE_CHECKING:
    from typing import TypeAlias

    from sqlalchemy import Connection

    from ullage.model import ImageStatus
    from ullage.snapshot import Snapshot

    #: What a look-up reads from: a transaction of SQLAlchemy's, or a snapshot past it.
    Reading: TypeAlias = Connection | Snapshot

__all__ = [
    "KNOWN_DIGEST",
    "KNOWN_TAG",
    "LIST",
    "ImageKey",
    "by_id",
    "by_reference",
    "find",
    "found",
    "resolved",
    "table_of",
    "usage",
]

#: What a host may name an image by: the row's id, an image id or a prefix of one, or a reference.
ImageKey = int | str

_HEX: Final = re.compile(r"(?:sha256:|sha512:)?([0-9a-f]{4,128})")


STATUS: Final = """\
SELECT i.id, i.image_id, i.size, i.platform, i.uid, i.username, i.spec_image_name, i.spec_tag, i.spec_digest, i.pinned,
       i.pulled_at, i.last_used_at,
       (SELECT group_concat(t.reference, ' ') FROM repo_tags AS t WHERE t.image_id = i.id),
       (SELECT group_concat(d.reference, ' ') FROM repo_digests AS d WHERE d.image_id = i.id),
       (SELECT m.annotations FROM manifests AS m WHERE m.image_id = i.id AND m.complete = 1 ORDER BY m.id LIMIT 1)
  FROM images AS i"""

_BY_ID: Final = f"{STATUS} WHERE i.id = :id"
_BY_PREFIX: Final = f"{STATUS} WHERE i.image_id >= :low AND i.image_id < :high ORDER BY i.id LIMIT 2"
LIST: Final = f"{STATUS} ORDER BY i.id"

BY_TAG, BY_DIGEST = (
    f"{STATUS} WHERE i.id = (SELECT image_id FROM {table} WHERE reference = :reference)"
    for table in ("repo_tags", "repo_digests")
)

# A known reference serves a pull when nobody asked for a platform, or when it is the one that it was resolved for. What
# came without a choice is what its config says.
KNOWN_TAG, KNOWN_DIGEST = (
    f"""{STATUS} JOIN {table} AS r ON r.image_id = i.id
 WHERE r.reference = :reference
   AND (:platform IS NULL OR r.platform = :platform
        OR r.platform IS NULL AND (:or_unasked OR i.platform = :platform))
   AND (:digest IS NULL OR r.digest = :digest)"""
    for table in ("repo_tags", "repo_digests")
)

_RESOLVED: Final = {
    table: f"SELECT manifest_id, digest, platform FROM {table} WHERE reference = :reference AND image_id = :image_id"
    for table in ("repo_tags", "repo_digests")
}
_FIRST_MANIFEST: Final = (
    "SELECT id, digest FROM manifests WHERE image_id = :image_id AND complete = 1 ORDER BY id LIMIT 1"
)
_USAGE: Final = f"SELECT {', '.join(each.name for each in fields(StorageUsage))} FROM storage_usage"


def table_of(reference: Reference) -> str:
    """
    Where such a reference stands.
    """
    return "repo_tags" if reference.digest is None else "repo_digests"


def by_reference(connection: Reading, reference: Reference) -> ImageStatus | None:
    """
    The image that a reference denotes; None when there is none.
    """
    statement = BY_TAG if reference.digest is None else BY_DIGEST
    row = connection.exec_driver_sql(statement, {"reference": str(reference)}).first()
    return None if row is None else image_status(row)


def find(connection: Reading, key: ImageKey) -> ImageStatus | None:
    """
    See `Images.find`.
    """
    if isinstance(key, int):
        if not 0 < key < 1 << 63:
            return None  # no row has such an id, and the driver takes no such number
        row = connection.exec_driver_sql(_BY_ID, {"id": key}).first()
        return None if row is None else image_status(row)
    prefix = _HEX.fullmatch(key)
    try:
        reference = Reference.parse(key)
    except InvalidReference:
        if prefix is None:
            raise
    else:
        status = by_reference(connection, reference)
        if status is not None:
            return status
    return None if prefix is None else _by_prefix(connection, key, prefix.group(1))


def _by_prefix(connection: Reading, key: str, digits: str) -> ImageStatus | None:
    for algorithm in (key.partition(":")[0],) if ":" in key else ("sha256", "sha512"):
        low = f"{algorithm}:{digits}"
        rows = connection.exec_driver_sql(_BY_PREFIX, {"low": low, "high": low + "g"}).all()
        if len(rows) > 1:
            raise InvalidReference(
                f"ambiguous: several image ids begin with {digits}", reference=key, hint="give more digits"
            )
        if rows:
            return image_status(rows[0])
    return None


def found(connection: Reading, key: ImageKey) -> ImageStatus:
    """
    As `find`, for a key that has to name one.

    Raises:
        ImageNotFound: it names none.
    """
    status = find(connection, key)
    if status is None:
        raise ImageNotFound(f"no such image: {key}", image=str(key))
    return status


def by_id(connection: Reading, row_id: int) -> ImageStatus:
    """
    The image of a row that is there.
    """
    return image_status(connection.exec_driver_sql(_BY_ID, {"id": row_id}).one())


def resolved(connection: Reading, key: ImageKey, row_id: int) -> dict[str, Any]:
    """
    What a new tag of an image resolves to: the same as the reference it was named by, else its first manifest.
    """
    with contextlib.suppress(InvalidReference):  # then it is an id, which resolves to nothing of its own
        reference = Reference.parse(str(key))
        row = connection.exec_driver_sql(
            _RESOLVED[table_of(reference)], {"reference": str(reference), "image_id": row_id}
        ).first()
        if row is not None:
            return dict(zip(("manifest_id", "digest", "platform"), row, strict=True))
    first = connection.exec_driver_sql(_FIRST_MANIFEST, {"image_id": row_id}).first()
    return {} if first is None else {"manifest_id": first[0], "digest": first[1]}


def usage(connection: Reading) -> StorageUsage:
    """
    The row of ``storage_usage``.
    """
    return StorageUsage(*connection.exec_driver_sql(_USAGE).one())
