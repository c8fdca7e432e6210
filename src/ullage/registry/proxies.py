"""
Which proxy to ask for a host, by what the environment says. No I/O.

``https_proxy``, ``http_proxy``, ``all_proxy`` and ``no_proxy``, in lower case
before upper case, as curl and Python have it; what ``no_proxy`` means is Go's
rule (golang.org/x/net/http/httpproxy), which is what containerd and podman do.
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from ullage.errors import InvalidConfiguration
from ullage.registry.endpoint import may_speak_http

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ullage.registry.endpoint import Origin

__all__ = ["Proxy", "proxy_for", "read_proxy"]

_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080}
#: What each of these means to Go is that the proxy resolves the names.
_SOCKS: Final = {"socks5": "socks5", "socks5h": "socks5"}
#: Bytes of a user name or a password that SOCKS can carry.
_MOST_SOCKS_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class Proxy:
    """
    A proxy of scheme http, https or socks5.

    Of HTTP, ``authorization`` is the header that it wants, '' for none; of SOCKS, ``username`` and ``password`` are.
    """

    scheme: str
    host: str
    port: int
    authorization: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def proxy_for(origin: Origin, environment: Mapping[str, str]) -> Proxy | None:
    """
    The proxy for *origin*; None to go there directly.

    This machine is never asked for through a proxy.

    Raises:
        InvalidConfiguration: the environment names a proxy that we cannot use.
    """
    if may_speak_http(f"[{origin.host}]" if ":" in origin.host else origin.host):
        return None
    for name in (f"{origin.scheme}_proxy", "all_proxy"):
        found = _variable(name, environment)
        if found is not None:
            break
    else:
        return None
    variable, text = found
    no_proxy = _variable("no_proxy", environment)
    if no_proxy is not None and _is_exempt(origin, no_proxy[1]):
        return None
    return read_proxy(text, source=f"${variable}")


def read_proxy(text: str, *, source: str) -> Proxy:
    """
    Raises:
        InvalidConfiguration: *text*, which *source* holds, names no proxy that we can use. It is not quoted.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        # The library's texts quote the URL, and with it what credentials stand in it.
        raise _unusable(source, "a malformed URL") from None
    scheme = _SOCKS.get(parts.scheme, parts.scheme)
    if scheme not in _PORTS:
        raise _unusable(source, "neither http, https nor socks5")
    if not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise _unusable(source, "not scheme://host:port")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    port = _PORTS[scheme] if port is None else port
    if scheme == "socks5":
        if any(len(each.encode()) > _MOST_SOCKS_BYTES for each in (username, password)):
            raise _unusable(source, f"credentials of more than {_MOST_SOCKS_BYTES} bytes")
        return Proxy(scheme, parts.hostname, port, username=username, password=password)
    authorization = ""
    if parts.username is not None:
        authorization = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
    return Proxy(scheme, parts.hostname, port, authorization)


def _unusable(source: str, why: str) -> InvalidConfiguration:
    return InvalidConfiguration(
        f"the proxy that {source} names is not one we can use: {why}",
        path=source,
        hint="a proxy is http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT",
    )


def _variable(name: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    for spelled in (name, name.upper()):
        # In a CGI program HTTP_PROXY is a header of whoever asks ("httpoxy", CVE-2016-5385).
        if spelled == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
            continue
        if text := environment.get(spelled, "").strip():
            return spelled, text
    return None


def _is_exempt(origin: Origin, no_proxy: str) -> bool:
    return any(_names(each.strip().lower(), origin) for each in no_proxy.split(","))


def _names(pattern: str, origin: Origin) -> bool:
    """
    Whether one element of ``no_proxy`` means *origin*: ``*``, an address, a network, a domain; perhaps with a port.

    ``y.example`` is itself and what is under it, ``.y.example`` and
    ``*.y.example`` only what is under it.
    """
    if pattern in {"", "*"}:
        return pattern == "*"
    host = origin.host.rstrip(".").lower()
    if "/" in pattern:
        return _is_within(host, pattern)
    named, port = _split_port(pattern)
    if port is not None and port != origin.port:
        return False
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(named)
    except ValueError:
        suffix = named.removeprefix("*").rstrip(".")
    # An address is under no domain.
    is_address = host.replace(".", "").isdecimal() or ":" in host
    under = host.endswith(suffix if suffix.startswith(".") else f".{suffix}")
    return not is_address and (host == suffix or under)


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _split_port(pattern: str) -> tuple[str, int | None]:
    if pattern.startswith("["):
        named, _, rest = pattern[1:].partition("]")
        port = rest.removeprefix(":")
    elif pattern.count(":") == 1:
        named, _, port = pattern.partition(":")
    else:
        named, port = pattern, ""
    return named, int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else None
