"""
TLS contexts: whom we trust, and what we show.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ullage.errors import InvalidConfiguration

if TYPE_CHECKING:
    from ullage.registry.route import TLS

__all__ = ["Contexts"]

_MAX_CONTEXTS: Final = 16


class Contexts:
    """
    One context for each set of files, as those files are now.

    Loading the machine's certificates takes 10 ms or more: once, not for each connection.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[TLS, tuple[tuple[int, int, int], ...]], ssl.SSLContext] = OrderedDict()

    def get(self, tls: TLS) -> ssl.SSLContext:
        """
        Raises:
            InvalidConfiguration: a file is missing, or holds no certificate or no key to it.
        """
        stamp = (tls, tuple(_stamp(path) for path in _files(tls)))
        with self._lock:
            context = self._known.get(stamp)
            if context is None:
                context = self._known[stamp] = _context(tls)
            self._known.move_to_end(stamp)
            if len(self._known) > _MAX_CONTEXTS:
                self._known.popitem(last=False)
            return context


def _context(tls: TLS) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in tls.ca:
        try:
            context.load_verify_locations(path)
        except (OSError, ValueError) as error:
            raise InvalidConfiguration(f"no certificates of authorities in {path}", path=path) from error
    for certificate, key in tls.client:
        try:
            # Without a password given, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key or None, password="")
        except (OSError, ValueError) as error:
            raise InvalidConfiguration(
                f"no certificate with its key in {certificate}{f' and {key}' if key else ''}",
                path=certificate,
                hint="both in PEM, and the key without a password",
            ) from error
    return context


def _files(tls: TLS) -> tuple[str, ...]:
    return (*tls.ca, *(path for pair in tls.client for path in pair if path))


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116  nothing to gain from a Path here
    except OSError as error:
        raise InvalidConfiguration(f"cannot read {path}: {error.strerror}", path=path) from error
    return status.st_ino, status.st_size, status.st_mtime_ns
