"""
``ullage pull --unpack``, and what the other commands show of it.
"""

from __future__ import annotations

import os

from support.images import ImageBuilder
from support.store import trees_of

PLAIN = "--plain-http"


def test_what_a_pull_unpacks_is_said_shown_and_freed(ullage, image, registry):
    done = ullage.run("pull", "--unpack", image.reference, PLAIN)

    assert done.lines == [image.image_id]
    assert "  unpacking\n" in done.stderr
    assert f"{image.reference}: unpacked, " in done.stderr
    mount = ullage.run("inspect", image.reference).json["mount"]
    assert mount["image_id"] == image.image_id
    assert all(os.path.isdir(each) for each in mount["lowerdirs"])  # noqa: PTH112 -- as they are said
    assert mount["overlay"].startswith("lowerdir=" + mount["lowerdirs"][0])
    usage = ullage.run("df", "--json").json
    assert usage["tree_count"] == len(image.layers)
    assert usage["used_bytes"] == usage["blob_bytes"] + usage["tree_bytes"]
    assert "\nunpacked " in ullage.run("df").stdout
    ullage.run("rm", image.reference)
    assert trees_of(ullage.root) == {}


def test_an_image_that_is_here_is_unpacked_without_a_request(ullage, pulled, registry):
    asked = registry.count()

    done = ullage.run("pull", "--unpack", "--policy", "never", pulled.reference, PLAIN)

    assert "unpacked, " in done.stderr
    assert registry.count() == asked
    assert ullage.run("pull", "--unpack", pulled.reference, PLAIN, "-q").stderr == ""


def test_what_cannot_be_unpacked_is_one_error(ullage, registry):
    artifact = ImageBuilder(registry, "art").artifact("text/x").raw_layer(b"a text").push("1")

    failed = ullage.run("pull", "--unpack", artifact.reference, PLAIN, code=25)
    refused = ullage.run("pull", "--unpack", "--dry-run", artifact.reference, PLAIN, code=2)

    assert "error: " in failed.stderr
    assert "no layers of files to unpack" in failed.stderr
    assert "--dry-run cannot say" in refused.stderr
    assert ullage.run("images", "--quiet").lines == []


def test_an_import_unpacks_too_where_the_pull_says_so(ullage, pulled, tmp_path):
    ullage.run("export", pulled.reference, f"oci:{tmp_path / 'layout'}")
    ullage.run("rm", pulled.reference)

    ullage.run("pull", "--unpack", f"oci:{tmp_path / 'layout'}", "-q")

    assert len(trees_of(ullage.root)) == len(pulled.layers)
