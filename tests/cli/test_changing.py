"""
``rm``, ``tag``, ``untag``, ``pin``, ``unpin`` and ``gc``.
"""

from __future__ import annotations

import pytest

from support import registry as faults
from support.images import ImageBuilder, noise


def test_rm_takes_an_image_away_with_all_its_names(ullage, pulled):
    ullage.run("tag", pulled.reference, "other:2")

    done = ullage.run("rm", "other:2")

    assert done.stdout == ""
    assert pulled.image_id[7:19] in done.stderr
    assert ullage.usage()["used_bytes"] == 0
    assert ullage.fail("rm", pulled.reference, code=3)
    ullage.run("rm", "--missing-ok", pulled.reference)


def test_rm_goes_on_after_a_failure_and_exits_with_the_first(ullage, pulled):
    done = ullage.run("rm", "absent", "UPPER", pulled.image_id[7:19], code=3)

    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: no such image: absent",
        done.stderr.splitlines()[2],
    ]
    assert ullage.usage()["image_count"] == 0


def test_an_image_that_is_held_stays(ullage, pulled, store):
    with store.hold(pulled.reference):
        assert "held by" in ullage.fail("rm", pulled.reference, code=5)

    ullage.run("rm", pulled.reference)


def test_a_tag_moves_only_by_force(ullage, pulled, registry):
    other = ImageBuilder(registry, "other").layer({"a": b"a"}).push("1")
    ullage.run("pull", other.reference, "--plain-http")
    ullage.run("tag", pulled.reference, "name:1")
    ullage.run("tag", pulled.reference, "name:1")

    assert ullage.fail("tag", other.reference, "name:1", code=4)
    ullage.run("tag", "--force", other.reference, "name:1")

    assert ullage.run("images", "-q", "name").lines == [other.image_id]
    assert ullage.fail("tag", other.reference, "UPPER", code=2)
    assert ullage.fail("tag", "absent", "name:2", code=3)


def test_untag_takes_names_and_leaves_the_image(ullage, pulled):
    done = ullage.run("untag", "absent", pulled.reference, code=3)

    assert f"{pulled.reference} is gone" in done.stderr
    assert ullage.usage()["image_count"] == 1
    ullage.run("untag", pulled.repo_digest)
    assert ullage.fail("untag", pulled.reference, code=3)


def test_pin_and_unpin(ullage, pulled):
    ullage.run("pin", pulled.reference)
    assert ullage.run("inspect", pulled.reference).json["pinned"] is True

    ullage.run("unpin", pulled.image_id)
    assert ullage.run("inspect", pulled.reference).json["pinned"] is False
    assert ullage.fail("pin", "absent", code=3)


def test_gc_frees_what_an_interrupted_pull_left(ullage, registry):
    large = ImageBuilder(registry, "large").raw_layer(noise(200_000)).push("1")
    layer = f"*/{large.layers[0].digest}"
    registry.inject(layer, faults.reset())
    registry.inject(layer, faults.truncate(100_000), times=1)
    ullage.fail("pull", large.reference, "--plain-http", code=13)
    left = ullage.usage()["reserved_bytes"]
    assert left == 100_000
    assert "`ullage gc` would free" in ullage.run("df").stdout

    freed = ullage.run("gc", "--json").json

    assert freed == {
        "blob_count": 0,
        "blob_bytes": 0,
        "tree_count": 0,
        "tree_bytes": 0,
        "partial_count": 1,
        "partial_bytes": left,
        "images": [],
    }
    assert ullage.usage()["reserved_bytes"] == 0
    assert ullage.run("gc").lines == ["freed 0 B: 0 blobs, 0 partial blobs"]


@pytest.mark.parametrize("command", ["rm", "tag", "untag", "pin", "unpin", "inspect", "pull"])
def test_a_command_without_its_argument_says_which(ullage, command):
    assert "missing argument" in ullage.fail(command, code=2)
