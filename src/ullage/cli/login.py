"""
``login`` and ``logout``: credentials that registries have accepted, kept where docker and podman keep theirs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ullage.cli.output import say
from ullage.cli.registries import registry_options

if TYPE_CHECKING:
    from ullage.cli.registries import Reach

__all__ = ["login", "logout"]

_HUB: Final = "docker.io"


@click.command(
    epilog="""\b
    Examples:
      ullage login ghcr.io -u me
      pass show registry | ullage login registry.example -u me --password-stdin
      ullage login quay.io/org -u robot --authfile ./auth.json""",
)
@click.argument("registry", metavar="[REGISTRY]", default=_HUB)
@click.option("-u", "--username", metavar="NAME", help="Who you are there. Default: it is asked for.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of stdin.")
@click.option(
    "--authfile",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep them in this file. Default: $REGISTRY_AUTH_FILE, else where there is an entry for the registry, "
    "else docker's config.json.",
)
@registry_options
def login(
    *, registry: str, username: str | None, password_stdin: bool, authfile: Path | None, reach: Reach
) -> int:
    """
    Log in to a registry; without one named, to Docker Hub.

    The registry is asked first: what it refuses is not kept. What it takes is kept by the credential helper
    that is configured for it, else in a file for your eyes alone; docker, podman and skopeo find it too.
    """
    if username is None:
        username = _ask("Username", hidden=False)
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else _ask("Password", hidden=True)
    from ullage.registry.login import log_in  # noqa: PLC0415 -- see opening.py

    with reach.client() as client:
        done = log_in(client, registry, username, password, file=authfile)
    if not done.was_asked:
        say(f"warning: {done.host} lets anybody in: it has not looked at the password")
    say(f"logged in to {done.host}: kept in {done.kept_in}")
    return 0


@click.command(
    epilog="""\b
    Examples:
      ullage logout ghcr.io
      ullage logout --authfile ./auth.json quay.io/org""",
)
@click.argument("registry", metavar="[REGISTRY]", default=_HUB)
@click.option(
    "--authfile",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Look into this file alone. Default: wherever a pull looks.",
)
def logout(*, registry: str, authfile: Path | None) -> int:
    """
    Forget the credentials for a registry.

    Without one named, for Docker Hub. They are removed from every file and helper in which a pull would find
    them. No registry is asked.
    """
    from ullage.registry.login import remove_credentials  # noqa: PLC0415 -- see opening.py

    removed = remove_credentials(registry, authfile)
    say(
        f"logged out of {registry}: removed from {', '.join(removed)}"
        if removed
        else f"not logged in to {registry}"
    )
    return 0


def _ask(what: str, *, hidden: bool) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"no terminal to ask for the {what.lower()} on: pass --username and --password-stdin",
            click.get_current_context(),
        )
    answer: str = click.prompt(what, hide_input=hidden, err=True)
    return answer
