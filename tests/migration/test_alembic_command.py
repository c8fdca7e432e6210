"""
The plain ``alembic`` command in a checkout: on any store, under its gate; and the scripts that it prints.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.content import content_of, lost
from support.keepsake import unpacked
from support.schema import GOLDEN, schema_of
from support.store import query
from support.worker import environment
from ullage.locks import FileLock
from ullage.schema import HEAD_REVISION, LEVEL, REVISIONS

PROJECT = Path(__file__).parent.parent.parent

AN_OLD_ONE = pytest.mark.skipif(LEVEL == 1, reason="there is one revision")


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *map(str, arguments)],
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, fails=False):
    process = start(*arguments)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode != 0) == fails, stderr
    return stdout + stderr if fails else stdout


@pytest.fixture
def old(tmp_path):
    return unpacked(REVISIONS[0], tmp_path / "old")


@AN_OLD_ONE
def test_an_old_store_is_seen_upgraded_and_taken_back(old):
    before = content_of(old)

    assert run("-x", f"root={old}", "current").startswith(REVISIONS[0])
    run("-x", f"root={old}", "upgrade", "head")
    assert "(head)" in run("-x", f"root={old}", "current")
    assert schema_of(old) == GOLDEN.read_text()
    assert query(old, "PRAGMA journal_mode") == [("wal",)]
    run("-x", f"root={old}", "downgrade", REVISIONS[0])
    assert content_of(old) == before


def test_what_only_looks_makes_nothing_and_waits_for_nobody(root, tmp_path):
    said = run("-x", f"root={tmp_path}", "current", fails=True)

    assert "FAILED" in said
    assert "cannot open" in said
    assert not (tmp_path / "ullage.db").exists()
    lock = FileLock.try_acquire(root / "gate")
    assert "(head)" in run("-x", f"root={root}", "current")
    assert "No new upgrade operations" in run("-x", f"root={root}", "check")
    lock.release()


def test_what_changes_waits_at_the_gate(root):
    lock = FileLock.try_acquire(root / "gate")
    process = start("-x", f"root={root}", "upgrade", "head")
    until = time.monotonic() + 20
    while not _waits_for(process.pid, root / "gate"):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)

    lock.release()

    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def _waits_for(pid, path):
    """
    Whether the kernel has a waiting ``flock`` of that process on that file.
    """
    inode = path.stat().st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f" {pid} " in line and f":{inode} " in line for line in lines)


def test_a_database_of_its_own_is_what_the_ini_file_says(tmp_path):
    ini = (PROJECT / "alembic.ini").read_text()
    (tmp_path / "alembic.ini").write_text(
        ini.replace("%(here)s", str(PROJECT)).replace(
            "sqlite:///ullage-dev.db", f"sqlite:///{tmp_path}/mine.db"
        )
    )

    run("-c", tmp_path / "alembic.ini", "upgrade", "head")

    assert f"{HEAD_REVISION} (head)" in run("-c", tmp_path / "alembic.ini", "current")
    assert (tmp_path / "mine.db.gate").exists()
    assert not (tmp_path / "gate").exists()


# ---------------------------------------------------------------------- scripts


def shell(root, script):
    """
    Run *script* as somebody at the shell would.
    """
    done = subprocess.run(
        ["sqlite3", "-bail", root / "ullage.db"],
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.external
@pytest.mark.skipif(
    shutil.which("sqlite3") is None and not os.environ.get("CI"), reason="apt install sqlite3"
)
@AN_OLD_ONE
def test_the_script_of_an_upgrade_brings_an_old_store_forward_in_the_shell(old):
    before = content_of(old)

    shell(old, run("upgrade", f"{REVISIONS[0]}:head", "--sql"))

    assert schema_of(old) == GOLDEN.read_text()
    assert query(old, "SELECT version_num FROM alembic_version") == [(HEAD_REVISION,)]
    assert lost(before, content_of(old)) == []
    assert query(old, "SELECT * FROM problems") == []
    levels = query(old, "SELECT min_reader, min_writer FROM store")
    shell(old, run("downgrade", f"head:{REVISIONS[0]}", "--sql"))
    assert content_of(old) == before
    assert levels != query(old, "SELECT min_reader, min_writer FROM store") == [(1, 1)]
