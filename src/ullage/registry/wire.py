"""
One request and its answer on the wire: every received byte passes here.

urllib3 bounds the silence between two bytes, and nothing else. A hostile
server drips, never stops its headers or its chunk trailers, or sends "100
Continue" for ever. So the reader below http.client counts: bytes against an
allowance, waiting against a pace and a deadline. And it knows the socket, which
makes `Exchange.abort` possible: a thread that waits in recv wakes at once.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
)

from ullage.registry.connect import open_socket
from ullage.registry.endpoint import is_local
from ullage.registry.socks import SocksRefused, connect_through

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3 import HTTPResponse
    from urllib3._base_connection import BaseHTTPConnection

    from ullage.registry.proxies import Proxy

__all__ = ["Exchange", "Hopeless", "PlainPool", "Switchboard", "TLSPool"]

#: Status line and headers, chunk sizes and trailers: http.client alone would take 6.5 MB, again and again.
OVERHEAD_BYTES: Final = 1024 * 1024
_BUFFER_BYTES: Final = 64 * 1024


class Hopeless(OSError):
    """
    What the meter stopped, and what it would have to stop again.
    """


class Exchange:
    """
    The meter and the handle of one request.

    ``complaint`` says why the meter stopped the exchange, where it did. The
    rest is between a request and the connection that carries it: ``target`` is
    what stands in its request line, ``not_here`` and ``made_connection`` and
    ``here`` say whether it may lead to this machine, whether a connection was
    made for it, and whether that one leads to this machine.
    """

    def __init__(
        self,
        *,
        target: str,
        not_here: bool,
        pace_seconds: float,
        min_bytes_per_second: float,
        deadline_seconds: float,
    ) -> None:
        self.target = target
        self.not_here = not_here
        self.made_connection = False
        self.here = False
        self.aborted = False
        self.complaint: str | None = None
        self._min_bytes_per_second = min_bytes_per_second
        self._pace_seconds = pace_seconds
        self._deadline: float | None = time.monotonic() + deadline_seconds
        self._deadline_seconds = deadline_seconds
        self._allowance = OVERHEAD_BYTES
        self._waited = 0.0
        self._arrived = 0
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def abort(self) -> None:
        """
        End the exchange from another thread; a read that waits fails at once.
        """
        with self._lock:
            self.aborted = True
            if self._socket is not None:
                # Not SSLSocket.shutdown: that one drops the TLS layer, and the reader would get ciphertext.
                # A socket that is closed already needs no end.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def attach(self, connected: socket.socket) -> None:
        with self._lock:
            self._socket = connected
        self.check()

    def detach(self) -> None:
        """
        The connection goes to the next exchange: from now on, `abort` does not touch it.
        """
        with self._lock:
            self._socket = None

    def allow(self, body_bytes: int) -> None:
        """
        Before a read: what the wire may carry until it returns.

        A chunk of one byte travels as six.
        """
        self._allowance = OVERHEAD_BYTES + 8 * body_bytes

    def unlimited_time(self) -> None:
        """
        From here on a body of known size: the pace holds, the deadline does not.
        """
        self._deadline = None

    def moves(self) -> None:
        """
        What we send is on its way: the time for the answer begins anew.

        Raises:
            OSError: aborted.
        """
        if self.aborted:
            raise ConnectionAbortedError("aborted by the caller")
        self._deadline = time.monotonic() + self._deadline_seconds

    def check(self) -> None:
        """
        Raises:
            OSError: aborted, or past the deadline.
        """
        if self.aborted:
            raise ConnectionAbortedError("aborted by the caller")
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.complaint = f"no complete answer within {self._deadline_seconds:g} s"
            raise Hopeless(self.complaint)

    def received(self, count: int, waited_seconds: float) -> None:
        """
        Raises:
            OSError: too many bytes, or too few for the time.
        """
        self._allowance -= count
        if self._allowance < 0:
            self.complaint = "headers or chunk framing without end"
            raise Hopeless(self.complaint)
        self._waited += waited_seconds
        self._arrived += count
        if self._waited >= self._pace_seconds:
            if self._arrived < self._min_bytes_per_second * self._waited:
                self.complaint = (
                    f"too slow: {self._arrived} bytes in {self._waited:.1f} s of waiting, "
                    f"below {self._min_bytes_per_second:.0f} bytes/s"
                )
                raise TimeoutError(self.complaint)
            self._waited, self._arrived = 0.0, 0


class Switchboard(threading.local):
    """
    Which exchange this thread works on: how a connection finds its own.
    """

    exchange: Exchange | None = None


class _MeteredSocket(io.RawIOBase):
    """
    What http.client reads from: the socket, with the meter in between.
    """

    def __init__(self, raw: io.RawIOBase, exchange: Exchange) -> None:
        self._raw = raw
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:  # noqa: ANN401  typeshed has no public name for it
        self._exchange.check()
        before = time.monotonic()
        count = cast("int | None", self._raw.readinto(buffer))
        self._exchange.received(count or 0, time.monotonic() - before)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _MeteredResponse(http.client.HTTPResponse):
    """
    An answer that is read through the meter.
    """

    def __init__(self, connected: socket.socket, *args: Any, exchange: Exchange, **options: Any) -> None:  # noqa: ANN401
        super().__init__(connected, *args, **options)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_MeteredSocket(raw, exchange), _BUFFER_BYTES)

    def begin(self) -> None:
        super().begin()
        # Lines that are no header: urllib3 would log them as a warning, with the URL and its query.
        # What parsed before them counts, what stands after them was never received.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _Connection(HTTPConnection):
    """
    A connection that tells the exchange which socket it uses, and asks it what to send.

    The pool above only sees the path: what it sees it writes into its log, and
    the query of a URL may be a signature.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        switchboard: Switchboard,
        socks: Proxy | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **options)
        self._switchboard = switchboard
        self._socks = socks
        self._exchange: Exchange | None = None
        self._twin: socket.socket | None = None
        self._here = False

    def connect(self) -> None:
        super().connect()
        self._now.made_connection = True
        if isinstance(self.sock, socket.socket):
            self._drop_twin()
        self._tell()

    def close(self) -> None:
        self._drop_twin()
        super().close()

    def request(self, method: str, url: str, *args: Any, **options: Any) -> None:  # noqa: ANN401, ARG002
        if self.sock is not None:
            self._tell()
        super().request(method, self._now.target, *args, **options)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        exchange = self._tell()
        answer: Callable[..., http.client.HTTPResponse] = functools.partial(
            _MeteredResponse, exchange=exchange
        )
        self.response_class = answer  # type: ignore[assignment]
        return super().getresponse()

    def _new_conn(self) -> socket.socket:
        exchange = self._now
        timeout = self.timeout
        assert isinstance(timeout, int | float), "every request has a timeout for its connection"
        host, port = (
            (self._dns_host, self.port) if self._socks is None else (self._socks.host, self._socks.port)
        )
        # To a proxy on this machine we go by our own choice.
        is_proxy = self.proxy is not None or self._socks is not None
        try:
            opened = open_socket(
                host,
                port,
                timeout_seconds=timeout,
                options=self.socket_options or (),
                exchange=exchange,
                not_here=exchange.not_here and not is_proxy,
            )
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no connection in time") from error
        except OSError as error:
            if self._socks is not None:
                raise ProxyError("the SOCKS proxy cannot be reached", error) from error
            if isinstance(error, socket.gaierror):
                raise NameResolutionError(self.host, self, error) from error
            raise NewConnectionError(self, "no connection") from error
        try:
            if self._socks is not None:
                connect_through(
                    opened,
                    self._socks,
                    self._dns_host,
                    self.port,
                    timeout_seconds=timeout,
                    exchange=exchange,
                )
            self._here = not is_proxy and is_local(str(opened.getpeername()[0]))
            # TLS takes the descriptor over while it shakes hands, and the object that we hold becomes a husk;
            # TLS through a proxy's TLS is no socket at all. A duplicate still ends the connection when it is
            # shut down.
            self._twin, self._exchange = opened.dup(), exchange
            exchange.attach(self._twin)
        except OSError as error:
            exchange.detach()
            opened.close()
            self._drop_twin()
            if isinstance(error, SocksRefused):
                raise ProxyError("the SOCKS proxy does not connect", error) from error
            if isinstance(error, TimeoutError):
                raise ConnectTimeoutError(self, "no connection in time") from error
            raise
        return opened

    @property
    def _now(self) -> Exchange:
        exchange = self._switchboard.exchange
        assert exchange is not None, "requests are sent by Transport alone"
        return exchange

    def _tell(self) -> Exchange:
        exchange = self._now
        if self._exchange is not None and self._exchange is not exchange:
            self._exchange.detach()
        self._exchange = exchange
        exchange.here = self._here
        exchange.attach(cast("socket.socket", self._twin or self.sock))
        return exchange

    def _drop_twin(self) -> None:
        if self._twin is not None:
            if self._exchange is not None:
                self._exchange.detach()
            self._twin.close()
            self._twin = None


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class PlainPool(HTTPConnectionPool):
    ConnectionCls = _Connection


class TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection

    def _validate_conn(self, conn: BaseHTTPConnection) -> None:
        # Theirs also warns, at each connection, where certificates are not verified. Who asked for that knows.
        if conn.is_closed:
            conn.connect()
