"""
A directory that is there whole, or not at all; and what becomes of what the dead left beside it.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

from ullage.errors import StoreError, StoreReadOnly, TargetExists
from ullage.layer import fresh_directory

FILLS = textwrap.dedent("""
    import os, pathlib, sys
    from ullage.layer import fresh_directory
    with fresh_directory(pathlib.Path(sys.argv[1])) as (directory, _):
        os.mkdir("closed", 0, dir_fd=directory)
        os.mkfifo("fifo", dir_fd=directory)
        print("filling", flush=True)
        sys.stdin.read()
""")


@contextmanager
def filling(target):
    """
    Another process that fills a directory for *target* until its stdin is closed.
    """
    command = [sys.executable, "-c", FILLS, target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"filling\n"
            yield process
        finally:
            process.kill()


def fill(target, name="mine"):
    with fresh_directory(target) as (directory, _):
        os.mkdir(name, dir_fd=directory)


def test_nobody_sees_it_before_it_is_whole(tmp_path):
    with fresh_directory(tmp_path / "target"):
        (workplace,) = tmp_path.iterdir()
        assert stat.S_IMODE(workplace.stat().st_mode) == 0o700
        assert not (tmp_path / "target").exists()

    assert os.listdir(tmp_path) == ["target"]
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o755


def test_what_a_killed_run_left_goes_with_the_next(tmp_path):
    with filling(tmp_path / "target") as process:
        process.kill()
        process.wait()
        assert len(os.listdir(tmp_path)) == 1

        fill(tmp_path / "target")

    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(tmp_path / "target") == ["mine"]


def test_what_somebody_is_filling_is_left_alone(tmp_path):
    with filling(tmp_path / "target") as process:
        fill(tmp_path / "target")
        assert len(os.listdir(tmp_path)) == 2

        process.communicate(timeout=20)

        assert process.returncode != 0  # what the other made first is there already, and stays
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(tmp_path / "target") == ["mine"]


def test_what_is_called_otherwise_is_nobodys_leftover(tmp_path):
    names = [
        ".target.0123456.partial",
        ".target.01234567.partialx",
        ".other.01234567.partial",
        "target.partial",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".target.01234567.partial").write_text("a file")
    (tmp_path / ".target.89abcdef.partial").symlink_to("/")

    fill(tmp_path / "target")

    assert sorted(os.listdir(tmp_path)) == sorted(
        [*names, ".target.01234567.partial", ".target.89abcdef.partial", "target"]
    )


def test_what_is_another_users_is_left_alone(tmp_path, root):
    left = tmp_path / ".target.01234567.partial"
    left.mkdir()
    os.chown(left, 12345, 12345)

    fill(tmp_path / "target")

    assert left.exists()


def test_what_appears_in_its_place_meanwhile_stays(tmp_path):
    def lose(make):
        with fresh_directory(tmp_path / "target") as (directory, _):
            os.mkdir("mine", dir_fd=directory)
            make(tmp_path / "target")

    def full(target):
        target.mkdir()
        (target / "theirs").touch()

    for make in (full, os.mkfifo):
        with pytest.raises(TargetExists) as refused:
            lose(make)
        assert refused.value.path == str(tmp_path / "target")
        assert os.listdir(tmp_path) == ["target"]
        os.system(f"rm -r {tmp_path / 'target'}")


def test_a_name_as_long_as_names_can_be(tmp_path):
    fill(tmp_path / ("ä" * 127))

    assert os.listdir(tmp_path) == ["ä" * 127]


def test_a_place_where_nothing_can_be_made_is_said(tmp_path):
    for place in ("missing/target", "file/target", "nul\0/target"):
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="cannot make"):
            fill(tmp_path / place)
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_that_we_may_not_write_to_is_said(tmp_path, root, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nobody may come here from above
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(StoreReadOnly, match="cannot make"):
            fill(Path("target"))
    finally:
        os.seteuid(0)


def test_what_cannot_be_cleaned_up_is_for_the_next_run(tmp_path, monkeypatch):
    """
    It says nothing of what was made, and does not keep the next run, in this very process, from removing it.
    """
    real = os.rmdir

    def fails(name, **options):
        if os.fsdecode(name).endswith(".partial"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", fails)
        fill(tmp_path / "target")
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / "target").rename(tmp_path / "other")
    fill(tmp_path / "target")

    assert sorted(os.listdir(tmp_path)) == ["other", "target"]


def test_a_workplace_that_cannot_be_looked_at_is_given_up(tmp_path, monkeypatch):
    """
    With its lock: the next run, in this very process, finds nothing of it.
    """
    real = Path.lstat

    def fails(path):
        if path.name.endswith(".partial"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", fails)
        with pytest.raises(StoreError):
            fill(tmp_path / "target")

    assert os.listdir(tmp_path) == []
    assert os.listdir("/proc/self/fd") == before
