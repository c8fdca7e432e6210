"""
One connection: requests are read from it and answers written to it, at a pace, and never for ever.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import ssl
import struct
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from ullage.httpd.request import MAX_HEAD_BYTES, BadRequest, Head, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.httpd.listener import Limits

__all__ = ["Connection"]

_RECEIVE_BYTES: Final = 64 * 1024
#: What one call hands to the kernel: so often the pace is looked at.
_PIECE_BYTES: Final = 1024 * 1024
#: Over TLS, and of a file that another thread writes: what is read and sent at a time.
_COPY_BYTES: Final = 256 * 1024


class Connection:
    """
    The socket of one client, used by one thread; `end` may come from any.

    ``close_connection`` says that the answer under way is the last one; ``sent_bytes`` counts what bodies took.
    """

    def __init__(self, connected: socket.socket, limits: Limits) -> None:
        self.socket = connected
        # The end of an answer need not wait until the client has acknowledged what is before it.
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.close_connection = False
        self.idle = True
        self.idle_since = time.monotonic()
        self.sent_bytes = 0
        self._limits = limits
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._ended = False

    def adopt(self, wrapped: ssl.SSLSocket) -> None:
        """
        From here on TLS: *wrapped* has the socket now.
        """
        with self._lock:
            self.socket = wrapped
            if self._ended:
                self._shut()

    # ------------------------------------------------------------------ in

    def next_head(self) -> Head | None:
        """
        The next request's head; None when the client has no more, or was silent for too long.

        Raises:
            BadRequest: what came is none, or came too slowly.
            OSError: the connection broke.
        """
        self.idle_since, self.idle = time.monotonic(), not self._buffer
        try:
            if not self._buffer and not self._receive(time.monotonic() + self._limits.idle_seconds):
                return None
        except TimeoutError:
            return None
        finally:
            self.idle = False
        deadline = time.monotonic() + self._limits.head_seconds
        while True:
            # An empty line before a request line is somebody's old habit (RFC 9112 §2.2).
            if self._buffer.startswith(b"\r\n"):
                del self._buffer[:2]
            if self._buffer and not 0x41 <= self._buffer[0] <= 0x5A:
                # A greeting in TLS, most likely: whoever waits for our half of it shall not wait long.
                raise BadRequest(HTTPStatus.BAD_REQUEST, "no request line of HTTP/1.1")
            end = self._buffer.find(b"\r\n\r\n")
            if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
                raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too long")
            if end >= 0:
                raw = bytes(self._buffer[:end])
                del self._buffer[: end + 4]
                return read_head(raw)
            try:
                if not self._receive(deadline):
                    return None
            except TimeoutError:
                raise BadRequest(HTTPStatus.REQUEST_TIMEOUT, "the head did not come in time") from None

    def read(self, length: int) -> bytes:
        """
        *length* bytes of a request's body.

        Raises:
            OSError: the connection broke, or was too slow.
        """
        pace = _Pace(self._limits)
        while len(self._buffer) < length:
            before = time.monotonic()
            received = self._receive(before + self._limits.silence_seconds)
            if not received:
                raise ConnectionError("the body of the request breaks off")
            pace.moved(received, time.monotonic() - before)
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _receive(self, deadline: float) -> int:
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))
        data = self.socket.recv(_RECEIVE_BYTES)
        self._buffer += data
        return len(data)

    # ------------------------------------------------------------------ out

    def send(self, data: bytes | memoryview) -> None:
        """
        All of *data*.

        Raises:
            OSError: the client is gone, or takes too long.
        """
        if len(data) <= _COPY_BYTES:
            self.socket.settimeout(self._limits.silence_seconds)
            self.socket.sendall(data)
            return
        pace, view = _Pace(self._limits), memoryview(data)
        self.socket.settimeout(self._limits.silence_seconds)
        while view:
            before = time.monotonic()
            sent = self.socket.send(view[:_PIECE_BYTES])
            pace.moved(sent, time.monotonic() - before)
            view = view[sent:]

    def send_body(self, body: bytes | Path | BinaryIO | Iterator[bytes], start: int, length: int) -> None:
        """
        *length* bytes of *body*, from *start* on where it is a file.

        Raises:
            OSError: the client is gone or takes too long, or the body breaks off.
        """
        if isinstance(body, bytes):
            self.send(memoryview(body)[start : start + length])
            self.sent_bytes += length
        elif isinstance(body, Path):
            with body.open("rb") as file:
                self._send_file(file, start, length)
        elif isinstance(body, io.IOBase):
            self._send_file(cast("BinaryIO", body), start, length)
        else:
            left = length
            for piece in body:
                self.send(piece)
                self.sent_bytes += len(piece)
                left -= len(piece)
            if left:
                raise ConnectionError("the body breaks off")

    def _send_file(self, file: BinaryIO, start: int, length: int) -> None:
        if isinstance(self.socket, ssl.SSLSocket):
            self._copy_file(file, start, length)
            return
        pace, end = _Pace(self._limits), start + length
        waiting = select.poll()
        waiting.register(self.socket, select.POLLOUT)
        self.socket.settimeout(0)
        while start < end:
            try:
                # The kernel copies from its page cache: nothing of the blob passes through here.
                sent = os.sendfile(self.socket.fileno(), file.fileno(), start, min(_PIECE_BYTES, end - start))
            except BlockingIOError:
                before = time.monotonic()
                if not waiting.poll(self._limits.silence_seconds * 1000):
                    raise TimeoutError("the client reads nothing") from None
                pace.moved(0, time.monotonic() - before)
                continue
            if not sent:
                raise ConnectionError("the file is shorter than it was")
            pace.moved(sent, 0.0)
            start += sent
            self.sent_bytes += sent

    def _copy_file(self, file: BinaryIO, start: int, length: int) -> None:
        file.seek(start)
        while length:
            piece = file.read(min(_COPY_BYTES, length))
            if not piece:
                raise ConnectionError("the file is shorter than it was")
            self.send(piece)
            self.sent_bytes += len(piece)
            length -= len(piece)

    # ------------------------------------------------------------------ the end

    def end(self) -> None:
        """
        End it from any thread: what waits on it fails at once.
        """
        with self._lock:
            self._ended = True
            self._shut()

    def reset(self) -> None:
        """
        End it without a word: the client gets an RST.
        """
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._ended = self.close_connection = True
        self.socket.close()

    def close(self) -> None:
        """
        By the thread that uses it. What the client still sends is read for a moment, or it might not see our answer.
        """
        with contextlib.suppress(OSError, ValueError):
            self.socket.settimeout(0.2)
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
            for _ in range(64):
                if self._ended or not socket.socket.recv(self.socket, _RECEIVE_BYTES):
                    break
        self.socket.close()

    def _shut(self) -> None:
        # Not SSLSocket.shutdown, which would drop the TLS layer under whoever uses it.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class _Pace:
    """
    Bytes against the time that was spent waiting for them.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waited, self._moved = 0.0, 0

    def moved(self, count: int, waited_seconds: float) -> None:
        """
        Raises:
            TimeoutError: too few for the time.
        """
        self._waited += waited_seconds
        self._moved += count
        if self._waited >= self._limits.silence_seconds:
            if self._moved < self._limits.min_bytes_per_second * self._waited:
                raise TimeoutError("the client is too slow")
            self._waited, self._moved = 0.0, 0
