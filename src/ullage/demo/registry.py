"""
A small registry on loopback: read-only, in memory or from files, true to the standard.

It speaks the pull half of the OCI distribution specification 1.1, with Bearer
tokens as the distribution project's token specification has them, or Basic.
`ullage demo` shows itself with it, and the tests pull from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from ullage.demo.guard import Auth, Guard
from ullage.demo.messages import Asked, Logged, Reply, error_reply, json_reply
from ullage.digest import Digest, digest_of
from ullage.errors import InvalidReference

if TYPE_CHECKING:
    import io
    import ssl
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

__all__ = ["Asked", "Handler", "Logged", "LoopbackRegistry", "Reply", "error_reply"]

_SMALL_BODY_BYTES: Final = 64 * 1024
_JOIN_SECONDS: Final = 10.0
_OCTETS: Final = "application/octet-stream"

_PATH = re.compile(r"/v2/(?P<name>[a-z0-9._/-]+)/(?P<kind>manifests|blobs|tags)/(?P<ref>[A-Za-z0-9._:+-]+)")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class _Manifest:
    raw: bytes
    media_type: str


class Handler(BaseHTTPRequestHandler):
    """
    One connection and the requests on it.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackRegistry  # type: ignore[assignment]  # all that the base class does with it is keep it
    connection: socket.socket

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  the base class looks for these names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        """
        The registry has its own log.
        """

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,5}", length):  # a form, or nothing
            self.close_connection = True
            length = "0"
        asked = Asked(self.command, parts.path, parse_qs(parts.query), headers, self.rfile.read(int(length)))
        self.server.answer(self, asked)


class LoopbackRegistry:
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
        self.requests: list[Logged] = []
        self._ssl_context = ssl_context
        self._blobs: dict[Digest, tuple[bytes | Path, int]] = {}
        self._manifests: dict[str, dict[Digest, _Manifest]] = {}
        self._tags: dict[str, dict[str, Digest]] = {}
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._failures: list[Exception] = []
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if ssl_context else 'http'}://{self.host}"
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

    # Its life

    def start(self) -> Self:
        self._spawn(self._accept)
        return self

    def close(self) -> None:
        """
        End all connections and threads.

        Raises:
            Exception: what a handler failed with; that is a mistake in this module.
        """
        self._closed = True
        # shutdown, not close: a thread that waits in accept does not notice a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = tuple(self._connections)
        for each in connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)
        for thread in tuple(self._threads):
            thread.join(_JOIN_SECONDS)
            assert not thread.is_alive(), "a handler does not end"
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Answering; a subclass that misbehaves overrides these two

    def answer(self, handler: Handler, asked: Asked) -> None:
        self.deliver(handler, asked, self.reply(asked))

    def reply(self, asked: Asked) -> Reply:
        """
        What the standard says to answer.
        """
        if asked.path == "/token" and self.guard.sells_tokens:
            return self.guard.reply_token(asked)
        if asked.method not in {"GET", "HEAD"}:
            return error_reply(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry only reads")
        found = _PATH.fullmatch(asked.path)
        return self.guard.refuse(asked, found["name"] if found else None) or self._reply_content(asked, found)

    def deliver(self, handler: Handler, asked: Asked, reply: Reply) -> None:
        """
        Put *reply* on the wire and into the log.
        """
        bodiless = asked.method == "HEAD" or reply.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
        self.log(asked, reply.status, 0 if bodiless else reply.length)
        head = self.head(handler, reply)
        if bodiless or not reply.length:
            handler.connection.sendall(head)
        elif isinstance(reply.body, Path):
            handler.connection.sendall(head)
            with reply.body.open("rb") as file:
                _send_file(handler.connection, file, reply.start, reply.length)
        elif reply.length <= _SMALL_BODY_BYTES:
            handler.connection.sendall(head + reply.body[reply.start : reply.start + reply.length])
        else:
            handler.connection.sendall(head)
            handler.connection.sendall(memoryview(reply.body)[reply.start : reply.start + reply.length])

    def head(self, handler: Handler, reply: Reply) -> bytes:
        """
        Status line and headers.
        """
        headers = {
            "Date": handler.date_time_string(),
            "Docker-Distribution-Api-Version": "registry/2.0",
            "Content-Length": str(reply.length),
            **reply.headers,
        }
        lines = [f"HTTP/1.1 {int(reply.status)} {HTTPStatus(reply.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def log(self, asked: Asked, status: int, bytes_sent: int) -> None:
        entry = Logged(asked.method, asked.path, int(status), asked.headers.get("range", ""), bytes_sent)
        with self._lock:
            self.requests.append(entry)

    # What is asked for

    def _reply_content(self, asked: Asked, found: re.Match[str] | None) -> Reply:
        if asked.path in {"/v2/", "/v2"}:
            return json_reply({})
        if found is None:
            return error_reply(HTTPStatus.NOT_FOUND, "NAME_INVALID", "no such path")
        name, kind, ref = found.groups()
        if kind == "blobs":
            return self._reply_blob(asked, ref)
        if name not in self._manifests:
            return error_reply(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry")
        return (
            self._reply_tags(asked, name, ref) if kind == "tags" else self._reply_manifest(asked, name, ref)
        )

    def _reply_manifest(self, asked: Asked, name: str, ref: str) -> Reply:
        digest = self._tags[name].get(ref) or ref
        manifest = self._manifests[name].get(Digest(digest))
        if manifest is None:
            return error_reply(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown")
        headers = {
            "Content-Type": manifest.media_type,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
        }
        if asked.headers.get("if-none-match") == headers["ETag"]:
            return Reply(HTTPStatus.NOT_MODIFIED, headers)
        return Reply(HTTPStatus.OK, headers, manifest.raw, 0, len(manifest.raw))

    def _reply_blob(self, asked: Asked, ref: str) -> Reply:
        try:
            digest = Digest.parse(ref)
        except InvalidReference as error:
            return error_reply(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", str(error))
        if digest not in self._blobs:
            return error_reply(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry")
        body, size = self._blobs[digest]
        headers = {
            "Content-Type": _OCTETS,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        stated = _RANGE.fullmatch(asked.headers.get("range", "").replace(" ", ""))
        first, last = stated.groups() if stated else ("", "")
        if not (first or last) or asked.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
            return Reply(HTTPStatus.OK, headers, body, 0, size)
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last), size - 1) if first and last else size - 1
        if start >= size or (first and last and int(last) < start):
            unsatisfiable = {**headers, "Content-Range": f"bytes */{size}"}
            return Reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, unsatisfiable)
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        return Reply(HTTPStatus.PARTIAL_CONTENT, headers, body, start, end - start + 1)

    def _reply_tags(self, asked: Asked, name: str, ref: str) -> Reply:
        if ref != "list":
            return error_reply(HTTPStatus.NOT_FOUND, "NAME_INVALID", "no such path")
        last = asked.query.get("last", [""])[0]
        tags = [tag for tag in sorted(self._tags[name]) if tag > last]
        count = asked.query.get("n", [""])[0]
        page = tags[: int(count)] if count.isdecimal() else tags
        headers = {}
        if page and len(page) < len(tags):
            rest = urlencode({"n": count, "last": page[-1]})
            headers["Link"] = f'</v2/{name}/tags/list?{rest}>; rel="next"'
        return json_reply({"name": name, "tags": page}, headers)

    # Connections

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="loopback registry", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive() or each.ident is None]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, connection, address)

    def _serve(self, connection: socket.socket, address: object) -> None:
        try:
            if self._ssl_context is not None:
                connection.settimeout(_JOIN_SECONDS)
                connection = self._ssl_context.wrap_socket(connection, server_side=True)
                connection.settimeout(None)
            with self._lock:
                self._connections.add(connection)
            if not self._closed:
                Handler(connection, address, self)  # type: ignore[arg-type]
        except OSError:
            # The client went away, or `close` ended the connection: nobody is left to be told.
            pass
        except Exception as error:  # noqa: BLE001  the door of a thread: `close` raises it
            self._failures.append(error)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()


def _digest_of_file(path: Path, algorithm: str) -> tuple[Digest, int]:
    with path.open("rb") as file:
        encoded = hashlib.file_digest(file, algorithm).hexdigest()
    return Digest(f"{algorithm}:{encoded}"), path.stat().st_size


def _send_file(connection: socket.socket, file: io.BufferedReader, start: int, length: int) -> None:
    # The kernel copies; over TLS, sendfile reads and sends by itself.
    connection.sendfile(file, start, length)
