"""
A registry on loopback that can be told to misbehave.

    with FaultRegistry() as registry:
        registry.inject("*/blobs/*", truncate(after=10), times=1)

A fault is a function from `Hit` to a reply: it may change what the registry
would have answered, or send by itself and return None. The newest fault whose
pattern fits wins; one that is used up (``times``) is passed over.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from ullage.demo.registry import LoopbackRegistry
from ullage.httpd import Asked, Connection, Reply, error_reply, json_reply

#: A stalled handler that nobody releases ends here; no test waits for it.
_STALL_SECONDS = 20.0
_ENDLESS_BLOCK = b"\0" * 65536


class Injected:
    """
    A fault in its place. ``hits`` counts, `reached` is set by the first one, `release` ends a stall.
    """

    def __init__(self, pattern, fault, times, method):
        self.pattern, self.fault, self.times, self.method = pattern, fault, times, method
        self.hits = 0
        self.reached = threading.Event()
        self.released = threading.Event()

    def release(self):
        self.released.set()

    def wait_reached(self):
        assert self.reached.wait(10), f"nothing asked for {self.pattern}"


@dataclass
class Hit:
    """
    One request that a fault meets.
    """

    registry: FaultRegistry
    connection: Connection
    asked: Asked
    injected: Injected

    def reply(self, asked: Asked | None = None) -> Reply:
        return self.registry.reply(asked or self.asked)

    def head(self, reply: Reply, body_bytes: int = 0) -> None:
        """
        Log the request and send the head of *reply* alone.
        """
        self.registry.log(self.asked, reply.status, body_bytes)
        self.send(self.registry.head(self.connection, reply))

    def send(self, data: bytes) -> None:
        self.connection.send(data)

    def hang_up(self) -> None:
        self.connection.close_connection = True

    def reset(self) -> None:
        """
        RST instead of FIN.
        """
        self.connection.reset()

    def stall(self) -> None:
        """
        Until released, the registry closes, or the client is gone.
        """
        self.injected.released.wait(_STALL_SECONDS)


Fault = Callable[[Hit], "Reply | None"]


class FaultRegistry(LoopbackRegistry):
    """
    `LoopbackRegistry` with faults, and with a record of all that it was sent.

    ``asked`` holds every request with its headers, ``connections`` counts them.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.asked: list[Asked] = []
        self.connections = 0
        self._injected: list[Injected] = []

    def inject(
        self, pattern: str, fault: Fault, *, times: int | None = None, method: str | None = None
    ) -> Injected:
        """
        Let *fault* meet the next requests (all, or *times* of them) whose path fits the glob *pattern*.
        """
        injected = Injected(pattern, fault, times, method)
        self._injected.append(injected)
        return injected

    def heal(self) -> None:
        """
        Behave again, and release what stalls.
        """
        for each in self._injected:
            each.release()
        self._injected.clear()

    def count(self, method: str = "*", pattern: str = "*") -> int:
        """
        How many requests of *method* fit the glob *pattern*.
        """
        return sum(
            fnmatch.fnmatchcase(each.method, method) and fnmatch.fnmatchcase(each.path, pattern)
            for each in self.requests
        )

    @property
    def blob_bytes_sent(self) -> int:
        return sum(each.bytes_sent for each in self.requests if "/blobs/" in each.path)

    def close(self, **options):
        for each in self._injected:
            each.release()
        super().close(**options)

    def answer(self, connection, asked):
        with self._lock:
            self.asked.append(asked)
        injected = self._next(asked)
        if injected is None:
            super().answer(connection, asked)
            return
        injected.reached.set()
        reply = injected.fault(Hit(self, connection, asked, injected))
        if reply is not None:
            self.deliver(connection, asked, reply)

    def _next(self, asked: Asked) -> Injected | None:
        with self._lock:
            for each in reversed(self._injected):
                if (
                    (each.times is None or each.hits < each.times)
                    and (each.method in (None, asked.method))
                    and fnmatch.fnmatchcase(asked.path, each.pattern)
                ):
                    each.hits += 1
                    return each
        return None

    def _serve(self, connection):
        with self._lock:
            self.connections += 1
        super()._serve(connection)


# Faults of what is answered


def status(code: int, error: str = "", message: str = "", headers: dict[str, str] | None = None) -> Fault:
    """
    An error answer with a document of the distribution specification.
    """
    return lambda hit: error_reply(code, error or HTTPStatus(code).name, message, headers)


def answer(body: bytes, *, code: int = 200, headers: dict[str, str] | None = None) -> Fault:
    """
    This body and these headers, whatever was asked.
    """
    return lambda hit: Reply(code, headers or {}, body, 0, len(body))


def headers(**values: str | None) -> Fault:
    """
    The right answer with headers changed, or dropped where the value is None: ``content_type="text/html"``.
    """
    changed = {name.replace("_", "-").lower(): value for name, value in values.items()}

    def fault(hit: Hit) -> Reply:
        reply = hit.reply()
        kept = {name: value for name, value in reply.headers.items() if name.lower() not in changed}
        return replace(
            reply, headers=kept | {name: value for name, value in changed.items() if value is not None}
        )

    return fault


def redirect(location: str, code: int = 307) -> Fault:
    return lambda hit: Reply(code, {"Location": location})


def no_range() -> Fault:
    """
    Range is not understood: the whole blob, 200.
    """
    return lambda hit: hit.reply(replace(hit.asked, headers=dict(hit.asked.headers) | {"range": ""}))


def wrong_range(start: int) -> Fault:
    """
    206, of another range than the one that was asked for.
    """
    return lambda hit: hit.reply(
        replace(hit.asked, headers=dict(hit.asked.headers) | {"range": f"bytes={start}-"})
    )


def wrong_bytes(at: int = 0) -> Fault:
    """
    The right number of bytes, one of them flipped.
    """

    def fault(hit: Hit) -> Reply:
        reply = hit.reply()
        body = bytearray(_body(reply))
        body[at] ^= 0xFF
        return replace(reply, body=bytes(body), start=0, length=len(body))

    return fault


def longer(extra: bytes = b"more") -> Fault:
    """
    More bytes than there should be, and a Content-Length that owns up to them.
    """

    def fault(hit: Hit) -> Reply:
        reply = hit.reply()
        body = _body(reply) + extra
        return replace(reply, body=body, start=0, length=len(body))

    return fault


def shorter(by: int = 1) -> Fault:
    """
    Fewer bytes than there should be, and a Content-Length that owns up to it.
    """

    def fault(hit: Hit) -> Reply:
        reply = hit.reply()
        body = _body(reply)[:-by]
        return replace(reply, body=body, start=0, length=len(body))

    return fault


def referrers(*, page_size: int = 1000, filters: bool = True) -> Fault:
    """
    The referrers API: what says in its ``subject`` that it refers to the digest in the path.
    """

    def fault(hit: Hit) -> Reply:
        _, _, name, _, digest = hit.asked.path.split("/", 4)
        wanted = hit.asked.query.get("artifactType", [""])[0]
        found = []
        for each, manifest in hit.registry._manifests.get(name, {}).items():
            content = json.loads(manifest.raw)
            if content.get("subject", {}).get("digest") != digest:
                continue
            kind = content.get("artifactType") or content["config"]["mediaType"]
            if not filters or wanted in ("", kind):
                entry = {"mediaType": manifest.media_type, "digest": each, "size": len(manifest.raw)}
                found.append(entry | {"artifactType": kind, "annotations": content.get("annotations", {})})
        start = int(hit.asked.query.get("start", ["0"])[0])
        more = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        if wanted and filters:
            more["OCI-Filters-Applied"] = "artifactType"
        if start + page_size < len(found):
            kept = f"artifactType={quote(wanted)}&" if wanted else ""
            more["Link"] = f'<{hit.asked.path}?{kept}start={start + page_size}>; rel="next"'
        index = {"schemaVersion": 2, "manifests": found[start : start + page_size]}
        return json_reply(index, more)

    return fault


# Faults on the wire


def stall(after: int | None = None, *, body: bytes | None = None) -> Fault:
    """
    Say nothing (not even a head) until released; or fall silent *after* so many bytes of the body, or of *body*
    instead of the right one.

    When it is released the rest follows.
    """

    def fault(hit: Hit) -> Reply | None:
        reply = hit.reply()
        if after is None:
            hit.stall()
            return reply
        sent = _body(reply) if body is None else body
        hit.head(reply, len(sent))
        hit.send(sent[:after])
        hit.stall()
        hit.send(sent[after:])
        return None

    return fault


def truncate(after: int) -> Fault:
    """
    The head promises everything, the connection ends *after* so many bytes.
    """

    def fault(hit: Hit) -> None:
        reply = hit.reply()
        hit.head(reply, after)
        hit.send(_body(reply)[:after])
        hit.hang_up()

    return fault


def reset(after: int | None = None) -> Fault:
    """
    A connection reset: before the head, or *after* so many bytes of the body.
    """

    def fault(hit: Hit) -> None:
        if after is None:
            hit.registry.log(hit.asked, 0, 0)
        else:
            reply = hit.reply()
            hit.head(reply, after)
            hit.send(_body(reply)[:after])
        hit.reset()

    return fault


def drip(bytes_each: int, every_seconds: float) -> Fault:
    """
    The right bytes, slowly; it ends when the client has had enough.
    """

    def fault(hit: Hit) -> None:
        reply = hit.reply()
        body = _body(reply)
        hit.head(reply, len(body))
        _drip(hit, body, bytes_each, every_seconds)

    return fault


def drip_head(every_seconds: float) -> Fault:
    """
    The right head, byte by byte.
    """

    def fault(hit: Hit) -> None:
        reply = hit.reply()
        hit.registry.log(hit.asked, reply.status, 0)
        _drip(hit, hit.registry.head(hit.connection, reply), 1, every_seconds)
        hit.hang_up()

    return fault


def chunked(extra: bytes = b"", *, chunk_bytes: int = 1000) -> Fault:
    """
    The right bytes (and *extra* ones) in chunks, without a Content-Length.
    """

    def fault(hit: Hit) -> None:
        reply = hit.reply()
        body = _body(reply) + extra
        hit.registry.log(hit.asked, reply.status, len(body))
        hit.send(_head_without_length(hit, reply, "Transfer-Encoding: chunked"))
        for at in range(0, len(body), chunk_bytes):
            piece = body[at : at + chunk_bytes]
            hit.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        hit.send(b"0\r\n\r\n")

    return fault


def chunked_break(after: int) -> Fault:
    """
    In chunks, without a Content-Length; the connection ends *after* so many bytes, in the middle of a chunk.
    """

    def fault(hit: Hit) -> None:
        reply = hit.reply()
        body = _body(reply)
        hit.registry.log(hit.asked, reply.status, after)
        hit.send(_head_without_length(hit, reply, "Transfer-Encoding: chunked"))
        hit.send(b"%x\r\n%b" % (len(body), body[:after]))
        hit.hang_up()

    return fault


def until_close(length: int | None = None) -> Fault:
    """
    The right bytes (or the first *length*) without a Content-Length: the end is where the connection ends.
    """

    def fault(hit: Hit) -> None:
        reply = hit.reply()
        body = _body(reply)[:length]
        hit.registry.log(hit.asked, reply.status, len(body))
        hit.send(_head_without_length(hit, reply, "Connection: close") + body)
        hit.hang_up()

    return fault


def endless_body() -> Fault:
    """
    A body without a Content-Length and without an end.
    """

    def fault(hit: Hit) -> None:
        hit.registry.log(hit.asked, 200, 0)
        hit.send(_head_without_length(hit, hit.reply(), "Connection: close"))
        _endless(hit, _ENDLESS_BLOCK)

    return fault


def raw(data: bytes) -> Fault:
    """
    These bytes instead of an answer, then the end of the connection.
    """

    def fault(hit: Hit) -> None:
        hit.registry.log(hit.asked, 0, 0)
        hit.send(data)
        hit.hang_up()

    return fault


def endless(start: bytes, block: bytes) -> Fault:
    """
    *start*, then *block* for as long as the client listens: header bombs, 100 Continue, chunk trailers.
    """

    def fault(hit: Hit) -> None:
        hit.registry.log(hit.asked, 0, 0)
        hit.send(start)
        _endless(hit, block)

    return fault


def _body(reply: Reply) -> bytes:
    content = reply.body.read_bytes() if isinstance(reply.body, Path) else reply.body
    return content[reply.start : reply.start + reply.length]


def _head_without_length(hit: Hit, reply: Reply, line: str) -> bytes:
    lines = hit.registry.head(hit.connection, reply).decode("latin-1").split("\r\n")
    kept = [each for each in lines if each and not each.lower().startswith("content-length:")]
    return ("\r\n".join([*kept, line]) + "\r\n\r\n").encode("latin-1")


def _drip(hit: Hit, data: bytes, bytes_each: int, every_seconds: float) -> None:
    for at in range(0, len(data), bytes_each):
        hit.send(data[at : at + bytes_each])
        if hit.injected.released.wait(every_seconds):
            hit.send(data[at + bytes_each :])
            return


def _endless(hit: Hit, block: bytes) -> None:
    hit.hang_up()
    until = time.monotonic() + _STALL_SECONDS
    # The client hangs up: that is how it ends.
    with contextlib.suppress(OSError):
        while time.monotonic() < until and not hit.injected.released.is_set():
            hit.send(block)
