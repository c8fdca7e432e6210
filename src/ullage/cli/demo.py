"""
``demo``: the show.
"""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["demo"]


@click.command(
    epilog="""\b
    Examples:
      ullage demo
      ullage demo --keep /tmp/show""",
)
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Leave the store in DIR/store. DIR must be new or empty. Default: a new temporary directory.",
)
def demo(*, keep: Path | None) -> int:
    """
    Show the main job, with no internet.

    Builds three images out of files of this machine's Python, serves them on loopback, pulls them into a
    store of its own, and shows the commands and the queries. Your own store is not touched. The store that it
    made stays for you to look into; its path is said at the end.
    """
    from ullage.demo.show import run  # noqa: PLC0415 -- tar, gzip, sockets: nobody else needs them

    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise click.BadParameter(f"{keep} is there and not empty", param_hint="--keep")
    return run(keep)
