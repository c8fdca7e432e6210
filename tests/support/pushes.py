"""
The registry of the tests, written to: blobs in one piece and in many, mounts, manifests. It misbehaves as told.

    with PushRegistry() as registry:
        registry.inject("*/uploads/*", reset(), method="PATCH", times=1)
"""

from __future__ import annotations

import re
import secrets
from http import HTTPStatus
from urllib.parse import urlencode

from support.registry import FaultRegistry
from ullage.digest import Digest, digest_of
from ullage.httpd import Limits, Reply, error_reply

_UPLOADS = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<id>[^/]*)")
_MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<ref>[^/]+)")
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")


class PushRegistry(FaultRegistry):
    """
    `FaultRegistry` that takes what is pushed to it, held to the specification: what is out of order is refused.

    Args:
        mounts: whether it takes blobs from its other repos.
        chunks: whether it knows PATCH.
        min_chunk_bytes: what it wants of each chunk but the last.
        relative: whether a Location is a path alone.
        referrers: whether it says that it lists a referrer.

    ``uploaded`` is the bytes of blobs that came, also those that came to nothing.
    """

    def __init__(
        self, *, mounts=True, chunks=True, min_chunk_bytes=0, relative=True, referrers=False, **options
    ):
        super().__init__(**options)
        self.limits = Limits(body_bytes=1 << 30)
        self.uploaded = 0
        self._mounts, self._chunks, self._relative = mounts, chunks, relative
        self._min_chunk_bytes, self._lists_referrers = min_chunk_bytes, referrers
        self._uploads: dict[str, bytearray] = {}
        self._repos: dict[str, set[Digest]] = {}

    def has(self, repo, digest):
        """
        Whether *repo* has a blob.
        """
        return digest in self._repos.get(repo, ())

    @property
    def open_uploads(self):
        return len(self._uploads)

    def tags(self, repo):
        return dict(self._tags.get(repo, {}))

    def manifest(self, repo, ref):
        """
        Bytes and media type of a manifest.
        """
        found = self._manifests[repo][Digest(self._tags[repo].get(ref) or ref)]
        return found.raw, found.media_type

    def add_blob(self, content, *, algorithm="sha256", repo=None):
        digest = super().add_blob(content, algorithm=algorithm)
        if repo is not None:
            self._repos.setdefault(repo, set()).add(digest)
        return digest

    def reply(self, asked):
        uploads = _UPLOADS.fullmatch(asked.path)
        manifest = _MANIFEST.fullmatch(asked.path)
        if uploads is not None:
            return self._guarded(asked, uploads["name"]) or self._upload(asked, **uploads.groupdict())
        if manifest is not None and asked.method == "PUT":
            return self._guarded(asked, manifest["name"]) or self._take_manifest(
                asked, **manifest.groupdict()
            )
        if "/blobs/" in asked.path and asked.method in ("GET", "HEAD"):
            name, _, digest = asked.path.removeprefix("/v2/").partition("/blobs/")
            refused = self.guard.refuse(asked, name)
            if refused is None and not self.has(name, digest):
                return error_reply(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to repository")
        return super().reply(asked)

    def _guarded(self, asked, name):
        return self.guard.refuse(asked, name, actions=("pull", "push"), also=asked.first("from"))

    def _upload(self, asked, name, id):  # noqa: A002
        if asked.method == "POST":
            return self._begin(asked, name)
        content = self._uploads.get(id)
        if content is None:
            return error_reply(HTTPStatus.NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if asked.method == "GET":
            return self._moved(HTTPStatus.NO_CONTENT, name, id)
        if asked.method == "DELETE":
            del self._uploads[id]
            return Reply(HTTPStatus.NO_CONTENT, {})
        if asked.method == "PATCH":
            return self._append(asked, name, id, content)
        return self._finish(asked, name, id, content)

    def _finish(self, asked, name, id, content):  # noqa: A002
        content += asked.body
        self.uploaded += len(asked.body)
        digest = Digest.parse(asked.first("digest"))
        if digest_of(bytes(content), digest.algorithm) != digest:
            del self._uploads[id]
            return error_reply(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", "provided digest did not match")
        del self._uploads[id]
        self.add_blob(bytes(content), algorithm=digest.algorithm, repo=name)
        headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        return Reply(HTTPStatus.CREATED, headers)

    def _begin(self, asked, name):
        digest, source = asked.first("mount"), asked.first("from")
        if digest and self._mounts and self.has(source, digest):
            self._repos.setdefault(name, set()).add(Digest(digest))
            return Reply(HTTPStatus.CREATED, {"Location": f"/v2/{name}/blobs/{digest}"})
        upload = secrets.token_hex(8)
        self._uploads[upload] = bytearray()
        return self._moved(HTTPStatus.ACCEPTED, name, upload)

    def _append(self, asked, name, upload, content):
        if not self._chunks:
            return error_reply(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", "no chunks here")
        stated = _RANGE.fullmatch(asked.headers.get("content-range", ""))
        if (
            stated is None
            or int(stated[1]) != len(content)
            or (int(stated[2]) - int(stated[1]) + 1 != len(asked.body))
        ):
            return self._moved(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, name, upload)
        content += asked.body
        self.uploaded += len(asked.body)
        return self._moved(HTTPStatus.ACCEPTED, name, upload)

    def _moved(self, status, name, upload):
        """
        Where the upload is now: another address each time, with a state of its own in the query.
        """
        query = urlencode({"_state": secrets.token_urlsafe(6) + "=", "n": "1"})
        location = f"{'' if self._relative else self.url}/v2/{name}/blobs/uploads/{upload}?{query}"
        size = len(self._uploads[upload])
        headers = {"Location": location, "Range": f"0-{max(0, size - 1)}"}
        if self._min_chunk_bytes:
            headers["OCI-Chunk-Min-Length"] = str(self._min_chunk_bytes)
        return Reply(status, headers)

    def _take_manifest(self, asked, name, ref):
        import json  # noqa: PLC0415

        digest = digest_of(asked.body)
        if ":" in ref and ref != digest:
            return error_reply(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", "provided digest did not match")
        content = json.loads(asked.body)
        wanted = [content["config"], *content["layers"]] if "config" in content else []
        unknown = [each["digest"] for each in wanted if not self.has(name, each["digest"])]
        if "subject" not in content:
            unknown += [
                each["digest"]
                for each in content.get("manifests", ())
                if each["digest"] not in self._manifests.get(name, ()) and not ref.startswith("sha256-")
            ]
        if unknown:
            return error_reply(HTTPStatus.NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", f"blob unknown: {unknown}")
        self.add_manifest(name, asked.body, asked.headers["content-type"], [] if ":" in ref else [ref])
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if "subject" in content and self._lists_referrers:
            headers["OCI-Subject"] = content["subject"]["digest"]
        return Reply(HTTPStatus.CREATED, headers)
