"""
What a pull costs, counted at the registry: requests, bytes, connections.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import pytest

from support import registry as faults
from support.images import ImageBuilder
from support.registry import FaultRegistry
from ullage import AuthConfig, PullPolicy, RegistryClient, RegistryUnavailable

ALICE = AuthConfig("alice", "wonderland")


class Counts(NamedTuple):
    heads: int
    manifests: int
    blobs: int
    tokens: int
    refused: int
    blob_bytes: int


def counts(registry):
    """
    What was asked since the last time this was asked.
    """
    asked = list(registry.requests)
    registry.requests.clear()
    return Counts(
        heads=sum(each.method == "HEAD" and each.status == 200 for each in asked),
        manifests=sum(
            each.method == "GET" and "/manifests/" in each.path and each.status == 200 for each in asked
        ),
        blobs=sum("/blobs/" in each.path and each.status in {200, 206} for each in asked),
        tokens=sum(each.path == "/token" for each in asked),
        refused=sum(each.status >= 400 for each in asked),
        blob_bytes=sum(each.bytes_sent for each in asked if "/blobs/" in each.path),
    )


def layered(registry, name="app", *, top):
    """
    Three layers, two of them of the same bytes whatever is on *top*.
    """
    return (
        ImageBuilder(registry, name)
        .raw_layer(b"base" * 50_000)
        .raw_layer(b"middle" * 50_000)
        .raw_layer(top * 10_000)
    )


def bytes_of(image):
    return image.config.size + sum(layer.size for layer in image.layers)


def test_a_first_pull_asks_once_for_each_thing(store, registry):
    image = layered(registry, top=b"one").push("1")

    store.pull_image(image.reference)

    assert counts(registry) == Counts(0, 1, 4, 0, 0, bytes_of(image))
    assert registry.connections <= 4, "one to resolve, kept, and three at once"


def test_a_first_pull_behind_tokens_buys_one(store):
    with FaultRegistry(auth="token", username="alice", password="wonderland") as registry:
        image = layered(registry, top=b"one").push("1")

        store.pull_image(image.reference, auth=ALICE)

        assert counts(registry) == Counts(0, 1, 4, 1, 1, bytes_of(image))


def test_an_unknown_digest_is_one_get_and_a_known_one_is_one_head(store, registry):
    image = layered(registry, top=b"one").push("1")

    store.pull_image(image.repo_digest)
    assert counts(registry) == Counts(0, 1, 4, 0, 0, bytes_of(image))

    store.pull_image(image.repo_digest, policy=PullPolicy.ALWAYS)
    assert counts(registry) == Counts(1, 0, 0, 0, 0, 0)


def test_another_tag_of_what_is_here_is_one_manifest(store, registry):
    """
    No name says that it is here, so a HEAD would be a round trip more wherever it is not.
    """
    image = layered(registry, top=b"one").push("1", "latest")
    store.pull_image(image.reference)
    counts(registry)

    store.pull_image(f"{image.name}:latest")

    assert counts(registry) == Counts(0, 1, 0, 0, 0, 0)


def test_a_known_tag_with_always_is_one_head(store, registry):
    image = layered(registry, top=b"one").push("1")
    store.pull_image(image.reference)
    counts(registry)

    store.pull_image(image.reference, policy=PullPolicy.ALWAYS)

    assert counts(registry) == Counts(1, 0, 0, 0, 0, 0)


def test_a_known_tag_behind_tokens_with_always_is_one_head(store):
    """
    Within the life of the token: the client keeps it between pulls.
    """
    with FaultRegistry(auth="token", username="alice", password="wonderland") as registry:
        image = layered(registry, top=b"one").push("1")
        store.pull_image(image.reference, auth=ALICE)
        counts(registry)

        store.pull_image(image.reference, policy=PullPolicy.ALWAYS, auth=ALICE)

        assert counts(registry) == Counts(1, 0, 0, 0, 0, 0)


def test_a_known_image_if_not_present_is_no_request(store, registry):
    image = layered(registry, top=b"one").push("1")
    store.pull_image(image.reference)
    counts(registry)

    store.pull_image(image.reference)

    assert counts(registry) == Counts(0, 0, 0, 0, 0, 0)


def test_a_tag_that_moved_costs_what_is_new(store, registry):
    first = layered(registry, top=b"one").push("1")
    store.pull_image(first.reference)
    counts(registry)
    second = layered(registry, top=b"two").push("1")

    store.pull_image(second.reference, policy=PullPolicy.ALWAYS)

    new = second.config.size + second.layers[2].size
    assert counts(registry) == Counts(1, 1, 2, 0, 0, new)


def test_ten_pulls_at_once_cost_what_one_costs(store, registry):
    image = layered(registry, top=b"one").push("1")
    barrier = threading.Barrier(10)

    def pull():
        barrier.wait(10)
        store.pull_image(image.reference)

    threads = [threading.Thread(target=pull) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    seen = counts(registry)
    assert (seen.blobs, seen.blob_bytes) == (4, bytes_of(image))
    assert seen.heads + seen.manifests <= 20


def test_a_pull_that_broke_off_costs_the_rest(store, registry):
    image = ImageBuilder(registry, "app").noise_layer(3_000_000).push("1")
    layer = image.layers[0]
    registry.inject(f"*/blobs/{layer.digest}", faults.status(503, headers={"Retry-After": "600"}))
    registry.inject(f"*/blobs/{layer.digest}", faults.truncate(2_000_000), times=1)
    with pytest.raises(RegistryUnavailable):
        store.pull_image(image.reference)
    registry.heal()
    counts(registry)

    store.pull_image(image.reference)

    seen = counts(registry)
    assert seen.blobs <= 2, "the layer, and the config where it had not come"
    assert layer.size - 2_000_000 <= seen.blob_bytes <= layer.size - 2_000_000 + image.config.size


def test_a_body_that_breaks_in_mid_pull_costs_no_byte_twice(store, registry):
    image = ImageBuilder(registry, "app").noise_layer(3_000_000).push("1")
    registry.inject(f"*/blobs/{image.layers[0].digest}", faults.truncate(2_000_000), times=1)

    store.pull_image(image.reference)

    assert counts(registry) == Counts(0, 1, 3, 0, 0, bytes_of(image))


def test_a_registry_without_range_costs_the_blob_once_more(store, registry):
    image = ImageBuilder(registry, "app").noise_layer(3_000_000).push("1")
    pattern = f"*/blobs/{image.layers[0].digest}"
    registry.inject(pattern, faults.no_range())
    registry.inject(pattern, faults.truncate(2_000_000), times=1)

    store.pull_image(image.reference)

    assert counts(registry) == Counts(0, 1, 3, 0, 0, bytes_of(image) + 2_000_000)


def test_a_mirror_that_has_everything_costs_the_registry_nothing(open_store, registry, tmp_path):
    with FaultRegistry() as mirror:
        image = layered(mirror, top=b"one").push("1")
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example/hosts.toml").write_text(f'server = "{registry.url}"\n[host."{mirror.url}"]\n')
        store = open_store(registry=RegistryClient(hosts_dir=tmp_path))

        store.pull_image("r.example/app:1")

        assert counts(mirror) == Counts(0, 1, 4, 0, 0, bytes_of(image))
        assert registry.requests == []
