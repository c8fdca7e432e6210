"""
One repo that is written to: what it has, blobs on their way into it, manifests.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from ullage.errors import PushFailed, RegistryUnavailable
from ullage.manifest import MAX_DOCUMENT_BYTES
from ullage.registry.answers import MAX_ERROR_BYTES, TRANSIENT
from ullage.registry.endpoint import shown
from ullage.registry.fetched import FetchedManifest, digest_header, media_type
from ullage.registry.request import Group, Stream
from ullage.registry.upload import Upload, write_refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ullage.digest import Digest
    from ullage.errors import ImageError
    from ullage.registry.patience import Patience
    from ullage.registry.peer import Peer
    from ullage.registry.transport import Answer

__all__ = ["RegistryTarget"]

_ABSENT: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_DONE: Final = frozenset({HTTPStatus.CREATED, HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT})


class RegistryTarget:
    """
    One repo during one push. Thread-safe.

    What may be sent again is, as patiently as a pull asks again: looks, the beginning of an upload, a manifest. What an
    upload carries is not; where it broke off, the registry is asked how far it got.
    """

    def __init__(self, peer: Peer, *, path: str, name: str, patience: Patience) -> None:
        self._peer = peer
        self._path = path
        self._name = name
        self._group = Group()
        self.patience = patience

    @property
    def path(self) -> str:
        """
        What the repo is called at its registry.
        """
        return self._path

    def abort(self) -> None:
        """
        End every request, from any thread; what is asked next raises PullCancelled.
        """
        self._group.abort()

    def check(self) -> None:
        """
        Raises:
            PullCancelled: it was aborted.
        """
        self._group.check()

    def pause(self, seconds: float) -> None:
        """
        Wait, but not after an abort.
        """
        self._group.pause(seconds)

    # ------------------------------------------------------------------ looks

    def has_blob(self, digest: Digest) -> bool:
        """
        Whether the repo has a blob.

        Raises:
            AuthenticationFailed, RegistryUnavailable: the registry's answer.
        """
        return self._has(f"blobs/{digest}", self._doing_blob("looking for", digest), {})

    def denotes(self, ref: str, kind: str) -> Digest | None:
        """
        What a tag or a digest denotes there, of media type *kind*; None when it is nothing, or nobody says.
        """
        answer = self._look(f"manifests/{ref}", self._doing(f"looking for {ref}"), {"Accept": f"{kind}, */*"})
        return digest_header(answer) if answer.status == HTTPStatus.OK else None

    def get_manifest(self, ref: str, kind: str) -> FetchedManifest | None:
        """
        A manifest that is there; None when it is not.
        """
        answer = self._send("GET", f"manifests/{ref}", self._doing(f"fetching {ref}"), {"Accept": kind})
        if answer.status in _ABSENT:
            answer.finish()
            return None
        if answer.status != HTTPStatus.OK:
            raise self._refusal(answer)
        raw = answer.read_all(MAX_DOCUMENT_BYTES)
        if raw is None:
            raise PushFailed(f"{answer.request.doing}: it is longer than {MAX_DOCUMENT_BYTES} bytes")
        return FetchedManifest(raw, media_type(answer), digest_header(answer))

    def _has(self, path: str, doing: str, headers: Mapping[str, str]) -> bool:
        return self._look(path, doing, headers).status == HTTPStatus.OK

    def _look(self, path: str, doing: str, headers: Mapping[str, str]) -> Answer:
        answer = self._send("HEAD", path, doing, headers)
        answer.finish()
        if answer.status in TRANSIENT or answer.status == HTTPStatus.FORBIDDEN:
            raise self._peer.refusal(answer, b"")
        # Whatever else it says, it does not say that the thing is there: then it is sent, and what is wrong comes out.
        return answer

    # ------------------------------------------------------------------ blobs

    def mount(self, digest: Digest, source: str) -> Upload | None:
        """
        Let the registry take a blob from its repo *source*. None when it did, else an upload that has begun instead.

        Raises:
            PushFailed: it lets us do neither.
        """
        query = urlencode({"mount": digest, "from": source})
        return self._begin(f"blobs/uploads/?{query}", self._doing_blob("mounting", digest))

    def begin(self, digest: Digest) -> Upload:
        """
        An upload of a blob.

        Raises:
            PushFailed: the registry does not let us.
        """
        upload = self._begin("blobs/uploads/", self._doing_blob("uploading", digest))
        if upload is None:
            raise PushFailed(
                f"{self._doing_blob('uploading', digest)}: the registry answered 201 before it got a byte",
                hint="is it a registry that answers there?",
            )
        return upload

    def _begin(self, path: str, doing: str) -> Upload | None:
        answer = self._send("POST", path, doing, {})
        if answer.status == HTTPStatus.CREATED:
            answer.finish()
            return None
        if answer.status != HTTPStatus.ACCEPTED:
            raise self._refusal(answer)
        answer.finish()
        return Upload(self._peer, self._group, answer, doing=doing)

    # ------------------------------------------------------------------ manifests

    def put_manifest(self, ref: str, raw: bytes, kind: str, digest: Digest) -> bool:
        """
        Put a manifest or an index under a tag or its digest.

        Returns:
            Whether the registry lists it among the referrers of its subject.

        Raises:
            PushFailed: the registry refuses it, or calls it something else.
        """
        doing = self._doing(f"putting {ref}")
        retries = self.patience.retries()
        while True:
            try:
                answer = self._peer.send(
                    "PUT",
                    f"manifests/{ref}",
                    doing,
                    {"Content-Type": kind},
                    group=self._group,
                    patience=self.patience.none,
                    body=Stream.of(raw),
                )
                if answer.status in TRANSIENT:
                    raise self._refusal(answer)
                break
            except RegistryUnavailable as error:
                # The same bytes under the same name: to put them twice is to put them once.
                self.wait(retries.wait_seconds(error.retry_after_seconds), error)
        if answer.status not in _DONE:
            raise self._refusal(answer)
        answer.finish()
        taken = digest_header(answer)
        if taken is not None and taken != digest:
            raise PushFailed(
                f"{doing}: the registry calls it {taken}, and it is {digest}",
                url=shown(answer.url),
                status=answer.status,
            )
        return bool(answer.header("OCI-Subject"))

    def wait(self, seconds: float | None, error: RegistryUnavailable) -> None:
        """
        Wait *seconds* for another attempt after *error*.

        Raises:
            RegistryUnavailable: *error*, where waiting is of no use or there is no other attempt.
        """
        from ullage.registry.faults import may_pass  # noqa: PLC0415  loaded by now: there was a request

        if seconds is None or not may_pass(error, in_body=True):
            raise error
        self._group.pause(seconds)

    # ------------------------------------------------------------------ the rest

    def _send(self, method: str, path: str, doing: str, headers: Mapping[str, str]) -> Answer:
        return self._peer.send(method, path, doing, headers, group=self._group, patience=self.patience)

    def _refusal(self, answer: Answer) -> ImageError:
        body = answer.read_all(MAX_ERROR_BYTES)
        return write_refusal(self._peer, answer, body)

    def _doing(self, what: str) -> str:
        return f"pushing to {self._name}: {what}"

    def _doing_blob(self, verb: str, digest: Digest) -> str:
        return f"pushing to {self._name}: {verb} blob {digest.algorithm}:{digest.short}"
