"""
What is no database of ours, or no longer: told by a type and a sentence, and left as it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from support.keepsake import unpacked
from support.store import check_root, query
from support.worker import run_python
from ullage import (
    ImageService,
    SimulatedRegistry,
    StoreCorrupt,
    StoreError,
    StoreReadOnly,
    UnsuitableFilesystem,
    releases,
)
from ullage.filesystem import Mount, mount_of
from ullage.schema import LEVEL, REVISIONS

PAGE_BYTES = 4096
EVERY_PAGE = bool(os.environ.get("ULLAGE_TORTURE"))


def simulated(root, **options):
    return ImageService.open(root, registry=SimulatedRegistry(), **options)


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    """
    A store at head with a little of everything, recovered and closed.
    """
    root = unpacked(REVISIONS[0], tmp_path_factory.mktemp("stocked") / "store")
    with simulated(root) as store:
        store.collect()
    return root


@pytest.fixture
def mine(stocked, tmp_path):
    return shutil.copytree(stocked, tmp_path / "store")


# ---------------------------------------------------------------------- damaged


@pytest.mark.parametrize("left", [0.9, 0.5, 0.1])
def test_a_truncated_database_is_corrupt_for_whoever_opens_it(left, mine):
    database = mine / "ullage.db"
    os.truncate(database, int(database.stat().st_size * left) // PAGE_BYTES * PAGE_BYTES)
    before = database.read_bytes()

    for open_it in (
        lambda: simulated(mine),
        lambda: simulated(mine, read_only=True),
        lambda: releases.current(mine),
        lambda: releases.check(mine),
        lambda: releases.backup(mine, mine / "copy.db"),
    ):
        with pytest.raises(StoreCorrupt, match="damaged") as raised:
            open_it()
        assert str(database) in str(raised.value)

    assert database.read_bytes() == before
    assert not (mine / "copy.db").exists()


def test_a_page_of_rubbish_is_found_or_does_no_harm(mine, tmp_path):
    """
    Wherever it is: what touches it is `StoreCorrupt` and no other failure, and the check of the database finds it.
    """
    pages = (mine / "ullage.db").stat().st_size // PAGE_BYTES
    for number in range(0, pages, 1 if EVERY_PAGE else 11):
        root = shutil.copytree(mine, tmp_path / f"page-{number}")
        with (root / "ullage.db").open("r+b") as file:
            file.seek(number * PAGE_BYTES)
            file.write(b"\xff" * PAGE_BYTES)

        with contextlib.suppress(StoreCorrupt):
            assert releases.check(root) != [], f"page {number}"
        with contextlib.suppress(StoreCorrupt), simulated(root) as store:
            store.list_images()
            store.register_image("new:1", size=1)
            store.check()
        shutil.rmtree(root)


@pytest.mark.skipif(LEVEL == 1, reason="there is one revision, and nothing to upgrade")
def test_a_damaged_store_of_an_earlier_release_is_not_upgraded(tmp_path):
    """
    The backup reads all of it, and is made first.
    """
    root = unpacked(REVISIONS[0], tmp_path / "old")
    where = (root / "ullage.db").read_bytes().index(b"registry.example/multi")
    with (root / "ullage.db").open("r+b") as file:
        file.seek(where // PAGE_BYTES * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)

    with pytest.raises(StoreCorrupt, match="damaged"):
        simulated(root)

    assert query(root, "SELECT version_num FROM alembic_version") == [(REVISIONS[0],)]
    assert [*root.glob("*.backup*")] == []


# ---------------------------------------------------------------------- something else


@pytest.mark.parametrize("read_only", [False, True])
def test_a_pipe_or_a_device_in_the_place_of_the_database_is_not_waited_for(read_only, tmp_path):
    os.mkfifo(tmp_path / "ullage.db")

    with pytest.raises(StoreCorrupt, match="no database"):
        simulated(tmp_path, read_only=read_only)


def test_the_database_of_another_application_is_named_and_left(tmp_path):
    with closing(sqlite3.connect(tmp_path / "ullage.db")) as connection:
        connection.executescript("PRAGMA application_id = 252006674; CREATE TABLE checkin (a)")
    before = (tmp_path / "ullage.db").read_bytes()

    for look in (releases.current, releases.check, lambda root: releases.forward(root, REVISIONS[-1])):
        with pytest.raises(StoreCorrupt, match=r"another application .*0xf055112"):
            look(tmp_path)

    assert (tmp_path / "ullage.db").read_bytes() == before


# ---------------------------------------------------------------------- no right to it

_AS_NOBODY = """
import os, sys
from pathlib import Path
from ullage import ImageError, ImageService, SimulatedRegistry, releases
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for read_only in (False, True):
    try:
        with ImageService.open(sys.argv[1], registry=SimulatedRegistry(), read_only=read_only) as store:
            print(store.image_count())
    except ImageError as error:
        print(type(error).__name__, error, "|", error.hint)
"""


@pytest.fixture
def mine_for_all(stocked):
    """
    A store where everybody may go.
    """
    with tempfile.TemporaryDirectory(prefix="ullage-") as folder:
        Path(folder).chmod(0o755)
        root = shutil.copytree(stocked, Path(folder) / "store")
        yield root
        root.chmod(0o755)


@pytest.fixture
def as_nobody(mine_for_all):
    """
    What somebody without rights is told of that store, who opens it to write and to look.
    """

    def run():
        try:
            return run_python(_AS_NOBODY, mine_for_all).splitlines()
        finally:
            mine_for_all.chmod(0o755)

    return run


def test_a_directory_that_one_may_not_enter(mine_for_all, as_nobody):
    mine_for_all.chmod(0)

    for said in as_nobody():
        assert said.startswith("StoreReadOnly")
        assert "Permission denied" in said


def test_a_database_that_one_may_not_read(mine_for_all, as_nobody):
    for path in mine_for_all.glob("ullage.db*"):
        path.chmod(0)
    mine_for_all.chmod(0o555)

    for said in as_nobody():
        assert said.startswith("StoreReadOnly")


def test_who_may_only_read_looks_and_does_not_write(mine_for_all, as_nobody):
    """
    How that is done is in tests/store/test_reading.py.
    """
    count = str(query(mine_for_all, "SELECT image_count FROM store")[0][0])
    mine_for_all.chmod(0o555)

    writing, looking = as_nobody()

    assert writing.startswith("StoreReadOnly")
    assert looking == count


# ---------------------------------------------------------------------- where it is


@pytest.mark.external
@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="only root may mount")
def test_a_filesystem_that_is_mounted_read_only_can_be_looked_at(mine, tmp_path):
    point = tmp_path / "medium"
    point.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=False, capture_output=True).returncode:
        assert not os.environ.get("CI"), "no right to mount here"
        pytest.skip("no right to mount here")
    try:
        root = shutil.copytree(mine, point / "store")
        for name in ("ullage.db-wal", "ullage.db-shm"):
            (root / name).unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", point], check=True)

        with simulated(root, read_only=True) as store:
            assert store.image_count() > 0
            assert store.check(digests=True) == []
        assert releases.check(root) == []
        assert releases.backup(root, tmp_path / "copy.db") > 0
        with pytest.raises(StoreError) as raised:
            simulated(root)
        assert type(raised.value).__name__ == "StoreReadOnly"
        with pytest.raises(StoreError, match="Read-only file system"):
            simulated(point / "none")

        subprocess.run(["mount", "-o", "remount,rw", point], check=True)
        check_root(root)
        with closing(sqlite3.connect(root / "ullage.db")) as writer:
            writer.execute("UPDATE store SET min_free_bytes = 7")
            writer.commit()
            # What is in the journal alone cannot be looked at there: said, not passed over.
            shutil.copy(root / "ullage.db-wal", tmp_path / "wal")
        shutil.copy(tmp_path / "wal", root / "ullage.db-wal")
        subprocess.run(["mount", "-o", "remount,ro", point], check=True)
        with pytest.raises(StoreError, match="cannot look into"):
            simulated(root, read_only=True)
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs"])
def test_a_store_on_the_disk_of_another_machine_is_refused_and_why(kind, mine, tmp_path, monkeypatch):
    """
    As the kernel tells of it, since a test has no other machine: nothing is opened, made or changed.
    """
    mounted = tmp_path / "mountinfo"
    mounted.write_text(
        f"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:40 / {tmp_path} rw - {kind} host:/export rw\n"
    )
    monkeypatch.setitem(mount_of.__kwdefaults__, "mountinfo", mounted)
    before = sorted(path.name for path in mine.iterdir())

    for open_it in (
        lambda: simulated(mine),
        lambda: simulated(mine, read_only=True),
        lambda: simulated(tmp_path / "new"),
        lambda: releases.current(mine),
        lambda: releases.forward(mine, REVISIONS[-1]),
    ):
        with pytest.raises(UnsuitableFilesystem, match=f"is on {kind} .*no locks to rely on") as raised:
            open_it()
        assert "local" in raised.value.hint

    assert sorted(path.name for path in mine.iterdir()) == before
    assert not (tmp_path / "new").exists()


def test_a_directory_that_is_only_mounted_read_only_may_change_all_the_same(tmp_path):
    """
    By its super block's options one tells; a read-only bind of a disk that others write to is no such thing.
    """
    lines = (
        "20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw,errors=remount-ro",
        "21 20 8:1 /srv /srv ro,relatime - ext4 /dev/sda1 rw,errors=remount-ro",
        "22 20 7:0 / /cd ro,relatime - iso9660 /dev/sr0 ro,nojoliet",
    )
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")

    def of(path):
        return mount_of(Path(path), mountinfo=tmp_path / "mountinfo")

    assert of("/srv/store") == Mount("/srv", "ext4", never_written=False)
    assert of("/cd/store") == Mount("/cd", "iso9660", never_written=True)


def test_no_thread_is_left_of_what_was_refused(mine):
    os.truncate(mine / "ullage.db", PAGE_BYTES)
    before = threading.active_count()

    with pytest.raises(StoreCorrupt):
        simulated(mine)

    assert threading.active_count() == before


def test_a_store_that_nobody_finished_making_is_told_from_one_that_is_read_only(tmp_path):
    """
    As a full disk leaves one: whoever looks makes none, and whoever changes something makes it.
    """
    (tmp_path / "ullage.db").touch()

    with pytest.raises(StoreReadOnly, match="no tables"):
        ImageService.open(tmp_path, read_only=True)

    ImageService.open(tmp_path).close()
    ImageService.open(tmp_path, read_only=True).close()
