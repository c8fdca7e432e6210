"""
A TCP connection that can be given up at any moment, and that does not lead where it must not.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ullage.registry.endpoint import is_local

if TYPE_CHECKING:
    from ullage.registry.wire import Exchange

__all__ = ["LeadsHere", "open_socket"]

_TICK_SECONDS: Final = 0.05

_Addresses = Sequence[tuple[int, int, int, str, Any]]


class LeadsHere(OSError):
    """
    A name that was to lead to another machine leads to this one.
    """


def open_socket(
    host: str,
    port: int,
    *,
    timeout_seconds: float,
    options: Sequence[tuple[int, int, int | bytes]],
    exchange: Exchange,
    not_here: bool,
) -> socket.socket:
    """
    A connected socket. *exchange* can be aborted meanwhile: this raises at once then.

    Raises:
        OSError: no connection; socket.gaierror where there is no such host,
            TimeoutError where there was no answer in time.
    """
    until = time.monotonic() + timeout_seconds
    addresses = _resolve(host, port, until, exchange)
    if not_here and any(is_local(str(address[4][0])) for address in addresses):
        raise LeadsHere(f"{host} leads to this machine")
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        opened = socket.socket(family, kind, protocol)
        try:
            for option in options:
                opened.setsockopt(*option)
            # Its fair share of what is left: a first address that swallows everything hides no second one.
            share = max(0.001, until - time.monotonic()) / (len(addresses) - position)
            opened.settimeout(share)
            # Shutting down a socket that is connecting makes connect() fail on Linux, with ECONNRESET.
            exchange.attach(opened)
            opened.connect(address)
        except OSError:
            exchange.detach()
            opened.close()
            exchange.check()
            if position == len(addresses) - 1:
                raise
        else:
            opened.settimeout(max(0.001, until - time.monotonic()))
            return opened
    raise OSError(f"{host} has no address")


def _resolve(host: str, port: int, until: float, exchange: Exchange) -> _Addresses:
    with contextlib.suppress(socket.gaierror, UnicodeError):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    # The resolver takes the time it likes, and nothing can stop it. So it may do that in a thread of its own.
    answers: queue.SimpleQueue[_Addresses | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="ullage-resolve", daemon=True).start()
    while True:
        exchange.check()
        try:
            answer = answers.get(timeout=min(_TICK_SECONDS, max(0.001, until - time.monotonic())))
        except queue.Empty:
            if time.monotonic() > until:
                raise TimeoutError(f"{host} did not resolve in time") from None
            continue
        if isinstance(answer, UnicodeError):
            # What IDNA refuses, such as a label of 64 characters.
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from answer
        if isinstance(answer, Exception):
            raise answer
        return answer
