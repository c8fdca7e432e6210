"""
Sending: pools, a few attempts, a few redirects. What an answer means is the client's business.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.connection import ProxyConfig
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout, parse_url

from ullage.errors import PullCancelled, RegistryUnavailable
from ullage.registry.answers import TRANSIENT, retry_after_seconds
from ullage.registry.endpoint import Origin, printable, redirect_target, shown
from ullage.registry.faults import may_pass, unavailable, was_stale
from ullage.registry.proxies import proxy_for, read_proxy
from ullage.registry.request import Group, Request, Stream
from ullage.registry.route import TLS
from ullage.registry.tls import Contexts
from ullage.registry.wire import Exchange, PlainPool, Switchboard, TLSPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.registry.patience import Patience
    from ullage.registry.proxies import Proxy
    from ullage.registry.route import Route

__all__ = ["Answer", "Transport"]

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SAME_METHOD: Final = frozenset({307, 308})
_MAX_REDIRECTS: Final = 5
#: Hosts whose connections are kept.
_MAX_POOLS: Final = 16
#: Connections kept for each: above what parallel pulls use at once, since urllib3 warns on stderr beyond it.
_CONNECTIONS: Final = 64
#: What is read of a body that nobody wants, so that its connection can be used again.
_DRAIN_BYTES: Final = 64 * 1024
#: Documents must be here within this many read timeouts; blobs only keep their pace.
_DEADLINE_TIMEOUTS: Final = 4

#: What a host that we were sent to by another may see of what we send to that other one.
_ONWARD_HEADERS: Final = frozenset({"accept", "range", "if-range", "content-type", "content-range"})

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
        self.from_here = exchange.here
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
        self,
        *,
        connect_timeout_seconds: float,
        read_timeout_seconds: float,
        min_bytes_per_second: float,
        user_agent: str,
    ) -> None:
        self._connect_timeout_seconds = connect_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._min_bytes_per_second = min_bytes_per_second
        self._user_agent = user_agent
        self._switchboard = Switchboard()
        self._contexts = Contexts()
        self._lock = threading.Lock()
        self._pools: OrderedDict[tuple[object, ...], HTTPConnectionPool] = OrderedDict()
        self._pid = os.getpid()
        self._closed = False

    def fetch(self, request: Request, *, group: Group, patience: Patience) -> Answer:
        """
        Send *request*, again where that may help, and go where it is redirected.

        Credentials stay with the origin that they were for: once a redirect
        leaves it they are gone, even if a later one leads back.

        Raises:
            RegistryUnavailable: no answer, or redirects that we do not follow.
            InvalidConfiguration: a certificate or a proxy that we were told to use is none.
            PullCancelled: *group* was aborted.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._attempts(request, group, patience)
            if not _is_followed(answer.status, request):
                return answer
            location = answer.header("Location")
            answer.finish()
            request = _redirected(answer, location)
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

    def _attempts(self, request: Request, group: Group, patience: Patience) -> Answer:
        retries = patience.retries()
        while True:
            group.check()
            try:
                answer = self._once(request, group)
            except RegistryUnavailable as error:
                wait = retries.wait_seconds() if may_pass(error) else None
                if wait is None:
                    raise
            else:
                if answer.status not in TRANSIENT:
                    return answer
                wait = retries.wait_seconds(retry_after_seconds(answer.header("Retry-After")))
                if wait is None:
                    return answer
                answer.finish()
            group.pause(wait)

    def _once(self, request: Request, group: Group) -> Answer:
        while True:
            exchange = Exchange(
                target=_target(request.url),
                not_here=request.route.not_here,
                pace_seconds=self._read_timeout_seconds,
                min_bytes_per_second=self._min_bytes_per_second,
                deadline_seconds=_DEADLINE_TIMEOUTS * self._read_timeout_seconds,
            )
            group.add(exchange)
            # What is uploaded may be read from another registry meanwhile, in this thread.
            outer, self._switchboard.exchange = self._switchboard.exchange, exchange
            try:
                response = self._send(request, exchange)
            except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                group.discard(exchange)
                if exchange.aborted:
                    raise PullCancelled(f"{request.doing}: aborted") from error
                if not exchange.made_connection and was_stale(error) and not isinstance(request.body, Stream):
                    # The server had closed a connection that we had kept: it has seen nothing of this. The
                    # next one may be as old; in the end there is a fresh one.
                    continue
                raise unavailable(
                    error, request.url, doing=request.doing, complaint=exchange.complaint
                ) from error
            except BaseException:
                group.discard(exchange)
                raise
            finally:
                self._switchboard.exchange = outer
            return Answer(request, exchange, response, group, origin=Origin.of(request.url))

    def _send(self, request: Request, exchange: Exchange) -> HTTPResponse:
        origin, route = Origin.of(request.url), request.route
        proxy = read_proxy(route.proxy, source="hosts.toml") if route.proxy else proxy_for(origin, os.environ)
        headers = {"User-Agent": self._user_agent, "Accept-Encoding": "identity", **request.headers}
        if isinstance(request.body, Stream):
            headers["Content-Length"] = str(request.body.length)
        if proxy is not None and proxy.scheme != "socks5" and origin.scheme == "http":
            # A proxy is asked for the whole URL; only to TLS it makes a tunnel.
            exchange.target = f"{request.url.partition('/')[0]}//{_authority(origin)}{exchange.target}"
            if proxy.authorization:
                headers["Proxy-Authorization"] = proxy.authorization
        connect = route.connect_timeout_seconds or self._connect_timeout_seconds
        response = self._pool(origin, route, proxy).urlopen(
            request.method,
            # What the pool sees stands in its log: the query does not.
            exchange.target.partition("?")[0],
            # An iterable of anything that has a buffer: what http.client sends, and urllib3 has no type for.
            body=cast("Any", _watched(request.body, exchange))
            if isinstance(request.body, Stream)
            else request.body,
            headers=headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(connect=connect, read=self._read_timeout_seconds),
            preload_content=False,
            decode_content=False,
        )
        assert isinstance(response, HTTPResponse)
        return response

    def _pool(self, origin: Origin, route: Route, proxy: Proxy | None) -> HTTPConnectionPool:
        # A connection that may lead to this machine is not for a request that may not.
        context = self._contexts.get(route.tls) if origin.scheme == "https" else None
        key = (origin, context, proxy, route.not_here)
        with self._lock:
            if self._pid != os.getpid():
                # The parent goes on using these sockets: forget them, and let nothing be sent on them.
                self._pools, self._pid = OrderedDict(), os.getpid()
            if self._closed:
                raise PullCancelled("the registry client was closed")
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = self._new_pool(origin, route, proxy)
            self._pools.move_to_end(key)
            oldest = self._pools.popitem(last=False)[1] if len(self._pools) > _MAX_POOLS else None
        if oldest is not None:
            oldest.close()
        return pool

    def _new_pool(self, origin: Origin, route: Route, proxy: Proxy | None) -> HTTPConnectionPool:
        options: dict[str, Any] = {"maxsize": _CONNECTIONS, "switchboard": self._switchboard}
        if proxy is not None and proxy.scheme == "socks5":
            # It carries bytes: what stands behind it is spoken to as if it were not there.
            options["socks"], proxy = proxy, None
        if proxy is not None:
            options["_proxy"] = parse_url(proxy.url)
            context = self._contexts.get(TLS(ca=route.tls.ca)) if proxy.scheme == "https" else None
            options["_proxy_config"] = ProxyConfig(context, False, None, None)
        if origin.scheme == "https":
            if proxy is not None and proxy.authorization:
                options["_proxy_headers"] = {"Proxy-Authorization": proxy.authorization}
            return TLSPool(origin.host, origin.port, ssl_context=self._contexts.get(route.tls), **options)
        if proxy is None:
            return PlainPool(origin.host, origin.port, **options)
        if proxy.scheme == "http":
            return PlainPool(proxy.host, proxy.port, **options)
        return TLSPool(proxy.host, proxy.port, ssl_context=context, **options)


def _is_followed(status: int, request: Request) -> bool:
    # A form with a password goes where it was meant to go. An upload goes on as what it is, or not at all.
    if isinstance(request.body, Stream):
        return status in _SAME_METHOD
    return status in _REDIRECTS and request.body is None


def _watched(body: Stream, exchange: Exchange) -> Iterator[bytes | memoryview]:
    """
    The pieces of a body on their way out: while they move there is no deadline, and an abort is seen between two.
    """
    for piece in body.pieces():
        exchange.moves()
        yield piece
    exchange.moves()


def _authority(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{host}:{origin.port}"


def _target(url: str) -> str:
    """
    Path and query: what stands in the request line.

    One slash at the front: urllib3 takes two for the start of a host.
    """
    rest = url.partition("://")[2].partition("#")[0]
    slash = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    target = rest[slash:].lstrip("/")
    # What came in a header was decoded as latin-1: so it becomes the bytes again that it was.
    encoding = "latin-1" if all(ord(each) < 256 for each in target) else "utf-8"
    return "/" + quote(target, safe="%/:=&?~+!$,;'@()*", encoding=encoding)


def _redirected(answer: Answer, location: str) -> Request:
    request = answer.request
    try:
        if not location:
            raise ValueError("no Location")  # noqa: TRY301  one place says what is wrong with a redirect
        target = redirect_target(request.url, location, from_here=answer.from_here)
        kept = Origin.of(target) == Origin.of(request.url)
    except ValueError as error:
        raise RegistryUnavailable(
            f"{request.doing}: a redirect that we do not follow: {printable(str(error), 200)}",
            url=shown(request.url),
            status=answer.status,
            hint="the registry or something before it sends us elsewhere; ask its owner",
        ) from error
    if kept:
        return replace(request, url=target)
    headers = {name: value for name, value in request.headers.items() if name.lower() in _ONWARD_HEADERS}
    return Request(
        request.method,
        target,
        request.doing,
        headers,
        request.body if isinstance(request.body, Stream) else None,
        request.route.onward(not_here=not answer.from_here),
    )
