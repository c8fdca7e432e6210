"""
What a registry is asked and what it answers: values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Asked", "Logged", "Reply", "error_reply", "json_reply"]


class Logged(NamedTuple):
    """
    One answered request. ``bytes_sent`` is the bytes of its body.

    It is in the log before the first byte is on the wire: whatever a client has
    seen has been counted.
    """

    method: str
    path: str
    status: int
    range: str
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A request. ``headers`` have lower-case names; ``path`` is as it came, ``query`` has each value of each name.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    def first(self, name: str) -> str:
        """
        The first value of *name* in the query, '' without one.
        """
        return self.query.get(name, [""])[0]


@dataclass(frozen=True, slots=True)
class Reply:
    """
    An answer: bytes, *length* bytes of a file from *start* on, or pieces that make *length* bytes together.

    A file that is open, and an iterator with a ``close``, are closed when the answer was sent, or was not.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | Path | BinaryIO | Iterator[bytes] = field(default=b"", repr=False)
    start: int = 0
    length: int = 0

    def close(self) -> None:
        """
        Let go of what the body holds open.
        """
        close = getattr(self.body, "close", None)
        if close is not None:
            close()


def error_reply(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """
    An error as the distribution specification writes it.
    """
    return json_reply({"errors": [{"code": code, "message": message, "detail": None}]}, headers, status)


def json_reply(
    content: object, headers: Mapping[str, str] | None = None, status: int = HTTPStatus.OK
) -> Reply:
    body = json.dumps(content).encode()
    return Reply(status, {"Content-Type": "application/json", **(headers or {})}, body, 0, len(body))
