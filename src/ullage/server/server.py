"""
`ImageServer`: the pull half of the OCI distribution specification 1.1, from a store.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import ExitStack
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ullage.digest import Digest
from ullage.errors import (
    AuthenticationFailed,
    ImageError,
    InvalidConfiguration,
    InvalidReference,
    ManifestUnknown,
    PullFailed,
    RegistryUnavailable,
    StoreBusy,
    StoreCorrupt,
)
from ullage.httpd import HTTPServer, Logged, error_reply, json_reply
from ullage.httpd.distribution import (
    Wanted,
    blob_reply,
    invalid_count,
    listing_reply,
    manifest_reply,
    page_reply,
    read_path,
    referrers_reply,
)
from ullage.server.door import Door
from ullage.server.holds import Holds
from ullage.server.names import DEFAULT_REGISTRY, repo_of, spelled
from ullage.server.through import Through

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from typing import Self

    from ullage.document import Descriptor
    from ullage.httpd import Asked, Connection, Limits, Reply
    from ullage.repository import Referrer, ServedContent
    from ullage.service import ImageService

__all__ = ["ImageServer"]

_log = logging.getLogger(__name__)
_HOLD_SECONDS: Final = 30.0
_MAX_AGE_SECONDS: Final = 60.0
#: Tags of one page: some registries take more for a mistake.
_MAX_TAGS: Final = 1000


class ImageServer(HTTPServer):
    """
    Serves what is in a store, to any client that can pull, for as long as its with-block lasts.

    Nothing can be changed through it. A repo is served under its whole name, ``/v2/docker.io/library/alpine/…``; under
    what is left of it with the registry in ``ns``, as containerd asks a mirror; and, of Docker Hub, without either.
    What is read is held, and for a while after: nobody removes it meanwhile.

    Args:
        service: an open store. It stays open when the server ends.
        address: host and port; port 0 takes a free one. Whoever can reach it can read the store, but for *credentials*.
        credentials: a file of who may read: a line for each, ``USER:PASSWORD`` or a token. Anybody without it.
        tls_cert: a PEM file with the certificate and what vouches for it: speak TLS.
        tls_key: the file with its key, where that is another one.
        pull_through: registries whose images are brought when they are asked for and not here; a name without a
            registry is then of the first of them.
        max_age_seconds: for how long what a tag was found to denote there is taken for true.
        evict: whether images may go to make room for those.
        hold_seconds: how long an image stays held after the last request for it.
        limits: what clients may cost.
        on_request: called with each request that is answered, in the thread that answers it.

    >>> import tempfile, urllib.request
    >>> from ullage import ImageServer, ImageService
    >>> with tempfile.TemporaryDirectory() as root, ImageService.open(root) as images, ImageServer(images) as server:
    ...     urllib.request.urlopen(f"{server.url}/v2/").status
    200
    """

    def __init__(  # noqa: PLR0913 -- each is a setting of its own, by name, with a default
        self,
        service: ImageService,
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        credentials: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        pull_through: Sequence[str] = (),
        max_age_seconds: float = _MAX_AGE_SECONDS,
        evict: bool = False,
        hold_seconds: float = _HOLD_SECONDS,
        limits: Limits | None = None,
        on_request: Callable[[Logged], None] | None = None,
    ) -> None:
        door = None if credentials is None else Door.read(credentials)
        through = Through(service, tuple(pull_through), max_age_seconds=max_age_seconds, evict=evict)
        super().__init__(address, ssl_context=_context(tls_cert, tls_key), limits=limits)
        self.is_protected = door is not None
        self._service = service
        self._door = door
        self._through = through
        self._default = next(iter(through.upstreams), DEFAULT_REGISTRY)
        self._holds = Holds(service, hold_seconds)
        self._on_request = on_request
        self._requests = 0
        self._sent_bytes = 0

    @property
    def requests(self) -> int:
        """
        How many were answered.
        """
        return self._requests

    @property
    def sent_bytes(self) -> int:
        """
        How many bytes of content were sent; heads and TLS are not counted.
        """
        return self._sent_bytes

    def start(self) -> Self:
        self._holds.start()
        return super().start()

    def close(self, *, grace_seconds: float = 0.0) -> None:
        super().close(grace_seconds=grace_seconds)
        self._through.close()
        self._holds.close()

    # ------------------------------------------------------------------ answering

    def answer(self, connection: Connection, asked: Asked) -> None:
        before = connection.sent_bytes
        try:
            with ExitStack() as held:
                self.deliver(connection, asked, self._reply_in_any_case(asked, held))
        finally:
            with self._lock:
                self._sent_bytes += connection.sent_bytes - before

    def log(self, asked: Asked, status: int, bytes_sent: int) -> None:
        with self._lock:
            self._requests += 1
        if self._on_request is not None:
            self._on_request(
                Logged(asked.method, asked.path, int(status), asked.headers.get("range", ""), bytes_sent)
            )

    def failed(self, connection: Connection, error: Exception) -> None:
        _log.error("answering failed", exc_info=error)
        connection.close_connection = True

    def _reply_in_any_case(self, asked: Asked, held: ExitStack) -> Reply:
        try:
            refused = self._door.refuse(asked) if self._door is not None else None
            if refused is not None:
                return refused
            wanted = read_path(asked)
            return self._reply(asked, wanted, held) if isinstance(wanted, Wanted) else wanted
        except InvalidReference as error:
            return error_reply(HTTPStatus.BAD_REQUEST, "NAME_INVALID", error.message)
        except StoreBusy:
            headers = {"Retry-After": "1"}
            return error_reply(HTTPStatus.SERVICE_UNAVAILABLE, "UNKNOWN", "the store is busy", headers)
        except ImageError as error:
            # What is wrong with the store is its owner's business, and in its owner's log.
            _log.warning("%s %s: %s", asked.method, asked.path, error)
            return error_reply(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "the store cannot serve it")
        except Exception:  # noqa: BLE001  the door of a thread: whoever asked gets an answer
            _log.exception("%s %s", asked.method, asked.path)
            return error_reply(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "internal error")

    def _reply(self, asked: Asked, wanted: Wanted, held: ExitStack) -> Reply:
        if wanted.kind == "base":
            return json_reply({})
        if wanted.kind == "catalog":
            return listing_reply(asked, "repositories", map(spelled, self._service.repos()))
        repo = repo_of(wanted.name, asked.first("ns"), default=self._default)
        if wanted.kind in {"manifests", "blobs"}:
            return self._reply_content(asked, wanted, repo, held)
        return self._reply_list(asked, wanted, repo)

    def _reply_list(self, asked: Asked, wanted: Wanted, repo: str) -> Reply:
        if wanted.kind == "referrers" and not _is_digest(wanted.ref):
            return _invalid_digest()
        if self._through.covers(repo):
            passed = self._reply_listed(asked, wanted, repo)
            if passed is not None:
                return passed
        if not self._service.is_repo(repo):
            return _unknown_name(repo)
        if wanted.kind == "tags":
            return listing_reply(asked, "tags", self._service.tags(repo), {"name": wanted.name})
        return referrers_reply(asked, map(_descriptor, self._service.served_referrers(repo, wanted.ref)))

    def _reply_listed(self, asked: Asked, wanted: Wanted, repo: str) -> Reply | None:
        """
        What the registry lists; None where what is here has to do.
        """
        try:
            if wanted.kind == "tags":
                return self._reply_tags(asked, wanted, repo)
            found = self._through.referrers(repo, Digest(wanted.ref), asked.first("artifactType"))
        except (ManifestUnknown, AuthenticationFailed) as error:
            _log.info("%s: %s", repo, error)
            return error_reply(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", f"there is nothing of {repo}")
        except (RegistryUnavailable, PullFailed) as error:
            _log.warning("%s: %s", repo, error)
            return error_reply(
                HTTPStatus.BAD_GATEWAY,
                "UNKNOWN",
                f"what there is of {repo} is not to be had from its registry",
            )
        return None if found is None else referrers_reply(asked, map(_descriptor, found))

    def _reply_tags(self, asked: Asked, wanted: Wanted, repo: str) -> Reply | None:
        if invalid := invalid_count(asked):
            return invalid
        query = {name: values[0] for name, values in asked.query.items() if name != "ns"}
        if query.get("n"):
            query["n"] = str(min(int(query["n"]), _MAX_TAGS))
        if query.get("n") == "0":
            return page_reply(asked, "tags", [], None, {"name": wanted.name})
        page = self._through.tags(repo, query)
        if page is not None:
            namespace = {"ns": asked.first("ns")} if asked.first("ns") else {}
            onward = None if page.onward is None else {**page.onward, **namespace}
            return page_reply(asked, "tags", page.tags, onward, {"name": wanted.name})
        if query.keys() <= {"n", "last"}:
            return None
        # By the registry's own word for where its next page begins: it alone knows where that is.
        return error_reply(HTTPStatus.BAD_GATEWAY, "UNKNOWN", f"the registry of {repo} is down")

    def _reply_content(self, asked: Asked, wanted: Wanted, repo: str, held: ExitStack) -> Reply:
        of_manifests = wanted.kind == "manifests"
        if not _is_digest(wanted.ref) and (":" in wanted.ref or not of_manifests):
            return _invalid_digest()
        if self._through.covers(repo):
            passed = self._reply_through(asked, wanted, repo)
            if passed is not None:
                return passed
        content = self._content(wanted, repo)
        if content is None:
            return self._unknown(wanted, repo)
        if asked.method == "GET":
            held.enter_context(self._holds.using(content.image))
        try:
            return self._reply_with(asked, content, of_manifests=of_manifests)
        except StoreCorrupt:
            if self._content(wanted, repo) is None:  # it was removed before we held it
                return self._unknown(wanted, repo)
            raise

    def _reply_through(self, asked: Asked, wanted: Wanted, repo: str) -> Reply | None:
        """
        What the registry has; None where it is here, or where nobody has heard of it.
        """
        if wanted.kind == "blobs":
            return self._reply_passing(asked, repo, Digest(wanted.ref))
        try:
            document = self._through.document(repo, wanted.ref, wanted=asked.method == "GET")
        except (ManifestUnknown, AuthenticationFailed) as error:
            # What we may not have is not there: whoever asks us need not learn more.
            _log.info("%s %s: %s", repo, wanted.ref, error)
            return error_reply(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", f"{repo} has no {wanted.ref}")
        except (RegistryUnavailable, PullFailed) as error:
            _log.warning("%s %s: %s", repo, wanted.ref, error)
            return error_reply(HTTPStatus.BAD_GATEWAY, "UNKNOWN", f"{repo} cannot be had from its registry")
        if document is None:
            return None
        raw, digest = document.raw, document.digest
        return manifest_reply(asked, raw, size=len(raw), media_type=document.media_type, digest=digest)

    def _reply_passing(self, asked: Asked, repo: str, digest: Digest) -> Reply | None:
        if self._service.content(repo, digest) is not None:
            return None
        passing = self._through.blob(repo, digest)
        if passing is None:
            return None
        reply = blob_reply(asked, b"", size=passing.size, digest=digest)
        if asked.method == "HEAD" or not reply.length:
            return reply
        return replace(reply, body=passing.pieces(reply.start, reply.length))

    def _reply_with(self, asked: Asked, content: ServedContent, *, of_manifests: bool) -> Reply:
        if of_manifests:
            raw = self._service.read_document(content) if asked.method == "GET" else b""
            return manifest_reply(
                asked, raw, size=content.size, media_type=content.media_type, digest=content.digest
            )
        body = self._service.open_content(content)
        return blob_reply(asked, body, size=content.size, digest=content.digest)

    def _content(self, wanted: Wanted, repo: str) -> ServedContent | None:
        content = self._service.content(repo, wanted.ref)
        if content is None or (wanted.kind == "manifests" and not content.is_document):
            return None
        return content

    def _unknown(self, wanted: Wanted, repo: str) -> Reply:
        if not self._service.is_repo(repo):
            return _unknown_name(repo)
        code = "MANIFEST_UNKNOWN" if wanted.kind == "manifests" else "BLOB_UNKNOWN"
        return error_reply(HTTPStatus.NOT_FOUND, code, f"{repo} has no {wanted.ref} here")


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except InvalidReference:
        return False
    return True


def _invalid_digest() -> Reply:
    return error_reply(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", "invalid digest")


def _unknown_name(repo: str) -> Reply:
    return error_reply(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", f"there is nothing of {repo} here")


def _descriptor(referrer: Referrer | Descriptor) -> dict[str, object]:
    return {
        "mediaType": referrer.media_type,
        "digest": referrer.digest,
        "size": referrer.size,
        **({"artifactType": referrer.artifact_type} if referrer.artifact_type else {}),
        **({"annotations": dict(referrer.annotations)} if referrer.annotations else {}),
    }


def _context(
    certificate: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None
) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise InvalidConfiguration("there is a key, and no certificate to it", path=str(key))
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # an SSLError is one
        where = str(certificate if key is None or not Path(certificate).exists() else key)
        why = error.strerror or "no certificate with its key"
        raise InvalidConfiguration(f"cannot use {where}: {why}", path=where) from error
    return context
