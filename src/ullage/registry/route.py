"""
How a host is reached: what it must prove, what we show it, through which proxy. Values, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

__all__ = ["DIRECT", "NO_FILES", "TLS", "Route"]


@dataclass(frozen=True, slots=True)
class TLS:
    """
    Files of authorities to trust beside the machine's own, and (certificate, key) pairs to show.

    An empty key says that it is in the certificate's file.
    """

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


#: The machine's own authorities, and nothing to show.
NO_FILES: Final = TLS()


@dataclass(frozen=True, slots=True)
class Route:
    """
    The way to one host.

    ``proxy`` goes before what the environment says. ``not_here`` refuses to
    connect to this machine, whatever name led to it: a server elsewhere has no
    business sending us there.
    """

    tls: TLS = NO_FILES
    proxy: str = field(default="", repr=False)
    connect_timeout_seconds: float | None = None
    not_here: bool = False

    def onward(self, *, not_here: bool) -> Route:
        """
        The way to another host that this one sent us to.

        Its storage and its token server stand behind the same authority and
        the same proxy as a rule; but our certificate was for this host alone.
        """
        return replace(self, tls=replace(self.tls, client=()), not_here=not_here)


#: As the environment and the client's own settings say.
DIRECT: Final = Route()
