"""
A group of commands, each in a module that is loaded when it is asked for.
"""

from __future__ import annotations

import difflib
import keyword
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Commands"]


class Commands(click.Group):
    """
    Commands by the table *homes*: the module of this package that has each, in the order of the help.
    """

    def __init__(self, *args: Any, homes: Mapping[str, str], **kwargs: Any) -> None:  # noqa: ANN401 -- click's
        super().__init__(*args, **kwargs)
        self._homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(self._homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        home = self._homes.get(cmd_name)
        if home is None:
            return None
        # `import` is a word of Python's own: its function has a line behind its name.
        attribute = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")
        command = getattr(import_module(f"ullage.cli.{home}"), attribute)
        assert isinstance(command, click.Command), "the table says so"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self._homes:
            near = difflib.get_close_matches(args[0], self._homes, n=1)
            error = click.UsageError(f"no such command: {args[0]}", ctx)
            error.possible = [f"{ctx.command_path} {each}" for each in near]  # type: ignore[attr-defined]
            raise error
        return super().resolve_command(ctx, args)
