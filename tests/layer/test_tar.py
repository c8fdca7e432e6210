"""
The reader of tar streams: every format that layers are written in, read as Go's archive/tar reads it.

``tarfile`` is the oracle for what is benign. Where Go and tarfile differ, the table below holds what Go does, and the
vectors hold the streams that its own tests use.
"""

from __future__ import annotations

import io
import tarfile
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.layers import (
    BLOCK,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    MTIME,
    SYMLINK,
    entry,
    header,
    padded,
    pax,
    record,
    special,
    stream,
    tar,
)
from ullage.errors import UnsafeLayer
from ullage.layer.tar import Kind, TarReader


def entries(archive, *, max_entries=10_000, max_overhead_bytes=1 << 30):
    """
    All entries with their data, as they are stored.
    """
    found = []
    with stream(archive) as source:
        reader = TarReader(source, max_entries=max_entries, max_overhead_bytes=max_overhead_bytes)
        while (one := reader.next()) is not None:
            data = b"".join(bytes(part) for part in source.parts(one.stored_bytes))
            reader.unread_bytes -= len(data)
            found.append((one, data))
    return found


def only(archive):
    ((one, data),) = entries(archive)
    return one, data


# ---------------------------------------------------------------------- against tarfile

names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=("Cs",)),
    min_size=1,
    max_size=120,
).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
members = st.lists(
    st.fixed_dictionaries(
        {
            "name": paths,
            "type": st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
            "linkname": paths,
            "mode": st.integers(0, 0o7777),
            "uid": st.integers(0, 2**32 - 1),
            "gid": st.integers(0, 2**32 - 1),
            "mtime": st.integers(0, 2**40),
            "data": st.binary(max_size=2000),
        }
    ),
    max_size=6,
)  # fmt: skip


@given(members, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_what_tarfile_writes_is_read_as_tarfile_reads_it(wanted, format_):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as archive:
        for one in wanted:
            member = tarfile.TarInfo(one["name"])
            member.type, member.mode, member.mtime = one["type"], one["mode"], one["mtime"]
            member.uid, member.gid = one["uid"], one["gid"]
            if one["type"] in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member.linkname = one["linkname"]
            if one["type"] == tarfile.REGTYPE:
                member.size = len(one["data"])
            archive.addfile(member, io.BytesIO(one["data"]) if member.size else None)

    found = entries(file.getvalue())

    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        expected = archive.getmembers()
        assert len(found) == len(expected)
        for (one, data), member in zip(found, expected, strict=True):
            assert one.name.rstrip(b"/") == member.name.encode("utf-8", "surrogateescape").rstrip(b"/")
            assert (one.mode, one.uid, one.gid) == (member.mode, member.uid, member.gid)
            assert one.mtime_ns == int(member.mtime) * 1_000_000_000
            assert chr(one.kind).encode() == member.type
            assert one.link == member.linkname.encode("utf-8", "surrogateescape")
            if member.isreg():
                assert data == archive.extractfile(member).read()


# ---------------------------------------------------------------------- what Go does

READS = {
    "a header of 1979": (entry(b"old", b"\0", b"x", magic=b""), b"old", Kind.FILE),
    "a slash makes a directory of an old header": (entry(b"old/", b"\0", magic=b""), b"old/", Kind.DIRECTORY),
    "but not of a later one": (entry(b"new/", FILE), b"new/", Kind.FILE),
    "ustar's prefix": (entry(b"file", rest=b"some/prefix"), b"some/prefix/file", Kind.FILE),
    "star's shorter prefix": (
        entry(b"file", rest=b"p" * 131 + b"0000000000\0 0000000000\0 ".ljust(32, b"\0") + b"tar\0"),
        b"p" * 131 + b"/file",
        Kind.FILE,
    ),
    "no prefix in GNU's header": (
        entry(b"file", magic=b"ustar  \0", rest=b"00000000000\0"),
        b"file",
        Kind.FILE,
    ),
    "GNU's long name": (special(b"L", b"long" * 50 + b"\0") + entry(b"short"), b"long" * 50, Kind.FILE),
    "cut at its first NUL": (special(b"L", b"long\0ish") + entry(b"short"), b"long", Kind.FILE),
    "the second of two": (special(b"L", b"one\0") + special(b"L", b"two\0") + entry(b"x"), b"two", Kind.FILE),
    "PAX path": (pax({b"path": b"pax"}) + entry(b"ustar"), b"pax", Kind.FILE),
    "an empty one leaves the header's": (pax({b"path": b""}) + entry(b"ustar"), b"ustar", Kind.FILE),
    "GNU's wins over PAX before": (
        pax({b"path": b"pax"}) + special(b"L", b"gnu\0") + entry(b"x"),
        b"gnu",
        Kind.FILE,
    ),
    "and after": (special(b"L", b"gnu\0") + pax({b"path": b"pax"}) + entry(b"x"), b"gnu", Kind.FILE),
    "of two PAX headers the second alone": (
        pax({b"path": b"first"}) + pax({b"uid": b"7"}) + entry(b"x"),
        b"x",
        Kind.FILE,
    ),
    "a global header says nothing": (pax({b"path": b"global"}, b"g") + entry(b"x"), b"x", Kind.FILE),
    "and ends what came before it": (
        pax({b"path": b"pax"}) + pax({b"comment": b"c"}, b"g") + entry(b"x"),
        b"x",
        Kind.FILE,
    ),
    "of equal records the last": (
        pax(record(b"path", b"one") + record(b"path", b"two")) + entry(b"x"),
        b"two",
        Kind.FILE,
    ),
    "bytes that are no UTF-8": (entry(b"\xff\xfe\x80"), b"\xff\xfe\x80", Kind.FILE),
    "a checksum of signed bytes": (
        header(b"\xff\xff", checksum=b"%06o\0 " % (sum(header(b"\xff\xff", checksum=b" " * 8)) - 512)),
        b"\xff\xff",
        Kind.FILE,
    ),
}


@pytest.mark.parametrize("name", READS)
def test_a_header_is_read_as_go_reads_it(name):
    archive, expected, kind = READS[name]

    one, _data = only(tar(archive))

    assert (one.name, one.kind) == (expected, kind)


def test_pax_records_carry_more_than_a_header_can():
    records = {
        b"linkpath": b"t" * 300,
        b"mtime": b"1700000000.123456789",
        b"uid": b"4000000000",
        b"gid": b"4000000001",
        b"SCHILY.xattr.user.a": b"v\0w=\n",
        b"SCHILY.xattr.empty": b"",
        b"LIBARCHIVE.xattr.user.b": b"dg==",
        b"atime": b"-1.5",
    }

    one, _data = only(tar(pax(records), entry(b"s", SYMLINK, link=b"x")))

    assert (one.link, one.uid, one.gid) == (b"t" * 300, 4_000_000_000, 4_000_000_001)
    assert one.mtime_ns == 1_700_000_000_123_456_789
    assert one.xattrs == {b"user.a": b"v\0w=\n"}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1.", 10**9),
        (b"1.5", 1_500_000_000),
        (b"1.0000000019", 1_000_000_001),
        (b"-1", -(10**9)),
        (b"-1.25", -1_250_000_000),
        (b"-0.5", -500_000_000),
        (b"+2", 2 * 10**9),
    ],
)
def test_times_are_read_to_the_nanosecond(text, nanoseconds):
    assert only(tar(pax({b"mtime": text}), entry(b"f")))[0].mtime_ns == nanoseconds


def test_numbers_of_base_256_may_be_large_and_negative():
    large = b"\x80" + (9_000_000_000).to_bytes(11, "big")
    negative = b"\xff" + (-5).to_bytes(11, "big", signed=True)

    one, _data = only(tar(header(b"f", SYMLINK, size=large, mtime=negative, link=b"x")))

    assert one.mtime_ns == -5 * 10**9


def test_the_size_in_a_pax_record_wins_and_hides_no_entry():
    inner = entry(b"hidden", data=b"never seen")

    (one, data), (after, _) = entries(
        tar(pax({b"size": b"%d" % len(inner)}), header(b"f"), inner, entry(b"after"))
    )

    assert (one.name, data, after.name) == (b"f", inner, b"after")


def test_what_has_no_data_has_none_whatever_its_size_says():
    kinds = [LINK, SYMLINK, DIRECTORY, FIFO]

    found = entries(
        tar(*(header(b"%s" % kind, kind, size=5, link=b"x") for kind in kinds), entry(b"last", data=b"x"))
    )

    assert [one.name for one, _ in found] == [*kinds, b"last"]


@pytest.mark.parametrize(
    "end", [b"", bytes(BLOCK), bytes(2 * BLOCK), bytes(9000), bytes(2 * BLOCK) + b"rubbish"]
)
def test_an_archive_may_end_in_all_the_ways_that_they_do(end):
    assert [one.name for one, _ in entries(entry(b"f", data=b"x") + end)] == [b"f"]


def test_the_padding_of_the_last_entry_may_be_missing():
    assert only(header(b"f", size=3) + b"abc")[1] == b"abc"


REFUSED = {
    "text": b"this is no tar archive, it is some text that goes on for a while\n" * 20,
    "half a header": header(b"f")[:300],
    "a wrong checksum": header(b"f", checksum=b"000001\0 "),
    "no checksum": header(b"f", checksum=bytes(8)),
    "a zero block in the middle": entry(b"f") + bytes(BLOCK) + entry(b"g"),
    "data that stops early": header(b"f", size=5000) + bytes(100),
    "a size below nothing": tar(header(b"f", size=b"\xff" * 12)),
    "a size below nothing, in PAX": tar(pax({b"size": b"-1"}), header(b"f")),
    "a size that is no number": tar(header(b"f", size=b"0000000001x\0")),
    "an underscore in a size": tar(header(b"f", size=b"0000000_001\0")),
    "a size in hexadecimal": tar(header(b"f", size=b"0x00000001\0")),
    "a size above 2^63": tar(header(b"f", size=b"\x80" + b"\xff" * 11)),
    "a record without a length": tar(pax(b"path=x\n"), entry(b"f")),
    "a record that is too long": tar(pax(b"99 path=x\n"), entry(b"f")),
    "a record that is too short": tar(pax(b"5 path=x\n"), entry(b"f")),
    "a record of negative length": tar(pax(b"-9 path=x\n"), entry(b"f")),
    "a record without an equals sign": tar(pax(b"9 path x\n"), entry(b"f")),
    "a record without a key": tar(pax(b"5 =x\n"), entry(b"f")),
    "a record without its newline": tar(pax(b"9 path=xy"), entry(b"f")),
    "a NUL in a path": tar(pax({b"path": b"a\0b"}), entry(b"f")),
    "a NUL in a key": tar(pax({b"a\0b": b"c"}), entry(b"f")),
    "a time that is none": tar(pax({b"mtime": b"1.2.3"}), entry(b"f")),
    "an unused time that is none": tar(pax({b"atime": b"now"}), entry(b"f")),
    "an id that is none": tar(pax({b"uid": b"root"}), entry(b"f")),
    "a bad record in a global header": tar(pax(b"99 path=x\n", b"g"), entry(b"f")),
    "an extended header that stops early": header(b"x", b"x", size=900) + b"11 path=abc\n",
    "an extended header of two MiB": tar(pax({b"comment": bytes(2 << 20)}), entry(b"f")),
    "a long name of two MiB": tar(special(b"L", b"n" * (2 << 20)), entry(b"f")),
    "GNU's old sparse file": tar(entry(b"f", b"S")),
    "a directory dump of GNU's": tar(entry(b"f", b"D")),
    "a part of another volume": tar(entry(b"f", b"M")),
    "a contiguous file": tar(entry(b"f", b"7")),
    "a type of nobody's": tar(entry(b"f", b"?")),
    "a sparse map of a directory": tar(
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}), entry(b"d", DIRECTORY)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_go_refuses_is_refused(name):
    with pytest.raises(UnsafeLayer):
        entries(REFUSED[name])


@pytest.mark.parametrize("size", [2**62, 2**63 - 1, 8 << 30])
def test_a_header_that_claims_more_than_there_is_ends_at_once(size):
    started = time.monotonic()

    with pytest.raises(UnsafeLayer, match="ends within its data"):
        entries(tar(header(b"f", size=b"\x80" + size.to_bytes(11, "big"))))

    assert time.monotonic() - started < 1


def test_a_refusal_names_the_entry_even_where_its_name_does_not_print():
    archive = entry(b"bad\xff\x1b[31m\n") + header(b"f", checksum=bytes(8))

    with pytest.raises(UnsafeLayer) as refused:
        entries(archive)

    assert refused.value.entry == "bad\\xff\\x1b[31m\\n"
    assert str(refused.value).isprintable()


def test_headers_without_end_are_stopped():
    many = tar(*[entry(b"same")] * 50)

    assert len(entries(many, max_entries=51)) == 50
    with pytest.raises(UnsafeLayer, match="no end of headers"):
        entries(many, max_entries=50)
    with pytest.raises(UnsafeLayer, match="no end of headers"):
        entries(tar(*[pax({b"comment": bytes(9000)}), entry(b"f")] * 50), max_overhead_bytes=100_000)


# ---------------------------------------------------------------------- sparse files

HOLE = {b"GNU.sparse.realsize": b"4096"}
SPARSE = {
    "0.0": pax(
        b"".join(
            record(*each)
            for each in [
                (b"GNU.sparse.size", b"4096"), (b"GNU.sparse.numblocks", b"2"),
                (b"GNU.sparse.offset", b"512"), (b"GNU.sparse.numbytes", b"3"),
                (b"GNU.sparse.offset", b"1024"), (b"GNU.sparse.numbytes", b"2"),
            ]
        )
    ) + entry(b"f", data=b"abcde"),
    "0.1": pax(
        {b"GNU.sparse.size": b"4096", b"GNU.sparse.numblocks": b"2", b"GNU.sparse.map": b"512,3,1024,2",
         b"GNU.sparse.name": b"f"}
    ) + entry(b"other", data=b"abcde"),
    "1.0": pax(
        {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"f", **HOLE}
    ) + entry(b"other", data=padded(b"2\n512\n3\n1024\n2\n") + b"abcde"),
}  # fmt: skip


@pytest.mark.parametrize("version", SPARSE)
def test_the_map_of_a_sparse_file_is_read_in_all_three_forms(version):
    one, data = only(tar(SPARSE[version]))

    assert (one.name, one.size, one.extents, data) == (b"f", 4096, [(512, 3), (1024, 2)], b"abcde")


def sparse(text, data=b"abcde", **more):
    return pax(
        {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", **HOLE}
        | {each.encode(): value for each, value in more.items()}
    ) + entry(b"f", data=padded(text) + data)


@pytest.mark.parametrize(
    "archive",
    [
        sparse(b"1\n0\n6\n"),
        sparse(b"1\n0\n4\n"),
        sparse(b"2\n100\n3\n50\n2\n"),
        sparse(b"2\n0\n3\n2\n2\n"),
        sparse(b"1\n4094\n5\n"),
        sparse(b"1\n-1\n5\n"),
        sparse(b"1\n0\n-5\n"),
        sparse(b"-1\n"),
        sparse(b"99999999999\n"),
        sparse(b"x\n"),
        sparse(b"3\n0\n5\n"),
        pax({b"GNU.sparse.map": b"0,5,9", b"GNU.sparse.numblocks": b"1"}) + entry(b"f", data=b"abcde"),
        pax(record(b"GNU.sparse.numbytes", b"5") + record(b"GNU.sparse.offset", b"0")) + entry(b"f"),
        pax(record(b"GNU.sparse.offset", b"0,5")) + entry(b"f", data=b"abcde"),
        pax({b"GNU.sparse.map": b"0,5", b"GNU.sparse.numblocks": b"1", b"GNU.sparse.size": b"-1"})
        + entry(b"f", data=b"abcde"),
        sparse(b"1000000\n" + b"1\n" * 1_000_000, b""),
    ],
)  # fmt: skip
def test_a_map_that_does_not_fit_is_refused(archive):
    with pytest.raises(UnsafeLayer):
        entries(tar(archive))


def test_a_map_of_a_later_version_makes_an_ordinary_file():
    archive = pax({b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}) + entry(b"f", data=b"abc")

    one, data = only(tar(archive))

    assert (one.extents, data) == (None, b"abc")


def test_reading_continues_after_an_entry_whose_data_nobody_wanted():
    with stream(tar(entry(b"a", data=b"x" * 5000), entry(b"b", mtime=MTIME + 1))) as source:
        reader = TarReader(source, max_entries=10, max_overhead_bytes=1 << 20)

        assert [reader.next().name, reader.next().name, reader.next()] == [b"a", b"b", None]


# ---------------------------------------------------------------------- the short way through a header, and the long one


@pytest.mark.parametrize(
    ("field", "is_one"),
    [
        (b"%06o\0 ", True),
        (b"%06o \0", True),
        (b"%06o  ", True),
        (b"%06o\0x", True),
        (b"%6o\0 ", True),
        (b"%07o\0", True),
        (b"%06o x", False),
        (b"%06o \xff", False),
        (b"%06ox ", False),
    ],
)
@pytest.mark.parametrize("mtime", [MTIME, b" 1234567071\0"], ids=["digits", "blanks"])
def test_what_may_follow_a_checksum_is_the_same_whatever_the_other_fields_are(field, is_one, mtime):
    block = bytearray(header(b"file", mtime=mtime))
    block[148:156] = b" " * 8
    block[148:156] = field % sum(block)
    archive = bytes(block) + bytes(2 * BLOCK)

    if is_one:
        assert only(archive)[0].name == b"file"
    else:
        with pytest.raises(UnsafeLayer):
            entries(archive)


@pytest.mark.parametrize("mtime", [MTIME, b" 1234567071\0"], ids=["digits", "blanks"])
def test_a_checksum_is_octal(mtime):
    block = bytearray(header(b"file", mtime=mtime))
    block[148:156] = b" " * 8
    block[148:156] = b"\x80" + sum(block).to_bytes(7, "big")

    with pytest.raises(UnsafeLayer):
        entries(bytes(block) + bytes(2 * BLOCK))


def test_both_ways_through_a_header_read_the_same_or_refuse(monkeypatch):
    """
    Random headers, many of them with sums beyond 65,535, with ends of fields that are none, with signed checksums.
    """
    random = Random(1988)
    numbers = [
        lambda width: b"%0*o" % (width - 1, random.randrange(8 ** (width - 1))) + random.choice([b"\0", b" ", b"x"]),
        lambda width: (b"%o" % random.randrange(8 ** (width - 3))).rjust(width - 2) + random.choice([b"\0 ", b" 7", b"\0x"]),
        lambda width: b"\x80" + random.randbytes(width - 1),
        bytes,
        random.randbytes,
    ]  # fmt: skip

    def number(width):
        return random.choice(numbers[:1] * 4 + numbers)(width)

    def block():
        made = bytearray().join(
            (
                random.choice([b"a/b", random.randbytes(100), b"\xff" * 100]).ljust(100, b"\0"),
                *(number(width) for width in (8, 8, 8, 12, 12)),
                b" " * 8,
                random.choice([b"0", b"5", b"\0", b"x"]),
                random.choice([bytes(100), random.randbytes(100), b"\xff" * 100]),
                random.choice([b"ustar\x0000", b"ustar  \0", bytes(8)]),
                random.choice([bytes(64), b"\xff" * 64]),
                number(8) + number(8),
                random.choice([bytes(167), b"\xff" * 167, random.randbytes(167)]),
            )
        )
        total = sum(made) - random.choice([0, 0, 256 * sum(each >= 0x80 for each in made), 65_536])
        end = random.choice([b"\0 ", b" \0", b"\0x", b" x", bytes(2)])
        made[148:156] = (b"%06o" % max(total, 0) + end)[:8]
        return bytes(made)

    def read(archive):
        try:
            return entries(archive)
        except UnsafeLayer as error:
            return "none" if "is none" in str(error) or "checksum" in str(error) else str(error)

    blocks = [block() for _ in range(3000)]
    short = [read(each) for each in blocks]
    monkeypatch.setattr("ullage.layer.tar.octal_digits", lambda _digits: None)
    long = [read(each) for each in blocks]

    assert short == long
    assert sum(isinstance(each, list) for each in short) > 50
