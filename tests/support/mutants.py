"""
The protocol with one mistake in it, put on from outside: what the crash tests must catch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MUTANTS"]

MUTANTS: dict[str, Callable[[], None]] = {}
