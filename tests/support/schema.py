"""
What a store at head is made of, as text that is read and reviewed: ``tests/migration/schema.sql``; and the script that
makes a new one, ``migrations/head.sql``.

After a change of the schema, write both anew, of what the revisions make, and review the difference:

    make schema
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from support.store import query
from ullage.database import Database
from ullage.schema import HEAD_REVISION, LEVEL

_PROJECT = Path(__file__).parent.parent.parent
GOLDEN = _PROJECT / "tests" / "migration" / "schema.sql"
SCRIPT = _PROJECT / "migrations" / "head.sql"

_HEADER = """\
-- A store at head, as sqlite_schema has it. Not written by hand: see tests/support/schema.py.

PRAGMA application_id = {application_id}; -- 'ullg'
PRAGMA user_version = {user_version};
"""

_SCRIPT_HEADER = """\
-- What all revisions come to, statement by statement in the order of sqlite_schema: this makes a new store, in one
-- transaction. Not written by hand: `make schema`. The last statement is for each store its own.

PRAGMA application_id = {application_id};

PRAGMA user_version = {user_version};
"""

_ROW = """\
INSERT INTO store (uuid, created_at, min_reader, min_writer, max_bytes)
VALUES (:uuid, :created_at, {min_reader}, {min_writer}, :max_bytes);
"""


def schema_of(root: Path) -> str:
    """
    Every statement of the schema, tables and indexes first, then triggers, then views, each kind in its order.

    Alembic's own table is left out: it is laid out one way by Alembic and another by its script.
    """
    rows = query(
        root,
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*' AND name <> 'alembic_version'"
        " ORDER BY CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 WHEN 'trigger' THEN 3 ELSE 4 END, rowid",
    )
    return "\n".join([_header(root, _HEADER), *(f"{sql};\n" for (sql,) in rows)])


def script_of(root: Path) -> str:
    """
    What makes a store like that in *root*, which the revisions made and nobody opened.
    """
    statements = query(
        root,
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*' ORDER BY rowid",
    )
    tables = query(root, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'alembic_version'")
    assert [name for (name,) in tables if query(root, f"SELECT 1 FROM {name}")] == [], (
        "a revision that makes rows wants a word here"
    )
    revision = _scripts().get_revision(HEAD_REVISION).module
    row = _ROW.format(
        **{name: getattr(revision, name, LEVEL) for name in ("min_reader", "min_writer")},
    )
    version = f"INSERT INTO alembic_version (version_num) VALUES ('{HEAD_REVISION}');\n"
    return "\n".join([_header(root, _SCRIPT_HEADER), *(f"{sql};\n" for (sql,) in statements), version, row])


def made_by_revisions(root: Path) -> Path:
    """
    A database in *root* that the revisions made, one after the other, as an upgrade runs them.
    """
    root.mkdir(exist_ok=True)
    database = Database(root / "ullage.db", gate=root / "gate")
    config = _config()
    try:
        with database.rebuild() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.close()
    return root


def _header(root: Path, header: str) -> str:
    return header.format(
        application_id=query(root, "PRAGMA application_id")[0][0],
        user_version=query(root, "PRAGMA user_version")[0][0],
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_PROJECT / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = made_by_revisions(Path(folder))
        for path, text in ((GOLDEN, schema_of(root)), (SCRIPT, script_of(root))):
            path.write_text(text)
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
