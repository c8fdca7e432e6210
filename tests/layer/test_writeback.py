"""
What is to be durable is on its way to the disk while more is written, and what the disk says is not lost.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile

import pytest

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

_UNPACK = """
import sys
from pathlib import Path
from ullage.errors import ImageError
from ullage.layer import ApplyOptions, LayerBlob, unpack
layer, target, durable = sys.argv[1:]
try:
    unpack([LayerBlob(Path(layer))], Path(target), options=ApplyOptions.rootless(), durable=bool(durable))
except ImageError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """
    A layer of 160 MiB in two files: so large that waiting for the disk is worth avoiding.
    """
    path = tmp_path_factory.mktemp("layer") / "layer.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("one", "two"):
            entry = tarfile.TarInfo(name)
            entry.size = 80 << 20
            with open("/dev/zero", "rb") as zeros:
                archive.addfile(entry, zeros)
    return path


def traced(layer, target, *, durable, fault=""):
    """
    What was said, and the calls of syncfs, in the order in which they ended.
    """
    log = target.with_suffix(".calls")
    ours = (sys.executable, "-c", _UNPACK, layer, target, "yes" if durable else "")
    inject = ("-e", f"inject=syncfs:{fault}") if fault else ()
    said = subprocess.run(
        ["strace", "-f", "-qq", "-o", log, "-e", "trace=syncfs,rename", *inject, *ours],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return said, re.findall(r"(syncfs|rename)(?:\(.*| resumed.*)= (?!\?)", log.read_text())


def test_the_disk_works_while_a_durable_directory_is_filled(layer, tmp_path):
    said, calls = traced(layer, tmp_path / "durable", durable=True)

    assert said == ""
    assert calls[-2:] == ["syncfs", "rename"]
    assert 2 <= calls.count("syncfs") <= 3  # one or two while 160 MiB are written, 64 MiB apart, and the last


def test_nobody_waits_for_the_disk_who_did_not_ask_for_it(layer, tmp_path):
    assert traced(layer, tmp_path / "quick", durable=False) == ("", ["rename"])


def test_an_error_that_the_disk_tells_only_once_is_not_lost(layer, tmp_path):
    said, calls = traced(layer, tmp_path / "failed", durable=True, fault="error=EIO:when=1")

    assert re.match(r"StoreError .*Input/output error", said)
    assert "rename" not in calls
    assert not (tmp_path / "failed").exists()
