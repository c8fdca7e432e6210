"""
What a blob is compressed with, and what is a damaged one.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import textwrap
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.worker import run_python
from ullage.errors import ContentError, UnsupportedContent
from ullage.layer import decompressed
from ullage.layer.decompress import PIECE_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLAIN = b"a layer, and not a small one " * 50_000 + os.urandom(70_000)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"


def read(blob, *, at_a_time=None):
    file = io.BytesIO(blob)
    return b"".join(
        decompressed(file.read if at_a_time is None else lambda size: file.read(min(size, at_a_time)))
    )


GZIP = gzip.compress(PLAIN, 1)
ZSTD = zstd.compress(PLAIN, options={zstd.CompressionParameter.checksum_flag: 1})
FLAGS = b"\x1f\x8b\x08\x1c" + bytes(6) + b"\x03\x00abc" + b"name\0comment\0" + GZIP[10:]

GOOD = {
    "uncompressed": (PLAIN, PLAIN),
    "empty": (b"", b""),
    "shorter than a magic number": (b"\x1f", b"\x1f"),
    "gzip": (GZIP, PLAIN),
    "gzip with name, comment and extra field": (FLAGS, PLAIN),
    "two gzip members": (GZIP + gzip.compress(b"and more"), PLAIN + b"and more"),
    "an empty gzip member between": (GZIP + gzip.compress(b"") + GZIP, PLAIN * 2),
    "zeros after gzip": (GZIP + bytes(1000), PLAIN),
    "rubbish after gzip": (GZIP + b"rubbish" * 100_000, PLAIN),
    "one byte after gzip": (GZIP + b"\x1f", PLAIN),
    "zstd": (ZSTD, PLAIN),
    "zstd without a size": (zstd.ZstdCompressor().compress(PLAIN, zstd.ZstdCompressor.FLUSH_FRAME), PLAIN),
    "two zstd frames": (ZSTD + zstd.compress(b"and more"), PLAIN + b"and more"),
    "a skippable frame first": (SKIPPABLE + ZSTD, PLAIN),
    "skippable frames between and last": (ZSTD + SKIPPABLE + ZSTD + SKIPPABLE * 2, PLAIN * 2),
}
BAD = {
    "gzip that stops early": GZIP[:-9],
    "gzip without its trailer": GZIP[:-8],
    "gzip with half a trailer": GZIP[:-3],
    "gzip header alone": GZIP[:10],
    "a wrong checksum": GZIP[:-8] + bytes([GZIP[-8] ^ 1]) + GZIP[-7:],
    "a wrong length": GZIP[:-4] + bytes([GZIP[-4] ^ 1]) + GZIP[-3:],
    "a second member that stops early": GZIP + GZIP[:100],
    "a damaged member": GZIP[:2000] + bytes(100) + GZIP[2100:],
    "gzip with another method": b"\x1f\x8b\x07" + GZIP[3:],
    "zstd that stops early": ZSTD[:-1],
    "zstd with a wrong checksum": ZSTD[:-200] + bytes(100) + ZSTD[-100:],
    "zeros after zstd": ZSTD + bytes(9),
    "a skippable frame that stops early": SKIPPABLE[:-1],
}


@pytest.mark.parametrize("at_a_time", [None, 4093, 1 << 16])
@pytest.mark.parametrize("name", GOOD)
def test_a_blob_is_read_by_its_first_bytes_however_they_arrive(name, at_a_time):
    blob, plain = GOOD[name]

    assert read(blob, at_a_time=at_a_time) == plain


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_blob_is_a_content_error(name):
    with pytest.raises(ContentError, match="does not decompress"):
        read(BAD[name])


@pytest.mark.parametrize("blob", [bz2.compress(PLAIN), lzma.compress(PLAIN)], ids=["bzip2", "xz"])
def test_what_is_no_layers_compression_is_unsupported(blob):
    with pytest.raises(UnsupportedContent, match="unsupported compression"):
        read(blob)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_a_blob_that_blows_up_a_thousandfold_is_given_on_piece_by_piece(compress):
    blob = compress(bytes(64 << 20))
    file = io.BytesIO(blob)
    tracemalloc.start()

    sizes = [len(piece) for piece in decompressed(file.read)]

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= PIECE_BYTES
    assert peak < 8 << 20


def test_many_small_members_take_no_longer_each_than_one():
    blob = b"".join(gzip.compress(b"%d" % number, 1) for number in range(3000))

    assert read(blob) == b"".join(b"%d" % number for number in range(3000))


def test_where_isal_is_not_to_be_had_zlib_does_the_same():
    code = """
        import gzip, io, sys
        sys.modules["isal"] = None
        from ullage.layer import decompressed
        blob = gzip.compress(b"one" * 200_000) + gzip.compress(b"two") + bytes(9)
        plain = b"".join(decompressed(io.BytesIO(blob).read))
        print(plain == b"one" * 200_000 + b"two")
    """

    assert run_python(textwrap.dedent(code)).strip() == "True"


@given(st.binary(max_size=2000), st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_damage_anywhere_is_noticed_or_harmless(data, at, damage):
    """
    A gzip stream with bytes overwritten either fails as one, or gives the same as zlib.
    """
    blob = bytearray(gzip.compress(data, 6))
    at %= len(blob)
    blob[at : at + len(damage)] = damage
    try:
        expected = zlib.decompressobj(31).decompress(bytes(blob))
    except zlib.error:
        expected = None

    try:
        found = read(bytes(blob))
    except (ContentError, UnsupportedContent):
        return

    if blob[:2] == b"\x1f\x8b":
        assert found == expected
