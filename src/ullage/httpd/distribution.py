"""
What the distribution specification 1.1 has a registry answer to whoever pulls. Paths in, replies out; no content.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple
from urllib.parse import unquote, urlencode

from ullage.httpd.messages import Reply, error_reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ullage.digest import Digest
    from ullage.httpd.messages import Asked

__all__ = [
    "OCI_INDEX",
    "Wanted",
    "blob_reply",
    "invalid_count",
    "listing_reply",
    "manifest_reply",
    "page_reply",
    "read_path",
    "referrers_reply",
]

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_OCTETS: Final = "application/octet-stream"
#: What a name and a tag may be at most (spec.md#pulling-manifests; names with their host, as many clients have it).
_MAX_NAME: Final = 255
#: Entries of one page.
_MAX_PAGE: Final = 10_000
#: Of one page of what refers to a manifest: a client need read no more of an index than of any other document.
_MAX_REFERRERS_BYTES: Final = 4 * 1024**2 - 1024

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# A host with a port may lead: no client of the specification sends one, and people at curl do.
_NAME = rf"(?:[a-zA-Z0-9.-]+:[0-9]{{1,5}}/)?{_COMPONENT}(?:/{_COMPONENT})*"
_PATH = re.compile(
    rf"/v2/(?P<name>{_NAME})/(?:(?P<kind>manifests|blobs|referrers)/(?P<ref>[^/]+)|(?P<tags>tags/list))"
)
_NAMED = re.compile(r"/v2/.+/(?:manifests|blobs|referrers)/[^/]+|/v2/.+/tags/list")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_COUNT = re.compile(r"[0-9]{1,9}")


class Wanted(NamedTuple):
    """
    What a path asks for: ``base``, ``catalog``, ``tags``, ``manifests``, ``blobs`` or ``referrers``, and of what.
    """

    kind: str
    name: str = ""
    ref: str = ""


_BARE: Final = {"/v2/": Wanted("base"), "/v2": Wanted("base"), "/v2/_catalog": Wanted("catalog")}


def read_path(asked: Asked) -> Wanted | Reply:
    """
    What is asked for, or the error to answer.
    """
    if asked.method not in {"GET", "HEAD"}:
        return error_reply(
            HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry only reads", {"Allow": "GET, HEAD"}
        )
    path = unquote(asked.path, errors="replace")
    known = _BARE.get(path)
    return _read_name(path) if known is None else known


def _read_name(path: str) -> Wanted | Reply:
    found = _PATH.fullmatch(path)
    if found is None or len(found["name"]) > _MAX_NAME:
        if _NAMED.fullmatch(path):
            return error_reply(HTTPStatus.BAD_REQUEST, "NAME_INVALID", "invalid repository name")
        return error_reply(HTTPStatus.NOT_FOUND, "NAME_INVALID", "no such path")
    kind, ref = found["kind"] or "tags", found["ref"] or ""
    if kind == "manifests" and ":" not in ref and not _TAG.fullmatch(ref):
        return error_reply(HTTPStatus.BAD_REQUEST, "TAG_INVALID", "invalid tag")
    return Wanted(kind, found["name"], ref)


def manifest_reply(
    asked: Asked,
    raw: bytes,
    *,
    size: int,
    media_type: str,
    digest: Digest,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """
    A manifest or an index; *raw* may be empty where only the head is asked for.
    """
    stated = {
        "Content-Type": media_type,
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        **(headers or {}),
    }
    if _is_known(asked, stated["ETag"]):
        return Reply(HTTPStatus.NOT_MODIFIED, stated)
    return Reply(HTTPStatus.OK, stated, raw, 0, size)


def blob_reply(
    asked: Asked,
    body: bytes | Path | BinaryIO,
    *,
    size: int,
    digest: Digest,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """
    A blob, or the one range of it that is asked for (RFC 9110 §14); several ranges are answered with all of it.
    """
    stated = {
        "Content-Type": _OCTETS,
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        **(headers or {}),
    }
    if _is_known(asked, stated["ETag"]):
        return Reply(HTTPStatus.NOT_MODIFIED, stated, body)
    stated_range = _RANGE.fullmatch(asked.headers.get("range", "").replace(" ", ""))
    first, last = stated_range.groups() if stated_range else ("", "")
    if not (first or last) or asked.headers.get("if-range", stated["ETag"]) != stated["ETag"]:
        return Reply(HTTPStatus.OK, stated, body, 0, size)
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if first and last and int(last) < int(first):
        # No range at all (§14.1.1); most servers call it one that cannot be satisfied, and so do we.
        start = size
    if start >= size:
        unsatisfiable = {**stated, "Content-Range": f"bytes */{size}"}
        return Reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, unsatisfiable, body, 0, 0)
    stated["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Reply(HTTPStatus.PARTIAL_CONTENT, stated, body, start, end - start + 1)


def listing_reply(
    asked: Asked, key: str, entries: Iterable[str], extra: Mapping[str, str] | None = None
) -> Reply:
    """
    ``tags/list`` or ``_catalog``: sorted without regard to case, from ``last`` on, ``n`` of them.
    """
    count, last = asked.first("n"), asked.first("last")
    if invalid := invalid_count(asked):
        return invalid
    rest = [each for each in sorted(entries, key=_order) if not last or _order(each) > _order(last)]
    page: Sequence[str] = rest[: min(int(count), _MAX_PAGE)] if count else rest
    more = bool(page) and len(page) < len(rest)
    onward = {"n": count, "last": page[-1]} | _stated(asked, but={"n", "last"}) if more else None
    return page_reply(asked, key, page, onward, extra)


def invalid_count(asked: Asked) -> Reply | None:
    """
    The error to answer where ``n`` is no number.
    """
    count = asked.first("n")
    if not count or _COUNT.fullmatch(count):
        return None
    return error_reply(HTTPStatus.BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n is a number")


def page_reply(
    asked: Asked,
    key: str,
    page: Sequence[str],
    onward: Mapping[str, str] | None,
    extra: Mapping[str, str] | None = None,
) -> Reply:
    """
    A page of a listing, and with *onward* what to ask for the next one.
    """
    headers = {} if onward is None else {"Link": _next(asked, onward)}
    return json_reply({**(extra or {}), key: page}, headers)


def referrers_reply(asked: Asked, descriptors: Iterable[dict[str, object]]) -> Reply:
    """
    The manifests that refer to one, as an index; with ``artifactType`` in the query, those of that type.

    More of them than a manifest may be long come page by page.
    """
    wanted, last = asked.first("artifactType"), asked.first("last")
    chosen = [each for each in descriptors if not wanted or each.get("artifactType") == wanted]
    digests = [str(each["digest"]) for each in chosen]
    start = digests.index(last) + 1 if last in digests else 0
    end, room = start, _MAX_REFERRERS_BYTES
    while end < len(chosen) and (room := room - len(json.dumps(chosen[end])) - 2) >= 0:
        end += 1
    end = max(end, min(start + 1, len(chosen)))
    headers = {"Content-Type": OCI_INDEX}
    if wanted:
        headers["OCI-Filters-Applied"] = "artifactType"
    if end < len(chosen):
        headers["Link"] = _next(asked, {"last": digests[end - 1]} | _stated(asked, but={"last"}))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": chosen[start:end]}
    return json_reply(index, headers)


def _next(asked: Asked, query: Mapping[str, str]) -> str:
    return f'<{asked.path}?{urlencode(query)}>; rel="next"'


def _stated(asked: Asked, *, but: set[str]) -> dict[str, str]:
    return {name: values[0] for name, values in asked.query.items() if name not in but}


def _order(text: str) -> tuple[str, str]:
    return text.lower(), text


def _is_known(asked: Asked, etag: str) -> bool:
    stated = asked.headers.get("if-none-match", "")
    return stated.strip() == "*" or etag in {each.strip().removeprefix("W/") for each in stated.split(",")}
