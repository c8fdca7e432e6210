"""
A store on overlayfs, as in a container, and on what is mounted read-only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.images import ImageBuilder
from support.store import check_root, files_of
from support.volumes import may_mount, mounted_volume
from ullage import ImageService, RegistryClient, StoreError, StoreReadOnly

pytestmark = pytest.mark.external


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"a": b"a" * 10_000, "b": b"b"}).push("1")


@pytest.fixture
def volume(tmp_path):
    if not may_mount("ext4"):
        pytest.skip("needs the right to mount, and mkfs.ext4")
    with mounted_volume("ext4", tmp_path, mib=64, options="errors=remount-ro") as point:
        yield point


def _open(root, **how):
    return ImageService.open(root, registry=RegistryClient(plain_http=True), **how)


@contextlib.contextmanager
def _overlay(folder, lower):
    """
    What a container sees: *lower* is its image, and what it writes is beside.
    """
    for name in ("upper", "work", "merged"):
        (folder / name).mkdir(parents=True)
    dirs = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "-o", dirs, "overlay", folder / "merged"], check=True)
    try:
        yield folder / "merged"
    finally:
        subprocess.run(["umount", folder / "merged"], check=True)


def test_a_store_that_came_with_a_containers_image_is_a_store_like_others(volume, image):
    """
    Overlayfs moves no directory of a lower layer, and trees are directories.
    """
    lower = volume / "image"
    with _open(lower / "store") as store:
        store.pull_image(image.reference, unpack=True)
    with _overlay(volume / "container", lower) as merged, _open(merged / "store") as store:
        assert store.check(digests=True) == []

        store.remove_image(image.reference)

        assert files_of(store.root, "trees", "blobs") == {}
        assert store.used_storage() == 0
        store.pull_image(image.reference, unpack=True)
        store.close()
        check_root(merged / "store")
    with _open(lower / "store") as store:
        assert store.check(digests=True) == []


def test_where_overlayfs_is_stacked_too_high_it_is_said_what_to_do(volume, image):
    (volume / "image").mkdir()
    with _overlay(volume / "one", volume / "image") as one, _overlay(volume / "two", one) as two:
        with (
            _open(one / "store") as store,
            store.hold(store.pull_image(image.reference, unpack=True)) as held,
        ):
            (volume / "root").mkdir()
            with store.mounted(held, volume / "root") as root:
                assert (root / "b").read_bytes() == b"b"
        with _open(two / "another") as store:
            store.pull_image(image.reference, unpack=True)
            with (
                pytest.raises(StoreError, match="cannot mount") as refused,
                store.mounted(image.reference, one),
            ):
                pass
            assert "have it on a volume" in refused.value.hint


def _look(root, image):
    with _open(root, read_only=True) as store:
        assert store.image_status(image.reference).image_id == image.image_id
        assert store.check(digests=True) == []
        assert {each.subject: each.level for each in store.doctor()}.items() >= {
            ("journal", "ok"),
            ("limit", "ok"),
            ("schema", "ok"),
            ("accounting", "ok"),
        }
    with pytest.raises(StoreReadOnly, match="Read-only") as refused:
        _open(root)
    assert "mounted read-only" in refused.value.hint


def test_a_store_on_a_filesystem_that_is_mounted_read_only_is_looked_at(volume, image):
    with _open(volume / "store") as store:
        store.pull_image(image.reference, unpack=True)
    subprocess.run(["mount", "-o", "remount,ro", volume], check=True)

    _look(volume / "store", image)


def test_a_filesystem_that_becomes_read_only_under_an_open_store_is_said_to_be(volume, image, registry):
    with _open(volume / "store") as store:
        store.pull_image(image.reference, unpack=True)
        source = subprocess.check_output(["findmnt", "-no", "SOURCE", volume], text=True).strip()
        Path("/sys/fs/ext4", Path(source).name, "trigger_fs_error").write_text("a test")

        assert store.image_status(image.reference).image_id == image.image_id
        another = ImageBuilder(registry, "another").layer({"c": b"c"}).push("1")
        for act, what in (
            (store.remove_image, image),
            (store.pin_image, image),
            (store.pull_image, another),
        ):
            with pytest.raises(StoreReadOnly, match="Read-only") as refused:
                act(what.reference)
            assert "mounted read-only" in refused.value.hint
        assert store.check(digests=True) == []
        assert {"fail"}.isdisjoint(each.level for each in store.doctor())


@pytest.mark.skipif(
    shutil.which("mksquashfs") is None and not os.environ.get("CI"), reason="apt install squashfs-tools"
)
def test_a_store_in_an_image_of_squashfs_is_looked_at(volume, image, tmp_path):
    with _open(volume / "store") as store:
        store.pull_image(image.reference, unpack=True)
    squash, point = tmp_path / "store.squashfs", tmp_path / "point"
    point.mkdir()
    subprocess.run(["mksquashfs", volume / "store", squash, "-quiet", "-no-progress"], check=True)
    subprocess.run(["mount", "-o", "loop", squash, point], check=True)
    try:
        _look(point, image)
    finally:
        subprocess.run(["umount", point], check=True)
