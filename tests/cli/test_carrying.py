"""
Images in and out by the command: pipes, names, exit codes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.archives import Layout, built


@pytest.fixture
def layout(tmp_path):
    image = built("app", {"etc/motd": b"hello"}, 300_000)
    layout = Layout(tmp_path / "layout").add(image, "app:1")
    layout.image = image
    return layout


def test_import_prints_the_id_of_each_image_and_says_what_it_is(ullage, layout):
    done = ullage.run("import", layout.write())

    assert done.lines == [layout.image.image_id]
    assert f"{layout.path}: docker.io/library/app:1" in done.stderr
    (said,) = ullage.run("import", layout.path, "--json", "-q", "--as", "mine:2").json_lines
    assert said["repo_tags"] == ["docker.io/library/app:1", "docker.io/library/mine:2"]


def test_import_of_a_pipe(ullage, layout, tmp_path):
    content = layout.archive(tmp_path / "layout.tar").read_bytes()

    done = ullage.run("import", "-", input=content)

    assert done.lines == [layout.image.image_id]
    assert ullage.fail("import", "-", input=content[:-20000], code=26).startswith("the pipe: no whole tar")


def test_pull_takes_layouts_and_archives_beside_references(ullage, layout, image, tmp_path):
    archive = layout.archive(tmp_path / "layout.tar")

    done = ullage.run("pull", f"oci-archive:{archive}", image.reference, "--plain-http")

    assert done.lines == [layout.image.image_id, image.image_id]
    assert "is always read" in ullage.fail("pull", f"oci-archive:{archive}", "--dry-run", code=2)


def test_what_is_no_archive_is_one_line_a_hint_and_a_code(ullage):
    assert ullage.fail("import", "nothing", code=26) == "cannot open nothing: No such file or directory"
    assert ullage.fail("pull", "oci:", code=2) == "no path after oci:"


def test_an_import_that_is_interrupted_leaves_nothing(ullage, wait_until):
    with ullage.start("import", "-", stdin=subprocess.PIPE) as process:
        process.stdin.write(bytes(10 << 20))
        process.stdin.flush()
        wait_until(lambda: ullage.usage()["reserved_bytes"])

        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=30) == 130
    assert ullage.usage()["reserved_bytes"] == 0


def test_export_writes_an_archive_and_says_so(ullage, layout, tmp_path):
    ullage.run("import", layout.write())

    done = ullage.run("export", "app:1", "out.tar")
    piped = subprocess.run(
        f"{sys.executable} -m ullage export app:1 - | {sys.executable} -m ullage --root {tmp_path / 'two'} import -",
        shell=True,
        env=ullage.environment,
        capture_output=True,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("", "out.tar: 1 image\n")
    with tarfile.open(ullage.home / "out.tar") as archive:
        assert "index.json" in archive.getnames()
    assert piped.stdout.decode().strip() == layout.image.image_id


def test_an_image_is_held_while_it_goes_out(ullage, layout):
    ullage.run("import", layout.write())
    with ullage.start("export", "app:1", "-") as process:
        process.stdout.read(1)

        assert "is held by" in ullage.fail("rm", "app:1", code=5)

        assert len(process.stdout.read()) > 300_000
        assert process.wait(timeout=30) == 0
    ullage.run("rm", "app:1")


def test_what_cannot_be_written_is_a_line_and_a_code(ullage, layout):
    ullage.run("import", layout.write())

    assert (
        ullage.fail("export", "app:1", "no/where", code=1)
        == "cannot write no/where: No such file or directory"
    )
    with Path("/dev/full").open("wb") as full:
        process = ullage.start("export", "app:1", "-", stdout=full)
        assert b"no space left where standard output is written" in process.communicate(timeout=30)[1]
        assert process.returncode == 15
    assert not (ullage.home / "out.tar").exists()
