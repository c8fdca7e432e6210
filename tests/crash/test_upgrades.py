"""
Death and errors in the middle of an upgrade: the store is at one revision or the other, whole.

By default at some of the calls; ``ULLAGE_TORTURE=1`` takes every one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from support.content import content_of, lost
from support.keepsake import unpacked
from support.killpoints import CHANGES
from support.schema import GOLDEN, schema_of
from support.store import check_root, query
from ullage import ImageService, SimulatedRegistry
from ullage.schema import HEAD_REVISION, LEVEL, REVISIONS

EVERY_POINT = bool(os.environ.get("ULLAGE_TORTURE"))

pytestmark = pytest.mark.skipif(LEVEL == 1, reason="there is one revision, and nothing to upgrade")


@pytest.fixture
def old(tmp_path):
    """
    A store of the first release.
    """
    return unpacked(REVISIONS[0], tmp_path / "old")


def backups(root):
    return sorted(path.name for path in root.glob("*.backup*"))


def _points(nursery, old):
    """
    The calls of an upgrade, up to its commit and what tidies up after it; and those of them to die at.
    """
    child = nursery.spawn("nothing", shutil.copytree(old, f"{old}-calls"), arm="start")
    child.wait()
    assert child.completed, child.said
    calls = child.heard("trace")[0][0]
    end = next(at for at, (kind, _) in enumerate(calls) if kind == "commit") + 8
    chosen = [
        at for at, (kind, _) in enumerate(calls[:end], 1) if EVERY_POINT or kind in CHANGES or at % 40 == 0
    ]
    return calls, chosen


def assert_whole(root, before, schema):
    """
    At one revision or the other, with everything, and no wiser for what was tried.
    """
    revision = query(root, "SELECT version_num FROM alembic_version")
    assert query(root, "PRAGMA integrity_check") == [("ok",)]
    assert lost(before, content_of(root)) == []
    if revision == [("0001",)]:
        assert schema_of(root) == schema
    else:
        assert revision == [(HEAD_REVISION,)]
        assert schema_of(root) == GOLDEN.read_text()
    for path in root.glob("*.backup"):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]


def test_an_upgrade_that_is_killed_at_any_call_leaves_a_whole_store(old, nursery, tmp_path):
    before, schema = content_of(old), schema_of(old)
    calls, chosen = _points(nursery, old)
    # The old store is the first life's work; a database that is open in WAL mode leaves it beside.
    seen = set()
    for at in chosen:
        root = shutil.copytree(old, tmp_path / f"died-{at}")
        child = nursery.spawn("nothing", root, arm="start", action="die", at=at)
        child.wait()
        assert child.end == "signal 9", (at, calls[at - 1])

        if (root / "ullage.db").exists():
            assert_whole(root, before, schema)
            seen.add(query(root, "PRAGMA user_version")[0][0])
        if EVERY_POINT or at % 7 == 0:
            with ImageService.open(root, registry=SimulatedRegistry()) as store:
                assert store.check(digests=True) == []
            assert backups(root) == ["ullage.db.0001.backup"]
            check_root(root)
        shutil.rmtree(root)
    assert seen == {1, LEVEL}, "some died before the commit, and some after"


def test_an_error_at_any_call_of_an_upgrade_is_told_and_leaves_a_whole_store(old, nursery, tmp_path):
    """
    The child itself opens the store again, checks it, and finds it well.
    """
    calls, chosen = _points(nursery, old)
    for number, at in enumerate(chosen if EVERY_POINT else chosen[::4]):
        root = shutil.copytree(old, tmp_path / f"failed-{at}")
        code = (5, 28, 13)[number % 3]  # EIO, ENOSPC, EACCES
        child = nursery.spawn("nothing", root, arm="start", action="fail", at=at, code=code)
        child.wait()

        assert child.completed, (at, calls[at - 1], child.said)
        assert child.heard("untyped") == [], (at, calls[at - 1])
        assert child.heard("problems") in ([], [[[]]]), (at, calls[at - 1])
        assert schema_of(root) == GOLDEN.read_text()
        shutil.rmtree(root)
