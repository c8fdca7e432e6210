"""
Layers byte by byte, and what a tree looks like: made here without a line of the code under test.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import subprocess
from pathlib import Path

from ullage.layer import LayerStream, apply_layer, apply_overlay, compose

BLOCK = 512
FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
MTIME = 1_700_000_000


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def header(
    name: bytes,
    kind: bytes = FILE,
    *,
    size: int | bytes = 0,
    link: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int | bytes = MTIME,
    magic: bytes = b"ustar\x0000",
    device: tuple[int, int] = (0, 0),
    rest: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """
    One header block. Numbers given as bytes are put in as they are.
    """

    def field(value: int | bytes, width: int) -> bytes:
        return value.ljust(width, b"\0") if isinstance(value, bytes) else octal(value, width)

    block = (
        name[:100].ljust(100, b"\0")
        + octal(mode, 8)
        + octal(uid, 8)
        + octal(gid, 8)
        + field(size, 12)
        + field(mtime, 12)
        + b" " * 8
        + kind
        + link[:100].ljust(100, b"\0")
        + magic.ljust(8, b"\0")
        + bytes(64)
        + octal(device[0], 8)
        + octal(device[1], 8)
        + rest
    ).ljust(BLOCK, b"\0")
    if checksum is None:
        checksum = b"%06o\0 " % sum(block)
    return block[:148] + checksum + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def entry(name: bytes, kind: bytes = FILE, data: bytes = b"", **fields: object) -> bytes:
    """
    A header and its data. Long names and links get GNU's.
    """
    before = b""
    link = fields.get("link", b"")
    if len(name) > 100:
        before += special(b"L", name + b"\0")
    if len(link) > 100:
        before += special(b"K", link + b"\0")
    fields.setdefault("size", len(data))
    if kind == DIRECTORY:
        fields.setdefault("mode", 0o755)
    return before + header(name, kind, **fields) + padded(data)


def special(kind: bytes, data: bytes) -> bytes:
    return header(b"././@LongLink", kind, size=len(data)) + padded(data)


def pax(records: dict[bytes, bytes] | bytes, kind: bytes = b"x") -> bytes:
    data = records if isinstance(records, bytes) else b"".join(record(*each) for each in records.items())
    return header(b"PaxHeaders.0/x", kind, size=len(data)) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    length += len(str(length))
    if len(str(length)) + len(key) + len(value) + 3 != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def tar(*entries: bytes) -> bytes:
    return b"".join(entries) + bytes(2 * BLOCK)


# ---------------------------------------------------------------------- applying


@contextlib.contextmanager
def opened(*paths):
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def stream(layer, **options):
    blob = io.BytesIO(layer.read_bytes() if isinstance(layer, Path) else layer)
    options.setdefault("threads", False)
    return LayerStream(blob, **options)


def apply(layer, root, *, options=None, budget=None, **of_stream):
    """
    Apply one layer, bytes or a file, to a directory.
    """
    with opened(root) as (directory,), stream(layer, **of_stream) as source:
        return apply_layer(source, directory, options=options, budget=budget)


def flatten(layers, root, **options):
    root.mkdir(exist_ok=True)
    return [apply(layer, root, **options) for layer in layers]


def overlay(layers, base, *, trees=(), options=None):
    """
    A tree for each layer, below *base*, on top of *trees* (the lowest first). Gives all of them.
    """
    trees = list(trees)
    for number, layer in enumerate(layers):
        tree = base / f"tree{number}"
        tree.mkdir()
        with opened(tree, *trees[::-1]) as (directory, *lowers), stream(layer) as source:
            apply_overlay(source, directory, lowers=lambda lowers=lowers: lowers, options=options)
        trees.append(tree)
    return trees


def composed(trees, target):
    target.mkdir()
    with opened(target, *trees) as (directory, *roots):
        return compose(roots, directory)


@contextlib.contextmanager
def mounted(trees, point):
    """
    What the kernel shows of the trees, the lowest first.
    """
    point.mkdir()
    bottom = point.with_name("bottom")  # the kernel wants two
    bottom.mkdir()
    lowers = ":".join(map(str, [*trees[::-1], bottom]))
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lowers}", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


# ---------------------------------------------------------------------- looking


def text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def snapshot(root, *, times=False, links=True, xattrs=True):
    """
    Everything about a tree that a program in it can see, by path; "hardlink" names the first of equal files.
    """
    root = os.fsencode(root)
    found = {}
    first = {}
    paths = [b"."]
    for where, directories, files in os.walk(root):
        paths += [os.path.relpath(os.path.join(where, name), root) for name in directories + files]  # noqa: PTH118 -- bytes
    for path in sorted(paths):
        full = os.path.join(root, path)  # noqa: PTH118 -- bytes
        status = os.lstat(full)
        one = found[text(path)] = {"uid": status.st_uid, "gid": status.st_gid}
        describe(full, status, one)
        if times:
            one["mtime_ns"] = status.st_mtime_ns
        attributes = {
            name: os.getxattr(full, name, follow_symlinks=False).hex()
            for name in os.listxattr(full, follow_symlinks=False)
        }
        if attributes and xattrs:
            one["xattr"] = attributes
        if links and not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            known = first.setdefault(status.st_ino, text(path))
            if known != text(path):
                one["hardlink"] = "dest/" + known
    return found


def describe(full, status, one):
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        one["type"] = "symlink"
        one["target"] = text(os.readlink(full))  # noqa: PTH115 -- bytes
        return
    one["mode"] = oct(stat.S_IMODE(mode))
    if stat.S_ISREG(mode):
        one["type"] = "file"
        one["size"] = status.st_size
        with open(full, "rb") as file:  # noqa: PTH123 -- bytes
            one["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    elif stat.S_ISDIR(mode):
        one["type"] = "dir"
    elif stat.S_ISFIFO(mode):
        one["type"] = "fifo"
    else:
        one["type"] = "char" if stat.S_ISCHR(mode) else "block"
        one["dev"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]


def differences(first, second):
    """
    Paths at which two snapshots differ, with both sides.
    """
    return {
        path: (first.get(path), second.get(path))
        for path in sorted(first.keys() | second.keys())
        if first.get(path) != second.get(path)
    }
