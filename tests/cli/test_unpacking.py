"""
``unpack`` and ``bundle``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.images import ImageBuilder, gzip_of
from support.layers import entry, tar
from ullage.digest import digest_of


@pytest.fixture
def runnable(ullage, registry):
    """
    An image with something to run, pulled.
    """
    layer = tar(entry(b"bin/app", data=b"#!/bin/sh\n", mode=0o755, uid=5), entry(b"etc/motd", data=b"hello"))
    builder = ImageBuilder(registry, "run").raw_layer(gzip_of(layer), diff_id=digest_of(layer))
    image = builder.config(Entrypoint=["/bin/app"], Cmd=["--all"]).push("1")
    ullage.run("pull", image.reference, "--plain-http")
    return image


def names(directory):
    return sorted(each.name for each in directory.iterdir())


def test_unpack_makes_a_directory_and_prints_it(ullage, runnable):
    done = ullage.run("unpack", runnable.reference, "rootfs")

    assert done.lines == [str(ullage.home / "rootfs")]
    assert (ullage.home / "rootfs/etc/motd").read_text() == "hello"
    assert done.stderr.startswith("2 entries of 1 layers: ")
    assert ("not root: all files are yours" in done.stderr) == bool(os.geteuid())


def test_unpack_says_as_json_what_it_made(ullage, runnable):
    done = ullage.run("unpack", runnable.image_id[7:19], "rootfs", "--json", "-q", "--rootless", "--durable")

    assert done.stderr == ""
    assert done.json.keys() == {
        "image_id", "directory", "rootless", "layers", "entries", "space_bytes", "shared_bytes", "inodes", "forgiven",
    }  # fmt: skip
    assert done.json["image_id"] == runnable.image_id
    assert done.json["rootless"] is True


def test_root_of_a_user_namespace_with_one_id_unpacks_rootless_and_says_so(ullage, runnable):
    command = ["unshare", "--user", "--map-root-user", "true"]
    if shutil.which("unshare") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("no user namespaces here")
    command[-1:] = [
        Path(sys.executable).with_name("ullage"),
        "unpack",
        runnable.reference,
        "rootfs",
    ]

    done = subprocess.run(
        command, env=ullage.environment, cwd=ullage.home, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done
    assert "not root: all files are yours, see --rootless" in done.stderr
    assert (ullage.home / "rootfs/bin/app").stat().st_uid == os.geteuid()


def test_a_directory_that_is_there_is_left(ullage, runnable):
    (ullage.home / "rootfs").mkdir()
    (ullage.home / "rootfs/mine").touch()

    for command in ("unpack", "bundle"):
        assert "is there already" in ullage.fail(command, runnable.reference, "rootfs", code=7)
        assert ullage.fail(command, runnable.reference, "absent/rootfs", code=30)
    assert names(ullage.home) == ["rootfs"]


def test_without_a_store_there_is_nothing_to_unpack_and_none_is_made(elsewhere):
    for command in ("unpack", "bundle"):
        assert elsewhere.fail(command, "alpine", "rootfs", code=3)
    assert not Path(elsewhere.environment["ULLAGE_ROOT"]).exists()


def test_bundle_writes_what_a_runtime_starts(ullage, runnable):
    # Ids that are mapped whether or not this runs as root: its own.
    done = ullage.run(
        "bundle", runnable.reference, "box", "-e", "A=1", "--env", "B=2", "-u", "0:0", "-w", "/srv", "-t",
        "--read-only", "--hostname", "box", "--rootless", "--", "--one", "-x",
    )  # fmt: skip

    assert done.lines == [str(ullage.home / "box")]
    document = json.loads((ullage.home / "box/config.json").read_text())
    process = document["process"]
    assert process["args"] == ["/bin/app", "--one", "-x"]
    assert process["user"] == {"uid": 0, "gid": 0}
    assert {"A=1", "B=2", "TERM=xterm"} <= set(process["env"])
    assert (process["cwd"], process["terminal"]) == ("/srv", True)
    assert (document["root"]["readonly"], document["hostname"]) == (True, "box")


def test_an_entrypoint_replaces_what_the_image_runs(ullage, runnable):
    ullage.run("bundle", runnable.reference, "one", "--entrypoint", "/bin/sh", "--rootless")
    ullage.run("bundle", runnable.reference, "two", "--entrypoint", "", "--rootless", "--", "ls")

    for name, args in (("one", ["/bin/sh"]), ("two", ["ls"])):
        document = json.loads((ullage.home / name / "config.json").read_text())
        assert document["process"]["args"] == args
        assert {"type": "user"} in document["linux"]["namespaces"]


def test_a_process_that_cannot_be_is_said(ullage, runnable, pulled):
    for arguments in (
        ("-u", "nobody-there"),
        ("--env", "novalue"),
        ("--", b"\xff"),
    ):
        assert ullage.fail("bundle", runnable.reference, "box", "--rootless", *arguments, code=8)
    assert "nothing about what to run" in ullage.fail("bundle", pulled.reference, "box", code=8)
    assert names(ullage.home) == []


def test_a_command_that_is_interrupted_leaves_nothing(ullage, registry):
    many = tar(*(entry(b"d%d/f%d" % (number % 50, number)) for number in range(20_000)))
    image = ImageBuilder(registry, "many").raw_layer(gzip_of(many), diff_id=digest_of(many)).push("1")
    ullage.run("pull", image.reference, "--plain-http")

    with ullage.start("unpack", image.reference, "rootfs", "--rootless") as process:
        while not any(ullage.home.glob(".rootfs.*.partial/rootfs/d1/*")):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        stderr = process.communicate(timeout=30)[1]

    assert process.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in stderr
    assert names(ullage.home) == []
    ullage.run("rm", image.reference)
