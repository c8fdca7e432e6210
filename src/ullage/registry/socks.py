"""
The way through a SOCKS 5 proxy (RFC 1928, RFC 1929): what is said before the connection is the registry's.
"""

from __future__ import annotations

import errno
import ipaddress
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

    from ullage.registry.proxies import Proxy
    from ullage.registry.wire import Exchange

__all__ = ["SocksRefused", "connect_through"]

_VERSION: Final = 5
_NO_LOGIN, _PASSWORD, _NONE_OF_THESE = 0, 2, 0xFF
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_ADDRESS_BYTES: Final = {_IPV4: 4, _IPV6: 16}
_MOST: Final = 255
#: RFC 1928 §6.
_REPLIES: Final = {
    1: "it failed",
    2: "its rules do not allow it",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "the connection was refused",
    6: "the way is too long",
    7: "it makes no connections",
    8: "it does not know such addresses",
}


class SocksRefused(OSError):
    """
    What the proxy answered is a no, or no SOCKS at all.
    """

    def __init__(self, why: str) -> None:
        super().__init__(errno.ECONNREFUSED, why)


def connect_through(
    opened: socket.socket, proxy: Proxy, host: str, port: int, *, timeout_seconds: float, exchange: Exchange
) -> None:
    """
    Let the proxy that *opened* is connected to connect on to *host*, whose name it resolves itself.

    Raises:
        OSError: it does not, or not in time; `SocksRefused` where it said so.
    """
    talk = _Talk(opened, time.monotonic() + timeout_seconds, exchange)
    methods = [_NO_LOGIN, *([_PASSWORD] if proxy.username else [])]
    talk.send(bytes([_VERSION, len(methods), *methods]))
    version, method = talk.receive(2)
    if version != _VERSION:
        raise SocksRefused("it does not speak SOCKS 5")
    if method == _PASSWORD and proxy.username:
        username, password = proxy.username.encode(), proxy.password.encode()
        talk.send(bytes([1, len(username)]) + username + bytes([len(password)]) + password)
        if talk.receive(2)[1] != 0:
            raise SocksRefused("it refused the credentials in its URL")
    elif method != _NO_LOGIN:
        raise SocksRefused("it wants credentials, which its URL may hold")
    talk.send(bytes([_VERSION, _CONNECT, 0]) + _address(host) + port.to_bytes(2, "big"))
    version, reply, _, kind = talk.receive(4)
    if version != _VERSION:
        raise SocksRefused("it does not speak SOCKS 5")
    if reply != 0:
        raise SocksRefused(_REPLIES.get(reply, f"it answered {reply}"))
    # Where it is bound to is of no use to us; the bytes that say so have to go.
    talk.receive((talk.receive(1)[0] if kind == _NAME else _ADDRESS_BYTES.get(kind, 0)) + 2)
    opened.settimeout(max(0.001, talk.until - time.monotonic()))


class _Talk:
    """
    A few bytes to and fro, until a deadline, and not after an abort.
    """

    def __init__(self, opened: socket.socket, until: float, exchange: Exchange) -> None:
        self.until = until
        self._opened = opened
        self._exchange = exchange

    def send(self, data: bytes) -> None:
        self._check()
        self._opened.sendall(data)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            self._check()
            received = self._opened.recv(count - len(data))
            if not received:
                raise SocksRefused("it hung up")
            data += received
        return data

    def _check(self) -> None:
        self._exchange.check()
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the proxy did not connect in time")
        self._opened.settimeout(left)


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            name = host.encode("ascii") if host.isascii() else host.encode("idna")
        except UnicodeError as error:
            raise SocksRefused("the host has no name that it could resolve") from error
        if not 0 < len(name) <= _MOST:
            raise SocksRefused("the host has no name that it could resolve") from None
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed
