"""
Opening a store of an earlier release: upgraded once, whole, with a backup; or refused, and nothing changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.content import content_of
from support.keepsake import unpacked
from support.schema import GOLDEN, schema_of
from support.store import check_root, query
from support.tomorrow import Tomorrow
from support.worker import run_python, workers
from ullage import (
    DiskFull,
    ImageService,
    SchemaTooOld,
    SimulatedRegistry,
    UpgradeProgress,
)
from ullage.schema import HEAD_REVISION, LEVEL, REVISIONS

pytestmark = pytest.mark.skipif(LEVEL == 1, reason="there is one revision, and nothing to upgrade")


@pytest.fixture
def old(tmp_path):
    """
    A store of the first release.
    """
    return unpacked(REVISIONS[0], tmp_path / "old")


def simulated(root, **options):
    return ImageService.open(root, registry=SimulatedRegistry(), **options)


def backups(root):
    return sorted(path.name for path in root.glob("*.backup*"))


# ---------------------------------------------------------------------- what happens


def test_of_four_processes_that_open_an_old_store_one_upgrades_and_none_fails(old):
    with workers(old, 4) as every:
        for number, worker in enumerate(every):
            worker.call("register_image", f"app{number}:1", size=1)
        seen = {worker.call("image_count") for worker in every}

    assert len(seen) == 1
    assert schema_of(old) == GOLDEN.read_text()
    assert backups(old) == ["ullage.db.0001.backup"]
    check_root(old)


def test_the_backup_is_the_store_as_it_was_and_can_be_put_back(old, tmp_path):
    before, schema = content_of(old), schema_of(old)
    (old / "ullage.db").chmod(0o640)

    simulated(old).close()

    (backup,) = old.glob("*.backup")
    assert backup.name == "ullage.db.0001.backup"
    assert backup.stat().st_mode & 0o777 == 0o640
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copy(backup, restored / "ullage.db")
    assert content_of(restored) == before
    assert schema_of(restored) == schema
    assert query(restored, "PRAGMA journal_mode") == [("wal",)]
    # Beside the newer files: everything that the old rows speak of is fetched again, or still there.
    for name in ("ullage.db", "ullage.db-wal", "ullage.db-shm"):
        (old / name).unlink(missing_ok=True)
    shutil.copy(backup, old / "ullage.db")
    with simulated(old) as store:
        store.check(repair=True)
        store.collect()
    check_root(old)


def test_a_backup_is_kept_until_the_next_upgrade_succeeded(old, tmp_path):
    simulated(old).close()
    (old / "ullage.db.mine.backup").write_text("a person's")
    failing = Tomorrow(tmp_path / "failing", upgrade='op.execute("SELECT nothing")')
    assert "nothing" in failing.run("ImageService.open(sys.argv[1])", old, fails=True)
    assert backups(old) == [
        "ullage.db.0001.backup",
        f"ullage.db.{HEAD_REVISION}.backup",
        "ullage.db.mine.backup",
    ]

    Tomorrow(tmp_path / "next").open(old)

    assert backups(old) == [f"ullage.db.{HEAD_REVISION}.backup", "ullage.db.mine.backup"]


def test_an_upgrade_tells_how_far_it_is(old):
    told = []

    simulated(old, on_upgrade=told.append).close()

    assert all(isinstance(each, UpgradeProgress) for each in told)
    assert [each.stage for each in told] == ["backup", *["schema"] * LEVEL, "done"]
    assert [each.revision for each in told if each.stage == "schema"] == list(REVISIONS)
    assert {(each.from_revision, each.to_revision) for each in told} == {("0001", HEAD_REVISION)}
    assert told[0].total_bytes > 0
    again = []
    simulated(old, on_upgrade=again.append).close()
    assert again == []


@pytest.mark.parametrize("stage", ["backup", "schema"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_a_listener_raises_undoes_the_upgrade(stage, error, old):
    before, schema = content_of(old), schema_of(old)

    def listener(progress):
        if progress.stage == stage:
            raise error

    with pytest.raises(error):
        simulated(old, on_upgrade=listener)

    assert content_of(old) == before
    assert schema_of(old) == schema
    assert not any(name.endswith(".new") for name in backups(old))
    simulated(old).close()
    check_root(old)


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize("options", [{"migrate": False}, {"read_only": True}])
def test_a_host_that_schedules_upgrades_is_told_that_one_is_due(options, old):
    before, schema, files = content_of(old), schema_of(old), backups(old)

    with pytest.raises(SchemaTooOld) as raised:
        simulated(old, **options)

    assert raised.value.revision == "0001"
    assert HEAD_REVISION in str(raised.value)
    assert "ullage db upgrade" in raised.value.hint
    assert (content_of(old), schema_of(old), backups(old)) == (before, schema, files)
    simulated(old).close()
    simulated(old, migrate=False).close()


def test_a_new_store_is_made_without_leave_to_upgrade(tmp_path):
    simulated(tmp_path / "new", migrate=False).close()

    check_root(tmp_path / "new")


@pytest.mark.external
@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="only root may mount")
def test_without_room_for_backup_and_change_nothing_is_begun(old, tmp_path):
    """
    A filesystem with as many blocks as the store has and a few more.
    """
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", small], check=False, capture_output=True
    )
    if mounted.returncode:
        assert not os.environ.get("CI"), "no right to mount here"
        pytest.skip("no right to mount here")
    try:
        root = shutil.copytree(old, small / "store")
        before, schema = content_of(root), schema_of(root)

        with pytest.raises(DiskFull) as raised:
            simulated(root)

        assert raised.value.needed_bytes > raised.value.available_bytes > 0
        assert str(raised.value.needed_bytes) in str(raised.value)
        assert "release that wrote" in raised.value.hint
        assert (content_of(root), schema_of(root), backups(root)) == (before, schema, [])
        subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
        simulated(root).close()
        check_root(root)
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_root_that_may_not_be_written_to_is_not_upgraded(old):
    """
    By somebody who is not its owner.
    """
    code = (
        "import os, sys\nfrom ullage import ImageService, StoreError\n"
        "os.geteuid() or os.setuid(65534)\n"
        "try:\n    ImageService.open(sys.argv[1])\nexcept StoreError as error:\n    print(type(error).__name__)"
    )
    with tempfile.TemporaryDirectory(prefix="ullage-") as folder:
        Path(folder).chmod(0o755)
        root = shutil.copytree(old, Path(folder) / "store")
        before = content_of(root)
        root.chmod(0o555)

        said = run_python(code, root)

        root.chmod(0o755)
        assert said == "StoreReadOnly\n"
        assert content_of(root) == before


# ---------------------------------------------------------------------- ended


def test_ctrl_c_in_the_middle_of_a_long_statement_ends_an_upgrade(root, tmp_path):
    """
    And not only at the end of it.
    """
    later = Tomorrow(
        tmp_path / "next",
        upgrade='op.execute("INSERT INTO wishes (wish) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)'
        " SELECT 'more' FROM n\")",
    )
    # Once it is at it: an interrupt in the middle of an import may be lost in one of Python's own callbacks.
    code = (
        "import threading, os, signal\n"
        "interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))\n"
        "def tell(step):\n"
        "    if step.stage == 'schema' and not interrupt.is_alive(): interrupt.start()\n"
        "ImageService.open(sys.argv[1], on_upgrade=tell)"
    )

    said = later.run(code, root, fails=True)

    assert "KeyboardInterrupt" in said
    assert query(root, "SELECT version_num FROM alembic_version") == [(HEAD_REVISION,)]
    assert schema_of(root) == GOLDEN.read_text()
