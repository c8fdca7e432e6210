"""
urllib3's errors in our words: every one of them is a RegistryUnavailable.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from urllib3 import exceptions as theirs

from ullage.errors import RegistryUnavailable
from ullage.registry.endpoint import printable, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REASONS", "unavailable"]

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


def unavailable(
    error: Exception, url: str, *, doing: str, complaint: str | None = None
) -> RegistryUnavailable:
    """
    What to raise for *error*, which came while *doing* something at *url*.
    """
    where = shown(url)
    reason = complaint or _reason(error)
    return RegistryUnavailable(f"{doing}: {reason} ({where})", url=where, hint=_hint(error))


def _reason(error: Exception) -> str:
    reason = next((text for kind, text in REASONS if isinstance(error, kind)), "the connection broke")
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{reason}: {printable(cause.verify_message, 200)}"
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return f"{reason}: {printable(cause.reason, 200)}"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            return f"{reason}: {printable(cause.strerror, 200)}"
    return reason


def _hint(error: Exception) -> str | None:
    if not isinstance(error, theirs.SSLError):
        return None
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLError) and cause.reason in {
            "WRONG_VERSION_NUMBER",
            "RECORD_LAYER_FAILURE",
        }:
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
        waiting.extend(cause for cause in (each.__cause__, each.__context__) if cause is not None)
