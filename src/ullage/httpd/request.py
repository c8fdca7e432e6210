"""
The head of a request, read strictly: what two readers could take for two things is refused (RFC 9112).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_HEAD_BYTES", "BadRequest", "Head", "read_head"]

#: Request line and headers. A token of a registry may be a few KiB.
MAX_HEAD_BYTES: Final = 32 * 1024
_MAX_TARGET_BYTES: Final = 8 * 1024
_MAX_HEADERS: Final = 100
_MAX_QUERY_FIELDS: Final = 32

_LINE = re.compile(rb"([A-Z]{1,16}) ([\x21-\x7e]+) HTTP/(1\.[0-9])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")
#: What may stand once alone: a second one would be for another reader.
_ONCE: Final = frozenset(
    {"content-length", "host", "transfer-encoding", "authorization", "range", "if-range"}
)


class BadRequest(Exception):
    """
    Not a request, or not one that is answered. The connection ends with the answer.
    """

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass(frozen=True, slots=True)
class Head:
    """
    Request line and headers. ``length`` is what follows as its body, ``persistent`` whether another may follow that.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str] = field(repr=False)
    length: int
    persistent: bool


def read_head(raw: bytes) -> Head:
    """
    *raw* is everything before the empty line, without the last CRLF.

    Raises:
        BadRequest: it is no head, with the status that says so.
    """
    line, *lines = raw.split(b"\r\n")
    matched = _LINE.fullmatch(line)
    if matched is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "no request line of HTTP/1.1")
    if len(matched[2]) > _MAX_TARGET_BYTES:
        raise BadRequest(HTTPStatus.REQUEST_URI_TOO_LONG, "the target is too long")
    method, target, version = (each.decode("ascii") for each in matched.groups())
    headers = _headers(lines)
    if version != "1.0" and "host" not in headers:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "no Host")
    path, query = _target(target)
    connection = {each.strip().lower() for each in headers.get("connection", "").split(",")}
    return Head(
        method,
        path,
        query,
        headers,
        _length(headers),
        "close" not in connection and (version != "1.0" or "keep-alive" in connection),
    )


def _headers(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > _MAX_HEADERS:
        raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {_MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        matched = _HEADER.fullmatch(line)
        if matched is None:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "a line that is no header")
        name, value = matched[1].decode("ascii").lower(), matched[2].decode("latin-1")
        if name in headers and name in _ONCE:
            raise BadRequest(HTTPStatus.BAD_REQUEST, f"{name} twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _target(target: str) -> tuple[str, dict[str, list[str]]]:
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        target = target[absolute.end() :] or "/"
    path, _, query = target.partition("?")
    if not path.startswith("/") or "#" in target:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "the target is no path")
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "a query with too many fields") from None
    return path, fields


def _length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        # Nothing that is asked of us needs a body of unknown length, and reading one wrongly smuggles requests.
        raise BadRequest(HTTPStatus.NOT_IMPLEMENTED, "no transfer coding is read here")
    text = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(text):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "Content-Length is no number")
    return int(text)
