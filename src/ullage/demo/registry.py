"""
A small registry on loopback: read-only, in memory or from files, true to the standard.

It speaks the pull half of the OCI distribution specification 1.1, with Bearer
tokens as the distribution project's token specification has them, or Basic.
`ullage demo` shows itself with it, and the tests pull from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from ullage.demo.guard import Auth, Guard
from ullage.digest import Digest, digest_of
from ullage.errors import InvalidReference
from ullage.httpd import Asked, Connection, HTTPServer, Logged, Reply, error_reply, json_reply
from ullage.httpd.distribution import Wanted, blob_reply, listing_reply, manifest_reply, read_path

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

__all__ = ["Asked", "Connection", "Logged", "LoopbackRegistry", "Reply", "error_reply"]


@dataclass(frozen=True, slots=True)
class _Manifest:
    raw: bytes
    media_type: str


class LoopbackRegistry(HTTPServer):
    """
    A registry on 127.0.0.1 for as long as its with-block lasts.

    Args:
        port: 0 takes a free one.
        auth: who may pull: anyone, who knows *username* and *password*
            ("basic"), or who bought a token with them ("token").
        anonymous: with "token", sell tokens to those without credentials too, as Docker Hub does.
        identity_token: what an OAuth2 refresh-token grant must show.
        token_seconds: how long a token lasts.
        ssl_context: speak TLS.

    >>> with LoopbackRegistry() as registry:
    ...     digest = registry.add_blob(b"hello")
    """

    def __init__(
        self,
        *,
        port: int = 0,
        auth: Auth = "none",
        username: str = "demo",
        password: str = "",
        anonymous: bool = False,
        identity_token: str = "",
        token_seconds: float = 300.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", port), ssl_context=ssl_context)
        self.requests: list[Logged] = []
        self._blobs: dict[Digest, tuple[bytes | Path, int]] = {}
        self._manifests: dict[str, dict[Digest, _Manifest]] = {}
        self._tags: dict[str, dict[str, Digest]] = {}
        self.guard = Guard(
            auth,
            url=self.url,
            username=username,
            password=password,
            anonymous=anonymous,
            identity_token=identity_token,
            token_seconds=token_seconds,
        )

    # What it serves

    def add_blob(self, content: bytes | Path, *, algorithm: str = "sha256") -> Digest:
        """
        Serve a blob, in any repo. A file is read when it is asked for: leave it as it is.
        """
        if isinstance(content, Path):
            digest, size = _digest_of_file(content, algorithm)
        else:
            digest, size = digest_of(content, algorithm), len(content)
        with self._lock:
            self._blobs[digest] = (content, size)
        return digest

    def add_manifest(self, repo: str, raw: bytes, media_type: str, tags: Iterable[str] = ()) -> Digest:
        """
        Serve a manifest or an index under its digest and *tags*; a tag that is there moves.
        """
        digest = digest_of(raw)
        with self._lock:
            self._manifests.setdefault(repo, {})[digest] = _Manifest(raw, media_type)
            self._tags.setdefault(repo, {}).update(dict.fromkeys(tags, digest))
        return digest

    # Answering

    def reply(self, asked: Asked) -> Reply:
        """
        What the standard says to answer.
        """
        if asked.path == "/token" and self.guard.sells_tokens:
            return self.guard.reply_token(asked)
        wanted = read_path(asked)
        if asked.method not in {"GET", "HEAD"}:
            assert isinstance(wanted, Reply), "this registry only reads"
            return wanted
        repo = wanted.name or None if isinstance(wanted, Wanted) else None
        refused = self.guard.refuse(asked, repo)
        if refused is not None:
            return refused
        return wanted if isinstance(wanted, Reply) else self._reply_content(asked, wanted)

    def log(self, asked: Asked, status: int, bytes_sent: int) -> None:
        entry = Logged(asked.method, asked.path, int(status), asked.headers.get("range", ""), bytes_sent)
        with self._lock:
            self.requests.append(entry)

    # What is asked for

    def _reply_content(self, asked: Asked, wanted: Wanted) -> Reply:
        kind, name, ref = wanted
        if kind == "base":
            return json_reply({})
        if kind == "blobs":
            return self._reply_blob(asked, ref)
        if name not in self._manifests or kind == "referrers":
            return error_reply(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry")
        if kind == "tags":
            return listing_reply(asked, "tags", self._tags[name], {"name": name})
        return self._reply_manifest(asked, name, ref)

    def _reply_manifest(self, asked: Asked, name: str, ref: str) -> Reply:
        digest = Digest(self._tags[name].get(ref) or ref)
        manifest = self._manifests[name].get(digest)
        if manifest is None:
            return error_reply(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown")
        raw = manifest.raw
        return manifest_reply(asked, raw, size=len(raw), media_type=manifest.media_type, digest=digest)

    def _reply_blob(self, asked: Asked, ref: str) -> Reply:
        try:
            digest = Digest.parse(ref)
        except InvalidReference as error:
            return error_reply(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", str(error))
        if digest not in self._blobs:
            return error_reply(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry")
        body, size = self._blobs[digest]
        return blob_reply(asked, body, size=size, digest=digest)


def _digest_of_file(path: Path, algorithm: str) -> tuple[Digest, int]:
    with path.open("rb") as file:
        encoded = hashlib.file_digest(file, algorithm).hexdigest()
    return Digest(f"{algorithm}:{encoded}"), path.stat().st_size
