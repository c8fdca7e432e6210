"""
Rows become frozen values here, and times become text.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ullage.model import ImageStatus
from ullage.reference import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


__all__ = ["from_text", "image_status", "to_text"]

_NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})


def to_text(time: datetime) -> str:
    """
    A time as the tables hold it: UTC with microseconds, so that text sorts as time does.
    """
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    return datetime.fromisoformat(text)


def image_status(row: Sequence[Any]) -> ImageStatus:
    """
    A row of ``repository.lookup.STATUS``.
    """
    (
        row_id,
        image_id,
        size,
        platform,
        uid,
        username,
        spec_image_name,
        spec_tag,
        spec_digest,
        pinned,
        pulled_at,
        last_used_at,
        repo_tags,
        repo_digests,
        annotations,
    ) = row
    return ImageStatus(
        id=row_id,
        image_id=image_id,
        size=size,
        repo_tags=tuple(sorted(repo_tags.split(" "))) if repo_tags else (),
        repo_digests=tuple(sorted(repo_digests.split(" "))) if repo_digests else (),
        spec=ImageSpec(spec_image_name, spec_tag, spec_digest),
        pulled_at=from_text(pulled_at),
        last_used_at=from_text(last_used_at),
        pinned=bool(pinned),
        uid=uid,
        username=username,
        platform=platform,
        annotations=MappingProxyType(json.loads(annotations)) if annotations else _NO_ANNOTATIONS,
    )
