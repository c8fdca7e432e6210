"""
The filesystems that people have, each with its own idea of what a file occupies, and when that is known.
"""

from __future__ import annotations

import contextlib
import os

import pytest

from support import layers as entries
from support.images import ImageBuilder, noise
from support.layers import DIRECTORY, LINK, SYMLINK, differences, snapshot
from support.oddlayers import ONE_USER_MORE
from support.store import check_root
from support.volumes import may_mount, mounted_volume
from ullage import ImageService, RegistryClient
from ullage.digest import digest_of

pytestmark = pytest.mark.external

FILESYSTEMS = {
    "ext4": ("ext4", ""),
    "xfs": ("xfs", ""),
    "btrfs": ("btrfs", ""),
    "btrfs-compressed": ("btrfs", "compress-force=zstd"),
}
MIB = 1 << 20


def _entry_with_acl(name):
    acls = {
        b"SCHILY.xattr.system.posix_acl_access": ONE_USER_MORE,
        b"SCHILY.xattr.system.posix_acl_default": ONE_USER_MORE,
    }
    return entries.pax(acls) + entries.entry(name, DIRECTORY, mode=0o750)


@pytest.fixture
def image(registry):
    """
    Small files and large ones, one that replaces another, one that goes, holes, links and ACLs.
    """
    lower = entries.tar(
        *(entries.entry(b"small/%d" % number, data=noise(number * 300, "s")) for number in range(80)),
        entries.entry(b"large", data=noise(3 * MIB + 17, "large")),
        entries.entry(b"zeros", data=bytes(2 * MIB)),
        entries.entry(b"odd", data=noise(100_000, "odd")),
        entries.entry(b"gone", data=noise(MIB, "gone")),
        _entry_with_acl(b"acl"),
        _entry_with_acl(b"small"),
        entries.entry(b"acl/inside", data=b"inside"),
    )
    upper = entries.tar(
        entries.entry(b"odd", data=noise(90_000, "first")),
        entries.entry(b"odd", data=noise(120_000, "second")),
        entries.entry(b".wh.gone"),
        entries.entry(b"one-more-name", LINK, link=b"large"),
        entries.entry(b"link", SYMLINK, link=b"t" * 900),
    )
    builder = ImageBuilder(registry, "filesystems")
    anew = entries.tar(entries.entry(b"acl/inside", data=b"again"), entries.entry(b"small", DIRECTORY))
    for layer in (lower, upper, anew):
        builder.raw_layer(layer, diff_id=digest_of(layer))
    return builder.push("1")


@contextlib.contextmanager
def _store_on(kind, folder, **volume):
    if not may_mount(kind):
        pytest.skip(f"needs the right to mount, and mkfs.{kind}")
    with (
        mounted_volume(kind, folder, mib=64, **volume) as point,
        ImageService.open(point / "store", registry=RegistryClient(plain_http=True)) as store,
    ):
        yield store


@pytest.mark.parametrize("name", FILESYSTEMS)
def test_what_trees_occupy_is_what_is_charged_on_every_filesystem(name, image, tmp_path):
    with _store_on(FILESYSTEMS[name][0], tmp_path, options=FILESYSTEMS[name][1]) as store:
        store.pull_image(image.reference, unpack=True)

        assert store.check(digests=True) == []
        check_root(store.root)


def _scatter(folder):
    """
    Fill a filesystem with files of four blocks each, and give back every second of them.
    """
    numbers = []
    with contextlib.suppress(OSError):
        for number in range(1 << 20):
            with (folder / str(number)).open("xb", buffering=0) as file:
                file.write(bytes(4096))
                numbers.append(number)
    os.sync()
    for number in numbers[::2]:
        (folder / str(number)).unlink()
    os.sync()


def test_what_lists_the_pieces_of_a_scattered_file_is_charged_too(image, tmp_path):
    with _store_on("ext4", tmp_path, inodes=30_000) as store:
        store.pull_image(image.reference)
        fillers = store.root.parent / "fillers"
        fillers.mkdir()
        _scatter(fillers)

        store.make_trees(image.reference)

        large = next((store.root / "trees/sha256").glob("*/large")).stat()
        assert large.st_blocks * 512 > large.st_size + 4096, "it is not scattered"
        assert store.check() == []
        check_root(store.root)


@pytest.mark.parametrize("name", ["xfs", "btrfs"])
def test_a_directory_is_the_same_on_whatever_filesystem_its_trees_are(name, image, store, tmp_path):
    """
    ACLs among what is the same: xfs shows them to root under a name of its own as well.
    """
    store.pull_image(image.reference)
    store.unpack(image.reference, tmp_path / "of-blobs")

    with _store_on(name, tmp_path) as other:
        other.pull_image(image.reference)
        other.unpack(image.reference, other.root.parent / "of-blobs-here")
        other.make_trees(image.reference)
        other.unpack(image.reference, tmp_path / "of-trees")

    made = snapshot(tmp_path / "of-trees", times=True)
    assert differences(made, snapshot(tmp_path / "of-blobs", times=True)) == {}
    assert set(made["acl"]["xattr"]) == {"system.posix_acl_access", "system.posix_acl_default"}
