"""
The three transactions, `read`, `write` and `rebuild`, and two past SQLAlchemy, `glance` and `write_plainly`. The only
BEGIN is here.

Every write transaction and every checkpoint of this package runs with the gate locked, one at a time on the whole
machine: waiting is fair, "database is locked" reaches nobody, and a checkpoint never meets a commit, which is what
the WAL-reset bug of SQLite before 3.51.3 needs. `BEGIN IMMEDIATE` alone starts a write, so no transaction that has
read finds out later that it may not write. People in the sqlite3 shell do not know the gate; for them there is
SQLite's own lock, and a busy timeout on our side.

The file is opened by SQLite and by nothing else in this process: closing any descriptor of it would drop the
process's POSIX locks on it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from ullage.driver import Connections, checkpoint, connect, shorten
from ullage.errors import SQLiteTooOld, StoreBusy, StoreCorrupt, StoreError, StoreReadOnly
from ullage.gate import Gate
from ullage.moment import MIXED, Copy, moment_of
from ullage.refusal import RuleBroken, is_of_the_schema, translate
from ullage.snapshot import Draft, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from ullage.locks import LockWaits

__all__ = ["APPLICATION_ID", "MINIMUM_SQLITE", "Database", "Guard", "RuleBroken"]

APPLICATION_ID: Final = 0x756C6C67  # 'ullg'
MINIMUM_SQLITE: Final = (3, 37, 0)  # STRICT tables

_log = logging.getLogger(__name__)


class Guard(Protocol):
    """
    What says whether the schema is still one for this release.
    """

    def __call__(self, connection: Connection | Snapshot, *, writing: bool) -> None: ...


_CHECKPOINT_EVERY: Final = 64  # write transactions of this process


class Database:
    """
    The store's SQLite file. Safe for threads and for processes; a forked child gets connections of its own.

    Args:
        path: the file.
        gate: the file whose lock writers queue at.
        read_only: no write transaction will ever be asked for.
        immutable: nobody at all can write to the file, and SQLite need not look whether somebody does.
        timeout_seconds: how long a write waits for its turn before `StoreBusy`.
        guard: raises when the schema is no longer one that we may write to, or else read. It is asked in every
            write transaction, and when a statement that reads makes no sense to SQLite.
    """

    def __init__(
        self,
        path: Path,
        *,
        gate: Path,
        read_only: bool = False,
        immutable: bool = False,
        timeout_seconds: float = 60.0,
        guard: Guard | None = None,
    ) -> None:
        if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
            raise SQLiteTooOld(f"SQLite {sqlite3.sqlite_version} knows no STRICT tables")
        self.path = path
        self.read_only = read_only
        self.timeout_seconds = timeout_seconds
        self._guard = guard
        self._gate = Gate(gate, timeout_seconds=timeout_seconds)
        self._writes_since_checkpoint = 0
        #: Called after each durable write, with no lock held: it must be quick, and must not fail (I10).
        self.on_commit: Callable[[], None] = lambda: None
        self._inherited: list[Any] = []
        self._copy: Copy | None = None
        self._mode = "ro&immutable=1" if immutable else "ro" if read_only else "rw"
        self._making = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self._glances, self._drafts = (
            Connections(
                functools.partial(self._connect, mode=self._mode, query_only=query_only, foreign_keys=True),
                timeout_seconds=timeout_seconds,
            )
            for query_only in (True, False)
        )
        _open_databases.add(self)

    @property
    def _reader(self) -> Engine:
        return self._made("reader", query_only=True, pool_size=5, max_overflow=27)

    @property
    def _writer(self) -> Engine:
        return self._made("writer", query_only=False, pool_size=1, max_overflow=0)

    def _made(self, name: str, **how: Any) -> Engine:  # noqa: ANN401 -- what `_engine` takes
        """
        An engine is made when it is first used, for SQLAlchemy takes longer to load than most look-ups and all else.
        """
        with self._making:
            if name not in self._engines:
                self._engines[name] = self._engine(**how)
            return self._engines[name]

    # ------------------------------------------------------------------ the three transactions

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """
        A snapshot: what is read inside is of one moment, and no writer waits for it.
        """
        with self._in_line() as connection, connection.begin():
            try:
                yield connection
            except StoreError as error:
                if self._guard is not None and is_of_the_schema(error):
                    self._guard(connection, writing=False)  # says more, if another release changed it
                raise

    @contextmanager
    def glance(self) -> Iterator[Snapshot]:
        """
        As `read`, for look-ups that a host makes all day: at a fifth of the cost, and with a fifth of the comfort.
        """
        self._leave_the_past()
        try:
            driver = self._glances.take()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translate(error, self.path) from error
        whole = True
        try:
            driver.execute("BEGIN")
            yield Snapshot(driver)
            driver.commit()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            whole = False
            said = translate(error, self.path)
            if self._guard is not None and is_of_the_schema(error):
                with self.read() as connection:
                    self._guard(connection, writing=False)
            raise said from error
        except BaseException:
            driver.rollback()
            raise
        finally:
            self._glances.give(driver, whole=whole)

    def _leave_the_past(self) -> None:
        copy = self._copy  # another thread may be here, too
        if copy is not None and moment_of(self.path) != copy.moment:
            self._copy = None
            self._dispose("reader")  # what we have in memory is of another moment

    def _dispose(self, *names: str) -> None:
        self._glances.dispose()
        for engine in [self._engines[name] for name in names if name in self._engines]:
            engine.dispose()

    def _in_line(self) -> Connection:
        from sqlalchemy.exc import TimeoutError as PoolTimeout  # noqa: PLC0415 -- see `_made`

        self._leave_the_past()
        try:
            return self._reader.connect()
        except PoolTimeout as error:
            busy = "every connection for reading is in use"
            raise StoreBusy(busy, waited_seconds=self.timeout_seconds) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translate(error, self.path) from error

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """
        One write transaction under the gate: committed when the block ends, undone when it raises.

        Nothing slow happens inside (I9): everybody else waits. With *durable* the commit is on disk when this
        returns; without, it may be lost in a power cut, which is right for what only informs.

        Raises:
            StoreBusy: the turn did not come within the timeout.
            StoreReadOnly: the database was opened so.
            RuleBroken: a constraint or a trigger refused a statement.
        """
        self.require_writable()
        with self._gate.turn(), self._writer.connect() as connection:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            if not durable:
                self._pragma(driver, "synchronous = NORMAL")
            try:
                with connection.begin():
                    if self._guard is not None:
                        self._guard(connection, writing=True)
                    yield connection
            finally:
                if not durable:
                    self._pragma(driver, "synchronous = FULL")
            self._wrote(driver)
        if durable:
            self.on_commit()

    @contextmanager
    def write_plainly(self, *, durable: bool = True) -> Iterator[Connection | Draft]:
        """
        As `write`, for the statements of who may have no other need of SQLAlchemy: with nothing but `exec_driver_sql`.
        """
        if "writer" in self._engines:
            with self.write(durable=durable) as connection:
                yield connection
            return
        self.require_writable()
        with self._gate.turn(), self._plain_writer() as driver:
            driver.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            driver.execute("BEGIN IMMEDIATE")
            draft = Draft(driver)
            if self._guard is not None:
                self._guard(draft, writing=True)
            yield draft
            driver.commit()
            self._wrote(driver)
        if durable:
            self.on_commit()

    @contextmanager
    def _plain_writer(self) -> Iterator[sqlite3.Connection]:
        """
        A connection for whoever has the gate. Its errors are ours; after one it is closed, with what is open in it.
        """
        try:
            driver = self._drafts.take()
            whole = False
            try:
                yield driver
                whole = True
            finally:
                self._drafts.give(driver, whole=whole)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translate(error, self.path) from error

    def _wrote(self, driver: DBAPIConnection | sqlite3.Connection) -> None:
        self._writes_since_checkpoint += 1
        if self._writes_since_checkpoint >= _CHECKPOINT_EVERY and checkpoint(driver):
            self._writes_since_checkpoint = 0

    def patience(self, check: Callable[[], None]) -> AbstractContextManager[None]:
        """
        While this thread waits for its turn to write, inside the block, *check* is called: it ends the wait by raising.
        """
        return self._gate.patience(check)

    @property
    def waits(self) -> LockWaits:
        """
        What waiting for turns has cost so far.
        """
        return self._gate.waits

    @property
    def is_of_one_moment(self) -> bool:
        """
        Whether it is read from memory, for want of the right to write beside it.
        """
        return self._copy is not None

    def require_writable(self) -> None:
        """
        Raises:
            StoreReadOnly: no write transaction may be asked for.
        """
        if self.read_only:
            raise StoreReadOnly("the store was opened read-only")

    @contextmanager
    def rebuild(self) -> Iterator[Connection]:
        """
        The transaction of a migration: like `write`, on a connection of its own with foreign keys off.

        They are checked before the commit instead: with them on, a table that is rebuilt empties its children.
        Creates the file, in WAL mode, when there is none.

        Raises:
            StoreReadOnly: the database was opened so.
        """
        self.require_writable()
        engine = self._engine(query_only=False, mode="rwc", foreign_keys=False)
        try:
            with self._gate.turn(), engine.connect() as connection:
                driver = connection.connection.dbapi_connection
                assert driver is not None
                # Only now: the mode of a database in use cannot be changed, and the gate says that none of us
                # uses it.
                self._pragma(driver, "journal_mode = WAL")
                with connection.begin():
                    yield connection
                    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                        raise StoreCorrupt("the new schema leaves rows that point nowhere")
                shorten(driver)
        finally:
            engine.dispose()

    @contextmanager
    def apart(self) -> Iterator[sqlite3.Connection]:
        """
        A connection of SQLite's own with no transaction, that cannot write: for VACUUM INTO. Its errors are ours.
        """
        try:
            mode = self._mode if self.read_only else "ro"
            with contextlib.closing(self._connect(mode=mode, query_only=False, foreign_keys=True)) as own:
                yield own
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translate(error, self.path) from error

    def close(self) -> None:
        """
        Close every connection. Safe to call twice.
        """
        if self._writes_since_checkpoint:
            try:
                with self._gate.turn(), self._plain_writer() as driver:
                    checkpoint(driver)
            except StoreError as error:
                # The WAL stays as it is: correct, only longer; whoever opens the store next reads it.
                _log.debug("no checkpoint at close: %s", error)
        self._dispose("reader", "writer")
        self._drafts.dispose()
        _open_databases.discard(self)

    def _pragma(self, driver: DBAPIConnection, setting: str) -> None:
        """
        What has to be set outside of any transaction, and so past SQLAlchemy, which would translate its errors.
        """
        try:
            driver.execute(f"PRAGMA {setting}")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translate(error, self.path) from error

    def _connect(self, *, mode: str, query_only: bool, foreign_keys: bool) -> sqlite3.Connection:
        connection, copy = connect(self.path, mode=mode, query_only=query_only, foreign_keys=foreign_keys)
        if mode == "ro":  # two that are not of one moment are told apart by the next who reads: then both go
            self._copy = copy if self._copy in (None, copy) else MIXED
        return connection

    def _engine(
        self, *, query_only: bool, mode: str | None = None, foreign_keys: bool = True, **pool: int
    ) -> Engine:
        from ullage.engine import make_engine  # noqa: PLC0415 -- see `_made`

        return make_engine(
            functools.partial(
                self._connect, mode=mode or self._mode, query_only=query_only, foreign_keys=foreign_keys
            ),
            self.path,
            begin="BEGIN" if query_only else "BEGIN IMMEDIATE",
            timeout_seconds=self.timeout_seconds,
            **pool,
        )

    def _after_fork(self) -> None:
        # The parent's connections are not ours to use, and not ours to close: SQLite would tidy up under the
        # parent. They are kept where nothing collects them.
        self._glances.forget()
        self._drafts.forget()
        for engine in self._engines.values():
            self._inherited.append(engine.pool)
            engine.dispose(close=False)
        self._making = threading.Lock()
        self._gate.after_fork()
        self._writes_since_checkpoint = 0


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for database in list(_open_databases):
        database._after_fork()  # noqa: SLF001 -- same module


os.register_at_fork(after_in_child=_after_fork_in_child)
