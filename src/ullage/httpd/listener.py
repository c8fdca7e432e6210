"""
A server: a socket that listens, a bounded number of connections, a thread for each, and how requests are answered.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ullage.httpd.connection import Connection
from ullage.httpd.messages import Asked, Reply, error_reply
from ullage.httpd.request import BadRequest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from ullage.httpd.request import Head

__all__ = ["HTTPServer", "Limits"]

_SMALL_BODY_BYTES: Final = 64 * 1024
_JOIN_SECONDS: Final = 10.0
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What a client may cost.

    ``head_seconds`` is for the head of a request once it has begun, and for a TLS handshake; ``idle_seconds`` for the
    time between two requests; ``silence_seconds`` for a client that takes or sends nothing. Over as much waiting it
    must move ``min_bytes_per_second``.
    """

    connections: int = 256
    head_seconds: float = 10.0
    idle_seconds: float = 60.0
    silence_seconds: float = 30.0
    min_bytes_per_second: float = 1024.0
    body_bytes: int = 64 * 1024


class HTTPServer:
    """
    Answers on one address for as long as its with-block lasts. A subclass says what, in `reply`.

    Args:
        address: host and port; port 0 takes a free one.
        ssl_context: speak TLS.
    """

    def __init__(
        self,
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._connections: dict[Connection, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept, name="ullage-accept", daemon=True)
        self._failures: list[Exception] = []
        self._closed = False
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=128)
        port = self._listener.getsockname()[1]
        self.host = f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"
        self.url = f"{'https' if ssl_context else 'http'}://{self.host}"

    # ------------------------------------------------------------------ its life

    def start(self) -> Self:
        self._acceptor.start()
        return self

    def close(self, *, grace_seconds: float = 0.0) -> None:
        """
        End: nobody new, those who wait for nothing at once, answers under way after *grace_seconds* at the latest.

        Raises:
            Exception: what `reply` failed with, where `failed` kept it; that is a mistake in the server.
        """
        self._closed = True
        # shutdown, not close: a thread that waits in accept does not notice a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        until = time.monotonic() + grace_seconds
        for connection in self._open():
            if connection.idle:
                connection.end()
        while self._open() and time.monotonic() < until:
            time.sleep(0.02)
        with self._lock:
            left = dict(self._connections)
        for connection in left:
            connection.end()
        for thread in (self._acceptor, *left.values()):
            if thread.ident is not None:
                thread.join(_JOIN_SECONDS)
                assert not thread.is_alive(), "a thread of the server does not end"
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ answering: for subclasses

    def reply(self, asked: Asked) -> Reply:
        """
        What to answer.
        """
        raise NotImplementedError

    def answer(self, connection: Connection, asked: Asked) -> None:
        """
        Answer one request on the wire.
        """
        self.deliver(connection, asked, self.reply(asked))

    def log(self, asked: Asked, status: int, bytes_sent: int) -> None:
        """
        A request is about to be answered so.
        """

    def failed(self, connection: Connection, error: Exception) -> None:  # noqa: ARG002  for subclasses
        """
        Answering failed with what is no trouble of the connection.
        """
        self._failures.append(error)

    # ------------------------------------------------------------------ on the wire

    def deliver(self, connection: Connection, asked: Asked, reply: Reply) -> None:
        """
        Put *reply* on the wire and into the log.
        """
        bodiless = asked.method == "HEAD" or reply.status in _BODILESS
        self.log(asked, reply.status, 0 if bodiless else reply.length)
        try:
            head = self.head(connection, reply)
            if bodiless or not reply.length:
                connection.send(head)
            elif isinstance(reply.body, bytes) and reply.length <= _SMALL_BODY_BYTES:
                connection.send(head + reply.body[reply.start : reply.start + reply.length])
                connection.sent_bytes += reply.length
            else:
                connection.send(head)
                connection.send_body(reply.body, reply.start, reply.length)
        finally:
            reply.close()

    def head(self, connection: Connection, reply: Reply) -> bytes:
        """
        Status line and headers.
        """
        headers = {
            "Date": formatdate(usegmt=True),
            "Docker-Distribution-Api-Version": "registry/2.0",
            "Content-Length": str(reply.length),
            **({"Connection": "close"} if connection.close_connection else {}),
            **reply.headers,
        }
        lines = [f"HTTP/1.1 {int(reply.status)} {HTTPStatus(reply.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    # ------------------------------------------------------------------ connections

    def _open(self) -> tuple[Connection, ...]:
        with self._lock:
            return tuple(self._connections)

    def _accept(self) -> None:
        while not self._closed:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.05)  # no descriptor is free, or the client was gone before we came
                continue
            connection = Connection(accepted, self.limits)
            serve = self._serve if self._make_room() else self._turn_away
            thread = threading.Thread(
                target=self._run, args=(serve, connection), name="ullage-serve", daemon=True
            )
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _make_room(self) -> bool:
        """
        Whether one more may come; the one that has waited longest for nothing goes for it.
        """
        connections = self._open()
        if len(connections) < self.limits.connections:
            return True
        idle = [each for each in connections if each.idle]
        if idle:
            min(idle, key=lambda each: each.idle_since).end()
        return bool(idle)

    def _run(self, serve: Callable[[Connection], None], connection: Connection) -> None:
        try:
            serve(connection)
        except OSError:
            pass  # the client went away, or `close` ended the connection: nobody is left to be told
        except Exception as error:  # noqa: BLE001  the door of a thread
            self.failed(connection, error)
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)

    def _serve(self, connection: Connection) -> None:
        if self._ssl_context is not None:
            connection.idle = False
            connection.socket.settimeout(self.limits.head_seconds)
            wrapped = self._ssl_context.wrap_socket(
                connection.socket, server_side=True, do_handshake_on_connect=False
            )
            connection.adopt(wrapped)  # before the handshake, so that `end` ends that as well
            wrapped.do_handshake()
        while not (connection.close_connection or self._closed):
            try:
                head = connection.next_head()
                if head is None:
                    return
                connection.close_connection = not head.persistent or self._closed
                asked = self.receive(connection, head)
            except BadRequest as error:
                self._say(connection, error_reply(error.status, "UNSUPPORTED", error.why))
                return
            self.answer(connection, asked)

    def receive(self, connection: Connection, head: Head) -> Asked:
        """
        The request with its body.

        Raises:
            BadRequest: the body is longer than any that is read here.
        """
        if head.length > self.limits.body_bytes:
            raise BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no body of that length is read here")
        if head.length and head.headers.get("expect", "").lower() == "100-continue":
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = connection.read(head.length) if head.length else b""
        return Asked(head.method, head.path, head.query, head.headers, body)

    def _turn_away(self, connection: Connection) -> None:
        if self._ssl_context is None:  # else it is not worth a handshake
            headers = {"Retry-After": "1"}
            self._say(
                connection,
                error_reply(
                    HTTPStatus.SERVICE_UNAVAILABLE, "TOOMANYREQUESTS", "too many connections", headers
                ),
            )

    def _say(self, connection: Connection, reply: Reply) -> None:
        """
        The last word to what is no request of its own.
        """
        assert isinstance(reply.body, bytes), "errors are small"
        connection.close_connection = True
        connection.send(self.head(connection, reply) + reply.body)
