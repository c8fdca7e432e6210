"""
An engine of SQLAlchemy's on connections of ours, which says BEGIN and whose errors are this package's.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool

from ullage.refusal import translate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import ExceptionContext

__all__ = ["make_engine"]


def make_engine(
    connect: Callable[[], sqlite3.Connection],
    path: Path,
    *,
    begin: str,
    timeout_seconds: float,
    pool_size: int = 0,
    max_overflow: int = 0,
) -> Engine:
    """
    An engine whose transactions start with *begin*; without *pool_size* each connection is closed after use.
    """
    pool: dict[str, Any] = (
        {
            "poolclass": QueuePool,
            "pool_use_lifo": True,  # the connection that has the statements prepared
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "pool_timeout": timeout_seconds,
        }
        if pool_size
        else {"poolclass": NullPool}
    )
    engine = create_engine("sqlite://", creator=connect, pool_reset_on_return=None, **pool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    @event.listens_for(engine, "handle_error")
    def _handle(context: ExceptionContext) -> None:
        original = context.original_exception
        if isinstance(original, (sqlite3.Error, UnicodeDecodeError)):
            if context.statement is None and context.connection is not None:
                # A COMMIT that fails may leave its transaction open, and SQLAlchemy takes it for over: the
                # connection would go back to the pool in it, and be of no use to anybody.
                driver = context.connection.connection.dbapi_connection
                if driver is not None:
                    with contextlib.suppress(sqlite3.Error):
                        driver.rollback()
            raise translate(original, path) from original

    return engine
