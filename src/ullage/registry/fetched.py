"""
What came of a request: values, and how they are read from the headers of an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ullage.digest import Digest
from ullage.errors import InvalidReference

if TYPE_CHECKING:
    from ullage.registry.transport import Answer

__all__ = ["FetchedHead", "FetchedManifest", "digest_header", "is_rest", "media_type"]

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)")


@dataclass(frozen=True, slots=True)
class FetchedHead:
    """
    What a registry says a name denotes, without the bytes.
    """

    media_type: str
    digest: Digest
    size: int | None


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """
    A manifest or an index as it came: nothing in it is verified.

    ``digest`` is what the registry's header says, None without one.
    """

    raw: bytes
    media_type: str
    digest: Digest | None


def media_type(answer: Answer) -> str:
    return answer.header("Content-Type").partition(";")[0].strip().lower()


def digest_header(answer: Answer) -> Digest | None:
    """
    Docker-Content-Digest; None when there is none that we can read, which is as good as none.
    """
    try:
        return Digest.parse(answer.header("Docker-Content-Digest"))
    except InvalidReference:
        return None


def is_rest(answer: Answer, *, offset: int, size: int) -> bool:
    """
    Whether a 206 holds what was asked for: everything from *offset* on.
    """
    stated = _CONTENT_RANGE.fullmatch(answer.header("Content-Range"))
    if stated is None:
        return False
    first, last, total = (int(each) if each else size for each in stated.groups())
    return (first, last, total) == (offset, size - 1, size)
