"""
``unpack`` and ``bundle``: an image as a directory, and one that a runtime starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ullage.cli.opening import StoreCommand, changing
from ullage.cli.output import emit, emit_json, say
from ullage.sizes import human

if TYPE_CHECKING:
    from collections.abc import Callable

    from ullage.model import Unpacked

__all__ = ["bundle", "unpack"]


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    What both have.
    """
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object with what was made."),
        click.option("-q", "--quiet", is_flag=True, help="No summary."),
        click.option(
            "--durable", is_flag=True, help="Return when it is on disk, and survives a power failure."
        ),
        click.option(
            "--rootless/--no-rootless",
            default=None,
            help="Leave all files to yourself: owners are noted in user.rootlesscontainers where the filesystem "
            "has such attributes, device nodes and what else takes privilege are left out. Default: as root "
            "real owners, else rootless.",
        ),
    ):
        command = option(command)
    return command


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage unpack alpine ./rootfs
      ullage unpack --rootless alpine ./rootfs
      sudo ullage unpack --root /var/lib/ullage app:1 /srv/app""",
)
@click.argument("image")
@click.argument("directory", metavar="DIR")
@_common
def unpack(
    *, image: str, directory: str, rootless: bool | None, durable: bool, quiet: bool, as_json: bool
) -> None:
    """
    Make DIR the root filesystem of IMAGE.

    DIR is not there, or empty. It is filled beside its place and renamed at the end, so it is there whole or not
    at all; the image cannot be removed meanwhile. What you then write there never reaches the store.
    """
    with changing(image=image) as service:
        made = service.unpack(image, directory, rootless=rootless, durable=durable)
    _tell(made, asked=rootless, quiet=quiet, as_json=as_json)


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage bundle alpine ./box -- echo hello && crun run -b ./box box
      ullage bundle app:1 ./app --env DEBUG=1 --user 1000:1000 --read-only
      ullage bundle alpine ./box --tty --entrypoint /bin/sh""",
)
@click.argument("image")
@click.argument("directory", metavar="DIR")
@click.argument("args", metavar="[-- ARGS...]", nargs=-1)
@click.option(
    "--entrypoint", metavar="PROGRAM", help="Run this in place of the image's entrypoint and command."
)
@click.option(
    "-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable. May be given several times."
)
@click.option(
    "-u",
    "--user",
    metavar="USER[:GROUP]",
    help="Run as this user: a number, or a name in the image's /etc/passwd. Default: the image's.",
)
@click.option("-w", "--workdir", metavar="DIR", help="Start in this directory.")
@click.option("-t", "--tty", is_flag=True, help="Give the process a terminal.")
@click.option(
    "--read-only", is_flag=True, help="The root filesystem is not to be written to; the image's volumes are."
)
@click.option("--hostname", metavar="NAME", help="Default: the first digits of the image id.")
@_common
def bundle(
    *,
    image: str,
    directory: str,
    args: tuple[str, ...],
    entrypoint: str | None,
    env: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    tty: bool,
    read_only: bool,
    hostname: str | None,
    rootless: bool | None,
    durable: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """
    Make DIR a bundle of IMAGE that a runtime starts.

    DIR gets `rootfs`, as `ullage unpack` makes it, and the `config.json` of an OCI runtime (crun, runc), made of
    the image's config: variables, user, working directory, entrypoint and command, labels. ARGS replace the
    image's command. With --rootless the container has a user namespace, in which root is you.
    """
    from ullage.runtime_config import BundleOptions  # noqa: PLC0415 -- see opening.py

    options = BundleOptions(
        args=args or None,
        entrypoint=None if entrypoint is None else (entrypoint,) if entrypoint else (),
        env=env,
        user=user,
        working_dir=workdir,
        terminal=tty,
        read_only=read_only,
        hostname=hostname,
    )
    with changing(image=image) as service:
        made = service.bundle(image, directory, options=options, rootless=rootless, durable=durable)
    _tell(made, asked=rootless, quiet=quiet, as_json=as_json)


def _tell(made: Unpacked, *, asked: bool | None, quiet: bool, as_json: bool) -> None:
    if not quiet:
        say(f"{made.entries} entries of {made.layers} layers: {human(made.space_bytes)}")
        if made.rootless and asked is None:
            say("not root: all files are yours, see --rootless")
        for what, count in made.forgiven.items():
            say(f"left out: {_WORDS.get(what, what)} of {count} entries")
    if as_json:
        emit_json(made)
    else:
        emit(made.directory)


_WORDS = {"ownership": "the owner", "device": "the device node"}
