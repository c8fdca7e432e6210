"""
A filesystem that is full to the last block, or to the last inode.

What frees room works there, what needs room says so with its numbers, and nothing that was here is harmed.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import layers as entries
from support import registry as faults
from support.images import ImageBuilder
from support.store import check_root, files_of, query, usage
from support.volumes import may_mount, mounted_volume
from support.worker import Refused, Worker, run_python
from ullage import DiskFull, ImageService, PullCancelled, RegistryClient, StorageLimitExceeded
from ullage.digest import digest_of

LAYER_BYTES = 300_000
#: Said to the run of these tests inside a namespace of its own, where a tmpfs may be mounted by anybody.
_INSIDE = "ULLAGE_IN_A_NAMESPACE"


class Volume:
    """
    A small filesystem with the root of a store in it.
    """

    def __init__(self, point):
        self.point = point
        self.root = point / "store"
        self._fillers = 0
        self._open = []

    def open(self, **options):
        client = RegistryClient(plain_http=True, connect_timeout_seconds=2.0, read_timeout_seconds=10.0)
        service = ImageService.open(self.root, registry=client, **options)
        self._open.append(service)
        return service

    def close(self):
        for each in self._open:
            each.close()
        self.make_room()
        check_root(self.root, limit_was_lowered=True)

    def fill(self):
        """
        To the last block: what is left afterwards is less than a file can have.
        """
        for size in (1 << 20, 4096, 1):
            for _ in range(64):
                if not self._fill_with(size):
                    break
        assert os.statvfs(self.point).f_bavail <= 1

    def _fill_with(self, size):
        """
        One more file of blocks of *size*; whether anything of it found room.
        """
        self._fillers += 1
        written = 0
        with (self.point / f"filler-{self._fillers}").open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    written += file.write(b"x" * size)
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
        return written

    def fill_inodes(self):
        with pytest.raises(OSError, match="No space left"):
            self._touch_for_ever()

    def _touch_for_ever(self):
        while True:
            self._fillers += 1
            (self.point / f"filler-{self._fillers}").touch()

    def make_room(self):
        for each in self.point.glob("filler-*"):
            each.unlink()

    @property
    def free_bytes(self):
        figures = os.statvfs(self.point)
        return figures.f_bavail * figures.f_frsize

    @property
    def has_headroom(self):
        return (self.root / "headroom").exists()


def _may_mount(kind):
    # In a user namespace of our own nobody may mount a disk, and everybody a tmpfs.
    return kind == "tmpfs" if _INSIDE in os.environ else may_mount(kind)


@pytest.fixture(params=["ext4", "tmpfs"])
def make_volume(request, tmp_path):
    """
    Mounts a filesystem of a few MiB; gone when the test is over, and the store in it whole.
    """
    if not _may_mount(request.param):
        pytest.skip(
            f"no right to mount {request.param} here; test_..._in_a_namespace_of_its_own does what it can"
        )
    with contextlib.ExitStack() as mounted:

        def make(*, mib=32, inodes=None):
            volume = Volume(
                mounted.enter_context(mounted_volume(request.param, tmp_path, mib=mib, inodes=inodes))
            )
            mounted.callback(volume.close)
            return volume

        yield make


@pytest.fixture
def volume(make_volume):
    return make_volume()


@pytest.fixture
def images(registry):
    """
    Three images: two share a layer, all have one of their own.
    """
    return [
        ImageBuilder(registry, name).noise_layer(LAYER_BYTES, seed).noise_layer(LAYER_BYTES, name).push("1")
        for name, seed in (("one", "shared"), ("two", "shared"), ("three", "other"))
    ]


@pytest.fixture
def full(volume, images):
    """
    A volume with the three images in its store, closed; one has two tags. Then filled to the last block.
    """
    with volume.open() as store:
        for each in images:
            store.pull_image(each.reference)
        store.tag_image(images[0].reference, f"{images[0].name}:again")
    assert volume.has_headroom
    volume.fill()
    return volume


def _look(worker, images):
    """
    What changes nothing, or notes at most that it was asked.
    """
    assert [each["image_id"] for each in worker.call("list_images")] == [each.image_id for each in images]
    assert worker.call("image_status", images[1].reference)["image_id"] == images[1].image_id
    assert worker.call("pull_image", images[2].reference)["image_id"] == images[2].image_id
    assert worker.call("collect", dry_run=True)["images"] == []
    assert worker.call("check", digests=True) == []
    assert {"fail"}.isdisjoint(each["level"] for each in worker.call("doctor"))


def _remove(worker, images):
    worker.call("remove_image", images[0].reference)

    left = {blob.digest: blob.size for each in images[1:] for blob in each.blobs}
    assert worker.call("used_storage") == sum(left.values())
    assert [each["image_id"] for each in worker.call("list_images")] == [each.image_id for each in images[1:]]


def _untag(worker, images):
    status = worker.call("untag_image", f"{images[0].name}:again")

    assert status["repo_tags"] == [images[0].reference]


def _set_limits(worker, images):
    worker.call("set_max_storage", 1000)
    worker.call("set_min_free", 4096)

    assert worker.call("usage")["max_bytes"] == 1000
    assert worker.call("min_free") == 4096
    assert worker.call("image_count") == 3


def _evict(worker, images):
    evicted = worker.call("set_max_storage", 1000, evict=True)

    assert [each["image_id"] for each in evicted] == [each.image_id for each in images]
    assert worker.call("used_storage") == 0


def _collect(worker, images):
    assert worker.call("collect")["images"] == []
    assert worker.call("image_count") == 3


def _repair(worker, images):
    assert worker.call("check", repair=True) == []


DEEDS = (_look, _remove, _untag, _set_limits, _evict, _collect, _repair)
every_deed = pytest.mark.parametrize("do", DEEDS, ids=[each.__name__.strip("_") for each in DEEDS])


@every_deed
def test_a_new_process_opens_a_store_on_a_full_disk_and_does_what_needs_no_bytes(do, full, images):
    with Worker(full.root) as worker:
        assert not full.has_headroom

        do(worker, images)


@every_deed
def test_a_process_whose_disk_fills_up_does_what_needs_no_bytes(do, volume, images):
    """
    In the WAL that is there, or with what was set aside.
    """
    with volume.open() as store:
        for each in images:
            store.pull_image(each.reference)
        store.tag_image(images[0].reference, f"{images[0].name}:again")
    with Worker(volume.root) as worker:
        volume.fill()

        do(worker, images)


def test_everything_can_be_removed_from_a_full_disk_and_the_room_is_there(full, images):
    free = full.free_bytes

    with Worker(full.root) as worker:
        for each in images:
            worker.call("remove_image", each.reference)

        assert files_of(full.root, "blobs", "trash") == {}
        assert full.free_bytes >= free + sum({b.digest: b.size for i in images for b in i.blobs}.values())


def test_what_was_given_up_is_set_aside_again_when_there_is_room(full, images):
    with Worker(full.root) as worker:
        worker.call("remove_image", images[0].reference)
        assert not full.has_headroom
        full.make_room()
        worker.call("remove_image", images[1].reference)

    assert full.has_headroom
    assert full.open().check() == []


def test_without_headroom_a_full_disk_is_said_to_be_full_and_nothing_changes(full, images):
    full.open().close()  # what was set aside went into opening
    full.fill()

    with pytest.raises(DiskFull):
        full.open()

    full.make_room()
    assert {each.image_id for each in full.open().list_images()} == {each.image_id for each in images}


# ---------------------------------------------------------------------- pulls


def test_a_pull_that_does_not_fit_on_the_disk_is_refused_with_numbers_before_the_first_byte(volume, registry):
    store = volume.open()
    large = ImageBuilder(registry, "large").noise_layer(64 << 20).push("1")

    with pytest.raises(DiskFull, match=f"needed {large.size} bytes, free [0-9]+"):
        store.pull_image(large.reference)

    assert registry.blob_bytes_sent == 0
    assert volume.open().usage().reserved_bytes == 0


def test_what_is_to_stay_free_stays_free(volume, images, registry):
    store = volume.open(min_free=volume.free_bytes - 100_000)

    with pytest.raises(DiskFull, match=f"needed {images[0].size} bytes.* are to stay free") as refused:
        store.pull_image(images[0].reference)

    assert str(store.min_free()) in str(refused.value)
    assert registry.blob_bytes_sent == 0
    store.set_min_free(0)
    assert store.pull_image(images[0].reference).size == images[0].size


def test_the_floor_of_free_bytes_makes_room_by_eviction_too(make_volume, registry):
    volume = make_volume(mib=32)
    store = volume.open()
    old, new = (ImageBuilder(registry, name).noise_layer(4 << 20, name).push("1") for name in ("old", "new"))
    store.pull_image(old.reference)
    store.set_min_free(volume.free_bytes - 1_000_000)

    with pytest.raises(DiskFull):
        store.pull_image(new.reference)
    store.pull_image(new.reference, evict=True)

    assert [each.image_id for each in store.list_images()] == [new.image_id]
    assert volume.free_bytes >= store.min_free()


def test_a_pull_whose_disk_fills_up_ends_in_disk_full_and_is_resumed_later(volume, registry):
    image = ImageBuilder(registry, "app").noise_layer(2 << 20).push("1")
    (layer,) = image.layers
    stalled = registry.inject(f"*/blobs/{layer.digest}", faults.stall(1 << 20), times=1)
    with Worker(volume.root) as worker:
        worker.send("pull_image", image.reference)
        stalled.wait_reached()
        _wait_for(lambda: sum(files_of(volume.root, "ingest").values()) > 1 << 20)
        volume.fill()
        stalled.release()

        with pytest.raises(Refused) as refused:
            worker.answer()

        assert refused.value.kind == "DiskFull"
        ((digest, received),) = query(volume.root, "SELECT digest, received_bytes FROM ingests")
        assert digest == layer.digest
        assert files_of(volume.root, "ingest") == {f"ingest/{layer.digest.encoded}": received}
        assert usage(volume.root)["reserved_bytes"] == received >= 1 << 20
        assert usage(volume.root)["used_bytes"] == 0
        assert worker.call("check", digests=True) == []

        volume.make_room()
        assert worker.call("pull_image", image.reference)["image_id"] == image.image_id

    assert f"bytes={received}-" in [
        each.range for each in registry.requests if each.path.endswith(layer.digest)
    ]


def test_resumable_bytes_give_way_on_a_full_disk(volume, registry):
    image = ImageBuilder(registry, "app").noise_layer(2 << 20).push("1")
    registry.inject("*/blobs/*", faults.reset())
    registry.inject(f"*/blobs/{image.layers[0].digest}", faults.truncate(1 << 20), times=1)
    with Worker(volume.root) as worker:
        with pytest.raises(Refused, match="RegistryUnavailable"):
            worker.call("pull_image", image.reference)
        assert usage(volume.root)["reserved_bytes"] >= 1 << 20
        volume.fill()

        reclaimed = worker.call("collect")

        assert reclaimed["partial_bytes"] >= 1 << 20
        assert files_of(volume.root, "ingest", "trash") == {}
        assert usage(volume.root)["reserved_bytes"] == 0


# ---------------------------------------------------------------------- rows


def test_a_transaction_that_finds_no_room_leaves_the_database_as_it_was(full, images):
    """
    SQLITE_FULL, at whatever statement it comes.
    """
    store = full.open()
    full.fill()
    before = store.list_images()

    number = _until_full(lambda each: store.tag_image(images[0].reference, f"{images[0].name}:tag-{each}"))

    assert query(full.root, "PRAGMA integrity_check") == [("ok",)]
    assert store.check(digests=True) == []
    added = query(full.root, "SELECT count(*) FROM repo_tags WHERE reference LIKE '%:tag-%'")
    assert added == [(number,)]
    assert [each.id for each in store.list_images()] == [each.id for each in before]
    full.make_room()
    store.tag_image(images[0].reference, f"{images[0].name}:tag-{number}")


def test_a_registered_image_that_finds_no_room_is_not_half_there(full):
    store = full.open()
    full.fill()

    number = _until_full(lambda each: store.register_image(f"registered-{each}", size=10))

    assert store.usage().registered_bytes == 10 * number
    assert store.check() == []


# ---------------------------------------------------------------------- inodes


@pytest.fixture
def out_of_inodes(make_volume, images):
    volume = make_volume(inodes=128)
    with volume.open() as store:
        for each in images:
            store.pull_image(each.reference)
        store.tag_image(images[0].reference, f"{images[0].name}:again")
    volume.fill_inodes()
    assert volume.free_bytes > 1 << 20
    return volume


@every_deed
def test_without_a_free_inode_a_new_process_does_what_needs_no_file(do, out_of_inodes, images):
    with Worker(out_of_inodes.root) as worker:
        do(worker, images)


def test_a_pull_without_a_free_inode_is_disk_full_and_leaves_nothing(out_of_inodes, registry):
    image = ImageBuilder(registry, "new").noise_layer(LAYER_BYTES, "new").push("1")
    store = out_of_inodes.open()
    out_of_inodes.fill_inodes()

    with pytest.raises(DiskFull):
        store.pull_image(image.reference)

    assert store.usage().reserved_bytes == 0
    assert store.check() == []
    out_of_inodes.make_room()
    assert store.pull_image(image.reference).image_id == image.image_id


# ---------------------------------------------------------------------- limits on the size of a file

_PULL_WITH_A_LIMIT = """
import resource, sys
from ullage import ImageError, ImageService, RegistryClient
root, reference, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ImageService.open(root, registry=RegistryClient(plain_http=True)) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        store.pull_image(reference)
    except ImageError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("limit", [200_000, 20_000])
def test_a_limit_on_the_size_of_files_is_an_error_of_the_store_and_harms_nothing(
    limit, open_store, root, registry
):
    """
    ``ulimit -f``: EFBIG, for a blob that is too large or for SQLite's own files.
    """
    image = ImageBuilder(registry, "app").noise_layer(LAYER_BYTES).push("1")

    said = run_python(_PULL_WITH_A_LIMIT, root, image.reference, limit)

    assert said.split()[0] in ("StoreError", "DiskFull"), said
    store = open_store()
    assert store.check(digests=True) == []
    assert store.usage().used_bytes == 0
    assert store.usage().reserved_bytes == sum(files_of(root, "ingest").values()) <= limit
    assert store.pull_image(image.reference).image_id == image.image_id


def test_the_limit_of_the_store_comes_before_that_of_the_disk(volume, registry):
    large = ImageBuilder(registry, "large").noise_layer(1 << 20).push("1")
    store = volume.open(max_storage=1000)

    with pytest.raises(StorageLimitExceeded):
        store.pull_image(large.reference)


def test_a_tree_takes_no_room_that_was_found_for_a_blob_beside_it(make_volume, registry, caplog, wait_until):
    """
    Layers are unpacked while others come: what of those is still to be written is not free.
    """
    caplog.set_level(logging.DEBUG, "ullage.unpacker")
    volume = make_volume(mib=24)
    builder = ImageBuilder(registry, "both")
    cancel = threading.Event()
    with volume.open() as store:
        tar = entries.tar(
            *(
                entries.entry(b"%d" % each, data=bytes(1 << 20))
                for each in range((volume.free_bytes >> 20) - 4)
            )
        )
        builder.raw_layer(gzip.compress(tar), diff_id=digest_of(tar))
        image = builder.noise_layer(10 << 20).push("1")
        registry.inject(f"*/blobs/{image.layers[1].digest}", faults.stall(after=1000))
        with ThreadPoolExecutor(1) as pool:
            pull = pool.submit(store.pull_image, image.reference, unpack=True, cancel=cancel)
            try:
                # By what is known of the other layer, it is refused now, or once more when all of that is here.
                wait_until(lambda: pull.done() or "unpacking again" in caplog.text)
            finally:
                cancel.set()

            assert isinstance(pull.exception(10), DiskFull | PullCancelled)


# ---------------------------------------------------------------------- where nobody may mount


if not may_mount("tmpfs"):

    @pytest.mark.timeout(600)
    def test_all_of_it_on_a_tmpfs_in_a_namespace_of_its_own(tmp_path):
        """
        This file once more, where any user is root of a namespace.
        """
        unshare = ["unshare", "--map-root-user", "--mount"]
        if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
            assert not os.environ.get("CI"), "neither root nor a namespace: full disks are not tested"
            pytest.skip("neither root nor a user namespace can be had here")
        done = subprocess.run(
            [
                *unshare,
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                __file__,
            ],
            env=dict(os.environ) | {_INSIDE: "1", "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]


def _wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.005)


def _until_full(act):
    """
    The first number that *act* found no room for.
    """
    for number in range(10_000):
        try:
            act(number)
        except DiskFull:
            return number
    raise AssertionError("the disk is not full")


# ---------------------------------------------------------------------- trees


def _bomb(registry, *tar_entries):
    tar = entries.tar(*tar_entries)
    return ImageBuilder(registry, "bomb").raw_layer(gzip.compress(tar), diff_id=digest_of(tar)).push("1")


@pytest.mark.parametrize("of", ["bytes", "inodes"])
def test_trees_that_do_not_fit_on_the_disk_leave_it_as_it_was(of, make_volume, registry):
    """
    The limit would allow them. Bombs: what comes over the network is small.
    """
    volume = make_volume(inodes=700 if of == "inodes" else None)
    if of == "bytes":
        bomb = _bomb(registry, *(entries.entry(b"%d" % n, data=bytes(1 << 20)) for n in range(40)))
    else:
        bomb = _bomb(registry, *(entries.entry(b"%d" % n) for n in range(1_000)))
    store = volume.open()
    pulled = store.pull_image(bomb.reference)
    before, free = usage(volume.root), volume.free_bytes

    for _ in range(2):
        with pytest.raises(DiskFull):
            store.make_trees(pulled)

    assert usage(volume.root) == before
    assert volume.free_bytes > free - (2 << 20)
    with pytest.raises(DiskFull):
        store.pull_image(f"{bomb.name}@{bomb.digest}", unpack=True)
    small = ImageBuilder(registry, "small").layer({"a": b"a"}).push("1")
    store.pull_image(small.reference, unpack=True)
    store.remove_image(pulled)
    assert [each.image_id for each in store.list_images()] == [small.image_id]
