"""
A populated store of each released revision, as its release left it: upgraded, it is whole, and nothing is gone.
"""

from __future__ import annotations

import pytest

from support.content import content_of, lost
from support.keepsake import kept, make, unpacked
from support.schema import GOLDEN, schema_of
from support.store import check_root, query
from ullage import ImageService, SimulatedRegistry, head, migrate
from ullage.database import Database
from ullage.schema import REVISIONS

#: What is worth keeping in a repository.
_SMALL_BYTES = 100_000


@pytest.fixture(params=kept())
def old(request, tmp_path):
    """
    The root of a kept store.
    """
    return unpacked(request.param, tmp_path / "store")


def upgrade(root):
    """
    To the newest revision, and nothing else: nobody recovers what the dead left.
    """
    database = Database(root / "ullage.db", gate=root / "gate")
    try:
        head.ensure_head(database, max_bytes=0)
    finally:
        database.close()


@pytest.mark.parametrize("revision", kept())
def test_what_is_kept_is_small_and_of_a_revision_that_there_is(revision, tmp_path):
    assert kept()[revision].stat().st_size < _SMALL_BYTES
    assert revision in REVISIONS
    root = unpacked(revision, tmp_path / "store")
    assert query(root, "SELECT version_num FROM alembic_version") == [(revision,)]
    assert query(root, "PRAGMA user_version") == [(REVISIONS.index(revision) + 1,)]


def test_what_is_kept_has_rows_in_every_table_of_its_revision(old):
    """
    But for what is said in passing.
    """
    assert [table for table, (_, rows) in content_of(old).items() if not rows and table != "acting"] == []


def test_a_store_of_every_revision_is_kept():
    """
    ``PYTHONPATH=tests python -m support.keepsake`` writes that of a new one, before it lands.
    """
    assert list(kept()) == list(REVISIONS)


@pytest.mark.parametrize("revision", kept())
def test_a_revision_makes_today_what_it_made_when_it_was_released(revision, tmp_path):
    """
    One that was released is never edited: there are stores that it made.
    """
    root = unpacked(revision, tmp_path / "store")
    database = Database(root / "ullage.db", gate=root / "gate", read_only=True)
    try:
        with database.read() as connection:
            assert migrate.differences(connection, revision) == []
    finally:
        database.close()


def test_an_upgrade_has_the_golden_schema_and_loses_nothing(old):
    before = content_of(old)

    upgrade(old)

    assert schema_of(old) == GOLDEN.read_text()
    assert lost(before, content_of(old)) == []
    assert query(old, "SELECT * FROM problems") == []
    assert query(old, "SELECT * FROM accounting_drift") == []
    assert query(old, "PRAGMA integrity_check") == [("ok",)]


def test_an_old_store_is_opened_and_recovered_and_every_byte_of_it_is_right(old):
    images = query(old, "SELECT id, image_id, size, pinned, pulled_at FROM images ORDER BY id")
    tags = {reference for (reference,) in query(old, "SELECT reference FROM repo_tags")}

    with ImageService.open(old, registry=SimulatedRegistry()) as store:
        # Trees are kept as rows alone: how much a directory takes is another number on each filesystem.
        wrong = store.check(digests=True)
        assert {each.problem for each in wrong} <= {"tree row without a directory"}
        store.check(repair=True)
        assert store.check(digests=True) == []
        found = store.list_images()
        assert store.image_status("app:mine").pinned
        assert store.view("in_flight") != [], "what can be resumed"
        store.collect()

    assert [(each.id, each.image_id, each.size, int(each.pinned)) for each in found] == [
        image[:4] for image in images
    ]
    assert {tag for each in found for tag in each.repo_tags} == tags
    check_root(old)


def test_what_this_release_makes_is_what_an_upgrade_makes(tmp_path):
    """
    The oldest store, upgraded, has what the same flows leave in a new one; what a later revision notes beside, apart.
    """
    oldest = unpacked(REVISIONS[0], tmp_path / "oldest")
    upgrade(oldest)

    make(tmp_path / "new")

    was, now = content_of(oldest), content_of(tmp_path / "new")
    for table in ("images", "repo_tags", "repo_digests", "manifests"):
        columns, rows = was[table]
        assert now[table][0] == columns
        assert len(now[table][1]) == len(rows), table
    assert {row[1] for row in was["images"][1]} == {row[1] for row in now["images"][1]}
