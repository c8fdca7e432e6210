"""
`migrations/head.sql` makes a new store, and makes the same one as the revisions.
"""

from __future__ import annotations

import pytest

from support.schema import GOLDEN, SCRIPT, made_by_revisions, schema_of, script_of
from support.store import check_root, query
from support.worker import run_python
from ullage import ImageService
from ullage.head import database_in
from ullage.migrate import differences
from ullage.schema import HEAD_REVISION
from ullage.schema.script import statements


@pytest.fixture(scope="module")
def revised(tmp_path_factory):
    """
    A database that the revisions made, which nobody has opened yet.
    """
    return made_by_revisions(tmp_path_factory.mktemp("revised"))


def test_the_script_is_what_the_revisions_come_to(revised):
    """
    When this fails: ``make schema``, and review the difference.
    """
    assert SCRIPT.read_text() == script_of(revised)


@pytest.mark.parametrize(
    "question",
    [
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid",
        "SELECT * FROM alembic_version",
        "SELECT * FROM sqlite_sequence",
        "PRAGMA user_version",
        "PRAGMA application_id",
        "PRAGMA encoding",
        "PRAGMA page_size",
        "PRAGMA auto_vacuum",
        "PRAGMA journal_mode",
    ],
)
def test_it_makes_the_very_database_that_the_revisions_make(question, root, revised):
    assert query(root, question) == query(revised, question)


def test_the_rows_that_a_new_store_has_are_those_that_it_had(root, tmp_path):
    """
    Made by the script, or by the revisions and then opened: what differs is the store's own.
    """
    theirs = made_by_revisions(tmp_path / "revised")
    ImageService.open(theirs).close()
    tables = [name for (name,) in query(root, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
    own = {"uuid", "created_at"}

    assert "store" in tables
    for table in tables:
        columns = [name for (name,) in query(root, f"SELECT name FROM pragma_table_info('{table}')")]
        shown = ", ".join(f'"{column}"' for column in columns if column not in own)
        assert query(root, f"SELECT {shown} FROM {table}") == query(theirs, f"SELECT {shown} FROM {table}")
    check_root(theirs)


def test_a_store_is_made_and_looked_at_without_alembic(tmp_path):
    printed = run_python(
        "import sys\nfrom pathlib import Path\nfrom ullage import ImageService\nfrom ullage.releases import check\n"
        "ImageService.open(sys.argv[1]).close()\nassert not check(Path(sys.argv[1]))\n"
        "print([name for name in sys.modules if name.startswith(('alembic', 'mako'))])",
        tmp_path / "new",
    )

    assert printed.strip() == "[]"
    assert schema_of(tmp_path / "new") == GOLDEN.read_text()


def test_each_statement_stands_for_itself():
    schema, row = statements()

    assert all(statement.rstrip().endswith(";") for statement in schema)
    assert len({*schema, row}) == len(schema) + 1
    assert row.startswith("INSERT INTO store ")


def test_a_store_that_lacks_a_trigger_is_told_from_one_that_was_just_made(root):
    """
    What a check compares with at head comes of the script, too.
    """
    query(root, "DROP TRIGGER store_stays")
    database = database_in(root, read_only=True)
    try:
        with database.read() as connection:
            assert differences(connection, HEAD_REVISION) == ["store_stays is missing"]
    finally:
        database.close()
