"""
How Alembic reaches a store.

The library hands over its own connection, in its own transaction, so that all pending revisions are one commit
(I12). A developer who runs the ``alembic`` command gets the same here: a connection under the gate, with
``-x root=DIR`` for a store, else to the database of ``alembic.ini``.

What a revision declares beside its two functions is applied here, after each step: its level in ``user_version``, and
who may read and write from then on.
"""

from contextlib import contextmanager
from pathlib import Path

from alembic import context
from alembic.util.exc import CommandError
from sqlalchemy import make_url

from ullage.database import Database
from ullage.errors import ImageError
from ullage.schema import metadata

#: The commands of Alembic that change a database; the others look, and make none.
_CHANGING = {"upgrade", "downgrade", "stamp", "ensure_version"}


def _include_object(thing: object, _name: object, kind: str, *_reflected_and_compare_to: object) -> bool:
    # Views are reflected as nothing and declared as tables for queries: the golden schema file watches them.
    return not (kind == "table" and getattr(thing, "info", {}).get("is_view"))


def _applied(*, ctx, heads, **_more) -> None:  # noqa: ANN001, ANN003 -- Alembic's
    """
    The marks of the revision that the store is at after a step; they are part of its transaction.
    """
    if not heads:
        ctx.execute("PRAGMA user_version = 0")
        return
    (revision,) = heads
    module, level = context.script.get_revision(revision).module, int(revision)
    ctx.execute(f"PRAGMA user_version = {level}")
    readers, writers = (getattr(module, name, level) for name in ("min_reader", "min_writer"))
    ctx.execute(f"UPDATE store SET min_reader = {readers}, min_writer = {writers}")
    on_step = context.config.attributes.get("on_step")
    if on_step is not None:
        on_step(revision)


def _configure(**arguments: object) -> None:
    context.configure(
        target_metadata=metadata,
        transactional_ddl=True,
        compare_server_default=True,
        include_object=_include_object,
        on_version_apply=_applied,
        **arguments,
    )


def _run(connection) -> None:  # noqa: ANN001 -- a Connection
    _configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


@contextmanager
def _of_a_developer():  # noqa: ANN202 -- a Connection
    root = context.get_x_argument(as_dictionary=True).get("root")
    path = (
        Path(root, "ullage.db")
        if root
        else Path(make_url(context.config.get_main_option("sqlalchemy.url")).database)
    )
    options = context.config.cmd_opts
    changes = options is None or options.cmd[0].__name__ in _CHANGING
    # Beside a store its own gate: whoever uses it meanwhile waits, as for each other.
    gate = path.with_name("gate" if path.name == "ullage.db" else f"{path.name}.gate")
    database = Database(path, gate=gate, read_only=not changes)
    try:
        with database.rebuild() if changes else database.read() as connection:
            yield connection
    except ImageError as error:
        raise CommandError(f"{error}" + (f" ({error.hint})" if error.hint else "")) from error
    finally:
        database.close()


if context.is_offline_mode():
    _configure(url="sqlite://", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif (handed := context.config.attributes.get("connection")) is not None:
    _run(handed)
else:
    with _of_a_developer() as own:
        _run(own)
