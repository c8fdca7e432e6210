"""
``serve-cri``: the CRI image service for kubelet and its relatives.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from ullage.cli import signals
from ullage.cli.opening import StoreCommand, changing
from ullage.cli.output import say
from ullage.cli.registries import registry_options
from ullage.cli.storage import Size
from ullage.errors import CannotServe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.cli.registries import Reach
    from ullage.cri import CriServer
    from ullage.service import ImageService

__all__ = ["serve_cri"]

_WAIT_SECONDS: Final = 0.2


class _Mode(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on only
    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        try:
            mode = value if isinstance(value, int) else int(value, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r} is no mode: three octal digits, such as 660", param, ctx)
        return mode


@click.command(
    "serve-cri",
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage serve-cri --socket /run/ullage/cri.sock
      ullage serve-cri --socket unix:///run/ullage/cri.sock --pinned-image 'registry.k8s.io/pause'
      ullage serve-cri --socket /run/ullage/cri.sock --hosts-dir /etc/containerd/certs.d \\
          --max-storage 50GB --metrics 127.0.0.1:9133""",
)
@click.option(
    "--socket",
    metavar="PATH",
    help="Where to listen, as a path or as unix://PATH. A dead server's socket is replaced. Default: the socket "
    "that systemd hands over.",
)
@click.option(
    "--socket-mode", metavar="MODE", type=_Mode(), default="600", show_default=True, help="Who may connect."
)
@click.option(
    "--pinned-image",
    "pinned_images",
    metavar="PATTERN",
    multiple=True,
    help="Say of images with such a name that they are pinned: kubelet does not collect them. A shell pattern; "
    "more than once for several.",
)
@click.option(
    "--runtime-handler",
    "runtime_handlers",
    metavar="NAME",
    multiple=True,
    help="Accept requests for this runtime handler; unknown ones are refused. More than once for several.",
)
@click.option("--platform", metavar="OS/ARCH", help="The platform to pull. Default: this machine's.")
@click.option(
    "--parallel-pulls",
    metavar="N",
    type=click.IntRange(min=1, max=1000),
    default=16,
    show_default=True,
    help="How many pulls run at once; further ones wait.",
)
@click.option(
    "--unpack",
    is_flag=True,
    help="Unpack each image's layers into the store as well, for a runtime to mount.",
)
@click.option(
    "--max-storage", metavar="SIZE", type=Size(), help="Set the storage limit first, as `quota --max` does."
)
@click.option(
    "--metrics",
    metavar="ADDR|FILE",
    help="Figures for Prometheus: at http://ADDR/metrics, an address and port of this machine alone, or in FILE, "
    "every ten seconds.",
)
@click.option(
    "--drain",
    metavar="SECONDS",
    type=click.FloatRange(min=0, max=3600),
    default=10.0,
    show_default=True,
    help="How long calls may go on after SIGTERM. A second signal does not wait.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@registry_options
def serve_cri(
    *,
    socket: str | None,
    socket_mode: int,
    pinned_images: tuple[str, ...],
    runtime_handlers: tuple[str, ...],
    platform: str | None,
    parallel_pulls: int,
    unpack: bool,
    max_storage: int | None,
    metrics: str | None,
    drain: float,
    quiet: bool,
    reach: Reach,
) -> int:
    """
    Serve the store to kubelet and crictl over CRI v1.

    Answers runtime.v1.ImageService, and Version and Status of RuntimeService, on a Unix socket, until a signal ends
    it: then calls under way may end, and what is left of a pull stays, counted and resumable. Several servers and
    commands may share a store. Needs the extra: pip install 'ullage[cri]'.
    """
    with ExitStack() as stack:
        cri = _cri()
        address = _listening(socket)
        settings = cri.CriSettings(pinned_images, runtime_handlers, parallel_pulls, platform)
        _log_to_stderr(quiet=quiet)
        _raise_descriptor_limit()
        service = stack.enter_context(
            changing(registry=reach.client(), max_storage=max_storage, unpack=unpack)
        )
        server = cri.CriServer(service, address, settings=settings, mode=socket_mode, drain_seconds=drain)
        if metrics is not None:
            stack.enter_context(_showing(server, service, metrics, quiet=quiet))
        stack.enter_context(server)
        _serve(server, service, address, quiet=quiet)
    return 0


def _serve(server: CriServer, service: ImageService, address: object, *, quiet: bool) -> None:
    from ullage.cri.notify import notify  # noqa: PLC0415 -- see opening.py

    def stop() -> None:
        notify("STOPPING=1")
        server.begin_to_stop()

    with signals.gently(stop):
        if not quiet:
            say(
                f"serving {service.root} at {address if isinstance(address, str) else 'the socket of systemd'}"
            )
        notify("READY=1\nSTATUS=serving CRI v1")
        try:
            while not server.wait(_WAIT_SECONDS):
                pass
        except signals.Interrupted:
            # The second signal.
            server.hurry()
            server.wait()
            raise
    if not quiet:
        say("ended")


def _cri() -> Any:  # noqa: ANN401 -- a package whose needs may not be installed
    """
    Raises:
        CannotServe: the extra is not installed.
    """
    # What gRPC's core has to say about connections is nobody's concern, unless somebody asks for it.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        from ullage import cri  # noqa: PLC0415 -- see opening.py
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("grpc", "google"):
            raise
        raise CannotServe(
            f"serving CRI needs {error.name}, which is not installed",
            address="cri",
            hint="pip install 'ullage[cri]'",
        ) from error
    return cri


def _listening(socket: str | None) -> Any:  # noqa: ANN401 -- a path or a socket
    """
    Raises:
        UsageError: there is nothing to listen on, or two.
    """
    from ullage.cri.sockets import inherited, path_of  # noqa: PLC0415 -- see opening.py

    handed_over = inherited(os.environ)
    if handed_over is None and socket is None:
        raise click.UsageError(
            "--socket PATH is needed: systemd handed over none", click.get_current_context()
        )
    if handed_over is not None and socket is not None:
        raise click.UsageError("two sockets: --socket and the one of systemd", click.get_current_context())
    if socket is not None:
        path_of(socket)  # before a store is made
    return socket if handed_over is None else handed_over


@contextmanager
def _showing(server: CriServer, service: ImageService, where: str, *, quiet: bool) -> Iterator[None]:
    from ullage.cri import exposition  # noqa: PLC0415 -- see opening.py

    target = exposition.where(where)

    def figures() -> str:
        return server.metrics.text(service)

    shown = (
        exposition.to_port(*target, figures)
        if isinstance(target, tuple)
        else exposition.to_file(target, figures)
    )
    try:
        if not quiet:
            say(f"figures at {shown.address}")
        yield
    finally:
        shown.close()


def _log_to_stderr(*, quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("ullage")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def _raise_descriptor_limit() -> None:
    """
    Each client takes a descriptor, and the soft limit is made for programs that call select().
    """
    import resource  # noqa: PLC0415 -- only here

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
