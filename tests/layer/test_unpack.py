"""
A whole root filesystem from a stack of layers: there whole, or not at all.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import threading
from pathlib import Path

import pytest

from support.layers import DIRECTORY, SYMLINK, entry, flatten, opened, overlay, snapshot, tar
from ullage.digest import Digest, digest_of
from ullage.errors import (
    ContentError,
    DigestMismatch,
    StorageLimitExceeded,
    StoreError,
    TargetExists,
    UnsafeLayer,
)
from ullage.layer import (
    LayerBlob,
    LayerStream,
    apply_overlays,
    chain_id,
    chain_ids,
    compose_directory,
    fresh_directory,
    occupied,
    remove_tree,
    spread_directories,
    unpack,
)
from ullage.layer.options import Unlimited
from ullage.layer.writeback import Writeback

#: Layers give files to their owners.
pytestmark = pytest.mark.usefixtures("root")

STACK = [
    tar(entry(b"etc/os", data=b"one" * 1000), entry(b"bin", SYMLINK, link=b"usr/bin"), entry(b"usr/bin/sh")),
    tar(entry(b"etc/.wh.os"), entry(b"bin/bash", data=b"x" * 300_000)),
    tar(entry(b"usr/bin/.wh.sh"), entry(b"d", DIRECTORY, mode=0o700)),
]


def blob(layer, **more):
    return LayerBlob(io.BytesIO(gzip.compress(layer, 1)), diff_id=digest_of(layer), **more)


def test_a_stack_becomes_a_directory(tmp_path):
    results = unpack([blob(layer) for layer in STACK], tmp_path / "rootfs")

    assert sorted(snapshot(tmp_path / "rootfs")) == [".", "bin", "d", "etc", "usr", "usr/bin", "usr/bin/bash"]
    assert [result.diff_id for result in results] == [digest_of(layer) for layer in STACK]
    assert os.listdir(tmp_path) == ["rootfs"]
    assert stat.S_IMODE(os.stat(tmp_path / "rootfs").st_mode) == 0o755


def test_the_same_layers_are_the_same_tree_whenever_they_are_unpacked(tmp_path):
    for name in ("one", "two"):
        unpack([blob(layer) for layer in STACK], tmp_path / name)

    found = snapshot(tmp_path / "one", times=True)
    assert found == snapshot(tmp_path / "two", times=True)
    assert found["."]["mtime_ns"] == 0  # no layer describes it


def test_files_are_read_from_where_they_lie(tmp_path):
    (tmp_path / "blob").write_bytes(gzip.compress(STACK[0]))
    (tmp_path / "rootfs").mkdir()

    unpack([LayerBlob(tmp_path / "blob", digest_of(STACK[0]))], tmp_path / "rootfs", durable=True)

    assert (tmp_path / "rootfs/etc/os").read_bytes() == b"one" * 1000


def test_no_layers_are_an_empty_directory(tmp_path):
    assert unpack([], tmp_path / "rootfs") == []
    assert os.listdir(tmp_path / "rootfs") == []


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (blob(tar(entry(b"f"), entry(b"f/g"))), UnsafeLayer),
        (LayerBlob(io.BytesIO(gzip.compress(STACK[0])[:-3])), ContentError),
        (LayerBlob(io.BytesIO(STACK[0]), Digest("sha256:" + "0" * 64)), DigestMismatch),
        (LayerBlob(Path("/nowhere/at/all")), StoreError),
    ],
)
def test_after_a_failure_nothing_is_left(last, error, tmp_path):
    threads = threading.active_count()

    with pytest.raises(error):
        unpack([*(blob(layer) for layer in STACK), last, blob(STACK[0])], tmp_path / "rootfs")

    assert os.listdir(tmp_path) == []
    assert threading.active_count() == threads


def test_a_directory_with_something_in_it_is_not_touched(tmp_path):
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/mine").touch()
    (tmp_path / "link").symlink_to("elsewhere")

    for name in ("rootfs", "link"):
        with pytest.raises(TargetExists, match="is there already"):
            unpack([blob(STACK[0])], tmp_path / name)

    assert sorted(os.listdir(tmp_path)) == ["link", "rootfs"]
    assert os.listdir(tmp_path / "rootfs") == ["mine"]


def test_a_target_in_a_directory_that_is_not_there_is_no_fault_of_the_layer(tmp_path):
    with pytest.raises(StoreError, match="is no directory"):
        unpack([blob(STACK[0])], tmp_path / "missing/rootfs")


def test_directories_below_a_spread_one_are_ordinary_ones(tmp_path):
    with opened(tmp_path) as (directory,):
        spread_directories(directory)
        spread_directories(directory)

    unpack([blob(STACK[0])], tmp_path / "rootfs")

    assert (tmp_path / "rootfs/etc/os").exists()


def test_an_exception_in_the_block_removes_the_fresh_directory(tmp_path):
    def fill(target):
        with fresh_directory(target) as (directory, _):
            os.mkdir("d", dir_fd=directory)
            os.chmod("d", 0, dir_fd=directory)
            raise KeyError

    with pytest.raises(KeyError):
        fill(tmp_path / "target")

    assert os.listdir(tmp_path) == []
    remove_tree(tmp_path / "target")  # of none, nothing


def test_trees_are_filled_side_by_side_and_are_those_of_one_after_the_other(tmp_path):
    expected = overlay(STACK, tmp_path)
    roots = [tmp_path / f"root{number}" for number in range(len(STACK))]
    for root in roots:
        root.mkdir()

    with opened(*roots) as descriptors:
        results = apply_overlays([blob(layer) for layer in STACK], descriptors)
        assert [occupied(each) for each in descriptors] == [(one.space_bytes, one.inodes) for one in results]

    for one, other in zip(roots, expected, strict=True):
        assert snapshot(one, times=True) == snapshot(other, times=True)
    with opened(*roots) as descriptors:
        compose_directory(descriptors, tmp_path / "rootfs")
    flatten(STACK, tmp_path / "flat")
    found, flat = snapshot(tmp_path / "rootfs", times=True), snapshot(tmp_path / "flat", times=True)
    del found["."], flat["."]
    assert found == flat


def test_trees_may_go_on_top_of_others(tmp_path):
    below = overlay(STACK[:2], tmp_path)
    (tmp_path / "top").mkdir()

    with opened(tmp_path / "top", *below) as (top, *lowers):
        apply_overlays([blob(STACK[2])], [top], lowers=lowers)

    assert snapshot(tmp_path / "top")["usr/bin/sh"]["type"] == "char"


@pytest.mark.parametrize("bad", range(3))
def test_a_layer_that_fails_gives_the_others_up_and_is_the_one_that_is_told(bad, tmp_path):
    layers = [blob(layer) for layer in STACK]
    layers[bad] = blob(tar(entry(b"f"), entry(b"f/g")))
    roots = [tmp_path / f"root{number}" for number in range(3)]
    for root in roots:
        root.mkdir()
    threads = threading.active_count()

    with opened(*roots) as descriptors, pytest.raises(UnsafeLayer) as refused:
        apply_overlays(layers, descriptors)

    assert refused.value.entry == "f/g"
    assert threading.active_count() == threads


def test_each_layer_has_its_budget(tmp_path):
    class Nothing:
        def reserve(self, space_bytes, inodes):
            raise StorageLimitExceeded(
                needed_bytes=space_bytes, available_bytes=0, max_bytes=0, used_bytes=0, reserved_bytes=0
            )

    (tmp_path / "root").mkdir()
    with opened(tmp_path / "root") as (root,), pytest.raises(StorageLimitExceeded):
        apply_overlays([blob(STACK[0])], [root], budget=lambda number: Nothing())


def test_a_blob_that_fails_to_be_read_fails_the_layer(tmp_path):
    class Broken:
        def read(self, size):
            raise ContentError("the download broke off")

    with pytest.raises(ContentError, match="broke off"):
        unpack([LayerBlob(Broken())], tmp_path / "rootfs")
    assert os.listdir(tmp_path) == []


def test_chain_ids_are_those_of_the_specification():
    one, two, three = (digest_of(bytes([number])) for number in range(3))

    assert chain_ids([]) == []
    assert chain_id([one]) == one
    assert chain_id([one, two, three]) == digest_of(f"{digest_of(f'{one} {two}'.encode())} {three}".encode())
    assert chain_ids([one, two]) == [one, chain_id([one, two])]


def test_a_file_whose_disk_fails_is_told_as_that(tmp_path, monkeypatch):
    class Broken(io.RawIOBase):
        def readinto(self, _buffer):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    layer = tmp_path / "layer"
    layer.touch()
    monkeypatch.setattr(Path, "open", lambda *_arguments, **_options: Broken())

    with pytest.raises(StoreError, match="layer: Input/output error"):
        unpack([LayerBlob(layer)], tmp_path / "target")

    assert os.listdir(tmp_path) == ["layer"]


# ---------------------------------------------------------------------- no more threads


@pytest.fixture
def no_thread(monkeypatch):
    """
    Lets no thread of a name be started, as a limit on processes does.
    """
    start = threading.Thread.start

    def forbid(name):
        def limited(thread):
            if thread.name == name:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return forbid


def test_what_is_written_back_without_a_thread_is_durable_at_the_end(no_thread, tmp_path):
    no_thread("ullage-writeback")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with Writeback(directory) as writeback:
            budget = writeback.of(Unlimited())
            for space_bytes in (100 << 20, 200 << 20):
                budget.reserve(space_bytes, 1)
            writeback.finish()
    finally:
        os.close(directory)


def test_a_stream_that_gets_but_one_of_its_threads_leaves_none(no_thread):
    no_thread("ullage-hash")

    with pytest.raises(RuntimeError, match="thread"):
        LayerStream(io.BytesIO(gzip.compress(bytes(20 << 20), 1)))

    assert "ullage-decompress" not in {thread.name for thread in threading.enumerate()}
