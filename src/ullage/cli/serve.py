"""
``serve``: the store, for others to pull from.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ullage.cli import signals
from ullage.cli.opening import StoreCommand, current_root, may_upgrade, there_is_a_store
from ullage.cli.output import emit, say
from ullage.cli.progress import changing_schema
from ullage.cli.registries import registry_options
from ullage.errors import CannotServe, StoreError
from ullage.sizes import human

if TYPE_CHECKING:
    from ullage.cli.registries import Reach
    from ullage.httpd import Logged

__all__ = ["serve"]

_GRACE_SECONDS = 10.0


class _Address(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on only
    """
    ``HOST:PORT``, ``[ADDRESS]:PORT`` or ``:PORT``.
    """

    name = "address"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        host, colon, port = str(value).rpartition(":")
        if not colon or not port.isdecimal() or not 0 <= int(port) < 65536:
            self.fail(f"{value!r} is no HOST:PORT", param, ctx)
        return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)  # noqa: S104  asked for


_FILE = click.Path(path_type=Path)


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage serve
      ullage serve --listen 127.0.0.1:0
      ullage serve --pull-through docker.io --evict
      ullage serve --listen :5000 --credentials ./readers --tls-cert cert.pem --tls-key key.pem""",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    type=_Address(),
    default="127.0.0.1:5000",
    show_default=True,
    help="Where. Port 0 takes a free one; without a host it is every address of this machine.",
)
@click.option(
    "--credentials",
    metavar="FILE",
    type=_FILE,
    help="Who may read: a line for each, USER:PASSWORD or a token. Nobody else may read the file. Without it "
    "whoever reaches the address reads the store.",
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    type=_FILE,
    help="Speak TLS, with this certificate and what vouches for it.",
)
@click.option("--tls-key", metavar="FILE", type=_FILE, help="The key, where it is in a file of its own.")
@click.option(
    "--pull-through",
    metavar="REGISTRY",
    multiple=True,
    help="Bring what is asked for of this registry and not here; more than once for several. A name without "
    "a registry is then of the first.",
)
@click.option(
    "--max-age",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="With --pull-through: how long what a tag was found to denote is taken for true.",
)
@click.option(
    "--evict",
    is_flag=True,
    help="With --pull-through: let images go to make room, the least recently used first, never one that is "
    "pinned or held.",
)
@registry_options
@click.option("--log", "logged", is_flag=True, help="Say each request that is answered.")
def serve(
    *,
    listen: tuple[str, int],
    credentials: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    pull_through: tuple[str, ...],
    max_age: float,
    evict: bool,
    reach: Reach,
    logged: bool,
) -> int:
    """
    Serve the store, for others to pull from.

    The pull half of the distribution API, read-only: a mirror to containerd and docker, a registry to every
    tool that pulls. Prints its URL and serves until it is told to end. What is read is held meanwhile. With
    --pull-through it is a caching mirror, under the storage limit.
    """
    root = current_root()
    if not pull_through and not there_is_a_store(root):
        raise StoreError(f"there is no store in {root}", hint="`ullage pull` makes one")
    from ullage.server import ImageServer  # noqa: PLC0415 -- see opening.py
    from ullage.service import ImageService  # noqa: PLC0415

    over = threading.Event()
    with (
        signals.gently(over.set) as stop,
        ImageService.open(
            root, registry=reach.client(), migrate=may_upgrade(), on_upgrade=changing_schema()
        ) as service,
    ):
        try:
            server = ImageServer(
                service,
                listen,
                credentials=credentials,
                tls_cert=tls_cert,
                tls_key=tls_key,
                pull_through=pull_through,
                max_age_seconds=max_age,
                evict=evict,
                on_request=_say if logged else None,
            )
        except OSError as error:
            address = f"{listen[0]}:{listen[1]}"
            raise CannotServe(
                f"cannot listen on {address}: {_why(error)}", address=address, hint="choose another --listen"
            ) from error
        if not server.is_protected and not _is_loopback(listen[0]):
            say("warning: whoever reaches this address can read the store: --credentials says who may")
        server.start()
        try:
            emit(server.url)
            sys.stdout.flush()
            over.wait()
        finally:
            server.close(grace_seconds=_GRACE_SECONDS)
        say(f"served {server.requests} requests, {human(server.sent_bytes)}")
        if stop.number != signal.SIGTERM:  # that is how a service is told that it is done
            stop.check()
    return 0


def _why(error: OSError) -> str | None:
    # What Python says of a bind has the address in it as well; of a name that does not resolve there is no number.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror


def _say(entry: Logged) -> None:
    part = f" {entry.range}" if entry.range else ""
    say(f"{entry.method} {entry.path}{part} {entry.status} {entry.bytes_sent}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
