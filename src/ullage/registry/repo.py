"""
Manifests and blobs of one repo, from the first host that has them.
"""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from ullage.digest import Digest, digest_of
from ullage.errors import (
    ContentError,
    DigestMismatch,
    ImageError,
    InvalidManifest,
    ManifestUnknown,
    PullCancelled,
    RegistryUnavailable,
    SizeMismatch,
)
from ullage.manifest import ACCEPT, MAX_DOCUMENT_BYTES
from ullage.registry.answers import MAX_ERROR_BYTES, TRANSIENT, said
from ullage.registry.elsewhere import Elsewhere, elsewhere
from ullage.registry.endpoint import shown
from ullage.registry.fetched import FetchedHead, FetchedManifest, digest_header, is_rest, media_type
from ullage.registry.peer import Peer
from ullage.registry.request import Group
from ullage.registry.stream import BlobStream, Opened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ullage.registry.patience import Patience
    from ullage.registry.transport import Answer

__all__ = ["FetchedHead", "FetchedManifest", "RegistryRepo"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: What else there is (schema 1, documents of other kinds) shall come too, so that it can be refused by name.
_ACCEPT: Final = ", ".join((*ACCEPT, "*/*"))


class RegistryRepo:
    """
    One repo during one pull. Thread-safe.

    Mirrors are asked first, in their order, each for what it may be asked for,
    and the registry itself last. A mirror that fails, has not what it is asked
    for, or wants credentials that we do not have is passed over, and what
    followed it is asked from then on. Only the last host is asked again: while
    there is another one, waiting is a waste.
    """

    def __init__(self, peers: tuple[Peer, ...], *, name: str, patience: Patience) -> None:
        self._peers = peers
        self._name = name
        self._patience = patience
        self._group = Group()
        self._lock = threading.Lock()
        self._first: dict[str, int] = {}
        self._down: set[Peer | Elsewhere] = set()
        self._served: dict[Digest, Peer | Elsewhere] = {}

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """
        Which host, ``name[:port]``, sent the bytes of each digest; the last one, where several did.
        """
        with self._lock:
            return {digest: peer.name for digest, peer in self._served.items()}

    def distrust(self, digest: Digest) -> bool:
        """
        What was served under *digest* had another: do not ask that host again.

        Returns:
            Whether there is another one to ask; False where it was the registry itself.
        """
        with self._lock:
            peer = self._served.get(digest)
            if peer is None or peer is self._peers[-1] or peer in self._down:
                return False
            self._down.add(peer)
        _log.warning("the mirror %s served wrong bytes for %s", peer.name, digest)
        return True

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

            opened = self._anywhere(digest, urls, ask, before)
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
            return BlobStream(opened, reopen, size=size, group=group, patience=self._patience)
        except BaseException:
            group.leave()
            raise

    def abort(self) -> None:
        """
        End every request of this repo, from any thread.

        What waits raises PullCancelled at once, and so does whatever is asked next.
        """
        self._group.abort()

    # ------------------------------------------------------------------ whom to ask

    def _ask(self, kind: str, ask: Callable[[Peer, Patience], _T], *, doing: str) -> _T:
        """
        What the first peer answers that has an answer; what the last one raises, if none has.
        """
        passed: list[tuple[Peer, ImageError]] = []
        peers = self._order(kind)
        if not peers:
            raise RegistryUnavailable(
                f"{doing}: hosts.toml names no host with the capability to {'pull' if kind != 'resolve' else kind}",
                hint="add it to the capabilities of a host, or of the server",
            )
        for peer in peers[:-1]:
            try:
                answer = ask(peer, self._patience.none)
            except PullCancelled:
                raise
            except ImageError as error:
                self._group.check()
                _log.info("the mirror %s is passed over: %s", peer.name, error)
                passed.append((peer, error))
                if isinstance(error, RegistryUnavailable) and error.status is None:
                    self._down.add(peer)
            else:
                self._start_with(kind, peer)
                return answer
        try:
            answer = ask(peers[-1], self._patience)
        except ImageError as error:
            if passed:
                tell = "; ".join(f"{peer.name} failed: {failure.message}" for peer, failure in passed)
                error.message = f"{error.message} (before it, {tell})"
                error.args = (error.message,)
            raise
        self._start_with(kind, peers[-1])
        return answer

    def _anywhere(
        self,
        digest: Digest,
        urls: Sequence[str],
        ask: Callable[[Peer | Elsewhere, Patience], Opened],
        before: Opened | None,
    ) -> Opened:
        """
        A blob from the registry or a mirror, or from where its manifest says that it is, when they do not have it.
        """
        absent = ""
        if before is None or not isinstance(before.peer, Elsewhere):
            try:
                return self._ask("blobs", ask, doing=self._doing_blob(digest))
            except ContentError as error:
                # Its subclasses say that something is wrong with it; this one, that it is not there.
                if not urls or type(error) is not ContentError:
                    raise
                absent = f"{error.message}; "
        others, failures = elsewhere(urls, self._peers[-1])
        able = [each for each in others if each not in self._down] or others[-1:]
        for each in able:
            try:
                return ask(each, self._patience if each is able[-1] else self._patience.none)
            except PullCancelled:
                raise
            except ImageError as error:
                self._group.check()
                failures.append(error.message)
                if each is able[-1] and type(error) is not ContentError:
                    raise
        raise ContentError(
            f"{absent}where else it should be, it cannot be had: {'; '.join(failures)}",
            hint="the image names a layer that its registry does not distribute; ask who built it",
        )

    def _order(self, kind: str) -> list[Peer]:
        with self._lock:
            able = [
                peer
                for peer in self._peers[self._first.get(kind, 0) :]
                if (peer.host.resolves if kind == "resolve" else peer.host.pulls)
            ]
            # One that did not answer is not asked for each layer anew; but the last resort is.
            return [peer for peer in able if peer not in self._down] or able[-1:]

    def _start_with(self, kind: str, peer: Peer) -> None:
        with self._lock:
            self._first[kind] = max(self._first.get(kind, 0), self._peers.index(peer))

    def _pass_over(self, kind: str, peer: Peer) -> None:
        with self._lock:
            self._first[kind] = max(self._first.get(kind, 0), self._peers.index(peer) + 1)

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
