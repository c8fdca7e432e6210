"""
Copies of the database: of one moment, in one file, and never there by half.

SQLite makes them (VACUUM INTO). Nobody else may: whoever opens the file of a database that is in use and closes it
again drops the locks of its whole process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ullage.errors import DiskFull, StoreError
from ullage.ingest import translated
from ullage.refusal import translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ullage.database import Database

__all__ = ["Watch", "backups", "copy", "forget_backups", "path_of_backup", "require_room"]

#: How many steps of SQLite's machine pass between two looks at the clock, and how much time between two reports.
_STEPS: Final = 20_000
_REPORT_SECONDS: Final = 0.25
#: How the names of backups differ from those that people give to theirs.
_REVISION: Final = "[0-9][0-9][0-9][0-9]"
#: Beside copies of what is there: new tables, new indexes, the journal's own.
_SPARE_BYTES: Final = 1 << 20


class Watch:
    """
    Calls *report* now and then while SQLite works, in the same thread. What that raises ends the work.
    """

    def __init__(self, report: Callable[[], None]) -> None:
        self._report = report
        self._last = time.monotonic()
        self._raised: BaseException | None = None

    @contextmanager
    def over(self, connection: sqlite3.Connection) -> Iterator[None]:
        """
        Watch what *connection* does inside the block.
        """
        ticks = self._ticks()
        next(ticks)
        connection.set_progress_handler(ticks.__next__, _STEPS)
        try:
            yield
        except BaseException:
            if self._raised is not None:
                raise self._raised from None  # and not SQLite's word for it, "interrupted"
            raise
        finally:
            connection.set_progress_handler(None, 0)

    def _ticks(self) -> Iterator[int]:
        """
        What SQLite is told each time that it asks: 0 to go on, 1 to stop.

        A generator, because a signal that came meanwhile raises where Python goes on, and that is inside the ``try``;
        in a function it would be before its first line, and SQLite forgets what its callbacks raise.
        """
        while True:
            try:
                yield 0
                now = time.monotonic()
                if now - self._last >= _REPORT_SECONDS:
                    self._last = now
                    self._report()
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 -- Ctrl-C among them; raised where SQLite has let go of it
                self._raised = error
                yield 1


def copy(
    database: Database,
    target: Path,
    *,
    beside: Path,
    keeps_wal: bool = False,
    report: Callable[[int], None] | None = None,
) -> None:
    """
    Copy the database to *target*, replacing what is there; durable on return, and nothing is left when it raises.

    Args:
        beside: where it grows, in the same directory. What is there is removed first.
        keeps_wal: the copy is in WAL mode, as a store is; else it is a file that can be looked at from anywhere,
            without the right to write beside it.
        report: called now and then with the bytes of the copy so far.
    """
    watch = Watch(lambda: None if report is None else report(_size(beside)))
    try:
        with translated():
            _unlink(beside)
        with database.apart() as connection, watch.over(connection):
            try:
                connection.execute("VACUUM INTO ?", [_on_disk(beside)])
            except sqlite3.Error as error:
                raise translate(error, target if _is_of_the_copy(error) else database.path) from error
        if keeps_wal:
            _into_wal(beside)
        with translated():
            # Whoever may not read the store may not read its copy.
            beside.chmod(database.path.stat().st_mode & 0o777)
            _sync(beside)
            beside.replace(target)
            _sync(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            _unlink(beside)
        raise


def _on_disk(path: Path) -> str:
    """
    What SQLite calls a file, also when what it copies is in memory: the copy would be there, too.
    """
    return f"file:{quote(os.fsencode(path))}?vfs=unix"


def path_of_backup(database: Path, revision: str) -> Path:
    """
    Where the backup of a store at *revision* is kept.
    """
    return database.with_name(f"{database.name}.{revision}.backup")


def backups(database: Path) -> list[Path]:
    """
    The backups beside a store, oldest revision first.
    """
    with translated():
        return sorted(database.parent.glob(f"{database.name}.{_REVISION}.backup"))


def forget_backups(database: Path, *, but: Path) -> None:
    """
    Remove the backups of earlier upgrades, and what killed ones left. Follows a commit, and so does not fail (I10).
    """
    # Those that cannot be listed, or not removed, go after the next one.
    with contextlib.suppress(OSError):
        for path in database.parent.glob(f"{database.name}.{_REVISION}.backup*"):
            if path != but:
                path.unlink(missing_ok=True)


def require_room(database: Path, *, live_bytes: int, file_bytes: int) -> None:
    """
    See that there is room for a backup, and for a transaction that writes every table anew.

    Raises:
        DiskFull: there is not, and nothing was begun.
    """
    needed = live_bytes + 2 * file_bytes + _SPARE_BYTES
    with translated():
        figures = os.statvfs(database.parent)
    free = figures.f_bavail * figures.f_frsize
    if free < needed:
        raise DiskFull(
            f"no room to change the schema of {database}: needed {needed} bytes for a backup and the change, "
            f"the filesystem has {free}",
            needed_bytes=needed,
            available_bytes=free,
            hint="free space on the filesystem; the release that wrote the store still can: `ullage rm`, `ullage gc`",
        )


def _is_of_the_copy(error: sqlite3.Error) -> bool:
    """
    Whether it is the copy that could not be made or have more: we only read the database.
    """
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CANTOPEN", "SQLITE_FULL"))


def _into_wal(path: Path) -> None:
    """
    A store that is put back is in WAL mode from the start, whichever release opens it.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.Error as error:
        raise translate(error, path) from error
    if mode != "wal":
        raise StoreError(f"{path} cannot be a database in WAL mode")


def _unlink(path: Path) -> None:
    for each in (path, *(path.with_name(f"{path.name}{end}") for end in ("-journal", "-wal", "-shm"))):
        each.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
