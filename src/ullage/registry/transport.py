"""
Sending: pools, a few attempts, a few redirects. What an answer means is the client's business.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import ssl
import threading
from collections import OrderedDict
from typing import Final

from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Timeout

from ullage.errors import PullCancelled, RegistryUnavailable
from ullage.registry.answers import TRANSIENT, retry_after_seconds
from ullage.registry.endpoint import Origin, printable, redirect_target, shown
from ullage.registry.faults import unavailable
from ullage.registry.request import Group, Request
from ullage.registry.wire import Exchange, PlainPool, Switchboard, TLSPool

__all__ = ["Answer", "Transport"]

_ATTEMPTS: Final = 3
_BACKOFF_SECONDS: Final = 0.1
#: A registry that asks us to wait for longer is told to the caller instead.
_MAX_RETRY_AFTER_SECONDS: Final = 5.0
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 5
#: Hosts whose connections are kept.
_MAX_POOLS: Final = 16
#: Connections kept for each: above what parallel pulls use at once, since urllib3 warns on stderr beyond it.
_CONNECTIONS: Final = 64
#: What is read of a body that nobody wants, so that its connection can be used again.
_DRAIN_BYTES: Final = 64 * 1024
#: Documents must be here within this many read timeouts; blobs only keep their pace.
_DEADLINE_TIMEOUTS: Final = 4

_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")


class Answer:
    """
    Status, headers and a body that is still to be read. Close it, or `finish` it.
    """

    def __init__(
        self, request: Request, exchange: Exchange, response: HTTPResponse, group: Group, *, origin: Origin
    ) -> None:
        self.request = request
        self.status = response.status
        self.url = request.url
        self.origin = origin
        self._exchange = exchange
        self._response = response
        self._group = group
        self._start_bytes = 0
        self._total_bytes = self.length

    def header(self, name: str) -> str:
        """
        A header's value, '' when it is absent.
        """
        return self._response.headers.get(name, "").strip()

    @property
    def length(self) -> int | None:
        """
        Content-Length, where the answer states a usable one.
        """
        text = self.header("Content-Length")
        return int(text) if _CONTENT_LENGTH.fullmatch(text) else None

    def read(self, amount: int) -> bytes:
        """
        Up to *amount* bytes, as they come; b'' at the end.

        Raises:
            RegistryUnavailable: the connection broke, or was too slow.
            PullCancelled: aborted.
        """
        self._exchange.allow(amount)
        try:
            data = self._response.read1(amount, decode_content=False)
        except (HTTPError, http.client.HTTPException, OSError) as error:
            self.close()
            self._raise_if_aborted(error)
            got = self._start_bytes + self._response.tell()
            of = "" if self._total_bytes is None else f" of {self._total_bytes}"
            raise unavailable(
                error,
                self.url,
                doing=f"{self.request.doing}, after {got}{of} bytes",
                complaint=self._exchange.complaint,
            ) from error
        self._raise_if_aborted(None)
        return data

    def read_all(self, limit: int) -> bytes | None:
        """
        The whole body; None when it is longer than *limit* (not all of it is read then).
        """
        if self.length is not None and self.length > limit and self.request.method != "HEAD":
            self.close()
            return None
        parts: list[bytes] = []
        room = limit + 1
        while room > 0 and (data := self.read(min(room, _DRAIN_BYTES))):
            parts.append(data)
            room -= len(data)
        self.close()
        return b"".join(parts) if room > 0 else None

    def stream(self, *, start_bytes: int, total_bytes: int) -> None:
        """
        The body is a blob from *start_bytes* on: it may take as long as it keeps its pace.
        """
        self._start_bytes, self._total_bytes = start_bytes, total_bytes
        self._exchange.unlimited_time()

    def finish(self) -> None:
        """
        Done with it, whatever the body holds: keep the connection when little is left to read.
        """
        with contextlib.suppress(RegistryUnavailable):
            self.read_all(_DRAIN_BYTES)
        self.close()

    def abort(self) -> None:
        self._exchange.abort()

    def close(self) -> None:
        self._group.discard(self._exchange)
        # A response that was read to its end has given its connection back; any other loses it here.
        self._response.close()

    def _raise_if_aborted(self, error: Exception | None) -> None:
        if self._exchange.aborted:
            self.close()
            raise PullCancelled(f"{self.request.doing}: aborted") from error


class Transport:
    """
    The connections of one client. Thread-safe; forked children start afresh.
    """

    def __init__(
        self, *, connect_timeout_seconds: float, read_timeout_seconds: float, user_agent: str
    ) -> None:
        self._timeout = Timeout(connect=connect_timeout_seconds, read=read_timeout_seconds)
        self._read_timeout_seconds = read_timeout_seconds
        self._user_agent = user_agent
        self._switchboard = Switchboard()
        self._lock = threading.Lock()
        self._pools: OrderedDict[Origin, HTTPConnectionPool] = OrderedDict()
        self._tls: ssl.SSLContext | None = None
        self._pid = os.getpid()
        self._closed = False

    def fetch(self, request: Request, *, group: Group) -> Answer:
        """
        Send *request*, again where that may help, and go where it is redirected.

        Credentials stay with the origin that they were for: once a redirect
        leaves it they are gone, even if a later one leads back.

        Raises:
            RegistryUnavailable: no answer, or redirects that we do not follow.
            PullCancelled: *group* was aborted.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._attempts(request, group)
            if answer.status not in _REDIRECTS or request.body is not None:
                return answer
            location = answer.header("Location")
            answer.finish()
            request = _redirected(request, location, answer.status)
        raise RegistryUnavailable(
            f"{request.doing}: more than {_MAX_REDIRECTS} redirects",
            url=shown(request.url),
            status=answer.status,
            hint="the registry sends us in circles; ask its owner",
        )

    def close(self) -> None:
        with self._lock:
            self._closed = True
            pools = tuple(self._pools.values())
            self._pools.clear()
        for each in pools:
            each.close()

    def _attempts(self, request: Request, group: Group) -> Answer:
        for attempt in range(1, _ATTEMPTS + 1):
            group.check()
            backoff = _BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
            try:
                answer = self._once(request, group)
            except RegistryUnavailable as error:
                # A kept connection that the server had closed, a reset: ask again. Refused, no such host, bad
                # certificate, silence: the next attempt would end the same way, and later.
                if attempt == _ATTEMPTS or not _was_reset(error.__cause__):
                    raise
                group.pause(backoff)
                continue
            if answer.status not in TRANSIENT or attempt == _ATTEMPTS:
                return answer
            asked = retry_after_seconds(answer.header("Retry-After"))
            if asked is not None and asked > _MAX_RETRY_AFTER_SECONDS:
                return answer
            answer.finish()
            group.pause(backoff if asked is None else asked)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, request: Request, group: Group) -> Answer:
        exchange = Exchange(
            pace_seconds=self._read_timeout_seconds,
            deadline_seconds=_DEADLINE_TIMEOUTS * self._read_timeout_seconds,
        )
        group.add(exchange)
        self._switchboard.exchange = exchange
        try:
            origin = Origin.of(request.url)
            response = self._pool(origin).urlopen(
                request.method,
                _target(request.url),
                body=request.body,
                headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity", **request.headers},
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=self._timeout,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            group.discard(exchange)
            if exchange.aborted:
                raise PullCancelled(f"{request.doing}: aborted") from error
            raise unavailable(
                error, request.url, doing=request.doing, complaint=exchange.complaint
            ) from error
        except BaseException:
            group.discard(exchange)
            raise
        finally:
            self._switchboard.exchange = None
        assert isinstance(response, HTTPResponse)
        return Answer(request, exchange, response, group, origin=origin)

    def _pool(self, origin: Origin) -> HTTPConnectionPool:
        with self._lock:
            if self._pid != os.getpid():
                # The parent goes on using these sockets: forget them, and let nothing be sent on them.
                self._pools, self._pid = OrderedDict(), os.getpid()
            if self._closed:
                raise PullCancelled("the registry client was closed")
            pool = self._pools.get(origin)
            if pool is None:
                pool = self._pools[origin] = self._new_pool(origin)
            self._pools.move_to_end(origin)
            oldest = self._pools.popitem(last=False)[1] if len(self._pools) > _MAX_POOLS else None
        if oldest is not None:
            oldest.close()
        return pool

    def _new_pool(self, origin: Origin) -> HTTPConnectionPool:
        if origin.scheme == "http":
            return PlainPool(origin.host, origin.port, maxsize=_CONNECTIONS, switchboard=self._switchboard)
        if self._tls is None:
            # Loading the machine's certificates takes 10 ms or more: once, not for each connection.
            self._tls = ssl.create_default_context()
        return TLSPool(
            origin.host,
            origin.port,
            maxsize=_CONNECTIONS,
            ssl_context=self._tls,
            switchboard=self._switchboard,
        )


def _was_reset(error: BaseException | None) -> bool:
    causes = error.args if isinstance(error, ProtocolError) else ()
    return any(isinstance(each, ConnectionResetError | BrokenPipeError) for each in causes)


def _target(url: str) -> str:
    """
    Path and query: what stands in the request line.

    One slash at the front: urllib3 takes two for the start of a host.
    """
    rest = url.partition("://")[2].partition("#")[0]
    slash = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    return "/" + rest[slash:].lstrip("/")


def _redirected(request: Request, location: str, status: int) -> Request:
    try:
        if not location:
            raise ValueError("no Location")  # noqa: TRY301  one place says what is wrong with a redirect
        target = redirect_target(request.url, location)
        kept = Origin.of(target) == Origin.of(request.url)
    except ValueError as error:
        raise RegistryUnavailable(
            f"{request.doing}: a redirect that we do not follow: {printable(str(error), 200)}",
            url=shown(request.url),
            status=status,
            hint="the registry or something before it sends us elsewhere; ask its owner",
        ) from error
    headers = {
        name: value for name, value in request.headers.items() if kept or name.lower() != "authorization"
    }
    return Request(request.method, target, request.doing, headers)
