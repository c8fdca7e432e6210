"""
Each revision, whichever there are: forward, back and forward again, with everything in the store that there can be.
"""

from __future__ import annotations

import importlib
import shutil
from itertools import pairwise

import pytest

from support.content import content_of, lost
from support.keepsake import kept, unpacked
from support.populated import populated
from support.registry import FaultRegistry
from support.schema import GOLDEN, schema_of
from support.store import query
from ullage import DowngradeLoses, StoreError, migrate
from ullage.database import Database
from ullage.schema import HEAD_REVISION, LEVEL, REVISIONS

STEPS = [*pairwise(REVISIONS)]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """
    A store at head with rows in every table, and no files: revisions are about rows.
    """
    folder = tmp_path_factory.mktemp("full")
    with FaultRegistry() as registry, populated(folder / "store", registry):
        (folder / "rows").mkdir()
        query(folder / "store", "VACUUM INTO ?", str(folder / "rows" / "ullage.db"))
    return folder / "rows"


@pytest.fixture
def rows(full, tmp_path):
    """
    Those of this test.
    """
    return shutil.copytree(full, tmp_path / "rows")


def module_of(revision):
    (path,) = (importlib.resources.files("ullage.migrations") / "versions").glob(f"{revision}_*.py")
    return importlib.import_module(f"ullage.migrations.versions.{path.name.removesuffix('.py')}")


def statements_of(root):
    """
    The schema to the letter; only the order in which it was made may be another.
    """
    return dict(query(root, "SELECT name, sql FROM sqlite_schema"))


def change(root, verb, revision, **options):
    database = Database(root / "ullage.db", gate=root / "gate")
    try:
        return getattr(migrate, verb)(database, revision, **options)
    finally:
        database.close()


def assert_sound(root, revision):
    module, level = module_of(revision), REVISIONS.index(revision) + 1
    assert query(root, "SELECT version_num FROM alembic_version") == [(revision,)]
    assert query(root, "PRAGMA user_version") == [(level,)]
    marks = (getattr(module, "min_reader", level), getattr(module, "min_writer", level))
    assert query(root, "SELECT min_reader, min_writer FROM store") == [marks]
    assert query(root, "SELECT * FROM problems") == []
    assert query(root, "SELECT * FROM accounting_drift") == []
    assert query(root, "PRAGMA integrity_check") == [("ok",)]
    assert query(root, "PRAGMA foreign_key_check") == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_says_what_the_next_release_has_to_know(revision):
    module, level = module_of(revision), REVISIONS.index(revision) + 1

    assert revision == f"{level:04}"
    assert module.down_revision == (None if level == 1 else REVISIONS[level - 2])
    assert module.__doc__.strip().partition("\n")[0]
    if level > 1:
        assert {"min_reader", "min_writer", "losses"} <= vars(module).keys()
        assert 1 <= module.min_reader <= module.min_writer <= level
        assert not isinstance(module.losses, str)


def test_every_table_of_the_newest_revision_has_rows_here(rows):
    """
    Or what follows proves little of it. Only what is said in passing has none.
    """
    assert [table for table, (_, found) in content_of(rows).items() if not found] == ["acting"]


def test_all_the_way_back_and_forward_again_keeps_all_that_has_a_place(rows):
    stages = {HEAD_REVISION: content_of(rows)}
    for below, above in reversed(STEPS):
        given_up, _ = change(rows, "downgrade", below, accept_losses=True)

        assert_sound(rows, below)
        stages[below] = content_of(rows)
        gone = {
            table
            for table, (_, found) in stages[above].items()
            if table not in stages[below] and found and table != "sqlite_sequence"
        }
        assert bool(given_up) >= bool(gone), f"{gone} went without a word"
        assert all(each.count > 0 and each.what for each in given_up)

    for _, above in STEPS:
        # What the downgrades had no place for is gone; all the rest is as it was.
        before = content_of(rows)
        change(rows, "upgrade", above)
        assert_sound(rows, above)
        assert lost(before, content_of(rows)) == []
    assert schema_of(rows) == GOLDEN.read_text()


@pytest.mark.parametrize(("below", "above"), STEPS)
def test_what_a_downgrade_keeps_is_what_was_there(below, above, rows):
    """
    In tables that the earlier schema has, rows do not change; counters and ids of what went do.
    """
    for _, each in reversed(STEPS):
        if each > above:
            change(rows, "downgrade", REVISIONS[REVISIONS.index(each) - 1], accept_losses=True)
    before = content_of(rows)

    change(rows, "downgrade", below, accept_losses=True)

    differ = {line.partition(":")[0] for line in lost(before, content_of(rows))}
    assert differ <= {"store", "sqlite_sequence"}


@pytest.mark.parametrize("revision", kept())
def test_a_kept_store_comes_back_from_the_newest_revision_as_it_was(revision, tmp_path):
    root = unpacked(revision, tmp_path / "store")
    before, schema = content_of(root), statements_of(root)

    change(root, "upgrade", HEAD_REVISION)
    upgraded = content_of(root)
    given_up, _ = change(root, "downgrade", revision)

    assert given_up == (), "an upgrade makes nothing that a downgrade loses"
    assert content_of(root) == before
    assert statements_of(root) == schema
    assert_sound(root, revision)
    change(root, "upgrade", HEAD_REVISION)
    assert content_of(root) == upgraded
    assert schema_of(root) == GOLDEN.read_text()


@pytest.mark.skipif(LEVEL == 1, reason="there is one revision, and nothing to lose")
def test_a_downgrade_that_loses_something_names_it_and_does_nothing(rows):
    before = content_of(rows)

    with pytest.raises(DowngradeLoses) as raised:
        change(rows, "downgrade", REVISIONS[0])

    assert raised.value.losses
    assert all(str(each.count) in str(raised.value) for each in raised.value.losses)
    assert content_of(rows) == before
    assert schema_of(rows) == GOLDEN.read_text()
    assert [*rows.glob("*.backup*")] == []


@pytest.mark.parametrize(
    ("verb", "revision", "match"),
    [
        ("upgrade", "0099", "no revision 0099"),
        ("downgrade", "head", "no revision"),
        ("downgrade", "base", "no revision"),
    ],
)
def test_a_revision_that_there_is_not(verb, revision, match, rows):
    with pytest.raises(StoreError, match=match) as raised:
        change(rows, verb, revision)

    assert HEAD_REVISION in raised.value.hint
    assert_sound(rows, HEAD_REVISION)


@pytest.mark.skipif(LEVEL == 1, reason="there is one revision, and no way to be wrong about the direction")
def test_forward_is_not_back(rows, tmp_path):
    with pytest.raises(StoreError, match="past 0001") as raised:
        change(rows, "upgrade", "0001")
    assert "downgrade" in raised.value.hint
    old = unpacked("0001", tmp_path / "old")
    with pytest.raises(StoreError, match="before") as raised:
        change(old, "downgrade", HEAD_REVISION)
    assert "upgrade" in raised.value.hint


def test_what_failed_has_no_place_before_0005_and_the_rest_of_the_history_keeps_its_own(tmp_path):
    root = unpacked("0005", tmp_path / "store")
    before = query(root, "SELECT * FROM history WHERE event <> 'failed' ORDER BY id")

    with pytest.raises(DowngradeLoses, match="that failed"):
        change(root, "downgrade", "0004")
    given_up, _ = change(root, "downgrade", "0004", accept_losses=True)

    assert [(each.what, each.count) for each in given_up] == [
        ("events of the history: pulls, imports and unpackings that failed", 1)
    ]
    assert query(root, "SELECT * FROM history ORDER BY id") == before
    assert statements_of(root) == statements_of(unpacked("0004", tmp_path / "0004"))
    change(root, "upgrade", "0005")
    assert query(root, "SELECT * FROM history ORDER BY id") == before
