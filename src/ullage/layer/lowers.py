"""
The trees below one: what shows of them at a path, the way that overlayfs decides it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OPAQUE", "Lowers", "is_opaque", "is_whiteout"]

#: Of a directory: what is below it in lower trees does not show ("x" only says that whiteouts here may be files).
OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
#: Of an empty file: it is a whiteout. For whoever may not make device nodes; Linux 6.7.
_WHITEOUT: Final = ("trusted.overlay.whiteout", "user.overlay.whiteout")
#: Paths whose answer is kept.
_MAX_REMEMBERED: Final = 1 << 16


def _has(path: bytes, names: tuple[str, str], value: bytes | None) -> bool:
    for name in names:
        try:
            found = os.getxattr(path, name, follow_symlinks=False)
        except OSError:
            continue  # there is none, or this filesystem has no such attributes, or they are not ours to read
        if value is None or found == value:
            return True
    return False


def is_whiteout(root: int, path: bytes, status: os.stat_result) -> bool:
    """
    What overlayfs takes for "not there": a device 0/0, or an empty file that is marked.
    """
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        return False
    return _has(b"/proc/self/fd/%d/%s" % (root, path), _WHITEOUT, None)


def is_opaque(root: int, path: bytes) -> bool:
    return _has(b"/proc/self/fd/%d/%s" % (root, path or b"."), OPAQUE, b"y")


class Lowers:
    """
    Trees from the top down, each one a descriptor of its root. They do not change.

    Paths have no links in them: a path is only looked up in a tree in which its parent is known to be a directory.
    """

    def __init__(self, roots: Sequence[int]) -> None:
        self.roots = roots
        self._directories: dict[bytes, tuple[int, ...]] = {b"": self._merged(b"", range(len(roots)))}

    def _merged(self, path: bytes, candidates: Sequence[int]) -> tuple[int, ...]:
        merged = []
        for index in candidates:
            merged.append(index)
            if is_opaque(self.roots[index], path):
                break
        return tuple(merged)

    def directories(self, path: bytes) -> tuple[int, ...]:
        """
        The trees of which something shows in the directory *path*; none where it is no directory.
        """
        to_go = []
        while path not in self._directories:
            to_go.append(path)
            path = path.rpartition(b"/")[0]
        found = self._directories[path]
        for each in reversed(to_go):
            found = self._below(each, found)
            if len(self._directories) >= _MAX_REMEMBERED:
                self._directories = {b"": self._directories[b""]}
            self._directories[each] = found
        return found

    def _below(self, path: bytes, candidates: tuple[int, ...]) -> tuple[int, ...]:
        merged: list[int] = []
        for index in candidates:
            try:
                status = os.lstat(path, dir_fd=self.roots[index])
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                break  # a whiteout or a file: it hides what is further down
            merged.append(index)
            if is_opaque(self.roots[index], path):
                break
        return tuple(merged)

    def entry(self, path: bytes) -> tuple[int, os.stat_result] | None:
        """
        The tree that *path* shows of, and what it is there; None when nothing shows.
        """
        for index in self.directories(path.rpartition(b"/")[0]):
            try:
                status = os.lstat(path, dir_fd=self.roots[index])
            except FileNotFoundError:
                continue
            return None if is_whiteout(self.roots[index], path, status) else (index, status)
        return None

    def names(self, path: bytes) -> set[bytes]:
        """
        Every name in the merged directory, those of whiteouts among them.
        """
        found: set[bytes] = set()
        for index in self.directories(path):
            directory = os.open(
                path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.roots[index]
            )
            try:
                found.update(map(os.fsencode, os.listdir(directory)))  # noqa: PTH208 -- a descriptor
            finally:
                os.close(directory)
        return found
