"""
What a tree occupies, while it grows: asked of the budget before it is written.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ullage.layer.options import Budget

__all__ = ["BLOCK_BYTES", "SECTOR_BYTES", "Account", "Large", "grown_since", "occupied"]

#: The unit of ``st_blocks``, whatever the filesystem's own block.
SECTOR_BYTES: Final = 512
#: What we take for the filesystem's block until we have seen what a file really got.
BLOCK_BYTES: Final = 4096
#: Files of no more blocks than these are what they will be on disk: ext4 has room for four extents in an inode.
_FEW_BLOCKS: Final = 4


class Large(NamedTuple):
    """
    A file whose blocks the filesystem may count otherwise once they have their places on disk: ext4 adds blocks that
    list the extents of a scattered file, and xfs takes back what it set aside for a file to grow.
    """

    path: bytes
    space_bytes: int


class Account:
    """
    Space and inodes of a tree: exact for what is written, an estimate for directories until they are settled.

    A directory takes at least a block, and as much as its names need: without counting names, a million hard links
    to one file would fill a disk with directories for nothing.
    """

    __slots__ = (
        "_block_bytes", "_budget", "_directories", "_few_sectors", "_granted_bytes", "_granted_inodes",
        "_left_bytes", "_left_inodes", "_names_bytes", "files_bytes", "inodes", "large", "settled_bytes",
    )  # fmt: skip

    def __init__(self, budget: Budget, block_bytes: int = BLOCK_BYTES) -> None:
        self._budget = budget
        #: The filesystem's block; where it speaks of more than ours, it is what it likes to be given at once.
        self._block_bytes = min(block_bytes, BLOCK_BYTES)
        #: Files of no more sectors than these are on disk what they are now.
        self._few_sectors = _FEW_BLOCKS * self._block_bytes // SECTOR_BYTES
        #: The others, by their inode, as long as they have the name that they were made by.
        self.large: dict[int, Large] = {}
        self._granted_bytes = self._granted_inodes = 0
        self._left_bytes = self._left_inodes = 0
        self._directories = self._names_bytes = 0
        #: What files, links and devices occupy.
        self.files_bytes = 0
        #: What directories occupy, once it is known. Until then they are estimated.
        self.settled_bytes: int | None = None
        self.inodes = 0

    @property
    def space_bytes(self) -> int:
        if self.settled_bytes is not None:
            return self.files_bytes + self.settled_bytes
        return self.files_bytes + max(self._directories * BLOCK_BYTES, self._names_bytes)

    def expect(self, data_bytes: int, inodes: int, name_bytes: int) -> None:
        """
        So much is about to be written: one name, and what it names.
        """
        self.inodes += inodes
        self._names_bytes += name_bytes + 16
        # Counted down from what was granted; only when that is used up is it worth adding up what there is.
        self._left_bytes -= data_bytes + name_bytes + 16
        self._left_inodes -= inodes
        if self._left_bytes < 0 or self._left_inodes < 0:
            self.expect_data(data_bytes)

    def expect_data(self, data_bytes: int) -> None:
        """
        So much is about to be written, or has been written since it was added up.
        """
        space = self.space_bytes + data_bytes
        if space > self._granted_bytes or self.inodes > self._granted_inodes:
            self._granted_bytes, self._granted_inodes = self._budget.reserve(space, self.inodes)
        self._left_bytes = self._granted_bytes - space
        self._left_inodes = self._granted_inodes - self.inodes

    def expect_directory(self, name_bytes: int) -> None:
        self._directories += 1
        self.expect(BLOCK_BYTES, 1, name_bytes)

    def undo_directory(self, name_bytes: int) -> None:
        """
        The directory was there already.
        """
        self._directories -= 1
        self.inodes -= 1
        self._names_bytes -= name_bytes + 16

    def add_file(self, path: bytes, status: os.stat_result) -> None:
        """
        A file is written. A large one takes what is in it, whatever is set aside for more.
        """
        sectors = status.st_blocks
        if sectors <= self._few_sectors:
            self.files_bytes += sectors * SECTOR_BYTES
            return
        whole = -(-status.st_size // self._block_bytes) * self._block_bytes
        space_bytes = min(sectors * SECTOR_BYTES, whole)
        self.files_bytes += space_bytes
        self.large[status.st_ino] = Large(path, space_bytes)

    def remove(self, status: os.stat_result) -> None:
        """
        A name of something that is no directory is gone.
        """
        large = self.large.pop(status.st_ino, None)
        if status.st_nlink == 1:
            self.inodes -= 1
            self.files_bytes -= status.st_blocks * SECTOR_BYTES if large is None else large.space_bytes

    def remove_directory(self, settled_bytes: int | None) -> None:
        """
        A directory is gone: one that was there before and took *settled_bytes*, or one of ours.
        """
        self.inodes -= 1
        if settled_bytes is None:
            self._directories -= 1
        else:
            self.files_bytes -= settled_bytes

    def settle(self, directories_bytes: int) -> None:
        """
        All is written, and the directories grew by so much.
        """
        self.settled_bytes = directories_bytes
        self.expect_data(0)


def grown_since(directory: int, large: Mapping[int, Large]) -> int:
    """
    By how many bytes large files of a tree take more, now that they are on disk, than when they were written.

    What lies in directories that we may not enter is taken to be as it was.
    """
    grown = 0
    for inode, (path, space_bytes) in large.items():
        try:
            status = os.lstat(path, dir_fd=directory)
        except PermissionError:
            continue
        if status.st_ino == inode:
            grown += status.st_blocks * SECTOR_BYTES - space_bytes
    return grown


def occupied(directory: int, on_error: Callable[[OSError], None] | None = None) -> tuple[int, int]:
    """
    What a tree occupies by the filesystem's word: bytes of blocks and inodes, each inode once.

    *on_error* is told of what cannot be looked into, which is not counted.
    """
    seen: set[int] = set()
    status = os.fstat(directory)
    space, inodes = status.st_blocks * SECTOR_BYTES, 1
    for _root, directories, files, fd in os.fwalk(b".", onerror=on_error, dir_fd=directory):
        for name in (*directories, *files):
            status = os.lstat(name, dir_fd=fd)
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                if status.st_ino in seen:
                    continue
                seen.add(status.st_ino)
            space += status.st_blocks * SECTOR_BYTES
            inodes += 1
    return space, inodes
