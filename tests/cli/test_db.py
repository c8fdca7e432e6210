"""
``ullage db``: at which revision, forward, back, checked, copied.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing

import pytest

from support.content import content_of
from support.keepsake import unpacked
from support.schema import GOLDEN, schema_of
from support.store import query
from ullage.model import Loss, Problem, RevisionNote, StoreRevision
from ullage.schema import HEAD_REVISION, LEVEL, REVISIONS

AN_OLD_ONE = pytest.mark.skipif(LEVEL == 1, reason="there is one revision")


def fields(kind):
    return [field.name for field in dataclasses.fields(kind)]


@pytest.fixture
def old(ullage, tmp_path):
    """
    The command, and the store of the first release for its root.
    """
    ullage.environment["ULLAGE_ROOT"] = str(unpacked(REVISIONS[0], tmp_path / "old"))
    ullage.old = tmp_path / "old"
    return ullage


def test_current_says_where_a_store_is(ullage):
    said = ullage.run("db", "current", "--json").json

    assert list(said) == fields(StoreRevision)
    assert (said["revision"], said["level"], said["pending"], said["may_write"]) == (
        HEAD_REVISION,
        LEVEL,
        [],
        True,
    )
    assert ullage.run("db", "current").lines[0] == f"revision  {HEAD_REVISION}"


@AN_OLD_ONE
def test_an_old_store_is_carried_forward_and_back_by_hand(old):
    before = content_of(old.old)
    said = old.run("db", "current")
    assert f"pending: {' '.join(REVISIONS[1:])}" in said.stdout

    up = old.run("db", "upgrade", "--json")
    assert up.json == {"from_revision": "0001", "to_revision": HEAD_REVISION}
    assert "making a backup" in up.stderr
    assert schema_of(old.old) == GOLDEN.read_text()
    assert old.run("db", "upgrade").stdout == f"at {HEAD_REVISION}\n"
    assert old.run("db", "current", "--json").json["backups"] == [str(old.old / "ullage.db.0001.backup")]

    assert old.run("db", "downgrade", "0001").stdout.startswith(f"{HEAD_REVISION} -> 0001\n")
    assert content_of(old.old) == before
    assert old.run("db", "check").stderr == "no problems\n"


@AN_OLD_ONE
def test_what_a_downgrade_loses_is_named_and_given_up_by_yes_alone(old):
    old.run("db", "upgrade")
    digest, now = "sha256:" + "7" * 64, "2026-11-01T00:00:00.000000Z"
    with closing(sqlite3.connect(old.old / "ullage.db")) as shell, shell:
        shell.execute(
            "INSERT INTO leases (token, purpose, owner, pid, created_at) VALUES (?, 'pull', 'a test', 1, ?)",
            ["9" * 32, now],
        )
        shell.execute(
            "INSERT INTO tree_ingests (chain_id, lease_id, created_at) VALUES (?, (SELECT max(id) FROM leases), ?)",
            [digest, now],
        )
    before = content_of(old.old)

    said = old.fail("db", "downgrade", "0001", code=38)

    assert "1 trees that are being unpacked" in said
    assert content_of(old.old) == before
    done = old.run("db", "downgrade", "0001", "--yes", "--json").json
    assert [list(each) for each in done["losses"]] == [fields(Loss)]
    assert query(old.old, "PRAGMA user_version") == [(1,)]


@AN_OLD_ONE
def test_whatever_looks_at_an_old_store_upgrades_it_first(old):
    done = old.run("images", "-q")

    assert done.stdout
    assert f"the store is at revision {HEAD_REVISION}" in done.stderr
    assert old.run("images", "-q").stderr == ""
    assert schema_of(old.old) == GOLDEN.read_text()


@AN_OLD_ONE
def test_where_upgrades_are_scheduled_nothing_else_does_it(old):
    old.environment["ULLAGE_NO_UPGRADE"] = "1"
    before = content_of(old.old)

    for command in (("images",), ("gc",), ("quota", "--max", "1GB")):
        assert "revision 0001" in old.fail(*command, code=37)
    old.environment.pop("ULLAGE_NO_UPGRADE")
    old.fail("doctor", code=37)
    assert content_of(old.old) == before

    old.run("db", "upgrade", env={"ULLAGE_NO_UPGRADE": "1"})
    old.run("images", env={"ULLAGE_NO_UPGRADE": "1"})


def test_history_lists_every_revision_with_or_without_a_store(ullage, elsewhere, tmp_path):
    notes = elsewhere.run("db", "history", "--json").json_lines

    assert [list(each) for each in notes] == [fields(RevisionNote)] * LEVEL
    assert [each["revision"] for each in notes] == list(REVISIONS)
    assert not any(each["applied"] for each in notes)
    assert not (tmp_path / "elsewhere").exists()
    table = ullage.run("db", "history", env={"ULLAGE_ROOT": str(ullage.root)}).lines
    assert table[-1].split()[:2] == [HEAD_REVISION, "current"]


def test_check_finds_what_somebody_did_to_the_schema_and_to_the_rows(ullage, pulled):
    assert ullage.run("db", "check").stdout == ""
    with closing(sqlite3.connect(ullage.root / "ullage.db")) as shell:
        (trigger,) = shell.execute("SELECT sql FROM sqlite_schema WHERE name = 'blobs_stay'").fetchone()
        shell.executescript("DROP TRIGGER blobs_stay; CREATE TABLE mine (a)")
        found = ullage.run("db", "check", "--json", code=32).json_lines
        shell.executescript(f"DROP TABLE mine; {trigger}")

    assert [list(each) for each in found] == [fields(Problem)] * 2
    assert {each["detail"] for each in found} == {"blobs_stay is missing", "mine is unknown"}
    assert ullage.run("db", "check").stderr == "no problems\n"


def test_a_backup_is_a_store_without_its_blobs(ullage, pulled, tmp_path):
    done = ullage.run("db", "backup", tmp_path / "copy.db", "--json").json

    assert done["size"] == (tmp_path / "copy.db").stat().st_size
    (tmp_path / "restored").mkdir()
    (tmp_path / "copy.db").rename(tmp_path / "restored" / "ullage.db")
    assert content_of(tmp_path / "restored") == content_of(ullage.root)
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []


def test_a_backup_goes_where_nothing_is_and_nothing_is_left_where_it_cannot(ullage, pulled, tmp_path):
    (tmp_path / "mine").write_text("mine")

    assert "there already" in ullage.fail("db", "backup", tmp_path / "mine", code=30)
    assert "nowhere/copy.db" in ullage.fail("db", "backup", tmp_path / "nowhere" / "copy.db", code=30)

    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "arguments", [("current",), ("upgrade",), ("downgrade", "0001"), ("check",), ("backup", "copy.db")]
)
def test_without_a_store_there_is_nothing_to_carry(arguments, elsewhere, tmp_path):
    assert "no store" in elsewhere.fail("db", *arguments, code=30)
    assert not (tmp_path / "elsewhere").exists()


def test_mistakes_are_told(ullage):
    assert "no revision 0099" in ullage.fail("db", "upgrade", "0099", code=30)
    assert "no such command: upgrad" in ullage.fail("db", "upgrad", code=2)
    assert ullage.run("db", "--root", ullage.root, "current").lines
    assert ullage.run("--root", ullage.root, "db", "current").lines
    assert ullage.run("db", "current", "--root", ullage.root).lines
