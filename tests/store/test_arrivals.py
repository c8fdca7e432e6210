"""
Layers that are unpacked while they come: bytes that nobody has verified yet, and what they must not do.
"""

from __future__ import annotations

import functools
import gzip
import logging
import os
import threading
from pathlib import Path

import pytest

from support import layers as entries
from support.images import ImageBuilder, noise, push_index, tar_of
from support.registry import stall, wrong_bytes
from support.store import check_trees, query, snapshot
from ullage import DigestMismatch, EvictionPolicy, PullCancelled, PullStatus, UnsafeLayer
from ullage.digest import digest_of

FIRST = {"first": noise(300_000, "first")}
LARGE = FIRST | {"second": noise(900_000, "second")}
#: What a pull says when it throws a tree away that was made of bytes it could not verify.
AGAIN = "unpacking again, from whole blobs"


@pytest.fixture
def pulled():
    """
    Start a pull in a thread; what it raised comes back from ``join``.
    """

    class Pulled(threading.Thread):
        error = None

        def __init__(self, store, reference, **options):
            super().__init__()
            self._pull = functools.partial(store.pull_image, reference, unpack=True, **options)
            self.start()

        def run(self):
            try:
                self._pull()
            except Exception as error:  # noqa: BLE001 -- it comes back from join
                self.error = error

        def join(self, timeout=30.0):
            super().join(timeout)
            assert not self.is_alive()
            return self.error

    return Pulled


def files_of(store, reference):
    (lower, *_) = store.mount_spec(reference).lowerdirs
    return {name: (Path(lower) / name).read_bytes() for name in os.listdir(lower)}  # noqa: PTH208 -- names


def test_a_layer_is_unpacked_while_it_comes(store, root, registry, pulled, wait_until):
    image = ImageBuilder(registry, "large").layer(LARGE).push("1")
    fault = registry.inject(f"*/blobs/{image.layers[0].digest}", stall(after=800_000))

    pull = pulled(store, image.reference)
    tree = root / "trees/ingest" / image.diff_ids[0].partition(":")[2]
    wait_until((tree / "second").exists)
    assert query(root, "SELECT count(*) FROM trees") == [(0,)]
    fault.release()

    assert pull.join() is None
    assert files_of(store, image.reference) == LARGE
    assert registry.count("GET", f"*/blobs/{image.layers[0].digest}") == 1


@pytest.mark.parametrize("at", [40_000, 250_000])
def test_what_was_made_of_a_torn_blob_is_made_again(at, store, root, registry, pulled, wait_until, caplog):
    """
    An earlier attempt left bytes, and a power cut tore them: they are read early, and nothing of it stays.
    """
    image = ImageBuilder(registry, "large").layer(LARGE).push("1")
    blob = image.layers[0].digest
    cancel, fault = threading.Event(), registry.inject(f"*/blobs/{blob}", stall(after=300_000), times=1)
    pull = pulled(store, image.reference, cancel=cancel)
    wait_until(
        lambda: any(each.stat().st_size > at for each in (root / "ingest").glob(blob.partition(":")[2]))
    )
    cancel.set()
    assert isinstance(pull.join(), PullCancelled)
    (left,) = (root / "ingest").iterdir()
    torn = bytearray(left.read_bytes())
    torn[at] ^= 0xFF
    left.write_bytes(torn)
    caplog.set_level(logging.DEBUG, "ullage.unpacker")

    fault = registry.inject(f"*/blobs/{blob}", stall(after=len(LARGE["second"]) // 2), times=1)
    pull = pulled(store, image.reference)
    wait_until((root / "trees/ingest" / image.diff_ids[0].partition(":")[2] / "first").exists)
    fault.release()

    assert pull.join() is None
    assert AGAIN in caplog.text
    assert files_of(store, image.reference) == LARGE


def test_a_tree_that_was_filled_beside_a_torn_blob_is_made_again_too(
    store, root, registry, pulled, wait_until, caplog
):
    """
    It was whole, and what it takes beyond its need was given back; then all of the stack is thrown away.
    """
    image = ImageBuilder(registry, "large").layer(dict.fromkeys("abc", b"small")).layer(LARGE).push("1")
    blob = image.layers[1].digest
    cancel = threading.Event()
    registry.inject(f"*/blobs/{blob}", stall(after=300_000), times=1)
    pull = pulled(store, image.reference, cancel=cancel)
    wait_until(
        lambda: any(each.stat().st_size > 250_000 for each in (root / "ingest").glob(blob.partition(":")[2]))
    )
    cancel.set()
    assert isinstance(pull.join(), PullCancelled)
    left = root / "ingest" / blob.partition(":")[2]
    torn = bytearray(left.read_bytes())
    torn[40_000] ^= 0xFF
    left.write_bytes(torn)
    caplog.set_level(logging.DEBUG, "ullage.unpacker")

    fault = registry.inject(f"*/blobs/{blob}", stall(after=len(LARGE["second"]) // 2), times=1)
    pull = pulled(store, image.reference)
    wait_until(lambda: query(root, "SELECT count(*) FROM tree_ingests WHERE state = 'filled'") == [(1,)])
    fault.release()

    assert pull.join() is None
    assert AGAIN in caplog.text
    assert files_of(store, image.reference) == LARGE
    check_trees(root)


def test_what_a_layer_does_wrong_is_said_when_it_is_known_to_be_the_layer(store, root, registry, caplog):
    """
    The refusal of unverified bytes is worth nothing; of the same bytes, verified, it is the answer.
    """
    caplog.set_level(logging.DEBUG, "ullage.unpacker")
    tar = entries.tar(
        *(entries.entry(name.encode(), data=data) for name, data in LARGE.items()),
        entries.entry(b"evil", entries.LINK, link=b"../../etc/passwd"),
    )
    image = ImageBuilder(registry, "evil").raw_layer(gzip.compress(tar), diff_id=digest_of(tar)).push("1")
    before = snapshot(root)

    with pytest.raises(UnsafeLayer, match="evil"):
        store.pull_image(image.reference, unpack=True)

    assert snapshot(root) == before


def test_nothing_gives_way_to_bytes_that_nobody_has_verified(open_store, root, registry, pulled, wait_until):
    """
    A registry sends a bomb under a layer's digest. It ends as a digest that is wrong, and cost nobody his image.
    """
    store = open_store(evict=EvictionPolicy())
    old = ImageBuilder(registry, "old").noise_layer(300_000, "old").push("1")
    image = ImageBuilder(registry, "large").layer(LARGE).push("1")
    (layer,) = image.layers
    store.pull_image(old.reference)
    store.set_max_storage(store.usage().used_bytes + layer.size + (4 << 20))
    bomb = entries.tar(*(entries.entry(b"zeros%d" % each, data=bytes(1 << 20)) for each in range(12)))
    body = gzip.compress(bomb).ljust(layer.size, b"\0")

    fault = registry.inject(f"*/blobs/{layer.digest}", stall(after=layer.size - 1, body=body))
    pull = pulled(store, image.reference)
    wait_until(lambda: query(root, "SELECT max(reserved_bytes) > 3000000 FROM tree_ingests") == [(1,)])
    fault.release()

    assert isinstance(pull.join(), DigestMismatch)
    assert [each.image_id for each in store.list_images()] == [old.image_id]
    assert query(root, "SELECT count(*) FROM tree_ingests") == [(0,)]


def test_a_mirror_that_is_wrong_ends_as_it_does_without_unpacking(store, root, registry):
    image = ImageBuilder(registry, "large").layer(LARGE).push("1")
    registry.inject(f"*/blobs/{image.layers[0].digest}", wrong_bytes(500_000))
    before = snapshot(root)

    with pytest.raises(DigestMismatch):
        store.pull_image(image.reference, unpack=True)

    assert snapshot(root) == before


def interrupted(store, root, registry, blob, reference, pulled, wait_until):
    """
    What an attempt that was cancelled leaves of *blob*, to be torn.
    """
    cancel, fault = threading.Event(), registry.inject(f"*/blobs/{blob}", stall(after=300_000), times=1)
    pull = pulled(store, reference, cancel=cancel)
    left = root / "ingest" / blob.partition(":")[2]
    wait_until(lambda: left.exists() and left.stat().st_size > 250_000)
    cancel.set()
    assert isinstance(pull.join(), PullCancelled)
    fault.release()
    return left


def test_what_unverified_bytes_had_reserved_is_given_back_before_anything_gives_way(
    open_store, root, registry, pulled, wait_until
):
    """
    The upper of two layers is a bomb until its blob comes again; the lower one has its turn before it is made again.
    """
    store = open_store(evict=EvictionPolicy())
    old = ImageBuilder(registry, "old").noise_layer(300_000, "old").push("1")
    image = ImageBuilder(registry, "two").layer(LARGE).layer({"third": noise(900_000, "third")}).push("1")
    lower, upper = (each.digest for each in image.layers)
    store.pull_image(old.reference)
    store.set_max_storage(store.usage().used_bytes + image.size + (4 << 20))
    bomb = entries.tar(*(entries.entry(b"zeros%d" % each, data=bytes(1 << 20)) for each in range(12)))
    left = interrupted(store, root, registry, upper, image.reference, pulled, wait_until)
    left.write_bytes(gzip.compress(bomb))
    # What came of the lower one beside it, if that was enough to be kept.
    (root / "ingest" / lower.partition(":")[2]).unlink(missing_ok=True)

    faults = [registry.inject(f"*/blobs/{each}", stall(after=100), times=1) for each in (lower, upper)]
    pull = pulled(store, image.reference)
    wait_until(lambda: query(root, "SELECT max(reserved_bytes) > 3000000 FROM tree_ingests") == [(1,)])
    for fault in faults:
        fault.release()

    assert pull.join() is None
    assert store.image_status(old.reference) is not None
    assert store.history()[0].event == "pulled"
    check_trees(root)


def test_two_images_of_one_config_are_unpacked_as_one_is(store, registry):
    """
    The same layers compressed twice, as builders write them for old readers and new ones: both have one config.
    """
    tar = tar_of(LARGE)
    builders = [
        ImageBuilder(registry, "twice").raw_layer(gzip.compress(tar, level, mtime=0), diff_id=digest_of(tar))
        for level in (9, 1)
    ]
    images = push_index(registry, "twice", builders, "1")
    assert images[0].config.digest == images[1].config.digest

    told = []

    store.pull_image(
        images[0].reference,
        platform="all",
        unpack=True,
        on_progress=lambda step: told.append(step.status),
    )

    assert told.index(PullStatus.EXTRACTING) < told.index(PullStatus.COMPLETE), "not here without its trees"
    assert files_of(store, images[0].reference) == LARGE


@pytest.mark.parametrize("torn", [False, True])
def test_of_a_layer_that_is_there_twice_no_more_is_told_than_it_has(
    torn, store, root, registry, pulled, wait_until
):
    """
    Nor of one that is read twice.
    """
    image = ImageBuilder(registry, "large").layer(LARGE).layer({"above": b""}).layer(LARGE).push("1")
    if torn:
        left = interrupted(store, root, registry, image.layers[0].digest, image.reference, pulled, wait_until)
        left.write_bytes(bytes(left.stat().st_size))
    told = []

    store.pull_image(image.reference, unpack=True, on_progress=told.append)

    unpacked = [each for each in told if each.status is PullStatus.EXTRACTING and each.blob]
    assert all(each.blob_done_bytes <= each.blob_total_bytes for each in unpacked)
    last = {each.blob: each.blob_done_bytes for each in unpacked}
    assert last == {layer.digest: layer.size for layer in image.layers}
