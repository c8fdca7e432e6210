"""
Odd layers, given to Debian's umoci as well: what comes of them there is what docs/unpacking-cases.md says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.images import ImageBuilder
from support.layers import flatten, snapshot
from support.oddlayers import ODD
from ullage.errors import UnsafeLayer

OUTCOMES = json.loads((Path(__file__).parents[1] / "data/layers/odd.json").read_text())

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped: the test runs, and fails for want of the program.
    pytest.mark.skipif(
        shutil.which("umoci") is None and not os.environ.get("CI"), reason="apt install umoci"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def layout_of(layers, directory, registry):
    builder = ImageBuilder(registry, "odd")
    for each in layers:
        builder.raw_layer(each, media_type="application/vnd.oci.image.layer.v1.tar")
    image = builder.build()
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    for blob in image.blobs:
        (blobs / blob.digest.encoded).write_bytes(blob.raw)
    name = {"org.opencontainers.image.ref.name": "1"}
    manifests = [image.manifest.descriptor | {"annotations": name}]
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    return directory


def looks(directory):
    """
    All but the times of directories: those of umoci are of now where a layer does not say.
    """
    found = snapshot(directory, times=True)
    for path, one in found.items():
        if one["type"] == "dir":
            del one["mtime_ns"]
        if path == ".":
            del one["mode"]
    return found


def test_umoci_makes_of_odd_layers_what_the_page_says(tmp_path, registry):
    outcomes = {}
    for number, (name, layers) in enumerate(ODD.items()):
        base = tmp_path / str(number)
        layout = layout_of(layers, base / "layout", registry)
        command = ["umoci", "raw", "unpack", "--image", f"{layout}:1", base / "theirs"]
        is_theirs = subprocess.run(command, check=False, capture_output=True).returncode == 0
        try:
            flatten(layers, base / "ours")
            ours = looks(base / "ours")
        except UnsafeLayer:
            ours = None
        outcomes[name] = "-" if not is_theirs else "A" if looks(base / "theirs") == ours else "B"

    assert outcomes == {name: each["umoci"] for name, each in OUTCOMES.items()}
