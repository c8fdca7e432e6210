"""
``copy`` from outside, between every two kinds of places.
"""

from __future__ import annotations

import itertools

import pytest

from support.images import ImageBuilder
from support.pushes import PushRegistry


@pytest.fixture
def there():
    with PushRegistry() as registry:
        yield registry


def test_a_registry_is_copied_to_a_registry_and_the_store_is_not_touched(elsewhere, image, there, tmp_path):
    done = elsewhere.run("copy", image.reference, f"{there.host}/copy:1")

    assert done.lines == [f"{there.host}/copy@{image.manifest.digest}"]
    assert f"{there.host}/copy:1: copying" in done.stderr
    assert there.manifest("copy", "1")[0] == image.manifest.raw
    assert not (tmp_path / "elsewhere").exists()


def test_every_place_leads_to_every_other(ullage, image, there, tmp_path):
    layout, archive = f"oci:{tmp_path / 'layout'}:1", f"oci-archive:{tmp_path / 'image.tar'}:1"
    way = [
        image.reference,
        layout,
        archive,
        f"{there.host}/first:1",
        "store:mine:1",
        "store:mine:4",
        f"oci:{tmp_path / 'other'}:1",
        "store:mine:2",
        f"{there.host}/second:1",
        f"docker-archive:{tmp_path / 'saved.tar'}:mine:3",
        "store:",
    ]

    for source, destination in itertools.pairwise(way):
        ullage.run("copy", "-q", source, destination)

    for repo in ("first", "second"):
        assert there.manifest(repo, "1")[0] == image.manifest.raw
    names = {tag for each in ullage.run("images", "--json").json_lines for tag in each["repo_tags"]}
    assert {f"docker.io/library/mine:{each}" for each in (1, 2, 3, 4)} <= names
    assert not any(there.host in name for name in names)


def test_a_platform_is_chosen(ullage, registry, there):
    image = ImageBuilder(registry, "app", platform="linux/s390x").layer({"a": b"a"}).push("1")

    assert "s390x" in ullage.fail(
        "copy", image.reference, f"{there.host}/app:1", "--platform", "linux/amd64", code=16
    )
    done = ullage.run(
        "copy", image.reference, f"{there.host}/app:1", "--platform", "linux/s390x", "--json", "-q"
    )
    assert done.json["digest"] == image.manifest.digest
    assert (done.json["sent_blobs"], done.json["present_blobs"]) == (2, 0)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("source", "destination", "code"),
    [
        ("store:nothing", "oci:out:1", 3),
        ("oci:nowhere", "oci:out:1", 26),
        ("oci:", "oci:out:1", 2),
        ("app:1", "app:UPPER/x", 2),
    ],
)
def test_what_cannot_be_copied_is_said_in_one_line(source, destination, code, ullage):
    ullage.fail("copy", source, destination, code=code)

    assert not (ullage.home / "out").exists()
