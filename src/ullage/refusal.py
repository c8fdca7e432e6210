"""
What SQLite refuses, in the words of this package.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final

from ullage.errors import DiskFull, StoreBusy, StoreCorrupt, StoreError, StoreReadOnly

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SHELL_BUSY_MS", "RuleBroken", "is_of_the_schema", "translate"]

SHELL_BUSY_MS: Final = 10_000  # how long we wait for somebody who does not know the gate

_SHARED_MEMORY_BYTES: Final = 64 * 1024  # its file starts with half of that
_RULE_PREFIX: Final = "ullage: "
#: What Python's sqlite3 says of a row that it cannot give.
_NO_TEXT: Final = "Could not decode to UTF-8"

# The primary result codes of https://www.sqlite.org/rescode.html; extended ones carry more in their upper bytes.
_ERROR, _BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _CONSTRAINT, _NOTADB = (
    1,
    5,
    6,
    8,
    10,
    11,
    13,
    14,
    19,
    26,
)


class RuleBroken(StoreError):
    """
    The database refused a statement: `rule` is its sentence, without the prefix.

    Where a rule is the caller's to keep, the repository layer turns this into the exception that says so.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


def translate(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> StoreError | DiskFull:
    """
    The exception that says what SQLite's says of the database at *path*.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = str(error)
    if isinstance(error, UnicodeDecodeError) or text.startswith(_NO_TEXT):
        # Rubbish where a text should be, in a row or in what SQLite says of the schema.
        return StoreCorrupt(f"{path} is damaged: it has text that is none: {text}")
    if code == _CONSTRAINT:
        rule = text.removeprefix(_RULE_PREFIX)
        return RuleBroken(f"the store refuses: {rule}", rule=rule)
    if code in (_BUSY, _LOCKED):
        return StoreBusy(f"the store is busy: {text}", waited_seconds=SHELL_BUSY_MS / 1000)
    return _translate_file_error(code, text, path)


def _translate_file_error(code: int, text: str, path: Path) -> StoreError | DiskFull:
    if code == _FULL or (code in (_IOERR, _CANTOPEN) and _is_full(path)):
        # For the file that is its shared memory SQLite finds other words than for the rest.
        return DiskFull(f"no room for the database: {text}")
    if code == _READONLY or (code == _CANTOPEN and path.exists()):
        may = "write to" if os.access(path, os.R_OK) else "read"
        return StoreReadOnly(f"cannot {may} {path}: {text}")
    if code in (_CORRUPT, _NOTADB):
        return StoreCorrupt(
            f"{path} is damaged or no database: {text}",
            hint="put a backup in its place, or `ullage db salvage` makes it anew of the blobs that are there",
        )
    said = {_CANTOPEN: f"cannot open {path}", _IOERR: f"input/output error on {path}"}
    return StoreError(f"{said.get(code, 'SQLite says')}: {text}")


def _is_full(path: Path) -> bool:
    """
    Whether the filesystem has no room for the shared memory, or no inode left.
    """
    try:
        figures = os.statvfs(path.parent)
    except OSError:
        return False
    blocks_left = figures.f_bavail * figures.f_frsize
    return blocks_left < _SHARED_MEMORY_BYTES or (figures.f_files > 0 and figures.f_favail == 0)


def is_of_the_schema(error: BaseException) -> bool:
    """
    Whether SQLite found no sense in a statement: a table or a column is not there, or is another.

    *error* is SQLite's own, or the one that was made of it.
    """
    own = error if isinstance(error, sqlite3.Error) else error.__cause__
    return getattr(own, "sqlite_errorcode", 0) & 0xFF == _ERROR
