"""
Valid layers with damage: only this package's exceptions, nothing outside the tree, and never for long.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from pathlib import Path

import pytest

from support.layers import (
    BLOCK,
    CHAR,
    DIRECTORY,
    FIFO,
    LINK,
    SYMLINK,
    apply,
    entry,
    overlay,
    pax,
    snapshot,
    special,
    tar,
)
from ullage.errors import ContentError, DiskFull, ImageError, StoreError
from ullage.layer import ApplyOptions, Limits

ROUNDS = int(os.environ.get("ULLAGE_FUZZ_LAYERS", "250"))
#: What a mutated layer may at most write: some sizes become large.
OPTIONS = ApplyOptions(
    limits=Limits(max_sparse_bytes=1 << 24, max_overhead_bytes=1 << 24, max_entries=10_000)
)

SEEDS = [
    tar(
        entry(b"d", DIRECTORY),
        entry(b"d/f", data=b"x" * 700, mode=0o4755, uid=5),
        entry(b"d/l", SYMLINK, link=b"../d"),
        entry(b"d/l/g", LINK, link=b"d/f"),
        entry(b"p", FIFO),
        entry(b"c", CHAR, device=(1, 3)),
        entry(b"d/.wh.gone"),
        entry(b"d/.wh..wh..opq"),
    ),
    tar(
        pax({b"path": b"long/" * 30 + b"f", b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"v"}) + entry(b"x", data=b"y"),
        special(b"L", b"gnu/" * 30 + b"f\0") + special(b"K", b"to/" * 40) + entry(b"s", SYMLINK),
        pax({b"comment": b"c"}, b"g"),
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"sp", b"GNU.sparse.realsize": b"9000"})
        + entry(b"x", data=b"1\n4096\n5\n".ljust(BLOCK, b"\0") + b"holes"),
        entry(b"up", SYMLINK, link=b"../victim"),
        entry(b"up/in", data=b"z"),
    ),
]  # fmt: skip

NUMBERS = [
    b"00000000000\0",
    b"77777777777\0",
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
    b"           \0",
    b"-1\0",
    b"0x10\0",
]
NAMES = [
    b"..",
    b"/",
    b"",
    b"../victim/x",
    b".wh.",
    b".wh...",
    b".wh..wh..opq",
    b"up/hello",
    b"d",
    b".",
    b"\0x",
    b"d/f/g",
]


def mutated(choice, seed):
    """
    *seed* with a few changes: bytes, fields of headers, whole blocks; most headers get a right checksum again.
    """
    data = bytearray(seed)
    for _ in range(choice.randint(1, 4)):
        block = choice.randrange(len(data) // BLOCK) * BLOCK
        kind = choice.random()
        if kind < 0.2:
            data[choice.randrange(len(data))] = choice.randrange(256)
        elif kind < 0.4:
            data[block + 124 : block + 136] = choice.choice(NUMBERS).ljust(12, b"\0")[:12]
        elif kind < 0.6:
            where = block + choice.choice([0, 157])
            data[where : where + 100] = choice.choice(NAMES).ljust(100, b"\0")
        elif kind < 0.75:
            data[block + 156] = choice.choice(b"0123456\0LKxgS7")
        elif kind < 0.85:
            del data[block : block + BLOCK]
            data += bytes(BLOCK)
        elif kind < 0.95:
            other = choice.randrange(len(data) // BLOCK) * BLOCK
            data[block:block] = data[other : other + BLOCK]
        else:
            del data[choice.randrange(len(data)) :]
            return bytes(data) or b"x"
        if choice.random() < 0.9:
            head = data[block : block + 148] + b" " * 8 + data[block + 156 : block + BLOCK]
            data[block + 148 : block + 156] = b"%06o\0 " % sum(head)
    return bytes(data)


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_a_damaged_layer_ends_in_a_typed_error_or_inside(number, root):
    choice = random.Random(number)
    lower = tar(entry(b"d/gone"), entry(b"up", SYMLINK, link=b"../victim"), entry(b"d/old"))
    refused = 0
    for round_ in range(ROUNDS):
        layer = mutated(choice, SEEDS[number])
        with tempfile.TemporaryDirectory() as directory:
            base = Path(directory)
            (base / "victim").mkdir()
            (base / "victim/hello").write_text("secret")
            (base / "dest").mkdir()
            before = snapshot(base / "victim", times=True)
            started = time.monotonic()
            error = None
            try:
                if round_ % 2:
                    apply(lower, base / "dest")
                    apply(layer, base / "dest", options=OPTIONS)
                else:
                    overlay([lower, layer], base, options=OPTIONS)
            except ImageError as raised:
                error = raised
                refused += 1
            assert isinstance(error, ContentError | StoreError | DiskFull | None), layer
            assert time.monotonic() - started < 20
            assert snapshot(base / "victim", times=True) == before, layer
            assert set(os.listdir(base)) <= {"victim", "dest", "tree0", "tree1"}

    assert 0 < refused < ROUNDS, "damage that is always, or never, noticed tests nothing"
