"""
urllib3's errors in our words: every one of them is a RegistryUnavailable.
"""

from __future__ import annotations

import http.client
import re
import ssl
from typing import TYPE_CHECKING, Final

from urllib3 import exceptions as theirs

from ullage.errors import RegistryUnavailable
from ullage.registry.answers import TRANSIENT
from ullage.registry.connect import LeadsHere
from ullage.registry.endpoint import printable, shown
from ullage.registry.wire import Hopeless

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REASONS", "may_pass", "speaks_plain_http", "unavailable", "was_refused", "was_stale"]

#: The first class that fits gives the reason. Their own texts are not shown: some hold the query of the URL.
REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (theirs.NameResolutionError, "the name of the host does not resolve"),
    (theirs.NewConnectionError, "no connection"),
    (theirs.ConnectTimeoutError, "no connection in time"),
    (theirs.ReadTimeoutError, "no answer in time"),
    (theirs.TimeoutStateError, "no answer in time"),
    (theirs.TimeoutError, "no answer in time"),
    (theirs.SSLError, "no trusted TLS connection"),
    (theirs.ProxyError, "the proxy does not connect"),
    (theirs.ProxySchemeUnknown, "the proxy's URL is not one we can use"),
    (theirs.ProxySchemeUnsupported, "the proxy's URL is not one we can use"),
    (theirs.LocationValueError, "not a URL that can be asked"),
    (theirs.DecodeError, "the body is not in the encoding that it claims"),
    (theirs.IncompleteRead, "the connection broke"),
    (theirs.InvalidChunkLength, "the body is not in valid chunks"),
    (theirs.ResponseNotChunked, "the body is not in valid chunks"),
    (theirs.BodyNotHttplibCompatible, "the body is not in valid chunks"),
    (theirs.InvalidHeader, "a header of the answer is invalid"),
    (theirs.HeaderParsingError, "a header of the answer is invalid"),
    (theirs.ProtocolError, "the connection broke"),
    (theirs.ClosedPoolError, "the client was closed"),
    (theirs.EmptyPoolError, "no connection was free"),
    (theirs.FullPoolError, "no connection was free"),
    (theirs.HostChangedError, "the answer leads to another host"),
    (theirs.MaxRetryError, "too many attempts"),
    (theirs.ResponseError, "too many error answers"),
    (theirs.UnrewindableBodyError, "the request could not be sent again"),
    (theirs.RequestError, "the request could not be sent"),
    (theirs.PoolError, "no connection"),
)

# How http.client says what a proxy answered.
_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})\b")

_CLOSED: Final = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
_PASSING: Final = (
    ConnectionResetError,
    BrokenPipeError,
    TimeoutError,
    http.client.IncompleteRead,
    # Not theirs.TimeoutError: a refused connection is one of those, too.
    theirs.ReadTimeoutError,
    theirs.IncompleteRead,
)
#: What OpenSSL says of an HTTP answer where a TLS record should be; which of these depends on its version.
_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
)


def unavailable(
    error: Exception, url: str, *, doing: str, complaint: str | None = None
) -> RegistryUnavailable:
    """
    What to raise for *error*, which came while *doing* something at *url*.
    """
    where = shown(url)
    if any(isinstance(each, LeadsHere) for each in _chain(error)):
        complaint = "its name leads to this machine, and we were sent there from another"
    reason = complaint or _reason(error)
    return RegistryUnavailable(f"{doing}: {reason} ({where})", url=where, hint=_hint(error))


def may_pass(error: RegistryUnavailable, *, in_body: bool = False) -> bool:
    """
    Whether the same request may get another answer: resets, silence, and what the registry calls its own trouble.

    No such host, refused, a certificate that is no good, nonsense and bombs do
    not pass. *in_body* is for what broke after TLS had been agreed on.
    """
    if error.status is not None:
        return error.status in TRANSIENT
    causes = tuple(_chain(error))
    if any(isinstance(each, Hopeless) for each in causes):
        return False
    passing: tuple[type[BaseException], ...] = _PASSING
    if in_body:
        passing += (ssl.SSLError, theirs.ProtocolError)
    return any(isinstance(each, passing) for each in causes)


def was_stale(error: Exception) -> bool:
    """
    Whether a kept connection may have ended before the request came: then nobody has answered it yet.
    """
    return any(isinstance(each, _CLOSED) for each in _chain(error))


def speaks_plain_http(error: RegistryUnavailable) -> bool:
    """
    Whether what came in answer to TLS shows that nobody there speaks it.
    """
    return any(
        isinstance(each, ssl.SSLEOFError) or (isinstance(each, ssl.SSLError) and each.reason in _NO_TLS)
        for each in _chain(error)
    )


def was_refused(error: RegistryUnavailable) -> bool:
    """
    Whether nobody listens there.
    """
    return any(isinstance(each, ConnectionRefusedError) for each in _chain(error))


def _reason(error: Exception) -> str:
    reason = next((text for kind, text in REASONS if isinstance(error, kind)), "the connection broke")
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{reason}: {printable(cause.verify_message, 200)}"
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return f"{reason}: {printable(cause.reason, 200)}"
        if tunnel := _TUNNEL.match(str(cause)) if isinstance(cause, OSError) else None:
            return f"{reason}: it answered {tunnel[1]}"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            return f"{reason}: {printable(cause.strerror, 200)}"
    return reason


def _hint(error: Exception) -> str | None:
    if not isinstance(error, theirs.SSLError):
        return None
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return "it does not speak TLS; if it is meant to be asked over HTTP, say --plain-http"
    return "its certificate must be valid for that name and signed by an authority that this machine trusts"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """
    *error* and what it was raised from; urllib3 also hands causes over as an argument.
    """
    seen: list[BaseException] = []
    waiting = [error]
    while waiting and len(seen) < 16:
        each = waiting.pop(0)
        if any(each is other for other in seen):
            continue
        seen.append(each)
        yield each
        waiting.extend(arg for arg in each.args if isinstance(arg, BaseException))
        # Not __context__: that may be an earlier attempt, whose trouble this is not.
        if each.__cause__ is not None:
            waiting.append(each.__cause__)
