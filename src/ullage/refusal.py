"""
What SQLite refuses, in the words of this package.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING, Final

from ullage.errors import DiskFull, StoreBusy, StoreCorrupt, StoreError, StoreReadOnly

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SHELL_BUSY_MS", "RuleBroken", "is_of_the_schema", "require_room_to_change", "translate"]

SHELL_BUSY_MS: Final = 10_000  # how long we wait for somebody who does not know the gate

#: Where no more is left, that may be what SQLite could not do with: xfs makes no file in the last 100 KiB of a quota.
_LITTLE_BYTES: Final = 1 << 20
_RULE_PREFIX: Final = "ullage: "
#: What changing it takes on a filesystem that changes nothing in its place, with what lists the pieces.
_CHANGED_BYTES: Final = 256 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
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
    if code == _FULL:
        return DiskFull(f"no room for the database: {text}")
    if code in (_IOERR, _CANTOPEN) and (want := _want_of_room(path.parent)) is not None:
        # For the file that is its shared memory, and for quotas, SQLite finds other words than for the rest.
        return DiskFull(f"no room for the database: {want}")
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


def _want_of_room(directory: Path) -> str | None:
    """
    What the system says where there is no room for SQLite's files; None where there is. Of a quota the filesystem may
    have no figures, so it is tried; and what it takes to make a file with a name, only the figures tell.
    """
    try:
        _try_to_write(directory, _LITTLE_BYTES)
        figures = os.statvfs(directory)
    except OSError as error:
        return error.strerror if error.errno in _NO_ROOM else None
    has_inodes = figures.f_favail > 0 or not figures.f_files
    has_room = has_inodes and figures.f_bavail * figures.f_frsize >= _LITTLE_BYTES
    return None if has_room else os.strerror(errno.ENOSPC)


def _try_to_write(directory: Path, size: int) -> None:
    """
    Write so much into a file that never has a name, and is gone before any of it is on disk.
    """
    descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        while size > 0:
            size -= os.write(descriptor, bytes(size))
    finally:
        os.close(descriptor)


def require_room_to_change(directory: Path) -> None:
    """
    Where a file that is changed is written anew elsewhere (btrfs), and there is no room for that, the kernel ends
    (SIGBUS) whoever changes shared memory that is in a file, as SQLite does. So whoever is about to asks before.

    Raises:
        DiskFull: there is no room.
    """
    try:
        # Of those that have no fixed number of inodes; others have room for as long as the file has.
        if not os.statvfs(directory).f_files:
            _try_to_write(directory, _CHANGED_BYTES)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(f"no room to change the database: {error.strerror}") from error


def is_of_the_schema(error: BaseException) -> bool:
    """
    Whether SQLite found no sense in a statement: a table or a column is not there, or is another.

    *error* is SQLite's own, or the one that was made of it.
    """
    own = error if isinstance(error, sqlite3.Error) else error.__cause__
    return getattr(own, "sqlite_errorcode", 0) & 0xFF == _ERROR
