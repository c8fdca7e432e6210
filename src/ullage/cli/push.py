"""
``push``: an image to a registry.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import click

from ullage.cli import signals
from ullage.cli.opening import StoreCommand, changing
from ullage.cli.output import emit, emit_json, say
from ullage.cli.progress import progress
from ullage.cli.pulls import credentials
from ullage.cli.registries import credentials_options, registry_options, timeout_option
from ullage.errors import ImageError
from ullage.sizes import human

if TYPE_CHECKING:
    from ullage.cli.registries import Reach
    from ullage.delivery import Pushed

__all__ = ["push", "summary"]


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage push alpine:3.20 registry.example/team/alpine:3.20
      ullage push 4bcff6… localhost:5000/app:1
      ullage push --platform all alpine registry.example/alpine
      pass show registry | ullage push app registry.example/app --creds me --creds-stdin""",
)
@click.argument("image", metavar="IMAGE")
@click.argument("destination", metavar="DEST")
@credentials_options
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="Another platform's image of the index that the image came by; `all` for the index with all that it "
    "names, which has to be here. Default: the image's own manifest.",
)
@registry_options
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what it is there, and what was sent.")
@timeout_option("it")
def push(
    *,
    image: str,
    destination: str,
    creds: str | None,
    creds_stdin: bool,
    platform: str | None,
    reach: Reach,
    quiet: bool,
    as_json: bool,
    timeout: float | None,
) -> int:
    """
    Push an image to a registry.

    Prints what it is there: its name with its digest. What the registry has is not sent, and what it has in
    another of its repos it takes from there. The tag is put last, so a push that fails leaves it as it was.
    """
    auth = credentials(creds, (destination,), from_stdin=creds_stdin)
    cancel = threading.Event()
    with (
        changing(image=image, registry=reach.client()) as service,
        signals.gently(cancel.set) as stop,
    ):
        try:
            with progress(destination, quiet=quiet, doing="pushing") as shown:
                pushed = service.push_image(
                    image,
                    destination,
                    auth=auth,
                    platform=platform,
                    timeout=timeout,
                    cancel=cancel,
                    on_progress=shown,
                )
        except ImageError:
            stop.check()
            raise
    if not quiet:
        say(summary(destination, pushed))
    if as_json:
        emit_json(pushed)
    else:
        emit(pushed.repo_digest)
    return 0


def summary(destination: str, pushed: Pushed) -> str:
    """
    One line when it is done.
    """
    parts = [f"{human(pushed.sent_bytes)} sent" if pushed.sent_blobs else "nothing had to be sent"]
    if pushed.mounted_blobs:
        parts.append(f"{pushed.mounted_blobs} blobs mounted")
    if pushed.present_blobs:
        parts.append(f"{pushed.present_blobs} were there")
    return f"{destination}: {', '.join(parts)}"
