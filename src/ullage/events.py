"""
What happened to images and their names, one event a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["HistoryEntry"]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """
    A row of ``history``: something that happened to an image or to its names.

    ``event`` is pulled, imported, registered, tagged, moved, untagged, removed, evicted, unpacked, repaired, salvaged
    or failed: then ``detail`` is what failed, as which exception, and why. ``reference`` is the name that it is about;
    of an image that went, all its names with blanks between.
    ``image_id`` is of the image, which may be gone; ``previous_image_id`` of what a moved reference denoted before.
    ``received_bytes`` came over the network from ``hosts``; ``freed_bytes`` is what the image alone had. ``owner`` is
    host and program, and None for somebody at the sqlite3 shell.
    """

    id: int
    at: datetime
    event: str
    reference: str | None
    image_id: str | None
    previous_image_id: str | None
    received_bytes: int | None
    freed_bytes: int | None
    hosts: tuple[str, ...]
    owner: str | None
    pid: int | None
    detail: str | None
