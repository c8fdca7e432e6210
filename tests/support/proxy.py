"""
Proxies on loopback, of HTTP and of SOCKS: they forward, make tunnels, and write down for whom.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl


class Proxy:
    """
    ``asked`` holds the request lines, ``leads_to`` says where a name is: the world's DNS is not asked.
    """

    def __init__(
        self,
        leads_to: dict[str, str],
        *,
        username: str = "",
        password: str = "",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.asked: list[str] = []
        self._leads_to = leads_to
        pair = base64.b64encode(f"{username}:{password}".encode()).decode()
        self._wanted = f"proxy-authorization: basic {pair}".lower() if username else ""
        self._ssl_context = ssl_context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        scheme = "https" if ssl_context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in (self._listener, *self._sockets):
            each.close()

    def _spawn(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                self._sockets.append(accepted)
                self._spawn(self._serve, accepted)

    def _serve(self, client: socket.socket) -> None:
        try:
            self._answer(client)
        except (OSError, ValueError):
            pass
        finally:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(client, socket.SHUT_RDWR)

    def _answer(self, client: socket.socket) -> None:
        if self._ssl_context is not None:
            client = self._ssl_context.wrap_socket(client, server_side=True)
            self._sockets.append(client)
        while head := self._head(client):
            line = head.split(b"\r\n")[0].decode()
            self.asked.append(line)
            method, target, _ = line.split(" ")
            if self._wanted and self._wanted not in head.decode("latin-1").lower():
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            if method == "CONNECT":
                server = self._connect(target)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._spawn(self._copy, server, client)
                self._copy(client, server)
                return
            parts = urlsplit(target)
            server = self._connect(parts.netloc)
            kept = [
                each
                for each in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
                if each and not each.lower().startswith((b"proxy-", b"connection:"))
            ]
            path = target.partition("://")[2].partition("/")[2]
            lines = [f"{method} /{path} HTTP/1.1".encode(), *kept, b"Connection: close"]
            server.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + self._body(client, head))
            self._copy(server, client)
            return

    def _connect(self, authority: str) -> socket.socket:
        host, _, port = self._leads_to[authority].rpartition(":")
        server = socket.create_connection((host, int(port)))
        self._sockets.append(server)
        return server

    @staticmethod
    def _head(client: socket.socket) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(65536)
            if not received:
                return b""
            head += received
        return head

    @staticmethod
    def _body(client: socket.socket, head: bytes) -> bytes:
        length = re.search(rb"content-length: *([0-9]+)", head.lower())
        body = head.partition(b"\r\n\r\n")[2]
        while length and len(body) < int(length[1]):
            body += client.recv(65536)
        return body

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(target, socket.SHUT_RDWR)


class SocksProxy(Proxy):
    """
    SOCKS 5. ``asked`` holds ``host:port`` of each connection; *reply* is what it answers to every one of them.
    """

    def __init__(
        self, leads_to: dict[str, str], *, username: str = "", password: str = "", reply: int = 0
    ) -> None:
        super().__init__(leads_to)
        self._login = (username.encode(), password.encode())
        self._reply = reply
        self.url = f"socks5://127.0.0.1:{self.port}"

    def _answer(self, client: socket.socket) -> None:
        _, count = self._exactly(client, 2)
        offered = self._exactly(client, count)
        wanted = 2 if self._login[0] else 0
        client.sendall(bytes([5, wanted if wanted in offered else 0xFF]))
        if wanted == 2:
            _, length = self._exactly(client, 2)
            username = self._exactly(client, length)
            password = self._exactly(client, self._exactly(client, 1)[0])
            client.sendall(bytes([1, (username, password) != self._login]))
        _, _, _, kind = self._exactly(client, 4)
        if kind == 3:
            host = self._exactly(client, self._exactly(client, 1)[0]).decode()
        else:
            raw = self._exactly(client, {1: 4, 4: 16}[kind])
            host = socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, raw)
        port = int.from_bytes(self._exactly(client, 2), "big")
        self.asked.append(f"{host}:{port}")
        if self._reply:
            client.sendall(bytes([5, self._reply, 0, 1]) + bytes(6))
            return
        server = self._connect(f"{host}:{port}")
        bound = b"where.it.is.bound"
        client.sendall(bytes([5, 0, 0, 3, len(bound)]) + bound + bytes(2))
        self._spawn(self._copy, server, client)
        self._copy(client, server)

    @staticmethod
    def _exactly(client: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            received = client.recv(count - len(data))
            if not received:
                raise OSError("the client hung up")
            data += received
        return data
