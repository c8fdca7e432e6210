"""
Which image a key names: a row's id, an image id or a prefix of one, or a reference.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, and_, bindparam, func, literal_column, or_, select

from ullage.errors import ImageNotFound, InvalidReference
from ullage.reference import Reference
from ullage.repository.rows import image_status
from ullage.schema import images, manifests, repo_digests, repo_tags
from ullage.snapshot import Snapshot

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select, Table

    from ullage.model import ImageStatus

__all__ = [
    "BY_DIGEST",
    "BY_TAG",
    "KNOWN_DIGEST",
    "KNOWN_TAG",
    "LIST",
    "ImageKey",
    "Reading",
    "by_id",
    "denoted",
    "find",
    "found",
    "table_of",
]

#: What a look-up reads from: a transaction of SQLAlchemy's, or a snapshot past it.
Reading = Connection | Snapshot

#: What a host may name an image by: the row's id, an image id or a prefix of one, or a reference.
ImageKey = int | str

_HEX: Final = re.compile(r"(?:sha256:|sha512:)?([0-9a-f]{4,128})")


def _names(table: Table) -> ColumnElement[str]:
    return (
        select(func.group_concat(table.c.reference, " "))
        .where(table.c.image_id == images.c.id)
        .correlate(images)
        .scalar_subquery()
    )


STATUS: Final = select(
    images.c.id,
    images.c.image_id,
    images.c.size,
    images.c.platform,
    images.c.uid,
    images.c.username,
    images.c.spec_image_name,
    images.c.spec_tag,
    images.c.spec_digest,
    images.c.pinned,
    images.c.pulled_at,
    images.c.last_used_at,
    _names(repo_tags),
    _names(repo_digests),
    select(manifests.c.annotations)
    .where(manifests.c.image_id == images.c.id, manifests.c.complete == literal_column("1"))
    .order_by(manifests.c.id)
    .limit(literal_column("1"))
    .correlate(images)
    .scalar_subquery(),
)

BY_ID: Final = STATUS.where(images.c.id == bindparam("id"))
_BY_PREFIX: Final = (
    STATUS.where(images.c.image_id >= bindparam("low"), images.c.image_id < bindparam("high"))
    .order_by(images.c.id)
    .limit(literal_column("2"))
)
LIST: Final = STATUS.order_by(images.c.id)


def denoted(table: Table) -> Select[int]:
    """
    The row of the image that a reference in *table* denotes.
    """
    return select(table.c.image_id).where(table.c.reference == bindparam("reference"))


BY_TAG: Final = STATUS.where(images.c.id == denoted(repo_tags).correlate(None).scalar_subquery())
BY_DIGEST: Final = STATUS.where(images.c.id == denoted(repo_digests).correlate(None).scalar_subquery())

# A known reference serves a pull when nobody asked for a platform, or when it is the one that it was resolved for.
KNOWN_TAG, KNOWN_DIGEST = (
    STATUS.join(table, table.c.image_id == images.c.id).where(
        table.c.reference == bindparam("reference"),
        or_(
            bindparam("platform").is_(None),
            table.c.platform == bindparam("platform"),
            # What came without a choice is what its config says.
            and_(
                table.c.platform.is_(None),
                or_(bindparam("or_unasked"), images.c.platform == bindparam("platform")),
            ),
        ),
        or_(bindparam("digest").is_(None), table.c.digest == bindparam("digest")),
    )
    for table in (repo_tags, repo_digests)
)


def table_of(reference: Reference) -> Table:
    """
    Where such a reference stands.
    """
    return repo_tags if reference.digest is None else repo_digests


def find(connection: Reading, key: ImageKey) -> ImageStatus | None:
    """
    See `Images.find`.
    """
    if isinstance(key, int):
        if not 0 < key < 1 << 63:
            return None  # no row has such an id, and the driver takes no such number
        row = connection.execute(BY_ID, {"id": key}).first()
        return None if row is None else image_status(row)
    prefix = _HEX.fullmatch(key)
    try:
        reference = Reference.parse(key)
    except InvalidReference:
        if prefix is None:
            raise
    else:
        statement = BY_TAG if reference.digest is None else BY_DIGEST
        row = connection.execute(statement, {"reference": str(reference)}).first()
        if row is not None:
            return image_status(row)
    return None if prefix is None else _by_prefix(connection, key, prefix.group(1))


def _by_prefix(connection: Reading, key: str, digits: str) -> ImageStatus | None:
    for algorithm in (key.partition(":")[0],) if ":" in key else ("sha256", "sha512"):
        low = f"{algorithm}:{digits}"
        rows = connection.execute(_BY_PREFIX, {"low": low, "high": low + "g"}).all()
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
    return image_status(connection.execute(BY_ID, {"id": row_id}).one())
