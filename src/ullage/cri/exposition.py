"""
Where the figures go: an HTTP port on this machine, or a file that a collector picks up.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import tempfile
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ullage.errors import CannotServe, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Exposition", "to_file", "to_port", "where"]

_log = logging.getLogger(__name__)
_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_FILE_SECONDS: Final = 10.0
_SILENT_SECONDS: Final = 5.0


class Exposition:
    """
    Shows figures until it is closed; ``address`` is where.
    """

    def __init__(self, address: str, close: Callable[[], None]) -> None:
        self.address = address
        self._close = close

    def close(self) -> None:
        self._close()


def where(text: str) -> tuple[str, int] | Path:
    """
    What ``HOST:PORT``, ``:PORT`` or a path means. Everything with a slash in it is a path.

    Raises:
        CannotServe: it is a host that is not this machine: the figures are nobody else's business.
    """
    host, colon, port = text.rpartition(":")
    if "/" in text or not colon or not port.isdecimal():
        return Path(text)
    host = host.strip("[]") or "127.0.0.1"
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback or int(port) > 0xFFFF:
        raise CannotServe(
            f"no address on this machine's loopback: {text}",
            address=text,
            hint="127.0.0.1:PORT, localhost:PORT or [::1]:PORT, or a file",
        )
    return host, int(port)


def to_port(host: str, port: int, figures: Callable[[], str]) -> Exposition:
    """
    Answer ``GET /metrics``.

    Raises:
        CannotServe: the port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SILENT_SECONDS

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._answer(HTTPStatus.NOT_FOUND, "the figures are at /metrics\n")
                return
            try:
                self._answer(HTTPStatus.OK, figures())
            except ImageError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error.message}\n")

        def _answer(self, status: HTTPStatus, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's signature
            _log.debug("metrics: %s", format % args)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
            _log.debug("metrics: a client went away", exc_info=True)

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise CannotServe(
            f"cannot listen at {host}:{port}: {error.strerror}", address=f"{host}:{port}"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="ullage-metrics", daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    shown = f"[{host}]" if ":" in host else host
    return Exposition(f"http://{shown}:{server.server_address[1]}/metrics", close)


def to_file(path: Path, figures: Callable[[], str], *, every_seconds: float = _FILE_SECONDS) -> Exposition:
    """
    Write the file now, every so often and at the end; whoever reads it finds all of it or all of the one before.

    Raises:
        CannotServe: it cannot be written.
    """
    ended = threading.Event()

    def write() -> None:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(figures())
                os.fchmod(file.fileno(), 0o644)  # the collector is another user
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    def repeat() -> None:
        while not ended.wait(every_seconds):
            try:
                write()
            except (OSError, ImageError) as error:
                _log.warning("cannot write %s: %s", path, error)

    try:
        write()
    except OSError as error:
        raise CannotServe(f"cannot write {path}: {error.strerror}", address=str(path)) from error
    thread = threading.Thread(target=repeat, name="ullage-metrics", daemon=True)
    thread.start()

    def close() -> None:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError, ImageError):
            write()

    return Exposition(str(path), close)
