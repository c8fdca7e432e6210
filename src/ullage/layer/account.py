"""
What a tree occupies, while it grows: asked of the budget before it is written.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ullage.layer.options import Budget

__all__ = ["BLOCK_BYTES", "SECTOR_BYTES", "Account", "occupied"]

#: The unit of ``st_blocks``, whatever the filesystem's own block.
SECTOR_BYTES: Final = 512
#: What we take for the filesystem's block until we have seen what a file really got.
BLOCK_BYTES: Final = 4096


class Account:
    """
    Space and inodes of a tree: exact for what is written, an estimate for directories until they are settled.

    A directory takes at least a block, and as much as its names need: without counting names, a million hard links
    to one file would fill a disk with directories for nothing.
    """

    __slots__ = (
        "_budget", "_directories", "_granted_bytes", "_granted_inodes", "_left_bytes", "_left_inodes", "_names_bytes",
        "files_bytes", "inodes", "settled_bytes",
    )  # fmt: skip

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
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

    def remove(self, status: os.stat_result) -> None:
        """
        A name of something that is no directory is gone.
        """
        if status.st_nlink == 1:
            self.inodes -= 1
            self.files_bytes -= status.st_blocks * SECTOR_BYTES

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
