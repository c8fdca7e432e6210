"""
``--platform all``: every platform's image, in one admission and one completion.
"""

from __future__ import annotations

import pytest

from support import registry as faults
from support.images import OCI_INDEX, Blob, ImageBuilder, json_of, push_index
from support.registry import FaultRegistry
from ullage import (
    ImageNotFound,
    InvalidManifest,
    NoMatchingPlatform,
    Platform,
    PullPolicy,
    RegistryUnavailable,
    StorageLimitExceeded,
    UnsupportedContent,
)
from ullage.manifest import MAX_PLATFORMS

HERE = str(Platform.of_host().normalised())
PLATFORMS = (HERE, "linux/s390x", "linux/riscv64")


def builders(registry, platforms=PLATFORMS):
    return [
        ImageBuilder(registry, "app", platform=each).layer({"shared": b"s"}).noise_layer(3_000, each)
        for each in platforms
    ]


@pytest.fixture
def images(registry):
    """
    Three platforms that share a layer, this machine's first, and an attestation beside them.
    """
    attestation = ImageBuilder(registry, "app", platform="unknown/unknown").layer({"in-toto": b"{}"}).push()
    entry = attestation.manifest.descriptor | {"platform": {"os": "unknown", "architecture": "unknown"}}
    return push_index(registry, "app", builders(registry), "1", extra=[entry])


def distinct(images):
    return {blob.digest: blob.size for image in images for blob in image.blobs}


def test_every_platform_is_fetched_once_and_named_by_its_own_manifest(store, registry, images):
    status = store.pull_image(images[0].reference, platform="all")

    assert status.platform == HERE
    assert status.repo_tags == (images[0].reference,)
    assert status.repo_digests == tuple(sorted([images[0].repo_digest])), (
        "the index goes with this machine's image"
    )
    for image in images[1:]:
        name = f"{image.name}@{image.manifest.digest}"
        other = store.image_status_by_ref(name)
        assert (other.repo_tags, other.repo_digests) == ((), (name,))
        assert other.image_id == image.image_id
        assert other.spec.reference() == name
    assert {each.platform for each in store.list_images()} == set(PLATFORMS)
    sizes = distinct(images)
    assert store.usage().used_bytes == sum(sizes.values())
    assert registry.blob_bytes_sent == sum(
        size for digest, size in sizes.items() if digest not in documents(images)
    )


def documents(images):
    return {images[0].index.digest, *(image.manifest.digest for image in images)}


def test_each_image_keeps_the_index_that_it_came_by(store, images):
    store.pull_image(images[0].reference, platform="all")

    store.remove_image(images[0].reference)

    with store.open_blob(images[0].index.digest) as file:
        assert file.read() == images[0].index.raw
    for image in images[1:]:
        store.remove_image(f"{image.name}@{image.manifest.digest}")
    assert store.usage().used_bytes == 0


def test_all_fits_or_nothing_is_fetched(open_store, registry, images):
    size = sum(distinct(images).values())
    store = open_store(max_storage=size - 1)

    with pytest.raises(StorageLimitExceeded) as caught:
        store.pull_image(images[0].reference, platform="all")

    assert caught.value.needed_bytes == size
    assert store.list_images() == []
    assert registry.count("GET", "*/blobs/*") == 0
    store.set_max_storage(size)
    store.pull_image(images[0].reference, platform="all")


def test_one_bad_platform_leaves_none(store, registry, images):
    registry.inject(f"*/blobs/{images[2].layers[1].digest}", faults.status(404))

    with pytest.raises(Exception, match="does not have"):
        store.pull_image(images[0].reference, platform="all")

    assert store.list_images() == []
    assert store.usage().used_bytes == 0


def test_what_one_platform_has_brought_is_not_fetched_again(store, registry, images):
    store.pull_image(images[0].reference)
    before = registry.blob_bytes_sent
    registry.requests.clear()

    store.pull_image(images[0].reference, platform="all")

    assert registry.blob_bytes_sent == sum(
        blob.size for image in images[1:] for blob in (image.config, image.layers[1])
    )
    assert before > 0
    assert registry.count("GET", "*/manifests/*") == 2
    registry.requests.clear()
    store.pull_image(images[0].reference, platform="all")
    assert [each.method for each in registry.requests] == ["HEAD"], "the index says what is here"


def test_a_platform_that_came_with_all_is_pulled_without_a_byte(store, registry, images):
    store.pull_image(images[0].reference, platform="all")
    registry.requests.clear()

    status = store.pull_image(images[0].reference, platform="linux/s390x")

    assert status.image_id == images[1].image_id
    assert status.repo_tags == (images[0].reference,)
    assert registry.count("GET") == 0


def test_never_takes_what_is_here(store, images):
    with pytest.raises(ImageNotFound):
        store.pull_image(images[0].reference, platform="all", policy=PullPolicy.NEVER)
    store.pull_image(images[0].reference)

    status = store.pull_image(images[0].reference, platform="all", policy=PullPolicy.NEVER)

    assert status.image_id == images[0].image_id


def test_a_manifest_that_is_no_index_is_its_own_only_platform(store, registry):
    image = ImageBuilder(registry, "app", platform="linux/s390x").layer({"a": b"a"}).push("1")

    assert store.pull_image(image.reference, platform="all").image_id == image.image_id


def test_the_reference_needs_something_for_this_machine(store, registry):
    images = push_index(registry, "app", builders(registry, ("linux/s390x", "linux/riscv64")), "1")

    with pytest.raises(NoMatchingPlatform):
        store.pull_image(images[0].reference, platform="all")

    assert store.list_images() == []


def test_indexes_within_indexes_are_all_gone_through(store, registry):
    inner = push_index(registry, "app", builders(registry, ("linux/s390x", "linux/riscv64")))
    outer = push_index(registry, "app", builders(registry, (HERE,)), "1", extra=[inner[0].index.descriptor])

    store.pull_image(outer[0].reference, platform="all")

    assert {each.platform for each in store.list_images()} == set(PLATFORMS)
    store.remove_image(outer[0].reference)
    for image in (outer[0], inner[0]):
        store.open_blob(image.index.digest).close()


def test_two_manifests_of_one_config_are_one_image(store, registry):
    first, second = (
        ImageBuilder(registry, "app", platform=HERE).layer({"a": b"a"}).annotate(build=each)
        for each in ("1", "2")
    )
    images = push_index(registry, "app", [first, second], "1")

    status = store.pull_image(images[0].reference, platform="all")

    assert len(store.list_images()) == 1
    assert set(status.repo_digests) == {
        images[0].repo_digest,
        f"{images[1].name}@{images[1].manifest.digest}",
    }


def test_what_is_no_manifest_in_an_index_is_refused_by_name(store, registry):
    extra = [{"mediaType": "application/vnd.example.thing", "digest": f"sha256:{'ab' * 32}", "size": 3}]
    images = push_index(registry, "app", builders(registry, (HERE,)), "1", extra=extra)

    with pytest.raises(UnsupportedContent, match=r"vnd\.example\.thing"):
        store.pull_image(images[0].reference, platform="all")

    assert store.pull_image(images[0].reference).image_id == images[0].image_id


def test_an_index_without_end_is_not_gone_through(store, registry):
    """
    Neither one of ten thousand platforms nor one that leads to ever new ones.
    """
    images = push_index(registry, "app", builders(registry, (HERE,)), "1")
    many = [
        images[0].manifest.descriptor,
        *(
            {
                "mediaType": OCI_INDEX,
                "digest": f"sha256:{number:064x}",
                "size": 2,
                "platform": {"os": "linux"},
            }
            for number in range(10_000 - 1)
        ),
    ]
    raw = json_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": many})
    registry.add_manifest("app", raw, OCI_INDEX, ["many"])
    registry.requests.clear()
    registry.inject("*/manifests/sha256:0*", faults.answer(b"{}", headers={"Content-Type": OCI_INDEX}))

    with pytest.raises(Exception, match=r"digest mismatch|more than 100 platforms"):
        store.pull_image(f"{images[0].name}:many", platform="all")

    assert registry.count("GET") <= MAX_PLATFORMS + 2


def test_an_index_of_too_many_platforms_is_refused(store, registry):
    every = builders(registry, (HERE, *(f"linux/arm/v{number}" for number in range(MAX_PLATFORMS))))
    images = push_index(registry, "app", every, "1")

    with pytest.raises(InvalidManifest, match="more than 100 platforms"):
        store.pull_image(images[0].reference, platform="all")


def test_a_chain_of_indexes_has_an_end(store, registry):
    images = push_index(registry, "app", builders(registry, (HERE,)))
    index = images[0].index
    for _ in range(9):
        raw = json_of({"schemaVersion": 2, "manifests": [images[0].manifest.descriptor, index.descriptor]})
        index = Blob(raw, OCI_INDEX)
        registry.add_manifest("app", raw, OCI_INDEX, ["deep"])

    with pytest.raises(InvalidManifest, match="more than 8 deep"):
        store.pull_image(f"{images[0].name}:deep", platform="all")


def test_a_plan_of_every_platform_says_what_all_of_them_take(store, registry, images):
    plan = store.plan_pull(images[0].reference, platform="all")

    assert plan.fits
    assert plan.fetch_bytes == sum(distinct(images).values())
    assert store.list_images() == []
    assert plan.digest == images[0].index.digest


def test_a_pull_of_every_platform_goes_on_where_it_broke_off(store):
    with FaultRegistry() as registry:
        big = [
            ImageBuilder(registry, "app", platform=each).noise_layer(3_000_000, each)
            for each in PLATFORMS[:2]
        ]
        images = push_index(registry, "app", big, "1")
        last = images[1].layers[0]
        registry.inject(f"*/blobs/{last.digest}", faults.status(503, headers={"Retry-After": "600"}))
        registry.inject(f"*/blobs/{last.digest}", faults.truncate(2_000_000), times=1)
        with pytest.raises(RegistryUnavailable):
            store.pull_image(images[0].reference, platform="all")
        registry.heal()
        before = registry.blob_bytes_sent

        store.pull_image(images[0].reference, platform="all")

        assert registry.blob_bytes_sent - before <= images[0].layers[0].size + last.size - 2_000_000 + 10_000
