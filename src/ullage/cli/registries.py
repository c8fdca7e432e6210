"""
How registries are reached, as whom, and for how long: the options of commands that ask one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from ullage.registry import RegistryClient

_F = TypeVar("_F", bound="Callable[..., Any]")

__all__ = ["Reach", "credentials_options", "registry_options", "timeout_option"]


@dataclass(frozen=True)
class Reach:
    """
    What the command line said of how to reach registries.
    """

    plain_http: bool
    hosts_dir: Path | None
    tls_ca: Path | None
    insecure_skip_verify: bool

    def client(self) -> RegistryClient:
        from ullage.registry import RegistryClient  # noqa: PLC0415 -- see opening.py

        return RegistryClient(
            plain_http=self.plain_http,
            hosts_dir=self.hosts_dir,
            tls_ca=self.tls_ca,
            insecure_skip_verify=self.insecure_skip_verify,
        )


def registry_options(function: Callable[..., int]) -> Callable[..., int]:
    """
    The options, handed to the command as one argument, ``reach``.
    """

    @click.option(
        "--plain-http",
        is_flag=True,
        help="Speak HTTP to the registry, not HTTPS. One on this machine may answer so without it.",
    )
    @click.option(
        "--hosts-dir",
        metavar="DIR",
        envvar="ULLAGE_HOSTS_DIR",
        type=click.Path(path_type=Path),
        help="Mirrors and settings of hosts, as containerd has them: DIR/HOST/hosts.toml. Default: "
        "$ULLAGE_HOSTS_DIR.",
    )
    @click.option(
        "--tls-ca",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Trust the authorities in this PEM file, beside the machine's own.",
    )
    @click.option(
        "--insecure-skip-verify", is_flag=True, help="Believe every certificate. For laboratories alone."
    )
    @functools.wraps(function)
    def command(
        *,
        plain_http: bool,
        hosts_dir: Path | None,
        tls_ca: Path | None,
        insecure_skip_verify: bool,
        **options: Any,  # noqa: ANN401 -- click's
    ) -> int:
        return function(reach=Reach(plain_http, hosts_dir, tls_ca, insecure_skip_verify), **options)

    return command


def credentials_options(function: Callable[..., int]) -> Callable[..., int]:
    """
    As whom: ``creds`` and ``creds_stdin``.
    """
    given = click.option(
        "--creds",
        metavar="USER[:PASSWORD]",
        help="Credentials for the registry. Without a password it is asked for on the terminal; what stands on "
        "the command line, other users of this machine can see.",
    )
    piped = click.option(
        "--creds-stdin", is_flag=True, help="Read the password for --creds from the first line of stdin."
    )
    return given(piped(function))


def timeout_option(what: str) -> Callable[[_F], _F]:
    """
    ``timeout``, of *what* in the words of the help.
    """
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help=f"How long {what} may take. Default: for ever.",
    )
