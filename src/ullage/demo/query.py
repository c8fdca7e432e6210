"""
A query as a person would type it: in the ``sqlite3`` shell where there is one, else in Python's own SQLite.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["run_query"]

_STRICT_TABLES: Final = (3, 37)


def run_query(database: Path, query: str) -> None:
    """
    Print the query and its rows.
    """
    shell = _shell()
    if shell is None:
        print(f"sqlite> {query}", flush=True)
        _print_rows(database, query)
        return
    command = [shell, "-readonly", "-header", "-column", str(database), query]
    print(f"$ {shlex.join(['sqlite3', *command[1:-1]])} {_quoted(query)}", flush=True)
    subprocess.run(command, check=True)  # noqa: S603 -- found on PATH, the arguments are ours


def _shell() -> str | None:
    """
    The shell, unless it is too old to know the tables of a store.
    """
    shell = shutil.which("sqlite3")
    if shell is None:
        return None
    said = subprocess.run([shell, "--version"], check=False, capture_output=True, text=True).stdout  # noqa: S603
    numbers = said.split(" ", 1)[0].split(".")
    known = tuple(int(each) for each in numbers if each.isdecimal())
    return shell if known >= _STRICT_TABLES else None


def _quoted(query: str) -> str:
    """
    As one would type it: `shlex.quote` turns each ' into five characters.
    """
    return '"' + query.replace("$", "\\$") + '"' if "'" in query else f"'{query}'"


def _print_rows(database: Path, query: str) -> None:
    with contextlib.closing(
        sqlite3.connect(f"file:{quote(os.fsencode(database))}?mode=ro", uri=True)
    ) as connection:
        cursor = connection.execute(query)
        heads = [column[0] for column in cursor.description]
        rows = [["" if cell is None else str(cell) for cell in row] for row in cursor]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for line in (heads, ["-" * width for width in widths], *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(),
            flush=True,
        )
