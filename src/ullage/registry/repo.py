"""
Manifests and blobs of one repo, from the first host that has them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ullage.digest import Digest, digest_of
from ullage.errors import (
    ContentError,
    DigestMismatch,
    ImageError,
    InvalidManifest,
    ManifestUnknown,
    SizeMismatch,
)
from ullage.manifest import ACCEPT, MAX_DOCUMENT_BYTES, Index, parse_document
from ullage.registry.answers import MAX_ERROR_BYTES, TRANSIENT, said
from ullage.registry.elsewhere import Elsewhere
from ullage.registry.endpoint import shown
from ullage.registry.fetched import FetchedHead, FetchedManifest, digest_header, is_rest, media_type
from ullage.registry.peer import Peer
from ullage.registry.referrers import bounded, list_referrers, of_type, tag_of
from ullage.registry.stream import BlobStream, Opened
from ullage.registry.succession import Succession
from ullage.registry.tags import TagPage, list_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ullage.manifest import Descriptor
    from ullage.registry.patience import Patience
    from ullage.registry.request import Group
    from ullage.registry.transport import Answer

__all__ = ["FetchedHead", "FetchedManifest", "RegistryRepo"]

#: What else there is (schema 1, documents of other kinds) shall come too, so that it can be refused by name.
_ACCEPT: Final = ", ".join((*ACCEPT, "*/*"))


class RegistryRepo(Succession):
    """
    One repo during one pull. Thread-safe.
    """

    def head_manifest(self, ref: str) -> FetchedHead | None:
        """
        What *ref*, a tag or a digest, denotes there, without fetching it.

        None when the registry does not say so to a HEAD (405, no digest in the
        answer, …): fetch the manifest then.

        Raises:
            ManifestUnknown: the registry has no such manifest.
            AuthenticationFailed: credentials are missing or refused.
            RegistryUnavailable: no answer.
        """
        return self._ask(
            _kind(ref), lambda peer, patience: self._head(peer, ref, patience), doing=self._doing(ref)
        )

    def get_manifest(self, ref: str) -> FetchedManifest:
        """
        The manifest or index that *ref*, a tag or a digest, denotes.

        Raises:
            ManifestUnknown: the registry has no such manifest.
            InvalidManifest: it is longer than any manifest may be.
            AuthenticationFailed: credentials are missing or refused.
            RegistryUnavailable: no answer, or a broken one.
        """
        return self._ask(
            _kind(ref), lambda peer, patience: self._get(peer, ref, patience), doing=self._doing(ref)
        )

    def referrers(self, digest: Digest, *, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """
        What the registry lists as referring to the manifest *digest*, of *artifact_type* alone where that is not ''.

        A registry without the API for it is asked for the tag under which such a list stands there.

        Raises:
            ContentError: the list is broken, or longer than any may be.
            AuthenticationFailed: credentials are missing or refused.
            RegistryUnavailable: no answer.
        """
        doing = f"listing what refers to {self._name}@{digest}"

        def ask(peer: Peer, patience: Patience) -> tuple[Descriptor, ...]:
            return list_referrers(
                peer, digest, artifact_type, doing=doing, group=self._group, patience=patience
            )

        try:
            return self._ask("referrers", ask, doing=doing)
        except ManifestUnknown:
            pass
        try:
            fetched = self.get_manifest(tag_of(digest))
        except ManifestUnknown:
            return ()
        index = parse_document(fetched.raw, media_type=fetched.media_type)
        if not isinstance(index, Index):
            raise InvalidManifest(f"{doing}: the tag {tag_of(digest)} is no index")
        return bounded(of_type(index.manifests, artifact_type), doing)

    def tags(self, query: Mapping[str, str] | None = None) -> TagPage:
        """
        A page of the repo's tags: the first, or by *query* a later one (``n`` and ``last`` of the specification).

        Raises:
            ManifestUnknown: there is no such repo, or the registry lists no tags.
            ContentError: the list is broken, or longer than any may be.
            AuthenticationFailed: credentials are missing or refused.
            RegistryUnavailable: no answer.
        """
        doing = f"listing the tags of {self._name}"

        def ask(peer: Peer, patience: Patience) -> TagPage:
            return list_tags(peer, query or {}, doing=doing, group=self._group, patience=patience)

        return self._ask("tags", ask, doing=doing)

    def open_blob(
        self, digest: Digest, *, size: int, offset: int = 0, urls: Sequence[str] = ()
    ) -> BlobStream:
        """
        The bytes of a blob of *size* bytes, from *offset* on where the registry can, else from 0.

        Args:
            urls: where else its manifest says that it is. They are asked when the registry does not have it.

        Raises:
            ContentError: the registry does not have the blob, and neither has any of *urls*.
            SizeMismatch: it says that the blob is of another size.
            AuthenticationFailed: credentials are missing or refused.
            RegistryUnavailable: no answer.
        """
        assert 0 <= offset <= size, "a blob ends at its size"
        group = self._group.child()

        def open_at(start: int, before: Opened | None = None) -> Opened:
            def ask(peer: Peer | Elsewhere, patience: Patience) -> Opened:
                # A validator is of the host that gave it.
                etag = before.etag if before is not None and before.peer is peer else ""
                # The stream counts the attempts from here on.
                patience = patience if before is None else patience.none
                return self._open(peer, digest, size, start, etag, group, patience)

            opened = self._anywhere(urls, ask, before, doing=self._doing_blob(digest))
            with self._lock:
                self._served[digest] = opened.peer
            return opened

        def reopen(before: Opened, position: int) -> Opened:
            if before.peer is not self._peers[-1] and position == before.offset:
                # Nothing came of it at all, and there is another host.
                if isinstance(before.peer, Elsewhere):
                    self._down.add(before.peer)
                else:
                    self._pass_over("blobs", before.peer)
            return open_at(position, before)

        try:
            opened = open_at(offset)
            return BlobStream(
                opened, reopen, size=size, group=group, patience=self._patience, count=self._count
            )
        except BaseException:
            group.leave()
            raise

    # ------------------------------------------------------------------ what to ask

    def _head(self, peer: Peer, ref: str, patience: Patience) -> FetchedHead | None:
        answer = self._send_manifest(peer, "HEAD", ref, patience)
        answer.finish()
        digest = digest_header(answer)
        if answer.status == HTTPStatus.OK:
            return None if digest is None else FetchedHead(media_type(answer), digest, answer.length)
        if answer.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
            # An answer to HEAD has no body: ask again for the registry's own words. Should the GET succeed,
            # this registry knows no HEAD, and the caller asks as if it had said so.
            self._get(peer, ref, patience)
            return None
        if answer.status in TRANSIENT:
            raise peer.refusal(answer, b"")
        return None

    def _get(self, peer: Peer, ref: str, patience: Patience) -> FetchedManifest:
        answer = self._send_manifest(peer, "GET", ref, patience)
        if answer.status == HTTPStatus.OK:
            return self._manifest(peer, ref, answer)
        body = answer.read_all(MAX_ERROR_BYTES)
        if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            errors = peer.errors(answer, body)
            raise ManifestUnknown(
                f"the registry has no {self._full(ref)}{said(errors)}",
                reference=self._full(ref),
                url=shown(answer.url),
                status=answer.status,
                registry_errors=errors,
            )
        raise peer.refusal(answer, body)

    def _manifest(self, peer: Peer, ref: str, answer: Answer) -> FetchedManifest:
        raw = answer.read_all(MAX_DOCUMENT_BYTES)
        if raw is None:
            raise InvalidManifest(
                f"the manifest of {self._full(ref)} is longer than {MAX_DOCUMENT_BYTES} bytes"
            )
        self._count(peer.name, len(raw))
        stated = digest_header(answer)
        served = stated if stated is not None else digest_of(raw)
        if _kind(ref) == "manifests":
            served = Digest(ref)
        # The caller verifies. But what a mirror has wrong, another host may have right.
        if peer is not self._peers[-1] and (actual := digest_of(raw, served.algorithm)) != served:
            raise DigestMismatch(
                f"digest mismatch: expected {served}, got {actual}", expected=served, actual=actual
            )
        with self._lock:
            self._served[served] = peer
        return FetchedManifest(raw, media_type(answer), stated)

    def _send_manifest(self, peer: Peer, method: str, ref: str, patience: Patience) -> Answer:
        return peer.send(
            method,
            f"manifests/{ref}",
            self._doing(ref),
            {"Accept": _ACCEPT},
            group=self._group,
            patience=patience,
        )

    def _open(
        self,
        peer: Peer | Elsewhere,
        digest: Digest,
        size: int,
        offset: int,
        etag: str,
        group: Group,
        patience: Patience,
    ) -> Opened:
        def send(headers: dict[str, str]) -> Answer:
            return peer.send(
                "GET", f"blobs/{digest}", self._doing_blob(digest), headers, group=group, patience=patience
            )

        if offset:
            answer = send({"Range": f"bytes={offset}-", **({"If-Range": etag} if etag else {})})
            if answer.status == HTTPStatus.PARTIAL_CONTENT and is_rest(answer, offset=offset, size=size):
                return _opened(answer, peer, digest, offset=offset, size=size)
            if answer.status == HTTPStatus.OK:
                return _opened(answer, peer, digest, offset=0, size=size)
            if answer.status not in {HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}:
                raise self._blob_refusal(peer, answer, digest)
            # Another range than the one asked for, or none: start over.
            answer.close()
        answer = send({})
        if answer.status != HTTPStatus.OK:
            raise self._blob_refusal(peer, answer, digest)
        return _opened(answer, peer, digest, offset=0, size=size)

    def _blob_refusal(self, peer: Peer | Elsewhere, answer: Answer, digest: Digest) -> ImageError:
        body = answer.read_all(MAX_ERROR_BYTES)
        if isinstance(peer, Peer) and answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            return ContentError(
                f"the manifest of {self._name} names a blob that the registry does not have: "
                f"{digest}{said(peer.errors(answer, body))}",
                hint="the image there is incomplete: push it again, or ask the registry's owner",
            )
        return peer.refusal(answer, body)

    def _full(self, ref: str) -> str:
        return f"{self._name}{'@' if ':' in ref else ':'}{ref}"

    def _doing(self, ref: str) -> str:
        return f"fetching the manifest of {self._full(ref)}"

    def _doing_blob(self, digest: Digest) -> str:
        return f"fetching blob {digest.algorithm}:{digest.short} of {self._name}"


def _kind(ref: str) -> str:
    """
    A tag is resolved, which is a matter of trust; content by its digest may come from anywhere.
    """
    return "manifests" if ":" in ref else "resolve"


def _opened(answer: Answer, peer: Peer | Elsewhere, digest: Digest, *, offset: int, size: int) -> Opened:
    if answer.length is not None and answer.length != size - offset:
        answer.close()
        raise SizeMismatch(
            f"size mismatch of blob {digest}: expected {size} bytes, "
            f"and the registry would send {offset + answer.length}",
            expected_bytes=size,
            actual_bytes=offset + answer.length,
        )
    return Opened(answer, offset, peer)
