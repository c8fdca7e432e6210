"""
Pulls that go badly: a typed exception with facts, and nothing left behind.

The fixture ``unchanged`` compares every row and every file before and after. What is allowed to stay are resumable
bytes of large blobs after a broken connection, a cancel or a crash: they are charged, and the next pull proves them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time

import pytest

from support import registry as faults
from support.images import OCI_INDEX, OCI_MANIFEST, ImageBuilder, json_of, noise, push_index
from support.registry import FaultRegistry
from support.store import files_of, query, snapshot, usage
from support.worker import Refused, Worker
from ullage import (
    AccessDenied,
    AuthConfig,
    AuthenticationFailed,
    ContentError,
    DigestMismatch,
    DiskFull,
    ImageService,
    InvalidManifest,
    InvalidReference,
    ManifestUnknown,
    NoMatchingPlatform,
    Platform,
    PullCancelled,
    RegistryClient,
    RegistryUnavailable,
    SizeMismatch,
    StorageLimitExceeded,
    StoreBusy,
    StoreError,
    StoreReadOnly,
    UnsupportedContent,
)
from ullage.locks import FileLock
from ullage.manifest import MAX_DOCUMENT_BYTES

HOST = str(Platform.of_host().normalised())
#: What is worth keeping of a blob that broke off.
RESUMABLE = 64 * 1024


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"etc/a": b"a"}).layer({"etc/b": b"b"}).push("1")


@pytest.fixture
def large(registry):
    """
    An image whose second layer is worth resuming.
    """
    return ImageBuilder(registry, "large").layer({"etc/a": b"a"}).raw_layer(noise(400_000)).push("1")


@pytest.fixture
def unchanged(store, root):
    """
    What the test does leaves not a row and not a file. There is an image before, which it must not lose.
    """
    with FaultRegistry() as other:
        there = ImageBuilder(other, "there").layer({"there": b"there"}).push("1")
        store.pull_image(there.reference)
    before = snapshot(root)
    yield
    assert snapshot(root) == before


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "ghcr.io/Upper/case",
        "127.0.0.1:1/App:1",
        "a b",
        "app:1\n",
        "app:",
        "app@sha256:1234",
        "app@sha256:" + "A" * 64,
        "app@md5:" + "0" * 32,
        "a" * 64,
        "https://example.com/app",
        "-app",
        "app:" + "t" * 129,
        "x" * 256,
        "x" * 100_000,
        "app\x00",
        "äpp",
        "\udcff",
    ],
    ids=lambda name: ascii(name)[:20],
)
def test_a_name_that_does_not_parse_is_refused_before_anything(name, store, unchanged, registry):
    with pytest.raises(InvalidReference) as raised:
        store.pull_image(name)

    assert raised.value.reference == name
    assert registry.requests == []


@pytest.mark.parametrize("name", [None, 7, b"app"])
def test_a_name_that_is_no_string_is_a_mistake_of_the_program(name, store, unchanged):
    with pytest.raises((TypeError, AttributeError)):
        store.pull_image(name)


@pytest.mark.parametrize(
    "platform", ["", "linux/", "/", "linux/amd64/v1/x", "*", "no such thing", "linux/ämd64"]
)
def test_a_platform_that_does_not_parse_is_refused_before_anything(
    platform, store, unchanged, registry, image
):
    with pytest.raises(InvalidReference):
        store.pull_image(image.reference, platform=platform)

    assert registry.requests == []


# ---------------------------------------------------------------------- what the registry answers


def test_an_unknown_tag(store, unchanged, image):
    with pytest.raises(ManifestUnknown, match="MANIFEST_UNKNOWN") as raised:
        store.pull_image(f"{image.name}:2")

    assert raised.value.reference == f"{image.name}:2"
    assert raised.value.status == 404
    assert raised.value.registry_errors == (("MANIFEST_UNKNOWN", "manifest unknown"),)


def test_an_unknown_repo(store, unchanged, registry):
    with pytest.raises(ManifestUnknown):
        store.pull_image(f"{registry.host}/nothing:1")


@pytest.mark.parametrize("auth", [None, AuthConfig(username="me", password="wrong")])
def test_credentials_that_are_missing_or_refused(auth, store, unchanged):
    with FaultRegistry(auth="token", username="me", password="secret") as registry:
        image = ImageBuilder(registry, "app").push("1")

        with pytest.raises(AuthenticationFailed) as raised:
            store.pull_image(image.reference, auth=auth)

    assert not isinstance(raised.value, AccessDenied)
    assert raised.value.status == 401
    assert "wrong" not in str(raised.value)


def test_good_credentials_without_the_right(store, unchanged, image, registry):
    registry.inject("*/manifests/*", faults.status(403, "DENIED", "not for you"))

    with pytest.raises(AccessDenied, match="not for you") as raised:
        store.pull_image(image.reference)

    assert raised.value.status == 403


def test_a_right_that_ends_at_the_blobs(store, unchanged, image, registry):
    registry.inject(f"*/blobs/{image.layers[1].digest}", faults.status(403, "DENIED"))

    with pytest.raises(AccessDenied):
        store.pull_image(image.reference)


def test_a_connection_that_is_refused(store, unchanged):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        host = "{}:{}".format(*gone.getsockname())

    with pytest.raises(RegistryUnavailable) as raised:
        store.pull_image(f"{host}/app:1")

    assert host in raised.value.url


def test_a_registry_that_is_silent(impatient_store, store, unchanged, image, registry):
    registry.inject("*", faults.stall())

    with pytest.raises(RegistryUnavailable):
        impatient_store.pull_image(image.reference)


def test_a_registry_that_falls_silent_in_a_layer(impatient_store, store, unchanged, image, registry):
    registry.inject(f"*/blobs/{image.layers[0].digest}", faults.stall(10))

    with pytest.raises(RegistryUnavailable):
        impatient_store.pull_image(image.reference)


@pytest.mark.parametrize("code", [500, 502, 503, 429])
def test_a_registry_that_is_overloaded(code, store, unchanged, image, registry):
    registry.inject("*/manifests/*", faults.status(code, headers={"Retry-After": "600"}))

    with pytest.raises(RegistryUnavailable) as raised:
        store.pull_image(image.reference)

    assert raised.value.status == code


# ---------------------------------------------------------------------- bodies


BODIES = {
    "truncated": (faults.truncate(20), RegistryUnavailable),
    "reset": (faults.reset(20), RegistryUnavailable),
    "nothing at all": (faults.truncate(0), RegistryUnavailable),
    "shorter": (faults.shorter(), SizeMismatch),
    "longer": (faults.longer(), SizeMismatch),
    "longer in chunks": (faults.chunked(b"more"), SizeMismatch),
    "endless": (faults.endless_body(), SizeMismatch),
    "ends early": (faults.until_close(20), SizeMismatch),
    "wrong bytes": (faults.wrong_bytes(), DigestMismatch),
    "wrong last byte": (faults.wrong_bytes(-1), DigestMismatch),
    "not there": (faults.status(404), ContentError),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_layer_whose_body_is_wrong(what, store, unchanged, image, registry):
    fault, expected = BODIES[what]
    layer = image.layers[1]
    registry.inject(f"*/blobs/{layer.digest}", fault)

    with pytest.raises(expected) as raised:
        store.pull_image(image.reference)

    if expected is SizeMismatch:
        assert raised.value.expected_bytes == layer.size
        assert raised.value.actual_bytes != layer.size
    if expected is DigestMismatch:
        assert raised.value.expected == layer.digest
        assert raised.value.actual != layer.digest


@pytest.mark.parametrize("what", BODIES)
def test_a_config_whose_body_is_wrong(what, store, unchanged, image, registry):
    fault, expected = BODIES[what]
    registry.inject(f"*/blobs/{image.config.digest}", fault)

    with pytest.raises(expected):
        store.pull_image(image.reference)


@pytest.mark.parametrize("what", BODIES)
def test_a_config_that_is_looked_at_before_the_pull_and_is_wrong(what, store, unchanged, registry):
    fault, expected = BODIES[what]
    image = ImageBuilder(registry, "app", platform="linux/s390x").push("1")
    registry.inject(f"*/blobs/{image.config.digest}", fault)

    with pytest.raises(expected):
        store.pull_image(image.reference, platform="linux/s390x")


def test_a_large_layer_with_wrong_bytes_leaves_none_of_them(store, unchanged, large, registry):
    registry.inject(f"*/blobs/{large.layers[1].digest}", faults.wrong_bytes(300_000))

    with pytest.raises(DigestMismatch):
        store.pull_image(large.reference)


def test_a_large_layer_that_is_longer_than_it_says_leaves_none_of_it(store, unchanged, large, registry):
    registry.inject(f"*/blobs/{large.layers[1].digest}", faults.chunked(b"more", chunk_bytes=10_000))

    with pytest.raises(SizeMismatch):
        store.pull_image(large.reference)


def test_a_connection_that_breaks_once_is_made_good_within_the_pull(store, large, registry):
    layer = large.layers[1]
    registry.inject(f"*/blobs/{layer.digest}", faults.reset(300_000), times=1)

    status = store.pull_image(large.reference)

    asked = [each for each in registry.requests if each.path.endswith(layer.digest)]
    assert status.size == large.size
    assert len(asked) == 2
    assert asked[1].range.startswith("bytes=")


# ---------------------------------------------------------------------- manifests


def serve(registry, raw, media_type=OCI_MANIFEST):
    registry.add_manifest("bad", raw, media_type, ["1"])
    return f"{registry.host}/bad:1"


DESCRIPTOR = {"mediaType": "application/x", "digest": "sha256:" + "0" * 64, "size": 1}

MANIFESTS = {
    "no JSON": (b"{", InvalidManifest),
    "no text": (b"\xff\xfe", InvalidManifest),
    "empty": (b"", InvalidManifest),
    "a list": (b"[]", InvalidManifest),
    "nested 100,000 deep": (b"[" * 100_000, InvalidManifest),
    "objects nested 100,000 deep": (b'{"a":' * 100_000, InvalidManifest),
    "nested in a field": (b'{"config":' + b"[" * 100_000 + b"]" * 100_000 + b"}", InvalidManifest),
    "over 4 MiB": (b'{"a":"' + b"x" * MAX_DOCUMENT_BYTES + b'"}', InvalidManifest),
    "no config": (json_of({"schemaVersion": 2, "layers": []}), InvalidManifest),
    "a negative size": (json_of({"config": {**DESCRIPTOR, "size": -1}}), InvalidManifest),
    "a size past any": (json_of({"config": {**DESCRIPTOR, "size": 2**63}}), InvalidManifest),
    "a size that is no number": (json_of({"config": {**DESCRIPTOR, "size": "1"}}), InvalidManifest),
    "two sizes for one digest": (
        json_of({"config": DESCRIPTOR, "layers": [{**DESCRIPTOR, "size": 2}]}),
        InvalidManifest,
    ),
    "a digest with a slash": (
        json_of({"config": {**DESCRIPTOR, "digest": "sha256:../../etc/passwd"}}),
        InvalidManifest,
    ),
    "a sha384 config": (
        json_of({"config": {**DESCRIPTOR, "digest": "sha384:" + "0" * 96}}),
        UnsupportedContent,
    ),
    "a sha384 layer": (
        json_of({"config": DESCRIPTOR, "layers": [{**DESCRIPTOR, "digest": "sha384:" + "0" * 96}]}),
        UnsupportedContent,
    ),
    "an md5 layer": (
        json_of({"config": DESCRIPTOR, "layers": [{**DESCRIPTOR, "digest": "md5:" + "0" * 32}]}),
        UnsupportedContent,
    ),
    "too many layers": (json_of({"config": DESCRIPTOR, "layers": [DESCRIPTOR] * 5000}), InvalidManifest),
    "an index in disguise": (json_of({"manifests": []}), InvalidManifest),
    "a key twice": (b'{"config": null, "config": {}}', InvalidManifest),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_is_none(what, store, unchanged, registry):
    raw, expected = MANIFESTS[what]

    with pytest.raises(expected):
        store.pull_image(serve(registry, raw))

    assert registry.count("GET", "*/blobs/*") == 0


def test_a_config_larger_than_any_config(store, unchanged, registry):
    config = {**DESCRIPTOR, "mediaType": "application/vnd.oci.image.config.v1+json", "size": 5 << 20}

    with pytest.raises(InvalidManifest, match="too large"):
        store.pull_image(serve(registry, json_of({"config": config})))

    assert registry.count("GET", "*/blobs/*") == 0


@pytest.mark.parametrize(
    "config",
    [b"", b"no JSON", b"[]", b'{"os": 1}', b'{"config": {"User": 1}}', b'{"rootfs": {"diff_ids": [1]}}'],
)
def test_an_image_whose_config_is_none(config, store, unchanged, registry):
    good = ImageBuilder(registry, "app").raw_layer(noise(100_000)).push()
    digest = registry.add_blob(config)
    content = json.loads(good.manifest.raw)
    content["config"] |= {"digest": digest, "size": len(config)}

    with pytest.raises(InvalidManifest):
        store.pull_image(serve(registry, json_of(content)))


@pytest.mark.parametrize(
    "media_type",
    ["text/html", "", "application/json", "application/vnd.docker.distribution.manifest.v1+prettyjws"],
)
def test_a_wrong_content_type(media_type, store, unchanged, image, registry):
    registry.inject("*/manifests/*", faults.headers(content_type=media_type))

    with pytest.raises(UnsupportedContent) as raised:
        store.pull_image(image.reference)

    assert raised.value.media_type == media_type


def test_a_manifest_whose_bytes_are_others(store, unchanged, image, registry):
    registry.inject("*/manifests/*", faults.wrong_bytes(-1), method="GET")

    with pytest.raises(ContentError):
        store.pull_image(image.reference)


@pytest.mark.parametrize("head", [True, False], ids=["HEAD", "GET alone"])
def test_a_digest_that_is_answered_with_another_image(head, store, image, registry):
    """
    What was asked for by digest is held to it, whether the other image is here already or not.
    """
    other = ImageBuilder(registry, "app").layer({"evil": b"evil"}).push("evil")
    if not head:
        registry.inject("*/manifests/*", faults.status(405), method="HEAD")
    lie = faults.answer(
        other.manifest.raw,
        headers={"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": other.manifest.digest},
    )
    registry.inject(f"*/manifests/{image.digest}", lie)
    if not head:
        registry.inject("*/manifests/*", faults.status(405), method="HEAD")

    with pytest.raises(DigestMismatch) as raised:
        store.pull_image(image.repo_digest)
    assert raised.value.expected == image.digest
    store.pull_image(other.reference)
    with pytest.raises(DigestMismatch):
        store.pull_image(image.repo_digest)

    (here,) = store.list_images()
    assert here.image_id == other.image_id
    assert image.repo_digest not in here.repo_digests


def test_a_digest_header_that_lies_about_the_body(store, unchanged, image, registry):
    registry.inject("*/manifests/*", faults.headers(docker_content_digest="sha256:" + "0" * 64), method="GET")
    registry.inject("*/manifests/*", faults.status(405), method="HEAD")

    with pytest.raises(DigestMismatch):
        store.pull_image(image.reference)


def test_a_reference_by_sha384_is_no_content(store, unchanged, registry):
    with pytest.raises((UnsupportedContent, ManifestUnknown)):
        store.pull_image(f"{registry.host}/app@sha384:{'0' * 96}")


# ---------------------------------------------------------------------- indexes


def test_an_index_without_our_platform(store, unchanged, registry):
    builders = [ImageBuilder(registry, "app", platform=each) for each in ("linux/s390x", "linux/riscv64")]
    push_index(registry, "app", builders, "1")

    with pytest.raises(NoMatchingPlatform) as raised:
        store.pull_image(f"{registry.host}/app:1")

    assert raised.value.platform == HOST
    assert raised.value.available == ("linux/s390x", "linux/riscv64")
    assert registry.count("GET", "*/blobs/*") == 0


def test_an_image_that_is_for_another_platform_than_was_asked_for(store, unchanged, image):
    with pytest.raises(NoMatchingPlatform) as raised:
        store.pull_image(image.reference, platform="linux/s390x")

    assert raised.value.available == ("linux/amd64",)


def test_an_empty_index(store, unchanged, registry):
    with pytest.raises(NoMatchingPlatform):
        store.pull_image(serve(registry, json_of({"manifests": []}), OCI_INDEX))


def entry(raw, digest, **fields):
    os_, architecture = HOST.split("/")[:2]
    return {
        "mediaType": OCI_INDEX,
        "digest": digest,
        "size": len(raw),
        "platform": {"os": os_, "architecture": architecture},
        **fields,
    }


def test_an_index_that_points_to_itself(store, unchanged, registry):
    """
    It cannot, by its digest: a registry that serves it so serves other bytes than it says.
    """
    digest = "sha256:" + "1" * 64
    raw = json_of({"mediaType": OCI_INDEX, "manifests": [entry(b" " * 300, digest)]})
    raw += b" " * (300 - len(raw))
    name = serve(registry, raw, OCI_INDEX)
    registry.inject(f"*/manifests/{digest}", faults.answer(raw, headers={"Content-Type": OCI_INDEX}))

    with pytest.raises(DigestMismatch):
        store.pull_image(name)


def test_indexes_that_never_end(store, unchanged, registry):
    raw = json_of({"manifests": []})
    for _ in range(20):
        digest = registry.add_manifest("bad", raw, OCI_INDEX, ["1"])
        raw = json_of({"mediaType": OCI_INDEX, "manifests": [entry(raw, digest)]})
    registry.add_manifest("bad", raw, OCI_INDEX, ["1"])

    with pytest.raises(InvalidManifest, match="deep"):
        store.pull_image(f"{registry.host}/bad:1")

    assert registry.count("GET") < 12


def test_an_index_that_is_wrong_about_the_size_of_its_manifest(store, unchanged, image, registry):
    wrong = entry(b"", image.manifest.digest, size=image.manifest.size + 1, mediaType=OCI_MANIFEST)
    registry.add_manifest("app", json_of({"manifests": [wrong]}), OCI_INDEX, ["wrong"])

    with pytest.raises(SizeMismatch):
        store.pull_image(f"{image.name}:wrong")


def test_a_manifest_that_is_wrong_about_the_size_of_a_blob_that_is_here(store, image, registry, root):
    store.pull_image(image.reference)
    before = snapshot(root)
    content = json.loads(image.manifest.raw)
    content["layers"][0]["size"] += 1

    with pytest.raises(SizeMismatch) as raised:
        store.pull_image(serve(registry, json_of(content)))

    assert raised.value.actual_bytes == image.layers[0].size
    assert snapshot(root) == before


# ---------------------------------------------------------------------- the caller, the clock and the limit


def test_a_limit_that_is_one_byte_too_small(store, unchanged, image, registry):
    store.set_max_storage(store.used_storage() + image.size - 1)
    registry.requests.clear()

    try:
        with pytest.raises(StorageLimitExceeded) as raised:
            store.pull_image(image.reference)
    finally:
        store.set_max_storage(ImageService.DEFAULT_MAX_STORAGE)

    assert raised.value.needed_bytes == image.size
    assert raised.value.available_bytes == image.size - 1
    assert registry.count("GET", "*/blobs/*") == 0


def test_a_pull_that_is_cancelled_before_it_starts(store, unchanged, image):
    cancel = threading.Event()
    cancel.set()

    with pytest.raises(PullCancelled):
        store.pull_image(image.reference, cancel=cancel)


@pytest.mark.parametrize("path", ["*/manifests/*", "*/blobs/*"])
def test_a_cancel_during_a_stall_ends_the_pull_promptly(path, store, unchanged, image, registry):
    stalled = registry.inject(path, faults.stall())
    cancel = threading.Event()

    def when_it_stalls():
        stalled.wait_reached()
        cancel.set()

    canceller = threading.Thread(target=when_it_stalls)
    canceller.start()
    began = time.monotonic()
    with pytest.raises(PullCancelled):
        store.pull_image(image.reference, cancel=cancel)

    canceller.join()
    assert time.monotonic() - began < 5.0, "the registry would have stalled for twenty"


@pytest.mark.parametrize("path", ["*/manifests/*", "*/blobs/*"])
def test_a_deadline_ends_a_pull_that_stalls(path, store, unchanged, image, registry):
    registry.inject(path, faults.stall())

    with pytest.raises(PullCancelled, match="deadline"):
        store.pull_image(image.reference, timeout=0.3)


def test_a_callback_that_raises_ends_the_pull_with_its_exception(store, unchanged, image):
    class Mistake(Exception):
        pass

    def mistaken(event):
        if event.done_bytes:
            raise Mistake

    with pytest.raises(Mistake):
        store.pull_image(image.reference, on_progress=mistaken)


def test_a_callback_that_raises_at_the_end_does_not_undo_what_is_done(store, image):
    class Mistake(Exception):
        pass

    def mistaken(event):
        if event.status.is_terminal:
            raise Mistake

    with pytest.raises(Mistake):
        store.pull_image(image.reference, on_progress=mistaken)

    assert store.image_status(image.reference).size == image.size


def test_control_c_leaves_nothing(store, unchanged, image, registry, root):
    stalled = registry.inject(f"*/blobs/{image.layers[0].digest}", faults.stall(10))

    with Worker(root) as worker:
        worker.send("pull_image", image.reference)
        stalled.wait_reached()
        worker.signal(signal.SIGINT)
        with pytest.raises(Refused) as raised:
            worker.answer()

    assert raised.value.kind == "KeyboardInterrupt"


# ---------------------------------------------------------------------- the root


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "root").write_text("a file")

    with pytest.raises(StoreError):
        ImageService.open(tmp_path / "root")

    assert (tmp_path / "root").read_text() == "a file"


def test_a_root_below_a_file(tmp_path):
    (tmp_path / "file").write_text("a file")

    with pytest.raises(StoreError):
        ImageService.open(tmp_path / "file" / "root")


def test_a_root_that_is_not_there_is_not_made_by_looking(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        ImageService.open(tmp_path / "root", read_only=True)

    assert not (tmp_path / "root").exists()


def test_a_lease_that_cannot_be_made_is_an_error_of_the_store(open_store, image, root):
    """
    As when the root is removed under a running host, or on a disk without inodes.
    """
    store = open_store()
    (root / "leases").rmdir()

    try:
        with pytest.raises(StoreError):
            store.pull_image(image.reference)
    finally:
        (root / "leases").mkdir()


def test_an_open_that_fails_leaves_no_service_that_warns(root):
    """
    A dead lease is to be ended, and another process holds the gate for too long.
    """
    with Worker(root) as worker:
        worker.call("register_image", "held:1", size=1)
        worker.call("hold", "held:1")
        worker.kill()
    gate = FileLock.try_acquire(root / "gate")

    try:
        with pytest.raises(StoreBusy) as raised:
            ImageService.open(root, busy_timeout_seconds=0.1)
    finally:
        gate.release()

    assert raised.value.waited_seconds >= 0.1
    ImageService.open(root).close()


@pytest.mark.parametrize("limit", [-1, 2**60 + 1, 2**80])
def test_an_absurd_limit_is_a_mistake_of_the_program(limit, store, unchanged, tmp_path):
    with pytest.raises(ValueError, match="max_storage"):
        store.set_max_storage(limit)
    with pytest.raises(ValueError, match="max_storage"):
        ImageService.open(tmp_path / "other", max_storage=limit)


def test_a_store_that_was_opened_to_look_pulls_nothing_and_asks_nobody(
    open_store, store, unchanged, image, registry
):
    looking = open_store(read_only=True)

    with pytest.raises(StoreReadOnly):
        looking.pull_image(image.reference)

    assert registry.requests == []


# ---------------------------------------------------------------------- a full disk


def test_a_full_disk_is_told_apart_from_the_limit(store, unchanged, image):
    store.set_min_free(1 << 60)

    try:
        with pytest.raises(DiskFull):
            store.pull_image(image.reference)
    finally:
        store.set_min_free(0)


# ---------------------------------------------------------------------- what may stay


TRANSPORT = {
    "truncated": faults.truncate(300_000),
    # Not a reset: it also throws away what the kernel had and nobody had read, so how much is left is chance.
    "stalled": faults.stall(300_000),
}


@pytest.mark.parametrize("what", TRANSPORT)
def test_large_partial_blobs_survive_a_broken_connection_charged_and_resumable(
    what, impatient_store, large, registry, root
):
    layer = large.layers[1]
    registry.inject(f"*/blobs/{layer.digest}", TRANSPORT[what], times=1)
    registry.inject(f"*/blobs/{layer.digest}", faults.status(503, headers={"Retry-After": "600"}))
    registry.inject(f"*/blobs/{layer.digest}", TRANSPORT[what], times=1)

    with pytest.raises(RegistryUnavailable):
        impatient_store.pull_image(large.reference)

    received = files_of(root, "ingest")[f"ingest/{layer.digest.encoded}"]
    assert RESUMABLE <= received <= 300_000
    assert list(files_of(root, "ingest")) == [f"ingest/{layer.digest.encoded}"]
    assert usage(root)["reserved_bytes"] == received
    assert usage(root)["used_bytes"] == 0
    assert query(root, "SELECT kind, bytes FROM reclaimable") == [("partial", received)]

    registry.heal()
    registry.requests.clear()
    status = impatient_store.pull_image(large.reference)

    asked = [each for each in registry.requests if each.path.endswith(layer.digest)]
    assert [each.range for each in asked] == [f"bytes={received}-"]
    assert asked[0].bytes_sent == layer.size - received
    assert status.size == impatient_store.used_storage() == large.size
    assert usage(root)["reserved_bytes"] == 0


def cancelled_at(store, image, registry, root, after):
    """
    A pull that is cancelled when so many bytes of the large layer are on disk.
    """
    layer = image.layers[-1]
    registry.inject(f"*/blobs/{layer.digest}", faults.stall(after))
    path = root / "ingest" / layer.digest.encoded
    cancel = threading.Event()

    def when_they_are_here():
        until = time.monotonic() + 10
        while not (path.exists() and path.stat().st_size == after) and time.monotonic() < until:
            cancel.wait(0.005)
        cancel.set()

    canceller = threading.Thread(target=when_they_are_here)
    canceller.start()
    with pytest.raises(PullCancelled):
        store.pull_image(image.reference, cancel=cancel)
    canceller.join()
    registry.heal()
    registry.requests.clear()


def test_large_partial_blobs_survive_a_cancel(store, large, registry, root):
    cancelled_at(store, large, registry, root, 200_000)
    assert usage(root)["reserved_bytes"] == 200_000

    store.pull_image(large.reference)

    asked = [each.range for each in registry.requests if each.path.endswith(large.layers[1].digest)]
    assert asked == ["bytes=200000-"]


@pytest.mark.parametrize(("after", "kept"), [(RESUMABLE - 1, 0), (RESUMABLE, RESUMABLE)])
def test_a_partial_blob_is_kept_from_64_kib_on(after, kept, store, large, registry, root):
    cancelled_at(store, large, registry, root, after)

    assert usage(root)["reserved_bytes"] == kept


@pytest.mark.parametrize("at", [0, 199_999])
def test_a_torn_partial_blob_is_noticed_and_fetched_anew(at, store, large, registry, root):
    cancelled_at(store, large, registry, root, 200_000)
    path = root / "ingest" / large.layers[1].digest.encoded
    with path.open("r+b") as file:
        file.seek(at)
        torn = bytes([file.read(1)[0] ^ 1])
        file.seek(at)
        file.write(torn)

    status = store.pull_image(large.reference)

    asked = [each.range for each in registry.requests if each.path.endswith(large.layers[1].digest)]
    assert asked == ["bytes=200000-", ""]
    assert status.size == large.size


def test_a_partial_blob_that_is_shorter_than_its_row_says_is_resumed_from_where_it_ends(
    store, large, registry, root
):
    cancelled_at(store, large, registry, root, 200_000)
    os.truncate(root / "ingest" / large.layers[1].digest.encoded, 150_000)

    store.pull_image(large.reference)

    asked = [each.range for each in registry.requests if each.path.endswith(large.layers[1].digest)]
    assert asked == ["bytes=150000-"]


def test_a_partial_blob_whose_file_is_gone_is_fetched_from_the_start(store, large, registry, root):
    cancelled_at(store, large, registry, root, 200_000)
    (root / "ingest" / large.layers[1].digest.encoded).unlink()

    assert store.pull_image(large.reference).size == large.size


def test_a_partial_blob_is_resumed_by_another_image_that_needs_it(store, large, registry, root):
    other = ImageBuilder(registry, "other").raw_layer(large.layers[1].raw).push("1")
    cancelled_at(store, large, registry, root, 200_000)

    store.pull_image(other.reference)

    asked = [each.range for each in registry.requests if each.path.endswith(large.layers[1].digest)]
    assert asked == ["bytes=200000-"]


def test_a_registry_that_cannot_resume_sends_the_whole_layer(store, large, registry, root):
    cancelled_at(store, large, registry, root, 200_000)
    registry.inject("*/blobs/*", faults.no_range())

    assert store.pull_image(large.reference).size == large.size


def test_collection_takes_partial_blobs_away(store, large, registry, root):
    cancelled_at(store, large, registry, root, 200_000)

    freed = store.collect()

    assert (freed.partial_count, freed.partial_bytes) == (1, 200_000)
    assert usage(root)["reserved_bytes"] == 0
    assert files_of(root, "ingest", "trash") == {}


def test_a_manifest_with_another_size_for_a_partial_blob_starts_it_over(store, large, registry, root):
    """
    One of the two is wrong. The partial blob of the wrong one is in nobody's way.
    """
    content = json.loads(large.manifest.raw)
    content["layers"][1]["size"] += 1000
    name = serve(registry, json_of(content))
    cancelled_at(store, large, registry, root, 200_000)

    with pytest.raises(SizeMismatch):
        store.pull_image(name)

    assert usage(root)["reserved_bytes"] == 0
    assert store.pull_image(large.reference).size == large.size


def test_a_client_that_was_closed_pulls_no_more(open_store, image):
    client = RegistryClient(plain_http=True)
    store = open_store(registry=client)
    client.close()

    with pytest.raises(PullCancelled):
        store.pull_image(image.reference)
