"""
Images from one place to another, with no store between.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import threading

import pytest

from support import registry as faults
from support.images import OCI_INDEX, ImageBuilder, push_index
from support.pushes import PushRegistry
from ullage import (
    AuthConfig,
    AuthenticationFailed,
    ContentError,
    InvalidReference,
    ManifestUnknown,
    NoMatchingPlatform,
    PushCancelled,
    RegistryClient,
    copy_image,
)


@pytest.fixture
def client():
    with RegistryClient(plain_http=True, backoff_seconds=0.01, credentials=False) as client:
        yield client


@pytest.fixture
def platforms(registry):
    """
    An index of two platforms, ``multi:1``.
    """
    builders = [
        ImageBuilder(registry, "multi", platform=each).layer({"a": each.encode()}).noise_layer(50_000)
        for each in ("linux/amd64", "linux/arm64")
    ]
    return push_index(registry, "multi", builders, "1")


def layout_blobs(path):
    return {f"sha256:{each.name}": each.read_bytes() for each in (path / "blobs" / "sha256").iterdir()}


def test_from_registry_to_registry_nothing_is_kept_and_each_blob_goes_once(
    client, image, registry, there, tmp_path
):
    before = set(tmp_path.iterdir())

    copied = copy_image(image.reference, f"{there.host}/copy:1", registry=client)

    assert there.manifest("copy", "1")[0] == image.manifest.raw
    assert copied.repo_digest == f"{there.host}/copy@{image.manifest.digest}"
    assert copied.sent_blobs == 3
    assert (
        registry.blob_bytes_sent
        == there.uploaded
        == image.config.size + sum(each.size for each in image.layers)
    )
    assert set(tmp_path.iterdir()) == before


def test_what_the_destination_has_is_not_fetched(client, image, registry, there):
    copy_image(image.reference, f"{there.host}/copy:1", registry=client)
    registry.requests.clear()

    copied = copy_image(image.reference, f"{there.host}/copy:1", registry=client)

    assert (copied.sent_blobs, copied.present_blobs) == (0, 3)
    assert [each.path for each in registry.requests] == ["/v2/team/app/manifests/1"]


def test_between_repos_of_one_registry_blobs_are_mounted(client, image, there):
    copy_image(image.reference, f"{there.host}/first:1", registry=client)
    before = there.uploaded

    copied = copy_image(f"{there.host}/first:1", f"{there.host}/second:1", registry=client)

    assert (copied.mounted_blobs, copied.sent_blobs) == (3, 0)
    assert there.uploaded == before


def test_an_index_is_copied_whole(client, platforms, there):
    copied = copy_image(platforms[0].reference, f"{there.host}/copy:1", registry=client, platform="all")

    assert (copied.digest, copied.media_type) == (platforms[0].index.digest, OCI_INDEX)
    assert there.manifest("copy", "1")[0] == platforms[0].index.raw
    for each in platforms:
        assert there.manifest("copy", each.manifest.digest)[0] == each.manifest.raw


def test_one_platform_of_an_index_is_copied(client, platforms, there, image):
    copied = copy_image(
        platforms[0].reference, f"{there.host}/copy:1", registry=client, platform="linux/arm64"
    )

    assert copied.digest == platforms[1].manifest.digest
    with pytest.raises(NoMatchingPlatform):
        copy_image(platforms[0].reference, f"{there.host}/copy:2", registry=client, platform="linux/s390x")
    with pytest.raises(NoMatchingPlatform):
        copy_image(image.reference, f"{there.host}/copy:2", registry=client, platform="linux/s390x")
    assert there.tags("copy") == {"1": platforms[1].manifest.digest}


def test_attestations_go_with_an_index(client, registry, there):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).push()
    proof = ImageBuilder(registry, "app", platform="unknown/unknown").layer({"b": b"b"}).push()
    entry = proof.manifest.descriptor | {"platform": {"os": "unknown", "architecture": "unknown"}}
    builder = ImageBuilder(registry, "app").layer({"a": b"a"})
    (indexed,) = push_index(registry, "app", [builder], "1", extra=[entry])
    assert indexed.manifest == image.manifest

    copy_image(indexed.reference, f"{there.host}/copy:1", registry=client, platform="all")

    assert there.manifest("copy", proof.manifest.digest)[0] == proof.manifest.raw


def test_from_a_registry_to_a_layout_and_on_to_another_registry(client, image, there, tmp_path):
    layout = tmp_path / "layout"

    first = copy_image(image.reference, f"oci:{layout}:2", registry=client)
    second = copy_image(f"oci:{layout}:2", f"{there.host}/copy:1", registry=client)

    assert layout_blobs(layout) == {blob.digest: blob.raw for blob in image.blobs}
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "2"
    assert first.digest == second.digest == image.manifest.digest
    assert there.manifest("copy", "1")[0] == image.manifest.raw


def test_a_layout_that_has_it_is_not_sent_it(client, image, registry, tmp_path):
    copy_image(image.reference, f"oci:{tmp_path / 'layout'}:1", registry=client)
    before = registry.blob_bytes_sent

    copied = copy_image(image.reference, f"oci:{tmp_path / 'layout'}:2", registry=client)

    assert (copied.sent_blobs, copied.present_blobs) == (0, 3)
    assert registry.blob_bytes_sent == before


def test_an_index_goes_through_an_archive(client, platforms, there, tmp_path):
    archive = tmp_path / "multi.tar"

    copy_image(platforms[0].reference, f"oci-archive:{archive}", registry=client, platform="all")
    copied = copy_image(f"oci-archive:{archive}", f"{there.host}/copy:1", registry=client, platform="all")

    assert copied.digest == platforms[0].index.digest
    with tarfile.open(archive) as tar:
        assert f"blobs/sha256/{platforms[1].manifest.digest.encoded}" in tar.getnames()


def test_a_compressed_archive_is_spooled_and_gone(client, image, there, tmp_path, monkeypatch):
    archive, spool = tmp_path / "image.tar", tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    copy_image(image.reference, f"oci-archive:{archive}:1", registry=client)
    (tmp_path / "image.tar.gz").write_bytes(gzip.compress(archive.read_bytes()))

    copied = copy_image(f"oci-archive:{tmp_path / 'image.tar.gz'}", f"{there.host}/copy:1", registry=client)

    assert copied.digest == image.manifest.digest
    assert list(spool.iterdir()) == []


def test_a_docker_archive_is_a_place_as_well(client, image, there, tmp_path):
    copy_image(image.reference, f"docker-archive:{tmp_path / 'saved.tar'}", registry=client)

    copied = copy_image(f"docker-archive:{tmp_path / 'saved.tar'}", f"{there.host}/copy:1", registry=client)

    raw, _ = there.manifest("copy", "1")
    assert json.loads(raw)["config"]["digest"] == image.config.digest
    assert copied.sent_blobs == 3


def test_of_several_images_one_has_to_be_named(client, image, platforms, there, tmp_path):
    layout = f"oci:{tmp_path / 'layout'}"
    copy_image(image.reference, f"{layout}:1", registry=client)
    copy_image(platforms[0].reference, f"{layout}:2", registry=client, platform="linux/amd64")

    with pytest.raises(InvalidReference, match="has 2 images"):
        copy_image(layout, f"{there.host}/copy:1", registry=client)
    with pytest.raises(ManifestUnknown):
        copy_image(f"{layout}:3", f"{there.host}/copy:1", registry=client)
    copy_image(f"{layout}:1", f"{there.host}/copy:1", registry=client)


@pytest.mark.parametrize(
    "fault", [faults.wrong_bytes(5), faults.shorter(), faults.longer()], ids=["wrong", "shorter", "longer"]
)
def test_what_is_not_what_its_digest_says_arrives_nowhere(fault, client, image, registry, there, tmp_path):
    registry.inject(f"*/blobs/{image.layers[1].digest}", fault)

    with pytest.raises(ContentError):
        copy_image(image.reference, f"{there.host}/copy:1", registry=client)
    with pytest.raises(ContentError):
        copy_image(image.reference, f"oci:{tmp_path / 'layout'}:1", registry=client)

    assert there.tags("copy") == {}
    assert not there.has("copy", image.layers[1].digest)
    assert not (tmp_path / "layout").exists()


def test_a_source_that_breaks_off_goes_on(client, image, registry, there):
    registry.inject(f"*/blobs/{image.layers[1].digest}", faults.truncate(50_000), times=2)

    copy_image(image.reference, f"{there.host}/copy:1", registry=client)

    assert there.has("copy", image.layers[1].digest)


def test_each_registry_sees_its_own_credentials_alone(client):
    with (
        PushRegistry(auth="basic", username="from", password="s3cret1") as here,
        PushRegistry(auth="basic", username="to", password="s3cret2") as there,
    ):
        image = ImageBuilder(here, "app").layer({"a": b"a"}).push("1")
        for blob in (image.config, *image.layers):
            here.add_blob(blob.raw, repo="app")
        auth = AuthConfig(username="from", password="s3cret1")
        to = AuthConfig(username="to", password="s3cret2")

        copy_image(
            f"{here.host}/app:1", f"{there.host}/app:1", registry=client, auth=auth, destination_auth=to
        )

        assert len({each.headers.get("authorization") for each in here.asked}) == 2
        assert not {
            each.headers.get("authorization") for each in here.asked if "authorization" in each.headers
        } & {each.headers.get("authorization") for each in there.asked}
        with pytest.raises(AuthenticationFailed):
            copy_image(f"{here.host}/app:1", f"{there.host}/app:2", registry=client, auth=auth)


@pytest.mark.parametrize("to", ["registry", "layout"])
def test_a_copy_that_is_cancelled_ends_at_once_and_leaves_nothing(
    to, client, image, registry, there, tmp_path
):
    stall = registry.inject(f"*/blobs/{image.layers[1].digest}", faults.stall(after=1000))
    cancel = threading.Event()
    threading.Thread(target=lambda: (stall.wait_reached(), cancel.set())).start()
    destination = f"{there.host}/copy:1" if to == "registry" else f"oci:{tmp_path / 'layout'}:1"

    with pytest.raises(PushCancelled):
        copy_image(image.reference, destination, registry=client, cancel=cancel)

    stall.release()
    assert there.tags("copy") == {}
    assert not (tmp_path / "layout").exists()
    with pytest.raises(PushCancelled, match="deadline"):
        copy_image(image.reference, destination, registry=client, timeout=0.000001)


def test_progress_tells_what_moves(client, image, there, tmp_path):
    for destination in (f"{there.host}/copy:1", f"oci:{tmp_path / 'layout'}:1"):
        seen = []
        copy_image(image.reference, destination, registry=client, on_progress=seen.append)
        size = image.config.size + sum(each.size for each in image.layers)
        assert (seen[-1].done_bytes, seen[-1].total_bytes) == (size, size)
