"""
What refers to a manifest, by a registry's word: its referrers API (distribution specification 1.1), page by page.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from ullage.errors import ContentError, InvalidManifest, ManifestUnknown
from ullage.manifest import MAX_DOCUMENT_BYTES, OCI_INDEX, Index, parse_document
from ullage.registry.answers import MAX_ERROR_BYTES
from ullage.registry.endpoint import shown
from ullage.registry.fetched import media_type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ullage.digest import Digest
    from ullage.manifest import Descriptor
    from ullage.registry.patience import Patience
    from ullage.registry.peer import Peer
    from ullage.registry.request import Group
    from ullage.registry.transport import Answer

__all__ = ["MAX_REFERRERS", "bounded", "list_referrers", "of_type", "onward_query", "tag_of"]

#: Of one manifest: who has more is not listed.
MAX_REFERRERS: Final = 1000
_MAX_PAGES: Final = 100
_NEXT = re.compile(r"<([^<>]*)>\s*;[^,]*\brel=\"?next\b")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")


def list_referrers(
    peer: Peer, digest: Digest, artifact_type: str, *, doing: str, group: Group, patience: Patience
) -> tuple[Descriptor, ...]:
    """
    What *peer* lists under *digest*, of *artifact_type* alone where that is not ''.

    Raises:
        ManifestUnknown: it has no such API.
        ContentError: the list is broken, or has no end.
    """
    path = f"referrers/{digest}"
    query = urlencode({"artifactType": artifact_type}) if artifact_type else ""
    found: list[Descriptor] = []
    for _ in range(_MAX_PAGES):
        answer = peer.send(
            "GET",
            f"{path}?{query}" if query else path,
            doing,
            {"Accept": OCI_INDEX},
            group=group,
            patience=patience,
        )
        page = _page(peer, answer, doing)
        applied = [each.strip() for each in answer.header("OCI-Filters-Applied").split(",")]
        found += page if "artifactType" in applied else of_type(page, artifact_type)
        bounded(found, doing)
        onward = onward_query(answer)
        if onward is None:
            return bounded(found, doing)
        query = onward
    raise ContentError(f"{doing}: a list of more than {_MAX_PAGES} pages")


def onward_query(answer: Answer) -> str | None:
    """
    What to ask for the next page, by the ``Link`` of a page; None at the end.

    Only what stands after the question mark is the registry's to say: where to ask is known.
    """
    onward = _NEXT.search(answer.header("Link"))
    return None if onward is None else urlsplit(onward[1]).query


def of_type(found: Iterable[Descriptor], artifact_type: str) -> list[Descriptor]:
    """
    Those of *artifact_type*; all of them where that is ''.
    """
    return [each for each in found if artifact_type in {"", each.artifact_type}]


def bounded(found: Iterable[Descriptor], doing: str) -> tuple[Descriptor, ...]:
    """
    Each once.

    Raises:
        ContentError: there are too many.
    """
    distinct = {each.digest: each for each in found}
    if len(distinct) > MAX_REFERRERS:
        raise ContentError(f"{doing}: more than {MAX_REFERRERS}")
    return tuple(distinct.values())


def tag_of(digest: Digest) -> str:
    """
    The tag under which such a list stands at a registry without the API (the specification's referrers tag schema).
    """
    return f"{_UNFIT.sub('-', digest.algorithm[:32])}-{_UNFIT.sub('-', digest.encoded[:64])}"


def _page(peer: Peer, answer: Answer, doing: str) -> tuple[Descriptor, ...]:
    if answer.status == HTTPStatus.OK and media_type(answer) == OCI_INDEX:
        raw = answer.read_all(MAX_DOCUMENT_BYTES)
        if raw is None:
            raise InvalidManifest(f"{doing}: a list longer than {MAX_DOCUMENT_BYTES} bytes")
        document = parse_document(raw, media_type=OCI_INDEX)
        assert isinstance(document, Index), "the media type says so"
        return document.manifests
    body = answer.read_all(MAX_ERROR_BYTES)
    if answer.status in {HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        # What answers with something else, such as a page for people, does not know the API either.
        raise ManifestUnknown(
            f"{doing}: the registry lists none",
            reference=doing,
            url=shown(answer.url),
            status=answer.status,
            registry_errors=peer.errors(answer, body),
        )
    raise peer.refusal(answer, body)
