"""
What the pull half of the distribution specification has a registry answer, asked for by another client than ours.
"""

from __future__ import annotations

import json

import pytest

from support.asking import ask
from support.images import OCI_INDEX, OCI_MANIFEST, ImageBuilder, push_index

NAME = "ghcr.io/team/app"


def test_the_base_says_that_this_is_a_registry(server):
    got = ask(server, "/v2/")

    assert (got.status, got.body) == (200, b"{}")
    assert got.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_is_served_by_tag_and_by_digest_as_it_came(method, server, pulled):
    for ref in ("1", pulled.manifest.digest):
        got = ask(server, f"/v2/{NAME}/manifests/{ref}", method)

        assert got.status == 200
        assert got.headers["content-type"] == OCI_MANIFEST
        assert got.headers["docker-content-digest"] == pulled.manifest.digest
        assert got.headers["etag"] == f'"{pulled.manifest.digest}"'
        assert got.headers["content-length"] == str(pulled.manifest.size)
        assert got.body == (pulled.manifest.raw if method == "GET" else b"")


def test_a_manifest_that_the_client_has_is_not_sent_again(server, pulled):
    etag = f'"{pulled.manifest.digest}"'

    for known in (etag, f'"other", W/{etag}', "*"):
        got = ask(server, f"/v2/{NAME}/manifests/1", If_None_Match=known)
        assert (got.status, got.body, got.headers["etag"]) == (304, b"", etag)
    assert ask(server, f"/v2/{NAME}/manifests/1", If_None_Match='"other"').status == 200


def test_an_image_that_came_by_an_index_is_served_with_it(server, store, registry):
    arm = ImageBuilder(registry, "app", platform="linux/arm64").layer({"a": b"arm"})
    amd = ImageBuilder(registry, "app", platform="linux/amd64").layer({"a": b"amd"})
    image, other = push_index(registry, "app", [amd, arm], "1")
    store.pull_image(image.reference, platform="linux/amd64")
    path = "/v2/{}/manifests/{}".format(image.name.replace(":", "__"), "{}")

    index = ask(server, path.format("1"))

    assert index.headers["content-type"] == OCI_INDEX
    assert index.body == image.index.raw
    assert ask(server, path.format(image.manifest.digest)).body == image.manifest.raw
    # What is not here, somebody else has: a mirror's client goes on to the registry.
    assert ask(server, path.format(other.manifest.digest)).codes == ["MANIFEST_UNKNOWN"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_blob_is_served(method, server, pulled):
    for blob in (pulled.config, *pulled.layers, pulled.manifest):
        got = ask(server, f"/v2/{NAME}/blobs/{blob.digest}", method)

        assert got.status == 200
        assert got.headers["docker-content-digest"] == blob.digest
        assert got.headers["content-length"] == str(blob.size)
        assert got.headers["accept-ranges"] == "bytes"
        assert got.body == (blob.raw if method == "GET" else b"")


RANGES = [
    ("bytes=0-", 206, 0, None),
    ("bytes=100-", 206, 100, None),
    ("bytes=100-199", 206, 100, 200),
    ("bytes=100-99999999", 206, 100, None),
    ("bytes=-10", 206, -10, None),
    ("bytes=99999999-", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
    ("bytes=9-8", 416, 0, 0),
    ("bytes=0-1,5-6", 200, 0, None),
    ("pages=1-2", 200, 0, None),
]


def test_a_range_of_a_blob_is_served(server, pulled):
    raw = pulled.layers[1].raw
    for stated, status, first, last in RANGES:
        got = ask(server, f"/v2/{NAME}/blobs/{pulled.layers[1].digest}", Range=stated)

        assert got.status == status, stated
        assert got.body == (raw[first:last] if status != 416 else b""), stated
        if status == 206:
            start = first % len(raw)
            assert got.headers["content-range"] == f"bytes {start}-{start + len(got.body) - 1}/{len(raw)}"
        if status == 416:
            assert got.headers["content-range"] == f"bytes */{len(raw)}"


def test_a_range_of_what_the_blob_is_not_any_more_is_the_whole(server, pulled):
    layer = pulled.layers[1]
    path = f"/v2/{NAME}/blobs/{layer.digest}"

    assert ask(server, path, Range="bytes=5-", If_Range=f'"{layer.digest}"').status == 206
    assert ask(server, path, Range="bytes=5-", If_Range='"other"').body == layer.raw


def test_tags_are_listed_in_order_and_in_pages(server, store, pulled):
    for tag in ("B", "a", "c", "10", "2"):
        store.tag_image(f"{NAME}:1", f"{NAME}:{tag}")
    path = f"/v2/{NAME}/tags/list"

    assert ask(server, path).json == {"name": NAME, "tags": ["1", "10", "2", "a", "B", "c"]}
    seen, link = [], f"{path}?n=4"
    while link:
        got = ask(server, link)
        seen.append(got.json["tags"])
        link = got.headers.get("link", "")[1:].partition(">")[0]
    assert seen == [["1", "10", "2", "a"], ["B", "c"]]
    assert ask(server, f"{path}?n=0").json["tags"] == []
    assert "link" not in ask(server, f"{path}?n=0").headers
    assert ask(server, f"{path}?n=6").headers.get("link") is None
    assert ask(server, f"{path}?last=B").json["tags"] == ["c"]
    assert ask(server, f"{path}?n=x").status == 400


def test_the_next_page_is_of_the_same_registry(server, store, pulled):
    store.tag_image(f"{NAME}:1", f"{NAME}:2")

    link = ask(server, "/v2/team/app/tags/list?ns=ghcr.io&n=1").headers["link"]

    assert link == '</v2/team/app/tags/list?n=1&last=1&ns=ghcr.io>; rel="next"'
    assert ask(server, link[1:].partition(">")[0]).json["tags"] == ["2"]


def test_the_catalog_names_what_can_be_asked_for(server, store, pulled):
    store.tag_image(f"{NAME}:1", "localhost:5000/app:2")
    store.tag_image(f"{NAME}:1", "alpine")

    repos = ask(server, "/v2/_catalog").json["repositories"]

    assert repos == ["docker.io/library/alpine", NAME, "localhost__5000/app"]
    for repo in repos:
        assert ask(server, f"/v2/{repo}/tags/list").status == 200
    assert ask(server, "/v2/_catalog?n=1").headers["link"].startswith("</v2/_catalog?n=1&last=docker.io")


def test_referrers_are_listed_and_chosen_by_their_type(server, store, registry, image):
    store.pull_image(image.reference)
    subject = {"mediaType": OCI_MANIFEST, "digest": image.manifest.digest, "size": image.manifest.size}
    made = {
        kind: ImageBuilder(registry, "team/app")
        .artifact(kind)
        .annotate(by=kind)
        .manifest_fields(subject=subject)
        .push(kind.replace("/", "-"))
        for kind in ("example/sbom", "example/signature")
    }
    for each in made.values():
        store.pull_image(each.reference)
    path = f"/v2/{image.name.replace(':', '__')}/referrers/{image.manifest.digest}"

    got = ask(server, path)

    assert (got.status, got.headers["content-type"]) == (200, OCI_INDEX)
    assert got.json["manifests"] == [
        each.manifest.descriptor | {"artifactType": kind, "annotations": {"by": kind}}
        for kind, each in made.items()
    ]
    chosen = ask(server, f"{path}?artifactType=example/sbom")
    assert [each["artifactType"] for each in chosen.json["manifests"]] == ["example/sbom"]
    assert chosen.headers["oci-filters-applied"] == "artifactType"
    nothing = ask(server, path.rpartition("/")[0] + "/sha256:" + "0" * 64)
    assert (nothing.status, nothing.json["manifests"]) == (200, [])


ABSENT = "sha256:" + "0" * 64


REFUSALS = [
    (f"/v2/{NAME}/manifests/2", 404, "MANIFEST_UNKNOWN"),
    (f"/v2/{NAME}/manifests/{ABSENT}", 404, "MANIFEST_UNKNOWN"),
    (f"/v2/{NAME}/blobs/{ABSENT}", 404, "BLOB_UNKNOWN"),
    ("/v2/other/app/manifests/1", 404, "NAME_UNKNOWN"),
    (f"/v2/other/app/blobs/{ABSENT}", 404, "NAME_UNKNOWN"),
    ("/v2/other/app/tags/list", 404, "NAME_UNKNOWN"),
    (f"/v2/other/app/referrers/{ABSENT}", 404, "NAME_UNKNOWN"),
    (f"/v2/{NAME}/blobs/sha256:0", 400, "DIGEST_INVALID"),
    (f"/v2/{NAME}/blobs/latest", 400, "DIGEST_INVALID"),
    (f"/v2/{NAME}/manifests/md5:00", 400, "DIGEST_INVALID"),
    (f"/v2/{NAME}/referrers/1", 400, "DIGEST_INVALID"),
    (f"/v2/{NAME}/manifests/.hidden", 400, "TAG_INVALID"),
    ("/v2/Team/App/manifests/1", 400, "NAME_INVALID"),
    (f"/v2/{'a' * 256}/manifests/1", 400, "NAME_INVALID"),
    ("/v2/ghcr.io/team/../app/manifests/1", 400, "NAME_INVALID"),
    ("/v2/ghcr.io/team/%2e%2e/app/manifests/1", 400, "NAME_INVALID"),
    ("/v2/app/manifests/1?ns=..", 400, "NAME_INVALID"),
    ("/v2/app/manifests/1?ns=nowhere", 400, "NAME_INVALID"),
    ("/v2/../../etc/passwd", 404, "NAME_INVALID"),
    ("/", 404, "NAME_INVALID"),
    ("/v3/", 404, "NAME_INVALID"),
]


def test_each_refusal_is_a_document_of_the_specification(server, pulled):
    for path, status, code in REFUSALS:
        got = ask(server, path)

        assert (got.status, got.codes) == (status, [code]), path
        assert got.headers["content-type"] == "application/json"
        assert set(got.json["errors"][0]) == {"code", "message", "detail"}
        assert ask(server, path, "HEAD").status == status


def test_a_blob_is_no_manifest(server, pulled):
    got = ask(server, f"/v2/{NAME}/manifests/{pulled.layers[0].digest}")

    assert (got.status, got.codes) == (404, ["MANIFEST_UNKNOWN"])


def test_whoever_wants_to_write_is_told_that_nobody_does(server, pulled):
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
        for path in (f"/v2/{NAME}/manifests/1", f"/v2/{NAME}/blobs/uploads/", "/v2/"):
            got = ask(server, path, method)
            assert (got.status, got.codes, got.headers["allow"]) == (405, ["UNSUPPORTED"], "GET, HEAD")


def test_a_repo_serves_what_its_own_references_resolve_to(server, store, registry, pulled):
    other = ImageBuilder(registry, "secret").layer({"etc/secret": b"s"}).push("1")
    store.pull_image(other.reference)

    for ref in (
        f"manifests/{other.manifest.digest}",
        f"blobs/{other.config.digest}",
        f"blobs/{other.layers[0].digest}",
    ):
        assert ask(server, f"/v2/{NAME}/{ref}").status == 404
        assert ask(server, f"/v2/{other.name.replace(':', '__')}/{ref}").status == 200


def test_an_image_without_a_name_is_not_served(server, store, pulled):
    store.untag_image(f"{NAME}:1")

    got = ask(server, f"/v2/{NAME}/blobs/{pulled.config.digest}")

    assert (got.status, got.codes) == (404, ["NAME_UNKNOWN"])


def test_an_image_whose_bytes_are_elsewhere_is_not_served(server, store):
    store.register_image("elsewhere:1", size=10)

    assert ask(server, "/v2/elsewhere/manifests/1").codes == ["MANIFEST_UNKNOWN"]
    assert ask(server, "/v2/elsewhere/tags/list").json["tags"] == ["1"]


def test_a_store_that_is_damaged_says_so_to_nobody_but_its_owner(server, store, pulled, caplog):
    layer = pulled.layers[0]
    path = store._files.blob_path(layer.digest)
    raw = path.read_bytes()
    path.unlink()

    got = ask(server, f"/v2/{NAME}/blobs/{layer.digest}")

    assert (got.status, got.codes) == (500, ["UNKNOWN"])
    assert str(store._files.root) not in json.dumps(got.json)
    assert str(layer.digest) in caplog.text
    path.write_bytes(raw)
    path.chmod(0o444)
