"""
A tree in which layers lie on top of each other in one directory.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ullage.layer.attributes import take_default_acl
from ullage.layer.refused import Refused
from ullage.layer.tree import Tree
from ullage.layer.walk import join

if TYPE_CHECKING:
    from ullage.layer.account import Account
    from ullage.layer.tar import Entry, Kind

__all__ = ["FlattenedTree"]


class FlattenedTree(Tree):
    """
    Whiteouts delete what lower layers left; what this layer brought is remembered by name, so that they cannot.
    """

    def __init__(self, root: int, account: Account, *, max_path_bytes: int) -> None:
        super().__init__(root, account, max_path_bytes=max_path_bytes)
        self._touched: set[bytes] = {b""}

    def begin(self) -> None:
        super().begin()
        self.entered(b"", self.root)

    def entered(self, path: bytes, descriptor: int) -> None:
        record = self.directories[path]
        if record.before_bytes is None:
            return  # made by this layer, and as it was made until all is in it
        acl = take_default_acl(descriptor)
        if acl is not None:
            record.default_acl = acl

    def added(self, parent: bytes, path: bytes) -> None:
        """
        An entry of this layer is at *path*, and so are those above it.
        """
        touched = self._touched
        touched.add(path)
        while parent not in touched:
            touched.add(parent)
            parent = parent.rpartition(b"/")[0]

    def is_ours(self, path: bytes, status: os.stat_result) -> bool:
        del status
        return path in self._touched

    def hide(self, descriptor: int, path: bytes, name: bytes) -> None:
        """
        A whiteout of *name*.
        """
        try:
            status = os.lstat(name, dir_fd=descriptor)
        except FileNotFoundError:
            return
        if path not in self._touched:
            self.remove(descriptor, path, name, status)
        elif stat.S_ISDIR(status.st_mode):
            self.prune(path)

    def hide_all(self, descriptor: int, path: bytes) -> None:
        """
        An opaque whiteout of a directory.
        """
        del descriptor
        self.prune(path)

    def make_way_for_directory(
        self, descriptor: int, path: bytes, name: bytes, status: os.stat_result, entry: Entry
    ) -> None:
        """
        A directory takes the place of something that is none.
        """
        self.remove(descriptor, path, name, status)
        self.add_directory(descriptor, path, name, entry)

    def link_source(self, target: bytes) -> tuple[int, bytes, bytes]:
        """
        Where the file is that a hard link names: a directory, its path there, its name in it.
        """
        parent, _, name = target.rpartition(b"/")
        if parent not in self._nodes:
            parent = self.resolve(parent)
        descriptor = self.existing_directory(parent)
        if descriptor is None or not name:
            raise Refused("a hard link to what is not there")
        return descriptor, join(parent, name), name

    def require_device(self, kind: Kind, device: int) -> None:
        """
        Any device may be here.
        """

    def restore(self, descriptor: int, path: bytes, name: bytes, lower: int) -> None:
        """
        Nothing is: lower layers are in this very directory.
        """
        del descriptor, path, name, lower
        raise AssertionError("no directory was copied up from a lower layer")

    def end(self) -> None:
        """
        After the last entry.
        """
