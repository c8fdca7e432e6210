"""
Quotas, and a filesystem that changes nothing in its place: room that is less than the filesystem's figures say.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess

import pytest

from support import layers as entries
from support import registry as faults
from support.images import ImageBuilder, noise
from support.store import check_root, files_of, usage
from support.volumes import may_mount, mounted_volume
from support.worker import Refused, Worker
from ullage import ImageService, RegistryClient
from ullage.digest import digest_of

pytestmark = pytest.mark.external

MIB = 1 << 20


@pytest.fixture
def volume(tmp_path):
    if not may_mount("btrfs"):
        pytest.skip("needs the right to mount, and mkfs.btrfs")
    with mounted_volume("btrfs", tmp_path, mib=256) as point:
        yield point


@pytest.fixture
def limited(volume):
    """
    The root of a store that a quota gives 24 MiB, on a filesystem that has ten times as many.
    """
    for command in (
        ["quota", "enable", volume],
        ["subvolume", "create", volume / "part"],
        ["qgroup", "limit", "24M", volume / "part"],
    ):
        subprocess.run(["btrfs", *command], check=True, capture_output=True)
    root = volume / "part/store"
    yield root
    check_root(root)


@pytest.fixture
def images(registry):
    return [ImageBuilder(registry, name).noise_layer(MIB, name).push("1") for name in ("one", "two", "three")]


def _open(root):
    return ImageService.open(root, registry=RegistryClient(plain_http=True))


def _fill(folder):
    """
    Until not even a small file finds room.
    """
    number = 0
    for size in (MIB, 4096, 4096):
        with contextlib.suppress(OSError):
            while True:
                number += 1
                with (folder / f"filler-{number}").open("xb", buffering=0) as file:
                    file.write(noise(size, str(number)))
    return number


def test_a_pull_that_a_quota_stops_keeps_what_came_and_removing_makes_room(limited, images, registry):
    large = ImageBuilder(registry, "large").noise_layer(40 * MIB).push("1")
    with Worker(limited) as worker:
        worker.call("pull_image", images[0].reference)

        with pytest.raises(Refused, match="quota") as refused:
            worker.call("pull_image", large.reference)

        assert refused.value.kind == "DiskFull"
        assert usage(limited)["reserved_bytes"] == sum(files_of(limited, "ingest").values()) > MIB
        assert files_of(limited, "leases", "trash") == {}
        assert worker.call("check", digests=True) == []
        worker.call("remove_image", images[0].reference)
        assert worker.call("collect")["partial_bytes"] > MIB
        assert usage(limited)["reserved_bytes"] == 0
        worker.call("pull_image", images[1].reference)


def test_trees_that_a_quota_stops_are_gone(limited, registry):
    tar = entries.tar(*(entries.entry(b"%d" % number, data=bytes(MIB)) for number in range(40)))
    bomb = ImageBuilder(registry, "bomb").raw_layer(gzip.compress(tar), diff_id=digest_of(tar)).push("1")
    with Worker(limited) as worker:
        for _ in range(2):
            with pytest.raises(Refused, match="quota") as refused:
                worker.call("pull_image", bomb.reference, unpack=True)

            assert refused.value.kind == "DiskFull"
            assert files_of(limited, "ingest", "trash", "leases", "trees") == {}
            assert usage(limited)["reserved_bytes"] == usage(limited)["used_bytes"] == 0
        worker.call("pull_image", bomb.reference)  # it comes in a few kilobytes


def test_a_snapshot_of_a_store_in_use_is_a_store_that_is_whole(limited, images, registry, wait_until):
    """
    As after a power failure: what its processes had under way is given back, what was done is there.
    """
    large = ImageBuilder(registry, "large").noise_layer(2 * MIB).noise_layer(MIB, "other").push("1")
    stalled = registry.inject(f"*/blobs/{large.layers[0].digest}", faults.stall(MIB), times=1)
    copy = limited.parent.with_name("copy")
    with Worker(limited) as worker:
        worker.call("pull_image", images[0].reference, unpack=True)
        worker.send("pull_image", large.reference, unpack=True)
        stalled.wait_reached()
        wait_until(lambda: sum(files_of(limited, "ingest").values()) > MIB)
        snapshot = ["btrfs", "subvolume", "snapshot", limited.parent, copy]
        subprocess.run(snapshot, check=True, capture_output=True)
        assert files_of(copy / "store", "leases") != {}
        with _open(copy / "store") as store:
            assert store.check(digests=True) == []
            assert [each.image_id for each in store.list_images()] == [images[0].image_id]
        check_root(copy / "store")
        with _open(copy / "store") as store:
            assert store.pull_image(large.reference, unpack=True).image_id == large.image_id
        check_root(copy / "store")
        stalled.release()
        assert worker.answer()["image_id"] == large.image_id


@pytest.mark.parametrize("opened", ["before", "after"])
@pytest.mark.parametrize("by", ["a quota", "the disk"])
def test_removing_works_where_nothing_more_can_be_written(by, opened, volume, images, request):
    """
    Neither does a change of shared memory that has no room kill anybody, which is what btrfs has for it.
    """
    root = request.getfixturevalue("limited") if by == "a quota" else volume / "store"
    with _open(root) as store:
        for each in images:
            store.pull_image(each.reference)
    with contextlib.ExitStack() as stack:
        if opened == "before":
            worker = stack.enter_context(Worker(root))
            worker.call("image_count")
        assert _fill(root.parent) > 10
        os.sync()
        if opened == "after":
            worker = stack.enter_context(Worker(root))

        assert len(worker.call("list_images")) == 3
        assert worker.call("image_status", images[1].reference)["image_id"] == images[1].image_id
        worker.call("remove_image", images[0].reference)
        assert worker.call("check", digests=True) == []
        assert worker.call("collect")["images"] == []
        assert worker.call("image_count") == 2
    check_root(root)


def test_a_database_that_a_quota_lets_not_grow_says_so(limited, images):
    with Worker(limited) as worker:
        worker.call("pull_image", images[0].reference)
        for name in ("headroom", "headroom.inode"):
            (limited / name).unlink()
        _fill(limited.parent)

        with pytest.raises(Refused, match=r"no room .* database: Disk quota exceeded") as refused:
            _tag_for_ever(worker, images[0])

        assert refused.value.kind == "DiskFull"
        for each in limited.parent.glob("filler-*"):
            each.unlink()
        assert worker.call("check") == []


def _tag_for_ever(worker, image):
    for number in range(10_000):
        worker.call("tag_image", image.reference, f"{image.name}:tag-{number}")
