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

from support.layers import composed, differences, flatten, overlay, snapshot
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
