"""
Where a registry is: hosts and URLs. No I/O.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

__all__ = [
    "Origin",
    "base_url",
    "is_local",
    "may_speak_http",
    "printable",
    "redirect_target",
    "registry_name",
    "same_registry",
    "shown",
]

_HUB: Final = "docker.io"
#: Docker Hub answers to all of these; its API is at the one.
_HUB_NAMES: Final = frozenset({_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_HUB_HOST: Final = "registry-1.docker.io"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_SHOWN_CHARACTERS: Final = 512


class Origin(NamedTuple):
    """
    Scheme, host and port: what credentials are bound to.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """
        The origin of an absolute http or https URL.

        Raises:
            ValueError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # The library's own texts quote the URL, and with it what credentials stand in it.
            raise ValueError("a malformed URL") from None
        scheme = parts.scheme.lower()
        if scheme not in _DEFAULT_PORTS:
            raise ValueError("neither http nor https")
        if not parts.hostname:
            raise ValueError("no host in the URL")
        return cls(scheme, parts.hostname, _DEFAULT_PORTS[scheme] if port is None else port)


def base_url(domain: str, *, plain_http: bool) -> str:
    """
    The URL at which the registry of *domain* answers, without ``/v2/``.

    >>> base_url("docker.io", plain_http=False)
    'https://registry-1.docker.io'
    """
    host = _HUB_HOST if domain in _HUB_NAMES else domain
    return f"{'http' if plain_http else 'https'}://{host}"


def may_speak_http(domain: str) -> bool:
    """
    Whether a registry may answer in plain HTTP without being told to: what is sent stays on this machine.
    """
    try:
        host = Origin.of(f"https://{domain}").host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same_registry(server_address: str, domain: str) -> bool:
    """
    Whether credentials for *server_address* are for the registry of *domain*.

    The address may carry a scheme and a path, as Docker's own
    ``https://index.docker.io/v1/`` does; Docker Hub's names are one host.
    """
    return registry_name(server_address) == registry_name(domain)


def registry_name(address: str) -> str:
    """
    The one name of the registry at *address*: no scheme, no path, no default port, and one for Docker Hub.

    >>> registry_name("https://index.docker.io/v1/")
    'docker.io'
    """
    text = address.strip()
    try:
        origin = Origin.of(text if "://" in text else f"https://{text}")
    except ValueError:
        return text
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    if origin.port != _DEFAULT_PORTS[origin.scheme]:
        return f"{host}:{origin.port}"
    return _HUB if host in _HUB_NAMES else host


def is_local(host: str) -> bool:
    """
    Whether *host* means this machine or this link: loopback, 0.0.0.0, 169.254.0.0/16.
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        # inet_aton knows the spellings that the resolver knows and ipaddress does not: 127.1, 0x7f000001.
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, UnicodeError):
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified or address.is_link_local


def redirect_target(url: str, location: str, *, from_here: bool = False) -> str:
    """
    The absolute URL that *location* means in an answer to *url*, which came from this machine when *from_here*.

    Raises:
        ValueError: we do not go there: no http or https, from https down to
            http, or from a host elsewhere to this machine. The message says which.
    """
    try:
        target = urljoin(url, location)
    except ValueError:
        raise ValueError("a malformed URL") from None
    here, there = Origin.of(url), Origin.of(target)
    if here.scheme == "https" and there.scheme == "http":
        raise ValueError("from https down to http")
    if is_local(there.host) and not (from_here or is_local(here.host)):
        raise ValueError("from another machine to this one")
    return target


def shown(url: str) -> str:
    """
    *url* as it may stand in a message: no credentials, no query, no fragment.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a malformed URL)"
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}", _MAX_SHOWN_CHARACTERS)


def printable(text: str, limit: int) -> str:
    """
    *text* from outside, in a form and length that a terminal and a log can take.
    """
    clean = "".join(each if each.isprintable() else " " for each in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
