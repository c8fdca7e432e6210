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

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3 import HTTPResponse

__all__ = ["Exchange", "PlainPool", "Switchboard", "TLSPool"]

#: Status line and headers, chunk sizes and trailers: http.client alone would take 6.5 MB, again and again.
OVERHEAD_BYTES: Final = 1024 * 1024
#: Below this, averaged over a read timeout's worth of waiting, a server does not serve.
MIN_BYTES_PER_SECOND: Final = 100
_BUFFER_BYTES: Final = 64 * 1024


class Exchange:
    """
    The meter and the handle of one request. Made by `Switchboard.exchange`.

    ``complaint`` says why the meter stopped the exchange, where it did.
    """

    def __init__(self, *, pace_seconds: float, deadline_seconds: float) -> None:
        self.aborted = False
        self.complaint: str | None = None
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

    def check(self) -> None:
        """
        Raises:
            OSError: aborted, or past the deadline.
        """
        if self.aborted:
            raise ConnectionAbortedError("aborted by the caller")
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.complaint = f"no complete answer within {self._deadline_seconds:g} s"
            raise TimeoutError(self.complaint)

    def received(self, count: int, waited_seconds: float) -> None:
        """
        Raises:
            OSError: too many bytes, or too few for the time.
        """
        self._allowance -= count
        if self._allowance < 0:
            self.complaint = "headers or chunk framing without end"
            raise ConnectionAbortedError(self.complaint)
        self._waited += waited_seconds
        self._arrived += count
        if self._waited >= self._pace_seconds:
            if self._arrived < MIN_BYTES_PER_SECOND * self._waited:
                self.complaint = (
                    f"too slow: {self._arrived} bytes in {self._waited:.1f} s of waiting, "
                    f"below {MIN_BYTES_PER_SECOND} bytes/s"
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
    A connection that tells the exchange which socket it uses.
    """

    def __init__(self, *args: Any, switchboard: Switchboard, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        self._switchboard = switchboard
        self._exchange: Exchange | None = None

    def connect(self) -> None:
        super().connect()
        self._tell()

    def request(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        if self.sock is not None:
            self._tell()
        super().request(*args, **options)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        exchange = self._tell()
        answer: Callable[..., http.client.HTTPResponse] = functools.partial(
            _MeteredResponse, exchange=exchange
        )
        self.response_class = answer  # type: ignore[assignment]
        return super().getresponse()

    def _tell(self) -> Exchange:
        exchange = self._switchboard.exchange
        assert exchange is not None, "requests are sent by Transport alone"
        if self._exchange is not None and self._exchange is not exchange:
            self._exchange.detach()
        self._exchange = exchange
        exchange.attach(cast("socket.socket", self.sock))
        return exchange


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class PlainPool(HTTPConnectionPool):
    ConnectionCls = _Connection


class TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection
