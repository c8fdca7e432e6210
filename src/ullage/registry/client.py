"""
Manifests and blobs from any registry of the OCI distribution specification 1.1.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ullage.digest import Digest
from ullage.errors import (
    ContentError,
    InvalidManifest,
    InvalidReference,
    ManifestUnknown,
    PullCancelled,
    SizeMismatch,
)
from ullage.manifest import ACCEPT, MAX_DOCUMENT_BYTES
from ullage.registry.answers import (
    MAX_ERROR_BYTES,
    TRANSIENT,
    refusal,
    registry_errors,
    retry_after_seconds,
    said,
)
from ullage.registry.auth import Authorizer, Refusal, credentials_for
from ullage.registry.endpoint import Origin, base_url, shown
from ullage.registry.request import Group, Request
from ullage.registry.stream import BlobStream

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from ullage.errors import ImageError
    from ullage.model import AuthConfig
    from ullage.reference import Reference
    from ullage.registry.transport import Answer, Transport

__all__ = ["FetchedHead", "FetchedManifest", "RegistryClient", "RegistryRepo"]

_USER_AGENT: Final = "ullage"
#: What else there is (schema 1, documents of other kinds) shall come too, so that it can be refused by name.
_ACCEPT: Final = ", ".join((*ACCEPT, "*/*"))
#: Repos whose tokens are remembered between pulls.
_MAX_AUTHORIZERS: Final = 64

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


class RegistryClient:
    """
    The connections and tokens of one store. Thread-safe.

    Args:
        plain_http: speak HTTP to registries, as they do in laboratories. Nothing falls back to it by itself.
        connect_timeout_seconds: for a connection and for its TLS handshake.
        read_timeout_seconds: how long a registry may be silent, and how long it may be slow.
        user_agent: who we say we are.
    """

    def __init__(
        self,
        *,
        plain_http: bool = False,
        connect_timeout_seconds: float = 10.0,
        read_timeout_seconds: float = 30.0,
        user_agent: str | None = None,
    ) -> None:
        self._plain_http = plain_http
        self._connect_timeout_seconds = connect_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._user_agent = user_agent or _USER_AGENT
        self._lock = threading.Lock()
        self._closed = False
        self._transport: Transport | None = None
        self._authorizers: OrderedDict[tuple[str, str, AuthConfig | None], Authorizer] = OrderedDict()

    def repo(self, reference: Reference, *, auth: AuthConfig | None = None) -> RegistryRepo:
        """
        The repo that *reference* names, to be asked as *auth*. Sends nothing yet.

        Raises:
            AuthenticationFailed: *auth* is malformed.
            InvalidReference: its domain is no address, such as one with port 99999.
        """
        base = base_url(reference.domain, plain_http=self._plain_http)
        key = (base, reference.path, auth)
        with self._lock:
            authorizer = self._authorizers.get(key)
            if authorizer is None:
                authorizer = self._authorizers[key] = _authorizer(base, reference, auth)
            self._authorizers.move_to_end(key)
            if len(self._authorizers) > _MAX_AUTHORIZERS:
                self._authorizers.popitem(last=False)
        return RegistryRepo(
            self._connect,
            authorizer,
            base_url=base,
            name=f"{reference.domain}/{reference.path}",
            path=reference.path,
        )

    def close(self) -> None:
        """
        Close what connections are idle; those in use follow when their streams end.
        """
        with self._lock:
            self._closed = True
            transport = self._transport
        if transport is not None:
            transport.close()

    def _connect(self) -> Transport:
        # urllib3 takes 60 ms to load: a store that pulls nothing does without.
        from ullage.registry.transport import Transport  # noqa: PLC0415

        with self._lock:
            if self._closed:
                raise PullCancelled("the registry client was closed")
            if self._transport is None:
                self._transport = Transport(
                    connect_timeout_seconds=self._connect_timeout_seconds,
                    read_timeout_seconds=self._read_timeout_seconds,
                    user_agent=self._user_agent,
                )
            return self._transport

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RegistryRepo:
    """
    One repo of one registry during one pull. Thread-safe.
    """

    def __init__(
        self, connect: Callable[[], Transport], authorizer: Authorizer, *, base_url: str, name: str, path: str
    ) -> None:
        self._connect = connect
        self._authorizer = authorizer
        self._base_url = base_url
        self._name = name
        self._path = path
        self._group = Group()

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
        answer = self._send("HEAD", f"manifests/{ref}", self._doing_manifest(ref), {"Accept": _ACCEPT})
        answer.finish()
        digest = _digest_header(answer)
        if answer.status == HTTPStatus.OK:
            return None if digest is None else FetchedHead(_media_type(answer), digest, answer.length)
        if answer.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
            # An answer to HEAD has no body: ask again for the registry's own words. Should the GET succeed,
            # this registry knows no HEAD, and the caller asks as if it had said so.
            self.get_manifest(ref)
            return None
        if answer.status in TRANSIENT:
            raise self._refusal(answer, b"")
        return None

    def get_manifest(self, ref: str) -> FetchedManifest:
        """
        The manifest or index that *ref*, a tag or a digest, denotes.

        Raises:
            ManifestUnknown: the registry has no such manifest.
            InvalidManifest: it is longer than any manifest may be.
            AuthenticationFailed: credentials are missing or refused.
            RegistryUnavailable: no answer, or a broken one.
        """
        answer = self._send("GET", f"manifests/{ref}", self._doing_manifest(ref), {"Accept": _ACCEPT})
        if answer.status == HTTPStatus.OK:
            raw = answer.read_all(MAX_DOCUMENT_BYTES)
            if raw is None:
                raise InvalidManifest(
                    f"the manifest of {self._full(ref)} is longer than {MAX_DOCUMENT_BYTES} bytes"
                )
            return FetchedManifest(raw, _media_type(answer), _digest_header(answer))
        body = answer.read_all(MAX_ERROR_BYTES)
        if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            errors = registry_errors(body, secrets=self._authorizer.secrets)
            raise ManifestUnknown(
                f"the registry has no {self._full(ref)}{said(errors)}",
                reference=self._full(ref),
                url=shown(answer.url),
                status=answer.status,
                registry_errors=errors,
            )
        raise self._refusal(answer, body)

    def open_blob(self, digest: Digest, *, size: int, offset: int = 0) -> BlobStream:
        """
        The bytes of a blob of *size* bytes, from *offset* on where the registry can, else from 0.

        Raises:
            ContentError: the registry does not have the blob.
            SizeMismatch: it says that the blob is of another size.
            AuthenticationFailed: credentials are missing or refused.
            RegistryUnavailable: no answer.
        """
        assert 0 <= offset <= size, "a blob ends at its size"
        doing = f"fetching blob {digest.algorithm}:{digest.short} of {self._name}"
        if offset:
            answer = self._send("GET", f"blobs/{digest}", doing, {"Range": f"bytes={offset}-"})
            if answer.status == HTTPStatus.PARTIAL_CONTENT and _is_rest(answer, offset=offset, size=size):
                return self._stream(answer, digest, offset=offset, size=size)
            if answer.status == HTTPStatus.OK:
                return self._stream(answer, digest, offset=0, size=size)
            if answer.status not in {HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}:
                raise self._blob_refusal(answer, digest)
            # Another range than the one asked for, or none: start over.
            answer.close()
        answer = self._send("GET", f"blobs/{digest}", doing, {})
        if answer.status != HTTPStatus.OK:
            raise self._blob_refusal(answer, digest)
        return self._stream(answer, digest, offset=0, size=size)

    def abort(self) -> None:
        """
        End every request of this repo, from any thread.

        What waits raises PullCancelled at once, and so does whatever is asked next.
        """
        self._group.abort()

    def _stream(self, answer: Answer, digest: Digest, *, offset: int, size: int) -> BlobStream:
        if answer.length is not None and answer.length != size - offset:
            answer.close()
            raise SizeMismatch(
                f"size mismatch of blob {digest}: expected {size} bytes, "
                f"and the registry would send {offset + answer.length}",
                expected_bytes=size,
                actual_bytes=offset + answer.length,
            )
        return BlobStream(answer, offset=offset, size=size)

    def _send(self, method: str, path: str, doing: str, headers: dict[str, str]) -> Answer:
        """
        One request, with a token where one is asked for. Any status but 401 is the caller's.
        """
        url = f"{self._base_url}/v2/{self._path}/{path}"
        transport = self._connect()
        used = self._authorizer.header(transport, self._group)
        for again in (False, True):
            sent = {**headers, "Authorization": used} if used else headers
            answer = transport.fetch(Request(method, url, doing, sent), group=self._group)
            if answer.status != HTTPStatus.UNAUTHORIZED:
                return answer
            body = answer.read_all(MAX_ERROR_BYTES)
            if answer.origin != Origin.of(url):
                # Another host, to which a redirect led: it gets no credentials, whatever it asks.
                raise self._refusal(answer, body)
            refused = Refusal(
                doing,
                shown(url),
                answer.header("WWW-Authenticate"),
                registry_errors(body, secrets=self._authorizer.secrets),
            )
            used = self._authorizer.respond(
                refused, used=used, again=again, transport=transport, group=self._group
            )
        raise AssertionError("the second refusal is an exception")

    def _refusal(self, answer: Answer, body: bytes | None) -> ImageError:
        return refusal(
            answer.status,
            doing=answer.request.doing,
            url=shown(answer.url),
            errors=registry_errors(body, secrets=self._authorizer.secrets),
            retry_after_seconds=retry_after_seconds(answer.header("Retry-After")),
        )

    def _blob_refusal(self, answer: Answer, digest: Digest) -> ImageError:
        body = answer.read_all(MAX_ERROR_BYTES)
        if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            errors = registry_errors(body, secrets=self._authorizer.secrets)
            return ContentError(
                f"the manifest of {self._name} names a blob that the registry does not have: "
                f"{digest}{said(errors)}",
                hint="the image there is incomplete: push it again, or ask the registry's owner",
            )
        return self._refusal(answer, body)

    def _full(self, ref: str) -> str:
        return f"{self._name}{'@' if ':' in ref else ':'}{ref}"

    def _doing_manifest(self, ref: str) -> str:
        return f"fetching the manifest of {self._full(ref)}"


def _authorizer(base_url: str, reference: Reference, auth: AuthConfig | None) -> Authorizer:
    try:
        origin = Origin.of(base_url)
    except ValueError as error:
        # The grammar of references takes any digits for a port.
        raise InvalidReference(
            f"no registry can be at {reference.domain}", reference=reference.name
        ) from error
    return Authorizer(credentials_for(auth, reference.domain), origin=origin, path=reference.path)


def _media_type(answer: Answer) -> str:
    return answer.header("Content-Type").partition(";")[0].strip().lower()


def _digest_header(answer: Answer) -> Digest | None:
    """
    Docker-Content-Digest; None when there is none that we can read, which is as good as none.
    """
    try:
        return Digest.parse(answer.header("Docker-Content-Digest"))
    except InvalidReference:
        return None


def _is_rest(answer: Answer, *, offset: int, size: int) -> bool:
    """
    Whether a 206 holds what was asked for: everything from *offset* on.
    """
    stated = _CONTENT_RANGE.fullmatch(answer.header("Content-Range"))
    if stated is None:
        return False
    first, last, total = (int(each) if each else size for each in stated.groups())
    return (first, last, total) == (offset, size - 1, size)
