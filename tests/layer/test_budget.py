"""
Bombs: of bytes, of inodes, of names, of headers. Each stops at its limit, in bounded time and memory.
"""

from __future__ import annotations

import gzip
import itertools
import os
import textwrap
import time

import pytest

from support.layers import (
    DIRECTORY,
    FIFO,
    LINK,
    SYMLINK,
    apply,
    entry,
    header,
    opened,
    padded,
    pax,
    stream,
    tar,
)
from support.worker import run_python
from ullage.errors import StorageLimitExceeded, UnsafeLayer
from ullage.layer import ApplyOptions, Limits, apply_layer, apply_overlay, decompressed, occupied

#: Layers give files to their owners.
pytestmark = pytest.mark.usefixtures("root")

MIB = 1 << 20


class Limited:
    """
    A budget that gives in steps, up to a limit.
    """

    def __init__(self, max_bytes, max_inodes=10**9, *, step=MIB):
        self.max_bytes, self.max_inodes, self.step = max_bytes, max_inodes, step
        self.asked = []

    def reserve(self, space_bytes, inodes):
        self.asked.append((space_bytes, inodes))
        if space_bytes > self.max_bytes or inodes > self.max_inodes:
            raise StorageLimitExceeded(
                needed_bytes=space_bytes,
                available_bytes=0,
                max_bytes=self.max_bytes,
                used_bytes=0,
                reserved_bytes=0,
            )
        return min(space_bytes + self.step, self.max_bytes), min(inodes + 100, self.max_inodes)


class Endless:
    """
    A blob that never ends: the same bytes over and over.
    """

    def __init__(self, *pieces):
        self._pieces = itertools.cycle(pieces)

    def read(self, size):
        del size
        return next(self._pieces)


def numbered(kind, **fields):
    """
    Entries without end and without an equal.
    """

    def pieces():
        for number in itertools.count():
            yield b"".join(entry(b"%d/%d/%d" % (number, each, each), kind, **fields) for each in range(500))

    return pieces


class Pieces:
    def __init__(self, pieces):
        self._pieces = pieces

    def read(self, size):
        del size
        return next(self._pieces, b"")


def blow(blob, tree, budget, *, overlay=False, options=None):
    started = time.monotonic()
    with opened(tree) as (directory,), stream(b"") as source:
        source._pieces = decompressed(blob.read)
        (apply_overlay if overlay else apply_layer)(source, directory, budget=budget, options=options)
    return time.monotonic() - started


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("kind", [b"0", DIRECTORY, FIFO, SYMLINK])
def test_a_bomb_of_inodes_stops_at_the_limit(kind, overlay, tree):
    budget = Limited(10**12, 3000)

    with pytest.raises(StorageLimitExceeded):
        blow(Pieces(numbered(kind, link=b"x")()), tree, budget, overlay=overlay)

    with opened(tree) as (directory,):
        assert occupied(directory)[1] <= 3001


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("kind", [b"0", DIRECTORY, SYMLINK])
def test_a_bomb_of_small_things_stops_at_the_limit_of_bytes(kind, overlay, tree):
    budget = Limited(4 * MIB)
    fields = {"data": b"x" * 600} if kind == b"0" else {"link": b"x" * 90} if kind == SYMLINK else {}

    with pytest.raises(StorageLimitExceeded):
        blow(Pieces(numbered(kind, **fields)()), tree, budget, overlay=overlay)

    with opened(tree) as (directory,):
        assert occupied(directory)[0] <= 4 * MIB + 64 * 1024  # directories are estimated until all is in them


def test_a_file_without_end_stops_at_the_limit(tree):
    first = header(b"f", size=b"\x80" + (1 << 60).to_bytes(11, "big"))
    budget = Limited(8 * MIB)

    with pytest.raises(StorageLimitExceeded):
        blow(Endless(first + bytes(MIB - 512), bytes(MIB)), tree, budget)

    assert os.stat(tree / "f").st_size <= 8 * MIB
    assert len(budget.asked) < 20, "a budget is asked in steps, not for each write"


def test_a_budget_is_asked_before_anything_is_written(tree):
    budget = Limited(10_000, step=0)

    with pytest.raises(StorageLimitExceeded):
        apply(tar(entry(b"large", data=b"x" * 20_000)), tree, budget=budget)

    assert os.listdir(tree) == []


def test_a_budget_that_is_just_enough_is_enough(tmp_path):
    layer = tar(entry(b"f", data=b"x" * 8192), entry(b"g", data=b"y" * 4096), entry(b"e"))
    (tmp_path / "one").mkdir()
    needed = apply(layer, tmp_path / "one")

    (tmp_path / "two").mkdir()
    apply(layer, tmp_path / "two", budget=Limited(needed.space_bytes + 4096, needed.inodes, step=0))
    (tmp_path / "three").mkdir()
    with pytest.raises(StorageLimitExceeded):
        apply(layer, tmp_path / "three", budget=Limited(needed.space_bytes - 1, needed.inodes, step=0))
    (tmp_path / "four").mkdir()
    with pytest.raises(StorageLimitExceeded):
        apply(layer, tmp_path / "four", budget=Limited(10**9, needed.inodes - 1))


def test_names_alone_are_charged(tree):
    """
    Hard links take no inode, and a million of them a directory as large as a film.
    """
    links = b"".join(entry(b"d/%0240d" % n, LINK, link=b"f") for n in range(4000))
    budget = Limited(MIB // 2)

    with pytest.raises(StorageLimitExceeded):
        apply(tar(entry(b"f"), links), tree, budget=budget)

    with opened(tree) as (directory,):
        assert occupied(directory)[0] <= MIB


def test_crumbs_in_a_sparse_file_are_charged_by_the_block(tree):
    count = 2000
    numbers = b",".join(b"%d,1" % (n * 8192) for n in range(count))
    archive = pax(
        {
            b"GNU.sparse.size": b"%d" % (count * 8192),
            b"GNU.sparse.numblocks": b"%d" % count,
            b"GNU.sparse.map": numbers,
        }
    ) + entry(b"f", data=b"x" * count)

    with pytest.raises(StorageLimitExceeded):
        apply(tar(archive), tree, budget=Limited(MIB))


def test_what_replaces_itself_over_and_over_costs_once(tree):
    layer = tar(*[entry(b"f", data=b"x" * 100_000)] * 50, *[entry(b"d", DIRECTORY), entry(b"d")] * 50)

    result = apply(layer, tree, budget=Limited(MIB, 10))

    assert result.inodes == 2
    with opened(tree) as (directory,):
        assert result.space_bytes == occupied(directory)[0] - os.stat(tree).st_blocks * 512


@pytest.mark.parametrize(
    "piece",
    [
        entry(b"./", DIRECTORY),
        entry(b".wh.nothing"),
        pax({b"comment": b"x" * 100_000}),
        pax({b"path": b"x"}, b"g"),
        entry(b"same", DIRECTORY),
        header(b"./@LongLink", b"L", size=100_000) + padded(b"n" * 100_000),
    ],
    ids=["roots", "whiteouts", "extended headers", "global headers", "one directory", "long names"],
)
def test_entries_without_end_that_make_nothing_are_stopped(piece, tree):
    options = ApplyOptions(limits=Limits(max_entries=20_000, max_overhead_bytes=200 * MIB))

    with pytest.raises(UnsafeLayer, match="no end of"):
        blow(Endless(piece * 100), tree, None, options=options)


def test_an_opaque_marker_repeated_over_a_large_directory_costs_once(tree):
    apply(tar(*(entry(b"d/%d" % n) for n in range(2000))), tree)
    again = tar(*(entry(b"d/n%d" % n) for n in range(2000)), *[entry(b"d/.wh..wh..opq")] * 5000)
    started = time.monotonic()

    apply(again, tree)

    assert time.monotonic() - started < 10
    assert len(os.listdir(tree / "d")) == 2000


def test_a_bomb_of_compression_is_unpacked_in_little_memory(tmp_path):
    """
    Two hundred megabytes of zeros from two hundred kilobytes, with all threads running.
    """
    size = 200 * MIB
    layer = tmp_path / "layer.gz"
    with gzip.open(layer, "wb", 1) as file:
        file.write(header(b"f", size=size))
        for _ in range(200):
            file.write(bytes(MIB))
    code = f"""
        import os, resource
        from pathlib import Path
        from ullage.layer import LayerBlob, unpack

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unpack([LayerBlob(Path({str(layer)!r}))], Path({str(tmp_path / "target")!r}))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """

    grown_kib = int(run_python(textwrap.dedent(code)))

    assert os.stat(tmp_path / "target/f").st_size == size
    assert grown_kib < 30_000
