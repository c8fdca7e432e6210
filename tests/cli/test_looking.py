"""
``images``, ``inspect``, ``df`` and ``quota``: they look, print, and change nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from support.images import ImageBuilder
from support.store import snapshot, usage
from ullage import ImageStatus, Reference, StorageUsage
from ullage.sizes import human


def test_images_lists_names_ids_and_sizes(ullage, pulled):
    ullage.run("tag", pulled.reference, "other.example/name:two")
    ullage.run("pin", pulled.reference)

    heads, *rows = ullage.run("images").lines

    assert heads.split() == ["REPO", "TAG", "IMAGE", "ID", "SIZE", "PULLED", "PINNED"]
    assert [row.split()[:3] for row in rows] == [
        [pulled.name, "1", pulled.image_id[7:19]],
        ["other.example/name", "two", pulled.image_id[7:19]],
    ]
    assert all(row.endswith("yes") for row in rows)
    assert "kB" in rows[0]

    full = ullage.run("images", "--digests", "--no-trunc").stdout
    assert pulled.image_id in full
    assert pulled.digest in full
    assert ullage.run("images", "--quiet").lines == [pulled.image_id]


def test_images_shows_names_as_people_type_them(ullage, pulled):
    """
    As `Reference.familiar_name` has them, whatever stands in front of the path.
    """
    names = ["alpine:1", "org/app:1", "[::1]:5000/app:1", "localhost/a/b:1", "quay.io:443/a/b:x-1_2.3"]
    for name in names:
        ullage.run("tag", pulled.reference, name)

    shown = {":".join(row.split()[:2]) for row in ullage.run("images").lines[1:]}

    assert shown == {*names, f"{pulled.name}:1"}
    assert {Reference.parse(name).familiar for name in names} == set(names)


def test_images_in_json_has_the_fields_of_the_status(ullage, pulled):
    (image,) = ullage.run("images", "--json").json_lines

    assert list(image) == [each.name for each in dataclasses.fields(ImageStatus)]
    assert image["repo_digests"] == [pulled.repo_digest]
    assert image["pinned"] is False
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", image["pulled_at"])


def test_images_shows_those_that_a_reference_or_a_pattern_names(ullage, pulled):
    ullage.run("tag", pulled.reference, "alpine:1")
    ullage.run("tag", pulled.reference, "ghcr.io/org/app:1")

    def found(asked):
        return len(ullage.run("images", "-q", asked).lines)

    assert found("alpine") == found("alpine:1") == found("docker.io/library/alpine") == found("alp*:1") == 1
    assert found(pulled.repo_digest) == found("ghcr.io/*/app:1") == 1
    assert found("alpine:2") == found("app") == found("ghcr.io/*") == 0
    assert ullage.fail("images", "[a", code=2)


def test_an_image_without_names_is_listed_by_its_id(ullage, pulled):
    ullage.run("untag", pulled.reference, pulled.repo_digest)

    assert ullage.run("images").lines[1].split()[:3] == ["<none>", "<none>", pulled.image_id[7:19]]
    assert ullage.run("inspect", pulled.image_id[7:19]).json["repo_tags"] == []


def test_inspect_prints_status_config_manifest_and_storage(ullage, pulled):
    (listed,) = ullage.run("images", "--json").json_lines

    for name in (pulled.reference, pulled.repo_digest, pulled.image_id, pulled.image_id[7:19]):
        document = ullage.run("inspect", name).json
        assert {key: document.pop(key) for key in listed} == listed

    assert document == {
        "config": json.loads(pulled.config.raw),
        "manifest": {
            "media_type": pulled.manifest.media_type,
            "digest": pulled.manifest.digest,
            "size": pulled.manifest.size,
            "artifact_type": "",
            "annotations": {},
            "config": _shown(pulled.config),
            "layers": [_shown(layer) for layer in pulled.layers],
        },
        "storage": {
            "id": listed["id"],
            "image_id": pulled.image_id,
            "size": pulled.size,
            "tree_bytes": 0,
            "shared_bytes": 0,
            "exclusive_bytes": pulled.size,
        },
        "sources": {blob.digest: pulled.host for blob in pulled.blobs},
        "mount": None,
    }


def _shown(blob):
    return {"media_type": blob.media_type, "digest": blob.digest, "size": blob.size, "annotations": {}}


def test_inspect_of_an_artifact_and_of_a_registered_image(ullage, registry, store):
    artifact = ImageBuilder(registry, "chart").artifact("application/x.chart").raw_layer(b"chart").push("1")
    ullage.run("pull", artifact.reference, "--plain-http")
    store.register_image("elsewhere", size=1000)

    document = ullage.run("inspect", artifact.reference).json
    assert document["config"] is None
    assert document["manifest"]["artifact_type"] == "application/x.chart"

    document = ullage.run("inspect", "elsewhere").json
    assert (document["config"], document["manifest"], document["size"]) == (None, None, 1000)
    assert "kept elsewhere" in ullage.run("df").stdout


def test_df_says_what_the_view_says(ullage, pulled, registry):
    shared = ImageBuilder(registry, "second").layer({"etc/motd": b"hello"}).push("1")
    ullage.run("pull", shared.reference, "--plain-http")

    figures = ullage.usage()

    assert list(figures) == [each.name for each in dataclasses.fields(StorageUsage)]
    assert figures == usage(ullage.root)
    assert ullage.run("quota", "--json").json == {**figures, "min_free_bytes": 0, "evicted": []}
    saved = figures["logical_bytes"] - figures["used_bytes"]
    assert saved == pulled.layers[0].size
    text = ullage.run("df", "-v").stdout
    assert (
        f"sharing saves {human(saved)}: alone, the images would take {human(figures['logical_bytes'])}"
        in text
    )
    assert "2 images" in text
    for image in (pulled, shared):
        assert image.reference in text

    verbose = ullage.run("df", "-v", "--json").json
    assert [each["repo_tags"] for each in verbose["images"]] == [[pulled.reference], [shared.reference]]
    assert [each["shared_bytes"] for each in verbose["images"]] == [saved, saved]


@pytest.mark.parametrize(
    ("typed", "size"),
    [("12345", 12345), ("500M", 500_000_000), ("1.5kB", 1500), ("10GiB", 10 * 2**30), ("2 MiB", 2**21)],
)
def test_quota_sets_the_limit(ullage, typed, size):
    ullage.run("quota", "--max", typed)

    assert ullage.usage()["max_bytes"] == size


def test_quota_refuses_what_is_no_size_and_warns_of_what_is_too_low(ullage, pulled):
    for typed in ("", "x", "10Q", "-1", "1e3", "9E", "²", "1.2.3"):
        assert ullage.fail("quota", f"--max={typed}", code=2)

    done = ullage.run("quota", "--max", "1")
    assert "over the limit" in done.stderr
    assert "limit      1 B" in done.stdout
    assert len(ullage.run("images", "-q").lines) == 1


def test_looking_changes_nothing(ullage, pulled):
    before = snapshot(ullage.root)

    for arguments in (("images",), ("inspect", pulled.reference), ("df", "-v"), ("quota",)):
        ullage.run(*arguments)

    assert snapshot(ullage.root) == before


def test_without_a_store_there_is_nothing_to_see_and_none_is_made(elsewhere, tmp_path):
    assert elsewhere.run("images").lines == ["REPO   TAG   IMAGE ID   SIZE   PULLED   PINNED"]
    assert elsewhere.run("images", "--json").stdout == ""
    usage = elsewhere.usage()
    assert usage["max_bytes"] == usage["available_bytes"] == 10 * 2**30
    assert usage.items() <= elsewhere.run("quota", "--json").json.items()
    assert not any(elsewhere.run("gc", "--json").json.values())
    for arguments in (
        ("inspect", "app"),
        ("rm", "app"),
        ("tag", "app", "b"),
        ("untag", "app"),
        ("pin", "app"),
        ("unpin", "app"),
        ("pull", "--policy", "never", "app"),
    ):
        assert elsewhere.fail(*arguments, code=3)
    elsewhere.run("rm", "--missing-ok", "app")

    assert not (tmp_path / "elsewhere").exists()
