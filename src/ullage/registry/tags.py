"""
The tags of a repo, by its registry's word: one page of them (distribution specification 1.1, "Listing Tags").
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode

from ullage.document import MAX_DOCUMENT_BYTES, read_object, strings_in
from ullage.errors import ContentError, InvalidManifest, ManifestUnknown
from ullage.registry.answers import MAX_ERROR_BYTES
from ullage.registry.endpoint import shown
from ullage.registry.referrers import onward_query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ullage.registry.patience import Patience
    from ullage.registry.peer import Peer
    from ullage.registry.request import Group

__all__ = ["TagPage", "list_tags"]

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
#: What leads to the next page is one of our own answers' headers, in the end.
_MAX_QUERY: Final = 2048


class TagPage(NamedTuple):
    """
    Tags, in the registry's order, and what to ask it for those that come after; None at the end.
    """

    tags: tuple[str, ...]
    onward: Mapping[str, str] | None


def list_tags(
    peer: Peer, query: Mapping[str, str], *, doing: str, group: Group, patience: Patience
) -> TagPage:
    """
    One page of what *peer* lists: *query* is the specification's ``n`` and ``last``, or the ``onward`` of a page.

    Raises:
        ManifestUnknown: it has no such repo, or no such list.
        ContentError: the list is broken, or too long.
    """
    path = f"tags/list?{urlencode(query)}" if query else "tags/list"
    answer = peer.send("GET", path, doing, {"Accept": "application/json"}, group=group, patience=patience)
    if answer.status != HTTPStatus.OK:
        body = answer.read_all(MAX_ERROR_BYTES)
        if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            raise ManifestUnknown(
                f"{doing}: the registry lists none",
                reference=doing,
                url=shown(answer.url),
                status=answer.status,
                registry_errors=peer.errors(answer, body),
            )
        raise peer.refusal(answer, body)
    raw = answer.read_all(MAX_DOCUMENT_BYTES)
    if raw is None:
        raise InvalidManifest(f"{doing}: a list longer than {MAX_DOCUMENT_BYTES} bytes")
    tags = strings_in(read_object(raw), "tags")
    if not all(_TAG.fullmatch(each) for each in tags):
        raise ContentError(f"{doing}: something in it is no tag")
    onward = onward_query(answer)
    if onward is not None and len(onward) > _MAX_QUERY:
        raise ContentError(f"{doing}: what leads to the next page is longer than {_MAX_QUERY} characters")
    return TagPage(tags, dict(parse_qsl(onward)) if onward else None)
