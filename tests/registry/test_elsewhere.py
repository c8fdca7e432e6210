"""
Layers that a registry does not distribute: fetched from where their manifest says that they are.
"""

from __future__ import annotations

import pytest

from support import registry as faults
from support.images import ImageBuilder, noise
from support.proxy import Proxy
from support.registry import FaultRegistry
from ullage import (
    AuthConfig,
    ContentError,
    DigestMismatch,
    RegistryClient,
    RegistryUnavailable,
    SizeMismatch,
)
from ullage.reference import Reference

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
LAYER = noise(3_000_000, "foreign")


@pytest.fixture
def other():
    """
    Whoever has the layer. It is no registry to us, although it speaks like one.
    """
    with FaultRegistry() as other:
        other.add_blob(LAYER)
        yield other


def url_at(other, repo="files"):
    digest = other.add_blob(LAYER)
    return f"{other.url}/v2/{repo}/blobs/{digest}"


def push(registry, *urls, media_type=FOREIGN):
    """
    An image whose layer the registry does not have.
    """
    builder = ImageBuilder(registry, "app", docker=media_type == FOREIGN).raw_layer(
        LAYER, media_type=media_type
    )
    layer = builder.build().layers[0]
    image = builder.manifest_fields(layers=[layer.descriptor | {"urls": list(urls)}]).push("1")
    registry.inject(f"*/blobs/{layer.digest}", faults.status(404, "BLOB_UNKNOWN"))
    return image


@pytest.mark.parametrize(
    "media_type",
    [
        FOREIGN,
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ],
)
def test_a_layer_that_the_registry_lacks_comes_from_its_urls(media_type, store, registry, other):
    image = push(registry, url_at(other), media_type=media_type)

    status = store.pull_image(image.reference)

    with store.open_blob(image.layers[0].digest) as stored:
        assert stored.read() == LAYER
    assert status.size == image.size
    assert [each.path for each in other.requests] == [f"/v2/files/blobs/{image.layers[0].digest}"]


def test_a_layer_that_the_registry_has_is_not_asked_for_elsewhere(store, registry, other):
    image = push(registry, url_at(other))
    registry.heal()

    store.pull_image(image.reference)

    assert other.asked == []


def test_a_stranger_that_has_a_layer_is_shown_nothing_of_ours(open_store, other, tmp_path):
    """
    No credentials, not even when it asks for them, and no header that hosts.toml has for the registry.
    """
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as registry:
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example/hosts.toml").write_text(
            f'server = "{registry.url}"\n[header]\nx-secret = "hunter2"\n'
        )
        image = push(registry, url_at(other))
        other.inject("*", faults.status(401, headers={"WWW-Authenticate": 'Basic realm="give me"'}), times=1)
        store = open_store(registry=RegistryClient(hosts_dir=tmp_path, credentials=None))
        alice = AuthConfig("alice", "wonderland", server_address=registry.host)

        with pytest.raises(ContentError, match="it answered 401"):
            store.pull_image("r.example/app:1", auth=alice)
        store.pull_image("r.example/app:1", auth=alice)

    assert len(other.asked) == 2
    assert image.manifest.raw
    for asked in other.asked:
        assert {"authorization", "x-secret"} & set(asked.headers) == set()


def test_of_several_urls_the_first_that_has_it_serves(store, registry, other):
    with FaultRegistry() as empty:
        image = push(registry, f"{empty.url}/nothing", "ftp://r.example/layer", url_at(other))

        store.pull_image(image.reference)

        assert len(empty.asked) == 1
    assert other.count("GET") == 1


def test_a_body_from_elsewhere_goes_on_where_it_broke_off(store, registry, other):
    image = push(registry, url_at(other))
    other.inject("*", faults.truncate(2_000_000), times=1)
    other.inject("*", faults.status(503), times=1)

    store.pull_image(image.reference)

    assert [(each.status, each.range) for each in other.requests] == [
        (503, ""),
        (200, ""),
        (206, "bytes=2000000-"),
    ]
    assert other.blob_bytes_sent - other.requests[0].bytes_sent == len(LAYER)


def test_a_pull_that_failed_elsewhere_goes_on_in_the_next_one(store, registry, other):
    image = push(registry, url_at(other))
    other.inject("*", faults.status(503, headers={"Retry-After": "600"}))
    other.inject("*", faults.truncate(2_000_000), times=1)
    with pytest.raises(RegistryUnavailable):
        store.pull_image(image.reference)
    other.heal()
    other.requests.clear()

    store.pull_image(image.reference)

    assert [each.range for each in other.requests] == ["bytes=2000000-"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.wrong_bytes(), DigestMismatch),
        (faults.longer(), SizeMismatch),
        (faults.shorter(), SizeMismatch),
        (faults.status(404), ContentError),
        (faults.status(403), ContentError),
        (faults.redirect("file:///etc/passwd"), RegistryUnavailable),
        (faults.endless_body(), SizeMismatch),
    ],
)
def test_what_comes_from_elsewhere_is_held_to_its_digest_and_size(fault, expected, store, registry, other):
    image = push(registry, url_at(other))
    other.inject("*", fault)

    with pytest.raises(expected):
        store.pull_image(image.reference)

    assert store.list_images() == []
    usage = store.usage()
    assert (usage.used_bytes, usage.blob_count) == (0, 0)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/passwd", "neither http nor https"),
        ("ftp://r.example/layer", "neither http nor https"),
        ("//r.example/layer", "neither http nor https"),
        ("http://", "no host in the URL"),
        ("http://[", "a malformed URL"),
        ("https://user:hunter2@r.example/layer", "has credentials in it"),
    ],
)
def test_a_url_that_is_none_of_the_webs_is_refused_by_name(url, why, store, registry):
    image = push(registry, url)

    with pytest.raises(ContentError, match=why) as caught:
        store.pull_image(image.reference)

    assert "BLOB_UNKNOWN" in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]", "0.0.0.0", "169.254.169.254"])
def test_a_manifest_from_elsewhere_does_not_send_us_to_this_machine(host, registry, monkeypatch, other):
    port = other.host.rpartition(":")[2]
    image = push(registry, f"http://{host}:{port}/secret")
    layer = image.layers[0]
    with (
        Proxy({"r.example:80": registry.host}) as proxy,
        RegistryClient(plain_http=True, attempts=1) as client,
    ):
        monkeypatch.setenv("http_proxy", proxy.url)
        repo = client.repo(Reference.parse("r.example/app:1"))

        with pytest.raises(ContentError, match="is on this machine, and the registry is not"):
            repo.open_blob(layer.digest, size=layer.size, urls=(f"http://{host}:{port}/secret",))

    assert other.connections == 0


def test_a_manifest_may_name_no_more_than_a_few_urls(store, registry, other):
    image = push(registry, *(f"{other.url}/{number}" for number in range(100)))

    with pytest.raises(ContentError, match="it cannot be had"):
        store.pull_image(image.reference)

    assert other.count() == 8


def test_a_config_is_the_registrys_alone(store, registry, other):
    builder = ImageBuilder(registry, "app").layer({"a": b"a"})
    config = builder.build().config
    other.add_blob(config.raw)
    url = f"{other.url}/v2/files/blobs/{config.digest}"
    image = builder.manifest_fields(config=config.descriptor | {"urls": [url]}).push("1")
    registry.inject(f"*/blobs/{config.digest}", faults.status(404, "BLOB_UNKNOWN"))

    with pytest.raises(ContentError, match="BLOB_UNKNOWN"):
        store.pull_image(image.reference)

    assert other.asked == []


# ---------------------------------------------------------------------- again


def test_a_damaged_layer_that_the_registry_lacks_comes_from_its_urls_again(store, root, registry, other):
    image = push(registry, url_at(other))
    store.pull_image(image.reference)
    layer, manifest = image.layers[0], image.manifest
    path = root / "blobs/sha256" / layer.digest.encoded
    path.chmod(0o644)
    path.write_bytes(b"x" * layer.size)

    (problem,) = store.check(digests=True, repair=True)

    assert problem.repaired, problem.detail
    assert path.read_bytes() == LAYER
    assert store.history()[0].hosts == (other.host,)

    # Without the manifest, too, which says where: it is the registry's to give.
    path.unlink()
    (root / "blobs/sha256" / manifest.digest.encoded).unlink()

    assert [each.repaired for each in store.check(repair=True)] == [True, True]
    assert path.read_bytes() == LAYER


def test_a_damaged_layer_that_is_nowhere_is_said_to_be_lost_with_whom_was_asked(store, root, registry, other):
    image = push(registry, url_at(other))
    store.pull_image(image.reference)
    path = root / "blobs/sha256" / image.layers[0].digest.encoded
    path.unlink()
    other.inject("*", faults.status(410))

    (problem,) = store.check(repair=True)

    assert not problem.repaired
    assert "where else it should be" in problem.detail
    assert "it answered 410" in problem.detail
    path.write_bytes(LAYER)
    path.chmod(0o444)
