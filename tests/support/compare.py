"""
The same image unpacked by ullage, by umoci and by GNU tar: what each of them made, and where they differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from support.layers import differences, opened, snapshot
from ullage.layer import LayerBlob, apply_overlays, compose_directory, unpack

__all__ = ["Facts", "by_tar", "by_ullage", "by_ullage_composed", "by_umoci", "compared", "layers_of"]

#: Only its own later format holds attributes.
ATTRIBUTES = ("--xattrs", "--xattrs-include=*")
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


def layers_of(layout: Path, tag: str) -> list[Path]:
    """
    The blobs of the layers of an image in an OCI image layout, the lowest first.
    """

    def blob(descriptor) -> Path:
        return layout / "blobs" / descriptor["digest"].replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    (entry,) = (
        each
        for each in index["manifests"]
        if each.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag
    )
    return [blob(each) for each in json.loads(blob(entry).read_text())["layers"]]


def by_ullage(layers, target):
    unpack([LayerBlob(layer) for layer in layers], target)
    return target


def by_ullage_composed(layers, target):
    """
    By way of a tree for each layer.
    """
    trees = [target.with_name(f"{target.name}-tree{number}") for number in range(len(layers))]
    for tree in trees:
        tree.mkdir()
    with opened(*trees) as roots:
        apply_overlays([LayerBlob(layer) for layer in layers], roots)
        compose_directory(roots, target)
    for tree in trees:
        shutil.rmtree(tree)
    return target


def by_umoci(layout, tag, target):
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{layout}:{tag}", target], check=True, capture_output=True
    )
    return target


def by_tar(layers, target):
    """
    GNU tar knows no whiteouts, and replaces no directory that is full: what is to go is removed before each layer.
    """
    target.mkdir(exist_ok=True)
    describes_root = False
    for layer in layers:
        with tarfile.open(layer, errors="surrogateescape") as archive:
            for entry in archive:
                describes_root |= entry.name in (".", "")
                _make_way(target, Path(entry.name), is_directory=entry.isdir())
        options = [*ATTRIBUTES, "--numeric-owner", "--exclude=.wh.*"]
        subprocess.run(["tar", *options, "-xpf", layer, "-C", target], check=True)
    if not describes_root:
        os.utime(target, (0, 0))  # as umoci and we have it: the same layers give the same tree
    return target


def _make_way(target, name, *, is_directory) -> None:
    if name.name == _OPAQUE:
        hidden = list((target / name).parent.iterdir()) if (target / name).parent.is_dir() else []
    elif name.name.startswith(_WHITEOUT):
        hidden = [target / name.with_name(name.name.removeprefix(_WHITEOUT))]
    else:
        hidden = [] if is_directory else [target / name]
    for path in hidden:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != target / name:
            path.unlink(missing_ok=True)


class Facts:
    """
    What of an image's headers explains a difference that docs/unpacking.md decides.
    """

    def __init__(self, layers):
        self.links = set()
        #: Directories that some layer puts something into without describing them.
        self.implied = set()
        for layer in layers:
            described, parents = set(), set()
            with tarfile.open(layer, errors="backslashreplace") as archive:
                for entry in archive:
                    name = entry.name.removeprefix("./")
                    described.add(name)
                    parents.update(map(str, Path(name).parents))
                    if entry.islnk():
                        self.links |= {name, entry.linkname.removeprefix("./")}
            self.implied |= parents - described
        # umoci makes those with a helper that leaves the directory that they are made in as new as they are.
        self.implied |= {str(Path(each).parent) for each in self.implied}

    def explain(self, path, ours, theirs):
        """
        Which decision it is; None where it is none.
        """
        if ours is None or theirs is None:
            return None
        keys = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        if keys == {"mtime_ns"} and ours["type"] == "dir" and path in self.implied:
            return "time of a directory that a layer changes and does not describe"
        if keys <= {"uid", "gid", "mode", "mtime_ns"} and path in self.links:
            return "metadata in a hard link's header"
        if keys == {"xattr"}:
            kept = {name: value for name, value in theirs["xattr"].items() if value}
            if kept == ours.get("xattr", {}):
                return "attributes without a value"
        return None


def compared(one, other):
    """
    How many entries two trees have, and at which of them they differ: type, mode, owner, size, time, attributes,
    target, content, and which names are one file.
    """
    first, second = (snapshot(each, times=True) for each in (one, other))
    return len(first.keys() | second.keys()), differences(first, second)
