"""
What a tree has to hold, by the tar that it was made of and Python's own reader; and what is in one on a disk.

Nothing of the package is asked: what it made is what is looked at.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["chain_ids", "seen", "wanted"]

Tree = dict[str, list[Any]]

_WHITEOUT = ".wh."
_XATTR = "SCHILY.xattr."


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """
    The names of the trees of these layers, the lowest first.
    """
    found = list(diff_ids[:1])
    for each in diff_ids[1:]:
        found.append("sha256:" + hashlib.sha256(f"{found[-1]} {each}".encode()).hexdigest())
    return found


def wanted(layer: bytes) -> Tree:
    """
    What the tree of one layer is to be, by the names in it. Its tar describes every directory.
    """
    tree: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        for entry in archive:
            folder, _, name = entry.name.rpartition("/")
            if name.startswith(_WHITEOUT):
                tree[f"{folder}/{name.removeprefix(_WHITEOUT)}"] = ["whiteout"]
                continue
            mode = entry.mode
            if entry.isdir():
                tree[entry.name] = ["directory", mode, entry.mtime]
            elif entry.issym():
                tree[entry.name] = ["symlink", entry.linkname]
            elif entry.islnk():
                tree[entry.name] = tree[entry.linkname]
            else:
                file = archive.extractfile(entry)
                assert file is not None
                attributes = sorted(
                    [key.removeprefix(_XATTR), value]
                    for key, value in entry.pax_headers.items()
                    if key.startswith(_XATTR)
                )
                tree[entry.name] = ["file", mode, entry.mtime, _hash(file.read()), attributes]
    return tree


def seen(tree: Path) -> Tree:
    """
    The same, of a directory.
    """
    found: Tree = {}
    for path in tree.rglob("*"):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        name = str(path.relative_to(tree))
        if stat.S_ISDIR(status.st_mode):
            found[name] = ["directory", mode, int(status.st_mtime)]
        elif stat.S_ISLNK(status.st_mode):
            found[name] = ["symlink", str(path.readlink())]
        elif stat.S_ISCHR(status.st_mode) and not status.st_rdev:
            found[name] = ["whiteout"]
        else:
            attributes = [[each, os.getxattr(path, each).decode()] for each in sorted(os.listxattr(path))]
            found[name] = ["file", mode, int(status.st_mtime), _hash(path.read_bytes()), attributes]
    return found


def _hash(data: bytes) -> str:
    return f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()[:16]}"
