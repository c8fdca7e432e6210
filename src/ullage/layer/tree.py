"""
What a layer does to a directory: what is made, described, hidden and removed.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ullage.layer.account import SECTOR_BYTES
from ullage.layer.syscalls import DIRECTORY_FLAGS
from ullage.layer.walk import FILLING, Directory, Walk, join

if TYPE_CHECKING:
    from ullage.layer.account import Account
    from ullage.layer.tar import Entry

__all__ = ["Tree", "list_directory"]


class Tree(Walk, ABC):
    """
    A directory that layers are applied to, without what tells flattened ones from overlays.
    """

    def __init__(self, root: int, account: Account, *, max_path_bytes: int) -> None:
        super().__init__(root, account, max_path_bytes=max_path_bytes)
        self._pruned: set[bytes] = set()

    # ------------------------------------------------------------------ removing

    def remove(self, descriptor: int, path: bytes, name: bytes, status: os.stat_result) -> None:
        """
        Remove what is at *path*: a whole tree, where it is one.
        """
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=descriptor)
            self.account.remove(status)
            self.forget(path)
            return
        self._forget_aliases()
        below = path + b"/"
        for each in [each for each in self._nodes if each == path or each.startswith(below)]:
            os.close(self._nodes.pop(each))
        self._remove_tree(descriptor, path, name)

    def _remove_tree(self, descriptor: int, path: bytes, name: bytes) -> None:
        """
        One descriptor at a time, whatever the depth: up again through ``..``, which among real directories is exact.
        """
        at = self._open_to_empty(name, descriptor)
        way: list[tuple[bytes, list[bytes]]] = []
        to_go = self._empty(at)
        while True:
            if to_go:
                child = to_go.pop()
                way.append((child, to_go))
                path = join(path, child)
                above, at = at, self._open_to_empty(child, at)
                os.close(above)
                to_go = self._empty(at)
                continue
            status = os.fstat(at)
            if not way:
                os.close(at)
                os.rmdir(name, dir_fd=descriptor)
                self._removed(path, status)
                return
            below, at = at, os.open(b"..", DIRECTORY_FLAGS, dir_fd=at)
            os.close(below)
            child, to_go = way.pop()
            os.rmdir(child, dir_fd=at)
            self._removed(path, status)
            path = path[: -len(child) - 1]

    def _open_to_empty(self, name: bytes, above: int) -> int:
        if not self._is_root:
            os.chmod(name, FILLING, dir_fd=above)  # seen to be a directory, and nobody else is at work here
        return os.open(name, DIRECTORY_FLAGS, dir_fd=above)

    def _removed(self, path: bytes, status: os.stat_result) -> None:
        record = self.directories.pop(path, None)
        before = status.st_blocks * SECTOR_BYTES if record is None else record.before_bytes
        self.account.remove_directory(before)

    def _empty(self, descriptor: int) -> list[bytes]:
        """
        Unlink all that is no directory; the names of those that are.
        """
        directories = []
        for name in list_directory(descriptor):
            status = os.lstat(name, dir_fd=descriptor)
            if stat.S_ISDIR(status.st_mode):
                directories.append(name)
            else:
                os.unlink(name, dir_fd=descriptor)
                self.account.remove(status)
        return directories

    # ------------------------------------------------------------------ what a layer does to it

    def begin(self) -> None:
        """
        Before the first entry.
        """
        status = os.fstat(self.root)
        self.directories[b""] = Directory(None, status.st_blocks * SECTOR_BYTES, status.st_mtime_ns)

    def describe_root(self, entry: Entry) -> None:
        self.describe(b"", entry)

    def describe(self, path: bytes, entry: Entry, status: os.stat_result | None = None) -> None:
        """
        A directory that is there will become what *entry* says.
        """
        record = self.directories.get(path)
        if record is None:
            before = None if status is None else status.st_blocks * SECTOR_BYTES
            self.directories[path] = Directory(entry, before, entry.mtime_ns)
        else:
            record.entry, record.lower = entry, None

    def make_way(self, descriptor: int, path: bytes, name: bytes) -> None:
        """
        Remove what is where something else is to be.
        """
        self.remove(descriptor, path, name, os.lstat(name, dir_fd=descriptor))

    def prune(self, path: bytes) -> None:
        """
        Remove from a directory, and from those below it, what is not of this layer.
        """
        if self._is_pruned(path):
            return
        self._pruned.add(path)
        to_go = [path]
        while to_go:
            at = to_go.pop()
            descriptor = self.real_directory(at)
            self.pin(descriptor)
            for name in list_directory(descriptor):
                child = join(at, name)
                status = os.lstat(name, dir_fd=descriptor)
                if not self.is_ours(child, status):
                    self.remove(descriptor, child, name, status)
                elif stat.S_ISDIR(status.st_mode):
                    to_go.append(child)
        self.pin(self.root)

    def _is_pruned(self, path: bytes) -> bool:
        """
        Nothing can bring back what a lower layer had: once is enough, however often a layer asks.
        """
        while path not in self._pruned:
            if not path:
                return False
            path = path.rpartition(b"/")[0]
        return True

    @abstractmethod
    def is_ours(self, path: bytes, status: os.stat_result) -> bool:
        """
        This layer brought it, or brought something below it.
        """


def list_directory(descriptor: int) -> list[bytes]:
    """
    The names in a directory that is open as a place to stand in.
    """
    readable = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        return [os.fsencode(name) for name in os.listdir(readable)]  # noqa: PTH208 -- a descriptor
    finally:
        os.close(readable)
