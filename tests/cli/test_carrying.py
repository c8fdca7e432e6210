"""
Images in and out by the command: pipes, names, exit codes.
"""

from __future__ import annotations

import signal
import subprocess
from types import SimpleNamespace

import pytest

from support.archives import Layout
from support.images import ImageBuilder


@pytest.fixture
def layout(tmp_path):
    builder = ImageBuilder(SimpleNamespace(host="example.com"), "app").layer({"etc/motd": b"hello"})
    layout = Layout(tmp_path / "layout").add(builder.build(), "app:1")
    layout.image = builder.build()
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
    for option in (["--dry-run"], ["--policy", "never"]):
        assert "is always read" in ullage.fail("pull", f"oci-archive:{archive}", *option, code=2)


def test_what_is_no_archive_is_one_line_a_hint_and_a_code(ullage, tmp_path):
    assert ullage.fail("import", "nothing", code=26) == "cannot open nothing: No such file or directory"
    assert ullage.fail("pull", "oci:", code=2) == "no path after oci:"
    assert "no such directory" in ullage.fail("import", "oci:nothing:1", code=26)


def test_an_import_that_is_interrupted_leaves_nothing(ullage, wait_until):
    with ullage.start("import", "-", stdin=subprocess.PIPE) as process:
        process.stdin.write(bytes(10 << 20))
        process.stdin.flush()
        wait_until(lambda: ullage.usage()["reserved_bytes"])

        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=30) == 130
    assert ullage.usage()["reserved_bytes"] == 0
