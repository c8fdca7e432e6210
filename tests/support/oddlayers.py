"""
Hostile and odd layers of our own, made byte by byte: combinations that no single case of other engines' tests has.

`ODD` has the layers of each by its name, the lowest first; `REFUSED` the names of those of which nothing comes, and
`APART` the paths that are not the same in one directory and of trees. Those of `LARGE` are many entries, or deep ones.
"""

from __future__ import annotations

import os
import struct

from support.layers import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    entry,
    header,
    pax,
    record,
    special,
    tar,
)

__all__ = ["APART", "LARGE", "ODD", "ONE_USER_MORE", "REFUSED"]

BLOCK = 512
CAPABILITY = b"\x00\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
#: An ACL that lets one user more do what the owner does.
ONE_USER_MORE = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHi", *each) for each in ((1, 7, -1), (2, 7, 1000), (4, 5, -1), (16, 7, -1), (32, 5, -1))
)
SPARSE = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}


def d(name: bytes, **fields) -> bytes:
    return entry(name, DIRECTORY, **fields)


def f(name: bytes, data: bytes = b"", **fields) -> bytes:
    return entry(name, FILE, data, **fields)


def s(name: bytes, link: bytes, **fields) -> bytes:
    return entry(name, SYMLINK, link=link, mode=0o777, **fields)


def h(name: bytes, link: bytes, **fields) -> bytes:
    return entry(name, LINK, link=link, **fields)


def xattr(**values: bytes) -> bytes:
    return pax({b"SCHILY.xattr." + name.replace("__", ".").encode(): value for name, value in values.items()})


def acl(kind: bytes) -> bytes:
    return pax({b"SCHILY.xattr.system.posix_acl_" + kind: ONE_USER_MORE})


def device(major: bytes, minor: bytes) -> bytes:
    block = bytearray(header(b"n", CHAR))
    block[329:345] = major + minor
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base256(number: int, width: int) -> bytes:
    if number < 0:
        return number.to_bytes(width, "big", signed=True)
    return bytes([0x80]) + number.to_bytes(width - 1, "big")


def numbers(name: bytes, *, uid: bytes = b"", gid: bytes = b"", mtime: bytes = b"") -> bytes:
    """
    A header whose numbers are the bytes given.
    """
    block = bytearray(header(name))
    for at, width, value in ((108, 8, uid), (116, 8, gid), (136, 12, mtime)):
        if value:
            block[at : at + width] = value.ljust(width, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


#: A system as most images have it: directories that are links into /usr.
MERGED = tar(
    d(b"usr"),
    d(b"usr/lib"),
    d(b"usr/bin"),
    f(b"usr/lib/libc", b"libc", mode=0o755),
    f(b"usr/bin/sh", b"sh", mode=0o4755, uid=7, gid=8),
    s(b"lib", b"usr/lib"),
    s(b"bin", b"/usr/bin"),
    s(b"lib64", b"lib"),
    d(b"etc", mode=0o711, uid=3, gid=4, mtime=1000),
    f(b"etc/passwd", b"root\n", mtime=999),
    h(b"etc/passwd-", b"etc/passwd", mtime=999),
    d(b"var"),
    s(b"var/run", b"../run"),
    d(b"run"),
    f(b"run/pid", b"1"),
)

ODD: dict[str, list[bytes]] = {
    # ------------------------------------------------ parents that are links, and what is said of them
    "whiteout below two links": [MERGED, tar(f(b"lib64/.wh.libc"))],
    "whiteout of the link that is then a parent": [MERGED, tar(f(b".wh.lib"), f(b"lib/new", b"n"))],
    "a parent first, then a whiteout of the link to it": [MERGED, tar(f(b"lib/new", b"n"), f(b".wh.lib"))],
    "opaque marker through a link": [MERGED, tar(f(b"lib/new", b"n"), f(b"lib/.wh..wh..opq"))],
    "opaque marker through a link first": [MERGED, tar(f(b"lib64/.wh..wh..opq"), f(b"usr/lib/new", b"n"))],
    "opaque marker of a link to nothing": [
        tar(s(b"to", b"nowhere/at/all")),
        tar(f(b"to/.wh..wh..opq"), f(b"nowhere/x")),
    ],
    "opaque marker of a link out": [tar(s(b"out", b"../../victim")), tar(f(b"out/.wh..wh..opq"))],
    "a link becomes a directory, its target is left": [MERGED, tar(d(b"lib", mode=0o700), f(b"lib/a", b"a"))],
    "a link becomes a directory after it was a parent": [
        MERGED,
        tar(f(b"lib/before", b"b"), d(b"lib", mode=0o700), f(b"lib/after", b"a")),
    ],
    "a directory becomes a link, then is written through": [
        MERGED,
        tar(s(b"etc", b"usr/etc"), d(b"usr/etc"), f(b"etc/hosts", b"h")),
    ],
    "a directory becomes a link out, then is written through": [
        MERGED,
        tar(s(b"etc", b"../../../victim"), f(b"etc/hello", b"overwritten"), f(b"etc/.wh.hello")),
    ],
    "a directory becomes a link in its own layer": [
        tar(d(b"a"), f(b"a/in", b"in"), s(b"a", b"b"), d(b"b"), f(b"a/through", b"t")),
    ],
    "a link to itself is a parent": [tar(s(b"a", b"a"), f(b"a/b"))],
    "links in a ring are parents": [tar(s(b"a", b"b"), s(b"b", b"c/../a"), d(b"c"), f(b"a/x"))],
    "a link through a link through dots": [
        tar(d(b"x"), d(b"x/y"), s(b"l", b"x/y/../../x"), s(b"m", b"l/./y/.."), f(b"m/y/z", b"z")),
    ],
    "a link to the root is a parent": [
        tar(s(b"r", b"/"), f(b"r/r/r/file", b"f"), s(b"q", b"."), f(b"q/also", b"a"))
    ],
    "a link above the root is a parent": [tar(s(b"r", b"../../../.."), f(b"r/file", b"f"))],
    "dots after a link are those of its target": [
        tar(d(b"deep"), d(b"deep/er"), s(b"l", b"deep/er"), s(b"up", b"l/.."), f(b"up/here", b"h")),
    ],
    "a lower link is followed after a whiteout of its target": [
        MERGED,
        tar(f(b"usr/.wh.lib"), f(b"lib/again", b"a")),
    ],
    "a lower link is replaced by a file of the same name": [
        MERGED,
        tar(f(b"lib", b"now a file")),
        tar(f(b"lib/x")),
    ],
    # ------------------------------------------------ hard links
    "hard link through a link": [MERGED, tar(h(b"sh2", b"bin/sh", mode=0o755, uid=9, gid=9, mtime=5))],
    "hard link to what the same layer hid before": [
        MERGED,
        tar(f(b"etc/.wh.passwd"), h(b"copy", b"etc/passwd")),
    ],
    "hard link to what the same layer hides later": [
        MERGED,
        tar(h(b"copy", b"etc/passwd"), f(b"etc/.wh.passwd")),
    ],
    "hard link to a file of a directory that was hidden": [
        MERGED,
        tar(f(b".wh.etc"), h(b"copy", b"etc/passwd")),
    ],
    "hard link to one in an opaque directory": [
        MERGED,
        tar(d(b"etc"), f(b"etc/.wh..wh..opq"), h(b"copy", b"etc/passwd")),
    ],
    "hard link, then an opaque marker where it came from": [
        MERGED,
        tar(h(b"copy", b"run/pid", mtime=7), f(b"run/.wh..wh..opq")),
    ],
    "hard link to a link": [tar(s(b"l", b"nowhere"), h(b"m", b"l"), f(b"nowhere", b"n"))],
    "hard link to a lower link": [MERGED, tar(h(b"m", b"lib"))],
    "hard link to a fifo and to a device": [
        tar(entry(b"p", FIFO, mode=0o622), entry(b"n", CHAR, device=(1, 3))),
        tar(h(b"p2", b"p"), h(b"n2", b"n", mode=0o666)),
    ],
    "hard link over what it names": [tar(f(b"a", b"a"), h(b"a", b"./a"), h(b"b", b"a"), h(b"a", b"b"))],
    "hard link in place of a directory": [tar(f(b"a", b"a"), d(b"b"), f(b"b/c"), h(b"b", b"a"))],
    "hard link to the root": [tar(h(b"r", b"/"))],
    "hard link with an empty target": [tar(f(b"a"), h(b"r", b""))],
    "hard link with data": [tar(f(b"a", b"a"), entry(b"b", LINK, link=b"a", size=0), f(b"c", b"c"))],
    "hard link to a whiteout's name": [MERGED, tar(f(b"run/.wh.pid"), h(b"copy", b"run/.wh.pid"))],
    "hard link to a name of two, then the other is written": [
        tar(f(b"a", b"old"), h(b"b", b"a")),
        tar(h(b"c", b"b"), f(b"b", b"new")),
    ],
    # ------------------------------------------------ order, duplicates, whiteouts
    "whiteout after its target in one layer": [MERGED, tar(f(b"run/pid", b"2"), f(b"run/.wh.pid"))],
    "whiteout before and after": [MERGED, tar(f(b"run/.wh.pid"), f(b"run/pid", b"2"), f(b"run/.wh.pid"))],
    "whiteout of a directory with entries of its layer": [MERGED, tar(f(b"etc/new", b"n"), f(b".wh.etc"))],
    "whiteouts of what is not there": [
        tar(f(b".wh.none"), f(b"no/where/.wh.at-all")),
        tar(f(b"no/.wh.where")),
    ],
    "a whiteout that is a directory": [MERGED, tar(d(b".wh.run"), f(b"run/.wh.pid"))],
    "a whiteout that is a link": [MERGED, tar(s(b".wh.run", b"etc"))],
    "a whiteout with data": [MERGED, tar(f(b"run/.wh.pid", b"x" * 700), f(b"after", b"a"))],
    "a whiteout that is a hard link to nothing": [MERGED, tar(h(b"run/.wh.pid", b"not/there"))],
    "opaque marker of the root": [MERGED, tar(f(b".wh..wh..opq"), f(b"alone", b"a")), tar(f(b"usr/x", b"x"))],
    "opaque marker twice, and one below": [
        MERGED,
        tar(
            f(b"usr/.wh..wh..opq"), f(b"usr/lib/.wh..wh..opq"), f(b"usr/lib/n", b"n"), f(b"usr/.wh..wh..opq")
        ),
    ],
    "hidden, back as a directory, hidden again": [
        MERGED,
        tar(f(b".wh.usr")),
        tar(d(b"usr"), f(b"usr/one", b"1")),
        tar(f(b"usr/.wh.one"), f(b"usr/two", b"2")),
        tar(f(b".wh.usr"), d(b"usr", mode=0o700)),
    ],
    "file, directory, file, directory": [
        tar(f(b"x", b"1")),
        tar(d(b"x"), f(b"x/in", b"i")),
        tar(f(b"x", b"3")),
        tar(d(b"x", mode=0o700), f(b"x/other", b"o")),
    ],
    "every kind in the place of every other": [
        tar(*(make(b"t%d" % number) for number, make in enumerate([f, d, lambda n: s(n, b"x")] * 3))),
        tar(
            f(b"t0", b"0"),
            f(b"t1", b"1"),
            f(b"t2", b"2"),
            d(b"t3"),
            d(b"t4", mode=0o700),
            d(b"t5"),
            s(b"t6", b"y"),
            s(b"t7", b"y"),
            s(b"t8", b"y"),
        ),
    ],
    "the same entry five times": [tar(*(f(b"same", b"%d" % each, mode=0o600 + each) for each in range(5)))],
    "a directory described three times": [
        tar(d(b"a", mode=0o700), f(b"a/f"), d(b"a", mode=0o711), d(b"a/", mtime=5))
    ],
    "a read-only directory is filled later": [
        tar(d(b"a", mode=0o555), f(b"a/one"), d(b"b", mode=0)),
        tar(f(b"a/two", mtime=3), f(b"b/three", mtime=4)),
        tar(f(b"a/.wh.one"), f(b"b/.wh..wh..opq")),
    ],
    # ------------------------------------------------ names
    "names with newlines and worse": [
        tar(
            f(b"a\nb", b"1"),
            d(b"\x01\x7f"),
            f(b"\x01\x7f/\xff\xfe", b"2"),
            f(b"tab\there", b"3"),
            f(b" ", b"4"),
        ),
        tar(f(b".wh.a\nb"), f(b"\x01\x7f/.wh.\xff\xfe")),
    ],
    "names with backslashes and colons": [
        tar(f(b"a\\b", b"1"), f(b"c:d", b"2"), f(b"e,f", b"3"), d(b"\\"), f(b"\\/x", b"4")),
    ],
    "names of dots": [tar(f(b"....", b"1"), d(b".../....", mtime=9), d(b"..a"), f(b"..a/..b", b"2"))],
    "only dots and slashes": [tar(d(b"./."), d(b"././/./", mode=0o750, mtime=77), f(b"a", b"a"))],
    "a file whose name ends in a slash": [tar(f(b"a/", b"data"), f(b"b", b"b"))],
    "an old file whose name ends in a slash is a directory": [tar(entry(b"a/", b"\0"), f(b"a/b", b"b"))],
    "a link whose name ends in a slash": [tar(d(b"t"), s(b"l/", b"t"), f(b"l/x", b"x"))],
    "many slashes": [tar(f(b"//a//b///c", b"c"), h(b"/d", b"///a////b/c"))],
    "dots that go above the root and come back": [
        tar(d(b"a"), f(b"a/../../../b", b"b"), f(b"../a/./c", b"c"))
    ],
    "an empty name": [tar(f(b"", b"x"))],
    "an empty name of a directory": [tar(d(b"", mode=0o700), f(b"a"))],
    "a component of 255 bytes": [
        tar(f(b"n" * 255, b"x"), d(b"m" * 255), f(b"m" * 255 + b"/" + b"o" * 255, b"y"))
    ],
    "a whiteout of 255 bytes": [tar(f(b"n" * 251, b"x")), tar(f(b".wh." + b"n" * 251))],
    "a whiteout of what cannot be": [tar(f(b".wh." + b"n" * 300))],
    "a link of 4,095 bytes": [tar(s(b"l", b"t" * 4095), s(b"m", b"u/" * 100))],
    # ------------------------------------------------ headers, and which wins
    "PAX, then GNU's long name": [
        tar(pax({b"path": b"by-pax"}) + special(b"L", b"by-gnu\0") + header(b"by-header"))
    ],
    "GNU's long name, then PAX": [
        tar(special(b"L", b"by-gnu\0") + pax({b"path": b"by-pax"}) + header(b"by-header"))
    ],
    "two long names": [tar(special(b"L", b"first\0") + special(b"L", b"second\0") + header(b"x"))],
    "two PAX headers": [
        tar(pax({b"path": b"first", b"mtime": b"1"}) + pax({b"path": b"second"}) + header(b"x"), f(b"after")),
    ],
    "long name of a directory": [
        tar(special(b"L", b"d/" * 60 + b"e/\0") + header(b"x", DIRECTORY, mode=0o750))
    ],
    "PAX path that leads out": [tar(pax({b"path": b"../../victim/hello"}) + f(b"x", b"overwritten"))],
    "PAX path with a NUL": [tar(pax({b"path": b"good\0bad"}) + header(b"x"))],
    "PAX link path with a NUL": [tar(pax({b"linkpath": b"good\0bad"}) + header(b"x", SYMLINK))],
    "PAX attribute with a NUL and a newline": [
        tar(pax({b"SCHILY.xattr.user.a": b"one\0two\nthree", b"comment": b"x"}) + f(b"x", b"x")),
    ],
    "PAX size of what is no file": [tar(pax({b"size": b"512"}) + header(b"d", DIRECTORY), f(b"after", b"a"))],
    "PAX path of slashes": [tar(pax({b"path": b"///"}) + header(b"x", DIRECTORY, mode=0o700))],
    "PAX key twice": [tar(pax(record(b"path", b"one") + record(b"path", b"two")) + header(b"x"))],
    "PAX header at the end of all": [tar(f(b"a", b"a"), pax({b"path": b"of-nothing"}))],
    "PAX header before a whiteout": [MERGED, tar(pax({b"path": b"run/.wh.pid"}) + header(b"x"))],
    "prefix that leads out": [tar(header(b"hello", rest=b"../victim".ljust(155, b"\0")) + b"")],
    "prefix with a whiteout": [MERGED, tar(header(b".wh.pid", rest=b"run".ljust(155, b"\0")))],
    "a name that is all of its field": [tar(f(b"a" * 100, b"x"), s(b"l", b"b" * 100))],
    "headers of V7": [tar(header(b"v7", magic=b"") + b"", header(b"v7d/", b"\0", magic=b""))],
    # ------------------------------------------------ numbers
    "a time before 1970": [
        tar(numbers(b"old", mtime=base256(-1, 12)), pax({b"mtime": b"-2.75"}) + f(b"older"))
    ],
    "times beyond 2^33": [
        tar(
            numbers(b"late", mtime=base256(2**33 + 5, 12)),
            pax({b"mtime": b"15032385534.999999999"}) + f(b"last"),
        ),
    ],
    "a time that no disk holds": [tar(pax({b"mtime": b"9223372036854775807"}) + f(b"end"))],
    "a time that no clock has": [tar(pax({b"mtime": b"99999999999999999999"}) + f(b"end"))],
    "a time with many digits": [
        tar(pax({b"mtime": b"1.1234567899999999"}) + f(b"a"), pax({b"mtime": b"1."}) + f(b"b"))
    ],
    "ids up to 2^32": [
        tar(
            numbers(b"a", uid=base256(2**32 - 2, 8), gid=base256(2**31, 8)),
            pax({b"uid": b"4294967294", b"gid": b"4294967294"}) + f(b"b"),
        ),
    ],
    "the id that is none": [
        tar(numbers(b"a", uid=base256(2**32 - 1, 8), gid=base256(2**32 - 1, 8)), f(b"b", uid=5))
    ],
    "ids below zero": [tar(numbers(b"a", uid=base256(-1, 8), gid=base256(-2, 8)))],
    "modes of all bits": [
        tar(
            f(b"all", b"x", mode=0o7777, uid=5, gid=6),
            d(b"dir", mode=0o7777, uid=5, gid=6),
            f(b"dir/in", b"y", mode=0o6711),
            f(b"none", mode=0),
            f(b"typed", mode=0o1100644 & 0o7777777),
            entry(b"fifo", FIFO, mode=0o7777, uid=5),
        ),
    ],
    "setuid by a hard link's header": [tar(f(b"a", b"a", uid=5), h(b"b", b"a", mode=0o4755, uid=0))],
    "a directory of setgid is filled": [tar(d(b"g", mode=0o2775, gid=50), f(b"g/f"), d(b"g/d"), f(b"g/d/x"))],
    "devices with large numbers": [
        tar(
            entry(b"c", CHAR, device=(511, 0o3777777), mode=0o600),
            entry(b"b", BLOCK_DEVICE, device=(8, 1), mode=0o660),
        ),
    ],
    # ------------------------------------------------ attributes
    "attributes of a file that a hard link describes": [
        tar(xattr(user__a=b"1") + f(b"a", b"a"), xattr(user__b=b"2") + h(b"b", b"a")),
    ],
    "attributes of a directory that is described again": [
        tar(xattr(user__a=b"1") + d(b"d"), f(b"d/f")),
        tar(xattr(user__b=b"2") + d(b"d", mode=0o700)),
        tar(f(b"d/g", mtime=9)),
    ],
    "attributes of a file that is written anew": [
        tar(xattr(user__a=b"1") + f(b"a", b"1")),
        tar(f(b"a", b"2")),
    ],
    "attribute names that are odd": [
        tar(pax({b"SCHILY.xattr.user.with space": b"1", b"SCHILY.xattr.user.\xc3\xa9": b"2"}) + f(b"a")),
    ],
    "attributes of a namespace that is none": [tar(pax({b"SCHILY.xattr.nobody.knows": b"1"}) + f(b"a"))],
    "an attribute without a name": [tar(pax({b"SCHILY.xattr.": b"1"}) + f(b"a"))],
    "marks of overlayfs from a layer": [
        MERGED,
        tar(
            xattr(trusted__overlay__opaque=b"y") + d(b"usr"),
            xattr(user__overlay__whiteout=b"y") + f(b"etc/passwd"),
            xattr(trusted__overlay__redirect=b"/etc") + d(b"run"),
        ),
    ],
    "capabilities of a file that changes hands": [
        tar(
            pax({b"SCHILY.xattr.security.capability": b"\x00\x00\x00\x02\x00\x20\x00\x00" + bytes(12)})
            + f(b"ping", b"ping", mode=0o755, uid=5)
        ),
    ],
    "a link with attributes": [tar(xattr(user__a=b"1", trusted__b=b"2") + s(b"l", b"x"))],
    # ------------------------------------------------ sparse files
    "a sparse file of holes": [
        tar(
            pax(
                {
                    b"GNU.sparse.major": b"1",
                    b"GNU.sparse.minor": b"0",
                    b"GNU.sparse.name": b"holes",
                    b"GNU.sparse.realsize": b"1000000",
                }
            )
            + f(b"x", b"0\n".ljust(BLOCK, b"\0")),
            f(b"after", b"a"),
        ),
    ],
    "a sparse name that is a whiteout": [
        MERGED,
        tar(
            pax(
                {
                    b"GNU.sparse.major": b"1",
                    b"GNU.sparse.minor": b"0",
                    b"GNU.sparse.name": b"run/.wh.pid",
                    b"GNU.sparse.realsize": b"0",
                }
            )
            + f(b"x", b"0\n".ljust(BLOCK, b"\0")),
            f(b"after", b"a"),
        ),
    ],
    "a sparse name beside a PAX path": [
        tar(
            pax(
                {
                    b"path": b"by-path",
                    b"GNU.sparse.major": b"1",
                    b"GNU.sparse.minor": b"0",
                    b"GNU.sparse.name": b"by-sparse",
                    b"GNU.sparse.realsize": b"5000",
                }
            )
            + f(b"x", b"1\n4096\n4\n".ljust(BLOCK, b"\0") + b"tail")
        ),
    ],
    "a sparse map that overlaps": [
        tar(
            pax({b"GNU.sparse.map": b"0,5,3,5", b"GNU.sparse.numblocks": b"2", b"GNU.sparse.size": b"10"})
            + f(b"x", b"0123456789")
        ),
    ],
    # ------------------------------------------------ the end
    "nothing at all": [b""],
    "one block of zeros at the end": [entry(b"a", FILE, b"a") + bytes(BLOCK)],
    "a file whose padding is missing": [header(b"a", size=3) + b"abc"],
    "a second archive after the end": [tar(f(b"a", b"a")) + tar(f(b"b", b"b"))],
    "a directory with data": [tar(header(b"d", DIRECTORY, size=BLOCK), f(b"x", b"x"))],
    "a device with data that is headers": [
        tar(header(b"n", CHAR, size=2 * BLOCK, device=(1, 3)), f(b"x", b"x"))
    ],
    "data that looks like headers": [
        tar(header(b"a", size=2 * BLOCK) + header(b"../victim/hello") + header(b"b"))
    ],
    # ------------------------------------------------ ACLs that directories hand on
    "a directory hands its ACL on to later layers": [
        tar(acl(b"default") + d(b"d"), f(b"d/one")),
        tar(f(b"d/two", mode=0o600), d(b"d/sub"), f(b"d/sub/x"), s(b"d/l", b"x"), entry(b"d/p", FIFO)),
        tar(f(b"d/a/b/c")),
    ],
    "a directory that hands its ACL on is described again": [
        tar(acl(b"default") + d(b"d")),
        tar(d(b"d"), f(b"d/two"), d(b"d/sub")),
    ],
    "the root hands its ACL on": [tar(acl(b"default") + d(b"./")), tar(f(b"x"), d(b"y"))],
    "an ACL, and a mode that says otherwise": [
        tar(acl(b"access") + f(b"a", mode=0o640)),
        tar(acl(b"access") + f(b"b", mode=0o777), h(b"c", b"b", mode=0o600)),
    ],
    # ------------------------------------------------ marks that are parents, and the root
    "whiteouts and markers that are parents": [
        MERGED,
        tar(f(b"usr/.wh..wh..opq/x", b"x"), f(b".wh.usr/x", b"x"), f(b"usr/.wh.lib/y")),
        tar(f(b".wh..wh.usr"), f(b"usr/.wh..wh..wh..opq")),
    ],
    "an opaque marker that is a directory": [MERGED, tar(d(b"usr/.wh..wh..opq/"), f(b"usr/x", b"x"))],
    "implied, hidden, implied": [
        tar(d(b"d", mode=0o711, uid=3, mtime=50), f(b"d/x")),
        tar(f(b"d/y", mtime=60), f(b".wh.d")),
        tar(f(b".wh.d"), f(b"d/y", mtime=60), d(b"d/z")),
    ],
    "a directory with attributes goes and comes back": [
        tar(xattr(user__a=b"1") + d(b"d"), f(b"d/x")),
        tar(f(b"d/y")),
        tar(f(b"d")),
        tar(f(b".wh.d")),
        tar(f(b"d/again", mtime=4)),
    ],
    "the root is described, added to, hidden and described": [
        tar(xattr(user__r=b"1") + d(b"./", mode=0o700, uid=5, mtime=5), f(b"a"), d(b"k"), f(b"k/l")),
        tar(f(b"b", mtime=88)),
        tar(f(b".wh..wh..opq"), d(b"k")),
        tar(d(b"/", mode=0o711, mtime=9), f(b"k/m")),
    ],
    # ------------------------------------------------ files of lower layers that get another name
    "hard link to a lower file, and a directory in its place": [
        MERGED,
        tar(h(b"c", b"run/pid"), d(b"run/pid"), f(b"run/pid/x")),
    ],
    "hard link to a lower file, and a new one in its place": [
        MERGED,
        tar(h(b"c", b"run/pid"), f(b"run/pid", b"new")),
    ],
    "hard links over three layers": [
        MERGED,
        tar(h(b"run/c", b"lib/libc", mode=0o700)),
        tar(h(b"etc/d", b"run/c", mode=0o711), f(b".wh.run")),
    ],
    "hard link to a lower file with attributes": [
        tar(
            pax({b"SCHILY.xattr.user.a": b"1", b"SCHILY.xattr.security.capability": CAPABILITY})
            + f(b"p", b"p" * 5000, uid=4)
        ),
        tar(pax({b"SCHILY.xattr.security.capability": CAPABILITY}) + h(b"q", b"p", uid=4)),
    ],
    "hard link to a lower file with holes": [
        tar(
            pax(SPARSE | {b"GNU.sparse.name": b"sp", b"GNU.sparse.realsize": b"1000000"})
            + f(b"x", b"1\n500000\n5\n".ljust(BLOCK, b"\0") + b"holes")
        ),
        tar(h(b"q", b"sp")),
    ],
    "a device whose number is cut down": [tar(device(base256(5000, 8), base256(1 << 20, 8)))],
    "a device below nothing, cut down": [tar(device(base256(-1, 8), base256(-1, 8)))],
}

#: Of these nothing comes, in one directory and as trees.
REFUSED = {
    "a link to itself is a parent",
    "links in a ring are parents",
    "a lower link is replaced by a file of the same name",
    "hard link to what the same layer hid before",
    "hard link to a file of a directory that was hidden",
    "hard link to one in an opaque directory",
    "hard link over what it names",
    "hard link to the root",
    "hard link with an empty target",
    "hard link to a whiteout's name",
    "an empty name",
    "a whiteout of what cannot be",
    "PAX path with a NUL",
    "PAX link path with a NUL",
    "a time that no clock has",
    "an attribute without a name",
    "a sparse map that overlaps",
}

#: A lower file with two names gets a third: as trees the old ones are another file then, as overlayfs itself has it.
APART = {
    "hard link to what the same layer hides later": {"etc/passwd-"},
    "hard link to a name of two, then the other is written": {"c"},
    "hard links over three layers": {"usr/lib/libc"},
}


def deep(count: int) -> list[bytes]:
    """
    One directory in the other, by names that are short enough.
    """
    return [
        tar(*(d(b"/".join([b"d"] * number)) for number in range(1, count + 1))),
        tar(f(b".wh.d"), f(b"x", b"x")),
    ]


def wide(count: int) -> list[bytes]:
    return [
        tar(d(b"w"), *(f(b"w/%06d" % each) for each in range(count))),
        tar(*(f(b"w/.wh.%06d" % each) for each in range(0, count, 2)), f(b"w/000001", b"new")),
        tar(f(b"w/.wh..wh..opq"), f(b"w/last", b"l")),
    ]


LARGE = {
    "directories 1,990 deep": lambda: deep(1990),
    "directories deeper than a name may be": lambda: deep(2200),
    "deeper by links": lambda: [
        tar(
            *(
                entry
                for number in range(4)
                for entry in (
                    d(b"l%d" % number),
                    d(b"l%d/" % number + b"/".join([b"x"] * 900)),
                    s(b"l%d/" % number + b"/".join([b"x"] * 900) + b"/next", b"/l%d" % (number + 1)),
                )
            ),
        ),
    ],
    "a directory of many": lambda: wide(100_000 if os.environ.get("ULLAGE_TORTURE") else 10_000),
}
