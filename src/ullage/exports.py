"""
The names of a package that are loaded when they are first used, each with its module and no more.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["names_of"]


def names_of(package: str, homes: Mapping[str, tuple[str, ...]]) -> tuple[list[str], Callable[[str], object]]:
    """
    ``__all__`` and ``__getattr__`` of a package whose modules *homes* have these names.

    No name may be a module's as well: the module would stand in its place as soon as anybody imported it.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def load(name: str) -> object:
        home = home_of.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{package}.{home}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return sorted(home_of), load
