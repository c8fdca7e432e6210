"""
The command itself: which commands there are, and the one door that everything leaves by.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click

from ullage import __version__
from ullage.cli import signals
from ullage.cli.commands import Commands
from ullage.cli.failures import report
from ullage.cli.opening import root_option

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

#: Each command and the module that has it, in the order of the help.
_HOMES: Final = {
    "pull": "pulls",
    "images": "images",
    "inspect": "images",
    "rm": "images",
    "tag": "names",
    "untag": "names",
    "pin": "names",
    "unpin": "names",
    "df": "storage",
    "quota": "storage",
    "gc": "storage",
    "check": "care",
    "history": "history",
    "unpack": "rootfs",
    "bundle": "rootfs",
    "import": "carry",
    "export": "carry",
    "push": "push",
    "copy": "copy",
    "serve": "serve",
    "serve-cri": "serve_cri",
    "login": "login",
    "logout": "login",
    "index": "carry",
    "db": "db",
    "doctor": "care",
    "demo": "demo",
}


@click.group(
    cls=Commands,
    homes=_HOMES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`ullage COMMAND --help` says more, with examples. Sizes are decimal: 1 MB is 1000000 bytes.",
)
@root_option
@click.version_option(__version__, "--version", message="ullage %(version)s", help="Print the version.")
def ullage() -> None:
    """
    The container-image store that cannot overfill its disk and cannot lie about it.

    A store is a directory: an SQLite database, and one file for each blob. Pull images into it from any
    registry, list them, see what they take, and remove them.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command; the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # Whatever a name contains and whatever the terminal's encoding is, it comes out, escaped if need
            # be.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        signals.install()
        code = ullage.main(arguments, prog_name="ullage", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 -- the door: all that was raised ends here as a line and a code
        code = report(error)
    _abandon_output()
    return code if isinstance(code, int) else 0


def _abandon_output() -> None:
    """
    Whatever could not be written by now never will be: Python need not complain about it at exit.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 -- a device, not a path
                os.dup2(nowhere.fileno(), stream.fileno())
