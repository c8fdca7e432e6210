"""
File by file beside Debian's umoci and GNU tar: type, mode, owner, size, time, attributes, targets and content.

The trees are made here, of everything that a root filesystem may hold; the layers are written by GNU tar in its own
formats, and put into an image for umoci.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess

import pytest

from support.compare import Facts, by_tar, by_ullage, by_ullage_composed, by_umoci, compared
from support.layers import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    LINK,
    SYMLINK,
    composed,
    differences,
    entry,
    flatten,
    overlay,
    pax,
    snapshot,
    tar,
)
from ullage.digest import digest_of

pytestmark = pytest.mark.external

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture(autouse=True)
def programs(root):
    for program in ("tar", "umoci"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def grow(base, seed, *, files=300):
    """
    A tree with some of everything.
    """
    choice = random.Random(seed)
    directories = [base]
    base.mkdir()
    for number in range(40):
        directory = choice.choice(directories) / f"directory{number}"
        directory.mkdir(mode=0o755)
        directories.append(directory)
    made = []
    for number in range(files):
        path = choice.choice(directories) / choice.choice(
            [f"file{number}", f"näme {number}", f"{number}" * 40, os.fsdecode(b"\xff%d" % number)]
        )
        kind = choice.random()
        if kind < 0.6 or not made:
            path.write_bytes(choice.randbytes(choice.choice([0, 1, 511, 512, 513, 5000, 70_000])))
            made.append(path)
        elif kind < 0.7:
            path.symlink_to(choice.choice(["../x", "/etc/passwd", "t" * 200, "nowhere"]))
        elif kind < 0.8:
            os.link(choice.choice(made), path)
        elif kind < 0.85:
            os.mkfifo(path)
        elif kind < 0.9:
            os.mknod(path, 0o020600, os.makedev(choice.randrange(1, 200), choice.randrange(300)))
        elif kind < 0.95:
            with open(path, "wb") as file:
                for place in range(1, 6):
                    file.seek(place * 300_000)
                    file.write(choice.randbytes(5000))
                file.truncate(3_000_000)
            made.append(path)
        else:
            path.mkdir()
            directories.append(path)
    dress(base, choice)


def dress(base, choice):
    """
    Owners, modes, attributes and times, for everything, the directories last.
    """
    everything = [
        os.path.join(where, name) for where, ds, fs in os.walk(base, topdown=False) for name in (*fs, *ds)
    ]
    for path in [*everything, base]:
        is_link = os.path.islink(path)
        os.chown(
            path,
            choice.choice([0, 1, 1000, 65534, 3_000_000]),
            choice.choice([0, 5, 100]),
            follow_symlinks=False,
        )
        if not is_link:
            os.chmod(path, choice.choice([0o755, 0o644, 0o600, 0o4755, 0o2711, 0o1777, 0o000]))
        if os.path.isfile(path) and not is_link and choice.random() < 0.1:
            os.setxattr(path, "security.capability", CAPABILITY)
            os.setxattr(path, "user.note", b"any\0bytes\xff")
        times = choice.randrange(10**18, 17 * 10**17)
        os.utime(path, ns=(times, times), follow_symlinks=False)


#: Only its own later format holds attributes.
ATTRIBUTES = ["--xattrs", "--xattrs-include=*"]


def write_layer(source, layer, *options):
    subprocess.run(["tar", "--numeric-owner", *options, "-cf", layer, "-C", source, "."], check=True)
    return layer


def image_of(layers, layout):
    """
    An OCI image layout, written out by hand.
    """
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(raw, media_type):
        digest = digest_of(raw)
        (blobs / digest.encoded).write_bytes(raw)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": digest, "size": len(raw)}

    plain = [layer.read_bytes() for layer in layers]
    config = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in plain]},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "config": add(json.dumps(config).encode(), "config.v1+json"),
        "layers": [add(gzip.compress(one, 1), "layer.v1.tar+gzip") for one in plain],
    }
    index = {
        "schemaVersion": 2,
        "manifests": [
            add(json.dumps(manifest).encode(), "manifest.v1+json")
            | {"annotations": {"org.opencontainers.image.ref.name": "it"}}
        ],
    }
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def umoci(layers, base):
    layout = image_of(layers, base / "layout")
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:it", base / "umoci"], check=True)
    return base / "umoci"


def compare(found, expected):
    """
    No entry differs; and how many were compared.
    """
    assert differences(found, expected) == {}
    return len(expected)


@pytest.mark.parametrize("format_", ["posix", "gnu"])
def test_one_layer_is_what_gnu_tar_makes_of_it(format_, tmp_path):
    grow(tmp_path / "source", format_)
    # No engine reads the sparse files of GNU's format.
    options = ["--sparse", *ATTRIBUTES] if format_ == "posix" else []
    layer = write_layer(tmp_path / "source", tmp_path / "layer", f"--format={format_}", *options)
    (tmp_path / "tar").mkdir()
    subprocess.run(
        ["tar", *ATTRIBUTES, "--numeric-owner", "-xpf", layer, "-C", tmp_path / "tar"],
        check=True,
    )

    flatten([layer], tmp_path / "flat")

    expected = snapshot(tmp_path / "tar", times=True)
    assert compare(snapshot(tmp_path / "flat", times=True), expected) > 300
    if format_ == "posix":
        assert expected == snapshot(tmp_path / "source", times=True)


def test_a_stack_with_deletions_is_what_umoci_makes_of_it(tmp_path):
    """
    Five layers: files changed, added and deleted, directories replaced by files and back, opaque ones.
    """
    choice = random.Random(5)
    grow(tmp_path / "layer0", 5)
    layers = [write_layer(tmp_path / "layer0", tmp_path / "0.tar", "--format=posix", *ATTRIBUTES)]
    view = tmp_path / "layer0"
    for number in range(1, 5):
        source = tmp_path / f"layer{number}"
        grow(source, number + 100, files=60)
        present = sorted(os.path.join(where, name) for where, ds, fs in os.walk(view) for name in (*ds, *fs))
        for path in choice.sample(present, 12):
            parent, name = os.path.split(os.path.relpath(path, view))
            if os.path.isdir(source / parent) and not os.path.lexists(source / parent / name):
                (source / parent / f".wh.{name}"[:255]).touch()
        for where, directories, _ in os.walk(source):
            if directories and choice.random() < 0.1:
                (source / where / ".wh..wh..opq").touch()
        dress(source, choice)
        layers.append(write_layer(source, tmp_path / f"{number}.tar", "--format=posix", *ATTRIBUTES))
        flatten(layers, view := tmp_path / f"view{number}")

    expected = snapshot(umoci(layers, tmp_path), times=True)

    assert compare(snapshot(view, times=True), expected) > 400
    composed(overlay(layers, tmp_path), tmp_path / "composed")
    found = snapshot(tmp_path / "composed", times=True)
    del found["."], expected["."]
    assert compare(found, expected) > 400


# Layers of our own, with what GNU tar writes into none

ACL = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000000ffffffff")  # fmt: skip
TIME = b"1600000000.123456789"


def dressed(name, kind=b"0", data=b"", *, xattrs=None, **fields):
    """
    An entry with a time to the nanosecond, and attributes.
    """
    records = {b"mtime": TIME} | {b"SCHILY.xattr." + each: value for each, value in (xattrs or {}).items()}
    return pax(records) + entry(name, kind, data, **fields)


def wardrobe():
    """
    Some hundred entries of two layers: one of everything, in a few places.
    """
    lower, upper = [dressed(b"./", DIRECTORY, mode=0o755)], []
    for number in range(25):
        base = b"d%d" % number
        lower += [
            dressed(base, DIRECTORY, mode=0o1777, uid=number),
            dressed(base + b"/file", data=b"x" * number * 700, mode=0o4755, uid=1000, gid=number),
            dressed(base + b"/capable", data=b"c", xattrs={b"security.capability": CAPABILITY}),
            dressed(base + b"/noted", data=b"n", xattrs={b"user.note": b"any\0byte\xff", b"user.more": b"m" * 900}),
            dressed(base + b"/acl", data=b"a", mode=0o660, xattrs={b"system.posix_acl_access": ACL}),
            dressed(base + b"/default", DIRECTORY, mode=0o2750, xattrs={b"system.posix_acl_default": ACL}),
            dressed(base + b"/\xff\xfe not utf-8", data=b"!"),
            dressed(base + b"/" + b"long" * 50, SYMLINK, link=b"../" * 60 + b"x"),
            dressed(base + b"/fifo", FIFO, mode=0o620),
            dressed(base + b"/null", CHAR, device=(1, number), mode=0o666),
            dressed(base + b"/loop", BLOCK_DEVICE, device=(7, number)),
            dressed(base + b"/gone", data=b"g"),
            dressed(base + b"/opaque", DIRECTORY),
            dressed(base + b"/opaque/below", data=b"b"),
            dressed(base + b"/to-file", DIRECTORY),
            dressed(base + b"/to-file/below", data=b"b"),
            dressed(base + b"/to-directory", data=b"f"),
            pax({b"mtime": TIME, b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0",
                 b"GNU.sparse.name": base + b"/sparse", b"GNU.sparse.realsize": b"1048576"})
            + entry(b"GNUSparseFile.0/sparse", data=b"2\n524288\n512\n1048576\n0\n".ljust(512, b"\0") + b"s" * 512),
        ]  # fmt: skip
        upper += [
            dressed(base, DIRECTORY, mode=0o755, uid=number),
            entry(base + b"/.wh.gone"),
            dressed(base + b"/opaque", DIRECTORY, mode=0o700),
            entry(base + b"/opaque/.wh..wh..opq"),
            dressed(base + b"/opaque/new", data=b"new"),
            dressed(base + b"/to-file", data=b"now a file"),
            dressed(base + b"/to-directory", DIRECTORY),
            dressed(base + b"/to-directory/below", data=b"b"),
            # The file's own metadata again: where they differ, so do engines.
            dressed(
                b"d0/linked%d" % number,
                LINK,
                link=base + b"/capable",
                xattrs={b"security.capability": CAPABILITY},
            )
            if number
            else b"",
        ]
    # A directory that gets links has its time from here.
    return [tar(*lower), tar(*upper, dressed(b"d0", DIRECTORY, mode=0o755))]


def test_one_of_everything_is_what_umoci_and_gnu_tar_make_of_it(tmp_path):
    layers = []
    for number, layer in enumerate(wardrobe()):
        layers.append(tmp_path / f"{number}.tar")
        layers[-1].write_bytes(layer)
    layout = image_of(layers, tmp_path / "layout")
    ours, facts = by_ullage(layers, tmp_path / "ours"), Facts(layers)

    assert compared(ours, by_ullage_composed(layers, tmp_path / "composed")) == (450, {})
    for unpacked in (by_umoci(layout, "it", tmp_path / "umoci"), by_tar(layers, tmp_path / "tar")):
        entries, different = compared(ours, unpacked)

        assert entries == 450
        assert {path: sides for path, sides in different.items() if facts.explain(path, *sides) is None} == {}
        assert len(different) < 10
