"""
What work costs in bytes, calls and memory: counts that no machine and no busy day changes.

Requests, bytes and connections are counted by `tests/registry/test_counts.py`, statements and syncs by
`tests/crash/test_order.py` and `tests/store/test_transactions.py`. Each bound here is broken by doing the work twice.
"""

from __future__ import annotations

import gc
import gzip
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.images import ImageBuilder, noise, tar_of
from ullage.digest import digest_of

MB = 1 << 20
LAYER_BYTES = 64 * MB
#: What rows, documents and modules take beside the layer: less than a sixteenth of it.
REST_BYTES = 4 * MB


@dataclass
class Work:
    """
    What this process asked of the kernel for files: bytes and calls of read and write. Sockets do not count.
    """

    read_bytes: int = 0
    written_bytes: int = 0
    reads: int = 0
    writes: int = 0


@contextmanager
def counted():
    work, before = Work(), _io()
    yield work
    work.read_bytes, work.written_bytes, work.reads, work.writes = (
        now - then for now, then in zip(_io(), before, strict=True)
    )


def _io():
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return [int(fields[name]) for name in ("rchar", "wchar", "syscr", "syscw")]


def once(count):
    return pytest.approx(LAYER_BYTES, abs=REST_BYTES) == count


@pytest.fixture(scope="module")
def layer():
    return tar_of({"srv/large": noise(LAYER_BYTES)})


@pytest.fixture
def image(store, registry, layer):
    """
    An image that is there, and a store that has loaded and prepared what pulls need.
    """
    store.pull_image(ImageBuilder(registry, "small").layer({"a": b"a"}).push("1").reference)
    return ImageBuilder(registry, "app").raw_layer(layer).push("1")


def test_a_pull_writes_each_byte_once_and_reads_none_back(store, image):
    with counted() as work:
        store.pull_image(image.reference)

    assert once(work.written_bytes), work
    assert work.read_bytes < REST_BYTES, work


def test_an_import_reads_and_writes_each_byte_once_by_the_megabyte(store, image, tmp_path):
    store.pull_image(image.reference)
    store.export_images([image.reference], f"oci:{tmp_path / 'layout'}")
    store.remove_image(image.reference)
    store.collect()

    with counted() as work:
        store.import_images(f"oci:{tmp_path / 'layout'}")

    assert once(work.read_bytes), work
    assert once(work.written_bytes), work
    # Some hundred calls are for rows and documents, whatever the layer's size.
    assert work.reads < LAYER_BYTES // MB + 48, work
    assert work.writes < LAYER_BYTES // MB + 110, work


def test_an_export_reads_and_writes_each_byte_once(store, image, tmp_path):
    store.pull_image(image.reference)

    with counted() as work:
        store.export_images([image.reference], f"oci:{tmp_path / 'layout'}")

    assert once(work.read_bytes), work
    assert once(work.written_bytes), work


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "gzip"])
def test_unpacking_reads_and_writes_each_byte_once(compressed, store, image, registry, layer):
    if compressed:
        raw = gzip.compress(layer, 1)
        image = ImageBuilder(registry, "zipped").raw_layer(raw, diff_id=digest_of(layer)).push("1")
    store.pull_image(image.reference)

    with counted() as work:
        store.make_trees(image.reference)

    assert once(work.read_bytes), work
    assert once(work.written_bytes), work


def test_a_pull_of_a_large_layer_needs_a_few_megabytes(store, image):
    """
    Two pieces of a megabyte at a time: the one that is written, and the one that comes.
    """
    tracemalloc.start()
    try:
        store.pull_image(image.reference)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 3 * MB


def test_a_thousand_look_ups_leave_nothing_behind(store, registry):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
    status = store.pull_image(image.reference)

    def look():
        store.image_status(image.reference)
        store.image_status(status.image_id)
        store.image_status(status.id)
        store.image_status("ghcr.io/not/here:1")
        store.pull_image(image.reference)
        store.usage()
        store.list_images()

    def blocks_after(times):
        for _ in range(times):
            look()
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(100)

    assert blocks_after(1000) - before < 500


WRITER = """
import sys
from pathlib import Path
from ullage.digest import digest_of
from ullage.ingest import Ingest

data = bytes(64 << 20)
with Ingest(Path(sys.argv[1]), digest_of(data), len(data)) as ingest:
    for start in range(0, len(data), 1 << 20):
        ingest.write(data[start : start + (1 << 20)])
    ingest.finish()
"""


@pytest.mark.external
@pytest.mark.skipif(not (shutil.which("strace") or os.environ.get("CI")), reason="apt install strace")
def test_the_disk_begins_with_a_large_blob_before_it_is_whole(tmp_path):
    """
    Every eight megabytes; or the sync at the end waits for all of it, after the network and not beside it.
    """
    traced = tmp_path / "calls"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=sync_file_range,fdatasync", "-o", traced,
         sys.executable, "-c", WRITER, tmp_path / "blob"],
        check=True,
    )  # fmt: skip

    calls = re.findall(r"(\w+)\(\d+(?:, (\d+), (\d+), SYNC_FILE_RANGE_WRITE)?\) += 0", traced.read_text())

    begun = [("sync_file_range", str(at * 8 * MB), str(8 * MB)) for at in range(8)]
    assert calls == [*begun, ("fdatasync", "", "")]
