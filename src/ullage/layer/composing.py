"""
One whole directory from the trees of its layers: what overlayfs would show, as files of its own.

Blocks are shared where the filesystem can (FICLONE) and copied where not: whatever happens to the result, the trees
stay as they are. Only what shows is copied, so the order of work is that of the result, not of the layers.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ullage.layer.account import SECTOR_BYTES, Account
from ullage.layer.attributes import path_at
from ullage.layer.copying import Copier, read_xattrs, set_attributes
from ullage.layer.lowers import Lowers, is_whiteout
from ullage.layer.options import Unlimited
from ullage.layer.refused import translated
from ullage.layer.syscalls import DIRECTORY_FLAGS
from ullage.layer.tree import list_directory
from ullage.layer.walk import join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ullage.layer.options import Budget

__all__ = ["ComposeResult", "compose"]

_FILLING: Final = 0o700
_BLOCK_MASK: Final = 4095


@dataclass(frozen=True, slots=True)
class ComposeResult:
    """
    What composing a directory did. ``shared_bytes`` of its files are blocks of the trees, ``copied_bytes`` its own.
    """

    entries: int
    space_bytes: int
    inodes: int
    shared_bytes: int
    copied_bytes: int


def compose(trees: Sequence[int], target: int, *, budget: Budget | None = None) -> ComposeResult:
    """
    Fill the empty directory *target* with what *trees* show, the lowest first.

    Hard links within a tree are hard links in the result.

    Raises:
        DiskFull, StoreError: as `apply_layer` does.
    """
    return _Composer(Lowers(trees[::-1]), target, Account(budget or Unlimited())).run()


class _Composer:
    """
    One directory being composed.
    """

    def __init__(self, trees: Lowers, target: int, account: Account) -> None:
        self._trees = trees
        self._target = target
        self._account = account
        self._copier = Copier()
        #: Where the first name of a file with several of them went, by its tree and inode.
        self._linked: dict[tuple[int, int], bytes] = {}
        #: Directories, with the tree that shows what they are.
        self._directories: list[tuple[bytes, int]] = []
        self._entries = 0

    def run(self) -> ComposeResult:
        to_go = [b""]
        while to_go:
            path = to_go.pop()
            with translated(path, blames_entry=False):
                to_go += self._directory(path)
        grown = 0
        # The deepest first: what is made in a directory moves its time.
        for path, index in sorted(self._directories, reverse=True):
            with translated(path, blames_entry=False):
                grown += self._settle(path, index)
        self._account.settle(grown)
        return ComposeResult(
            entries=self._entries,
            space_bytes=self._account.space_bytes,
            inodes=self._account.inodes,
            shared_bytes=self._copier.shared_bytes,
            copied_bytes=self._copier.copied_bytes,
        )

    def _directory(self, path: bytes) -> list[bytes]:
        """
        Fill one directory; the paths of those in it, made and empty.
        """
        merged = self._trees.directories(path)
        self._directories.append((path, merged[0]))
        target = os.open(path or b".", DIRECTORY_FLAGS, dir_fd=self._target)
        found: list[bytes] = []
        seen: set[bytes] = set()
        try:
            for index in merged:
                source = os.open(path or b".", DIRECTORY_FLAGS, dir_fd=self._trees.roots[index])
                try:
                    names = [name for name in list_directory(source) if name not in seen]
                    found += [
                        join(path, name) for name in names if self._entry(source, index, name, target, path)
                    ]
                    seen.update(names)
                finally:
                    os.close(source)
        finally:
            os.close(target)
        return found

    def _entry(self, source: int, index: int, name: bytes, target: int, parent: bytes) -> bool:
        """
        Make one entry; True when it is a directory, to be filled.
        """
        status = os.lstat(name, dir_fd=source)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            self._account.expect_directory(len(name))
            os.mkdir(name, _FILLING, dir_fd=target)
            self._entries += 1
            return True
        if (stat.S_ISCHR(mode) or not status.st_size) and is_whiteout(source, name, status):
            return False
        self._entries += 1
        if status.st_nlink > 1:
            key = index, status.st_ino
            first = self._linked.get(key)
            if first is not None:
                self._account.expect(0, 0, len(name))
                os.link(first, name, src_dir_fd=self._target, dst_dir_fd=target, follow_symlinks=False)
                return False
            self._linked[key] = join(parent, name)
        # The blocks of the original: more than its size where it has attributes, less where it has holes.
        blocks = status.st_blocks * SECTOR_BYTES
        self._account.expect(max(blocks, min(status.st_size, _BLOCK_MASK + 1)), 1, len(name))
        self._copier.copy(source, name, status, target, name)
        self._account.files_bytes += os.lstat(name, dir_fd=target).st_blocks * SECTOR_BYTES
        return False

    def _settle(self, path: bytes, index: int) -> int:
        root = self._trees.roots[index]
        name = path or b"."
        status = os.stat(name, dir_fd=root, follow_symlinks=False)
        set_attributes(self._target, name, status, read_xattrs(path_at(root, name)))
        return os.stat(name, dir_fd=self._target, follow_symlinks=False).st_blocks * SECTOR_BYTES
