"""
How Alembic reaches a store.

The library hands over its own connection, in its own transaction, so that all pending revisions are one commit
(I12). A developer who runs the ``alembic`` command gets a connection made here, with ``-x root=DIR`` for a store.
"""

import sqlite3
from pathlib import Path

from alembic import context
from sqlalchemy import Connection, create_engine, event

from ullage.schema import metadata


def _include_object(thing: object, _name: object, kind: str, *_reflected_and_compare_to: object) -> bool:
    # Views are reflected as nothing and declared as tables for queries: the golden schema file watches them.
    return not (kind == "table" and getattr(thing, "info", {}).get("is_view"))


def _configure(**arguments: object) -> None:
    context.configure(
        target_metadata=metadata,
        transactional_ddl=True,
        compare_server_default=True,
        include_object=_include_object,
        **arguments,
    )


def _run(connection: Connection) -> None:
    _configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


def _developer_engine():  # noqa: ANN202 -- an Engine
    root = context.get_x_argument(as_dictionary=True).get("root")
    url = (
        f"sqlite:///{Path(root) / 'ullage.db'}" if root else context.config.get_main_option("sqlalchemy.url")
    )
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _own_transactions(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


if context.is_offline_mode():
    _configure(url="sqlite://", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif (handed := context.config.attributes.get("connection")) is not None:
    _run(handed)
else:
    with _developer_engine().begin() as own:
        _run(own)
