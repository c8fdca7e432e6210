"""
What a release promises (docs/compatibility.md), as data: ``tests/data/promised.json``.

Before a release, promise what came since the last one:

    PYTHONPATH=tests python -m support.promised
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import click

import ullage
from support.store import query
from ullage import ImageError, ImageService
from ullage.cli.app import ullage as command

PROMISED = Path(__file__).parent.parent / "data" / "promised.json"


def offered() -> dict[str, Any]:
    """
    What there is now: names of Python with their parameters, fields or members, views with their columns, commands
    with their options, exit codes.
    """
    return {"python": _python(), "views": _views(), "commands": _commands(), "exit codes": _exit_codes()}


def missing(promised: object, there: object, where: str = "") -> list[str]:
    """
    What of *promised* is not there, or is another.
    """
    if isinstance(promised, dict):
        if not isinstance(there, dict):
            return [where]
        return [
            line
            for key, value in promised.items()
            for line in (
                [f"{where}/{key}"] if key not in there else missing(value, there[key], f"{where}/{key}")
            )
        ]
    if isinstance(promised, list):
        return [f"{where}/{each}" for each in promised if not isinstance(there, list) or each not in there]
    return [] if promised == there else [f"{where}: {promised} is {there}"]


def _python() -> dict[str, list[str]]:
    found = {}
    for name in ullage.__all__:
        thing = getattr(ullage, name)
        if isinstance(thing, type) and issubclass(thing, enum.Enum):
            found[name] = [member.name for member in thing]
        elif dataclasses.is_dataclass(thing):
            found[name] = [field.name for field in dataclasses.fields(thing)]
        elif isinstance(thing, type):
            found[name] = [
                f"{method}({', '.join(_parameters(function))})"
                for method, function in inspect.getmembers(thing, callable)
                if not method.startswith("_")
                and str(getattr(function, "__module__", "")).startswith("ullage")
            ]
        else:
            found[name] = []
    # A parameter that is added changes no promise: each is promised by itself.
    return {name: [part for each in parts for part in _split(each)] for name, parts in sorted(found.items())}


def _parameters(function: object) -> list[str]:
    try:
        return [name for name in inspect.signature(function).parameters if name != "self"]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []


def _split(signature: str) -> list[str]:
    name, found, rest = signature.partition("(")
    parameters = [each for each in rest.rstrip(")").split(", ") if each]
    return [name, *(f"{name}({each})" for each in parameters)] if found else [name]


def _views() -> dict[str, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        ImageService.open(root).close()
        names = [
            name
            for (name,) in query(root, "SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name")
        ]
        return {
            name: [column for (column,) in query(root, "SELECT name FROM pragma_table_info(?)", name)]
            for name in names
        }


def _commands(group: click.Group = command, path: str = "") -> dict[str, list[str]]:
    found = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        each = group.get_command(context, name)
        if isinstance(each, click.Group):
            found |= _commands(each, f"{path}{name} ")
        else:
            found[f"{path}{name}"] = sorted(
                option
                for parameter in each.params
                if isinstance(parameter, click.Option)
                for option in parameter.opts
            )
    return found


def _exit_codes() -> dict[str, int]:
    kinds, todo = {}, [ImageError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__ == "ullage.errors":
            kinds[kind.__name__] = kind.exit_code
    return dict(sorted(kinds.items()))


if __name__ == "__main__":
    PROMISED.write_text(json.dumps(offered(), indent=1) + "\n")
    print(f"promised {PROMISED}")
