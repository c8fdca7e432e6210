"""
What happened: reading the history, and what came from where.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ullage.digest import Digest
from ullage.errors import ImageNotFound, InvalidReference
from ullage.events import HistoryEntry
from ullage.reference import Reference
from ullage.repository.lookup import find, found
from ullage.repository.records import Records
from ullage.repository.rows import from_text, to_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import Connection

    from ullage.repository.lookup import ImageKey, Reading

__all__ = ["History", "Origin", "note_sources"]

_ENTRIES: Final = (
    "SELECT id, at, event, reference, image_id, previous_image_id, received_bytes, freed_bytes, hosts, owner, pid,"
    " detail FROM history WHERE at >= :since AND (:all"
    " OR instr(' ' || reference || ' ', ' ' || :reference || ' ') > 0"
    " OR image_id >= :low AND image_id < :high"
    " OR previous_image_id >= :low AND previous_image_id < :high)"
    " ORDER BY id DESC LIMIT :limit"
)
_SOURCES: Final = (
    "SELECT DISTINCT b.digest, o.host FROM manifests AS m JOIN manifest_blobs AS e ON e.manifest_id = m.id"
    " JOIN blobs AS b ON b.id = e.blob_id JOIN blob_sources AS o ON o.blob_id = b.id WHERE m.image_id = :image_id"
)
_NOTE_SOURCES: Final = (
    "INSERT OR REPLACE INTO blob_sources (blob_id, host)"
    " SELECT b.id, s.value FROM json_each(:sources) AS s JOIN blobs AS b ON b.digest = s.key"
)
_ID: Final = re.compile(r"(?:(sha256|sha512):)?([0-9a-f]{4,128})")


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Where the content of an image came from: the host of each blob, and how many bytes came from each host just now.

    ``received`` is None for what came over no network. ``how`` is what the history calls it, if not pulled or imported.
    """

    sources: Mapping[Digest, str] = field(default_factory=dict)
    received: Mapping[str, int] | None = field(default_factory=dict)
    how: str | None = None

    @property
    def event(self) -> str:
        """
        What it is called in the history.
        """
        return self.how or ("imported" if self.received is None else "pulled")


class History(Records):
    """
    The part of `Lookups` that is about what happened.
    """

    # ------------------------------------------------------------------ one read transaction each

    def history(
        self, key: ImageKey | None = None, *, since: datetime | None = None, limit: int = -1
    ) -> list[HistoryEntry]:
        """
        What happened, newest first: to all images, or to what *key* names or named. One read.

        Raises:
            InvalidReference: *key* is neither a reference nor the beginning of an id.
            ImageNotFound: it is a row's id, and no image has it.
        """
        with self._database.glance() as snapshot:
            parameters = _named(snapshot, key) | {
                "since": "" if since is None else to_text(since),
                "limit": limit,
            }
            rows = snapshot.dictionaries(_ENTRIES, parameters)
        return [
            HistoryEntry(
                **{
                    **row,
                    "at": from_text(row["at"]),
                    "hosts": tuple(row["hosts"].split(" ")) if row["hosts"] else (),
                }
            )
            for row in rows
        ]

    def sources(self, key: ImageKey) -> dict[Digest, str]:
        """
        The host that each blob of an image came from, where that is known. One read.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.glance() as snapshot:
            rows = snapshot.exec_driver_sql(_SOURCES, {"image_id": found(snapshot, key).id})
            return {Digest(digest): host for digest, host in rows}


def _named(connection: Reading, key: ImageKey | None) -> dict[str, object]:
    """
    What a key stands for in the history, where images are that are no more.
    """
    nothing: dict[str, object] = {"all": key is None, "reference": None, "low": None, "high": None}
    if key is None:
        return nothing
    status = None
    try:
        status = find(connection, key)
    except InvalidReference:
        if not _ID.fullmatch(str(key)):
            raise  # else several images: all of them are meant
    if isinstance(key, int):
        if status is None:
            raise ImageNotFound(f"no such image: {key}", image=str(key))
        return nothing | _between(status.image_id)
    prefix = _ID.fullmatch(key)
    if status is not None:
        nothing |= _between(status.image_id)
    elif prefix is not None:
        nothing |= _between(f"{prefix[1] or 'sha256'}:{prefix[2]}")
    try:
        return nothing | {"reference": str(Reference.parse(key))}
    except InvalidReference:
        return nothing


def _between(prefix: str) -> dict[str, object]:
    return {"low": prefix, "high": prefix + "g"}


def note_sources(connection: Connection, sources: Mapping[Digest, str]) -> None:
    """
    Say of blobs that are here which host each came from.
    """
    if sources:
        connection.exec_driver_sql(_NOTE_SOURCES, {"sources": json.dumps(dict(sources))})
