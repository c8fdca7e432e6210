"""
What it costs to pull from a store that is served, counted where it is served. The table in docs/serving.md has these.
"""

from __future__ import annotations

from collections import Counter

import pytest

from support.images import ImageBuilder
from ullage import ImageServer, PullPolicy, RegistryClient


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "team/app").layer({"a": b"a"}).noise_layer(300_000).push("1")


class Counted:
    """
    The store of this test, served under observation.
    """

    def __init__(self, store):
        self.seen = []
        self.server = ImageServer(store, hold_seconds=0.1, on_request=self.seen.append)

    @property
    def counts(self):
        """
        HEADs, GETs of manifests, GETs of blobs, bytes of blobs.
        """
        kinds = Counter((each.method, each.path.split("/")[-2]) for each in self.seen)
        blob_bytes = sum(
            each.bytes_sent for each in self.seen if "/blobs/" in each.path and each.status < 300
        )
        return kinds["HEAD", "manifests"], kinds["GET", "manifests"], kinds["GET", "blobs"], blob_bytes


@pytest.fixture
def counted(store, pulled):
    counted = Counted(store)
    with counted.server:
        yield counted


def content_bytes(image):
    return image.config.size + sum(layer.size for layer in image.layers)


def test_another_store_asks_once_for_each_thing(counted, open_store, tmp_path, pulled):
    other = open_store(tmp_path / "other")

    status = other.pull_image(f"{counted.server.host}/ghcr.io/team/app:1")

    assert status.image_id == pulled.image_id
    assert other.manifest(status.id).raw == pulled.manifest.raw
    assert counted.counts == (0, 1, 3, content_bytes(pulled))


def test_another_store_that_has_it_asks_once(counted, open_store, tmp_path, pulled):
    other = open_store(tmp_path / "other")
    other.pull_image(f"{counted.server.host}/ghcr.io/team/app:1")
    counted.seen.clear()

    other.pull_image(f"{counted.server.host}/ghcr.io/team/app:1", policy=PullPolicy.ALWAYS)

    assert counted.counts == (1, 0, 0, 0)


def test_a_layer_that_the_other_store_has_is_not_asked_for(counted, open_store, tmp_path, registry, pulled):
    shared = pulled.layers[1]
    first = ImageBuilder(registry, "first").raw_layer(shared.raw, diff_id=pulled.diff_ids[1]).push("1")
    other = open_store(tmp_path / "other")
    other.pull_image(first.reference)

    other.pull_image(f"{counted.server.host}/ghcr.io/team/app:1")

    assert counted.counts == (0, 1, 2, content_bytes(pulled) - shared.size)


def test_as_a_mirror_it_saves_the_registry_everything(counted, open_store, tmp_path, registry, store, pulled):
    """
    By the hosts.toml that containerd has: the registry in ``ns``.
    """
    store.tag_image("ghcr.io/team/app:1", f"{registry.host}/team/app:1")
    directory = tmp_path / "certs.d" / registry.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        f'[host."{counted.server.url}"]\ncapabilities = ["pull", "resolve"]\n'
    )
    client = RegistryClient(plain_http=True, hosts_dir=tmp_path / "certs.d", credentials=False)
    other = open_store(tmp_path / "other", registry=client)
    registry.requests.clear()

    status = other.pull_image(f"{registry.host}/team/app:1")

    assert status.image_id == pulled.image_id
    assert registry.requests == []
    assert counted.counts == (0, 1, 3, content_bytes(pulled))


def test_a_mirror_that_has_it_not_sends_the_client_on(counted, open_store, tmp_path, registry):
    missing = ImageBuilder(registry, "missing").layer({"b": b"b"}).push("1")
    directory = tmp_path / "certs.d" / registry.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'[host."{counted.server.url}"]\n')
    client = RegistryClient(plain_http=True, hosts_dir=tmp_path / "certs.d", credentials=False)
    other = open_store(tmp_path / "other", registry=client)

    assert other.pull_image(missing.reference).image_id == missing.image_id

    assert counted.counts[3] == 0
