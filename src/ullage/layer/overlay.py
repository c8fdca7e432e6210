"""
A tree of one layer alone, for overlayfs to show on top of others.

What it has to contain is what makes the merged view the same as if the layer had been applied on top of the others in
one directory. Mostly that is the layer's own entries. Whiteouts become marks; a directory that took the place of
something is opaque, or what the lower trees have in it would come back; a parent that the layer does not describe gets
owner, mode and attributes of the one that shows below, or it would hide them; and where that parent is a link below,
the entry goes where the link leads.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from ullage.layer.attributes import path_at
from ullage.layer.copying import Copier, read_xattrs, set_attributes
from ullage.layer.lowers import Lowers, is_whiteout
from ullage.layer.refused import Refused
from ullage.layer.tar import Kind
from ullage.layer.tree import Tree, list_directory
from ullage.layer.walk import Directory, join, made_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ullage.layer.account import Account
    from ullage.layer.options import ApplyOptions
    from ullage.layer.tar import Entry

__all__ = ["OverlayTree"]

_BLOCK_MASK: Final = 4095


class OverlayTree(Tree):
    """
    The upper tree of a merged view. What lies below is asked for when it matters for the first time.
    """

    def __init__(
        self,
        root: int,
        account: Account,
        options: ApplyOptions,
        lowers: Callable[[], Sequence[int]] | None,
    ) -> None:
        super().__init__(root, account, max_path_bytes=options.limits.max_path_bytes)
        self._prefix = "user.overlay." if options.user_xattrs else "trusted.overlay."
        self._find_lowers = lowers
        self._found: Lowers | None = None
        self._copier = Copier()
        self._root_is_described = False
        #: Directories with entries of this layer in them, and those that are entries.
        self._touched: set[bytes] = {b""}
        #: Files copied up, which are no entries of this layer.
        self._copied: set[bytes] = set()
        #: Whiteouts that were made.
        self._marks: set[bytes] = set()
        #: Directories below which nothing of the lower trees shows.
        self._opaque: set[bytes] = set()

    @property
    def _lowers(self) -> Lowers:
        if self._found is None:
            self._found = Lowers(() if self._find_lowers is None else self._find_lowers())
        return self._found

    # ------------------------------------------------------------------ what shows from below

    def _shows(self, path: bytes) -> tuple[int, os.stat_result] | None:
        """
        What of the lower trees shows at *path*, where this one has nothing.
        """
        if (self._opaque or self._marks) and self._is_hidden(path):
            return None
        return self._lowers.entry(path)

    def _is_hidden(self, path: bytes) -> bool:
        while path:
            path = path.rpartition(b"/")[0]
            if path in self._opaque or path in self._marks:
                return True
        return False

    def is_link_below(self, path: bytes) -> bool:
        found = self._shows(path)
        if found is None or stat.S_ISDIR(found[1].st_mode):
            return False
        if stat.S_ISLNK(found[1].st_mode):
            return True
        raise Refused("a parent of it is no directory")

    def link_at(self, path: bytes, name: bytes) -> bytes | None:
        descriptor = self.existing_directory(path)
        if descriptor is not None:
            try:
                status = os.lstat(name, dir_fd=descriptor)
            except FileNotFoundError:
                pass
            else:
                return None if self._is_mark(descriptor, name, status) else super().link_at(path, name)
        child = join(path, name)
        if not self.is_link_below(child):
            return None
        found = self._shows(child)
        return None if found is None else os.readlink(child, dir_fd=self._lowers.roots[found[0]])

    def _is_mark(self, descriptor: int, name: bytes, status: os.stat_result) -> bool:
        """
        What *name* in this tree is, is a whiteout.
        """
        if stat.S_ISCHR(status.st_mode):
            return status.st_rdev == 0
        return stat.S_ISREG(status.st_mode) and not status.st_size and is_whiteout(descriptor, name, status)

    # ------------------------------------------------------------------ directories

    def begin(self) -> None:
        self.account.expect_directory(0)
        self.directories[b""] = Directory(made_directory(0), None, 0)

    def describe_root(self, entry: Entry) -> None:
        self._root_is_described = True
        super().describe_root(entry)

    def make_directory(self, descriptor: int, path: bytes, name: bytes) -> int:
        found = self._shows(path)
        if found is None or not stat.S_ISDIR(found[1].st_mode):
            return self.add_directory(descriptor, path, name, made_directory(self.mtime_ns))
        return self.add_directory(descriptor, path, name, made_directory(0), lower=found[0])

    def make_directory_over(self, descriptor: int, path: bytes, name: bytes) -> int:
        status = os.lstat(name, dir_fd=descriptor)
        if not self._is_mark(descriptor, name, status):
            return super().make_directory_over(descriptor, path, name)
        self.remove(descriptor, path, name, status)
        made = self.add_directory(descriptor, path, name, made_directory(self.mtime_ns))
        self._make_opaque(path)
        return made

    def make_way_for_directory(
        self, descriptor: int, path: bytes, name: bytes, status: os.stat_result, entry: Entry
    ) -> None:
        """
        A directory takes the place of something of this layer, which had taken that of what lies below.
        """
        self.remove(descriptor, path, name, status)
        self._copied.discard(path)
        self.add_directory(descriptor, path, name, entry)
        self._make_opaque(path)

    def restore(self, descriptor: int, path: bytes, name: bytes, lower: int) -> None:
        """
        Give a directory that the layer only passes through what the one below it has.
        """
        root = self._lowers.roots[lower]
        status = os.stat(path or b".", dir_fd=root, follow_symlinks=False)
        set_attributes(descriptor, name, status, read_xattrs(path_at(root, path or b".")))

    def added(self, parent: bytes, path: bytes) -> None:
        """
        An entry of this layer is at *path*.
        """
        touched = self._touched
        if path in self.directories:
            touched.add(path)
        while parent not in touched:
            touched.add(parent)
            parent = parent.rpartition(b"/")[0]
        if self._copied:
            self._copied.discard(path)
        if self._crossed:
            self.forget(path)  # a link of a lower tree, that this entry hides

    def remove(self, descriptor: int, path: bytes, name: bytes, status: os.stat_result) -> None:
        super().remove(descriptor, path, name, status)
        self._marks.discard(path)
        if self._opaque and stat.S_ISDIR(status.st_mode):
            below = path + b"/"
            self._opaque -= {each for each in self._opaque if each == path or each.startswith(below)}

    def is_ours(self, path: bytes, status: os.stat_result) -> bool:
        if stat.S_ISDIR(status.st_mode):
            return path in self._touched
        is_mark = stat.S_ISCHR(status.st_mode) and not status.st_rdev
        return not is_mark and path not in self._copied

    # ------------------------------------------------------------------ whiteouts

    def hide(self, descriptor: int, path: bytes, name: bytes) -> None:
        """
        A whiteout of *name*.
        """
        try:
            status = os.lstat(name, dir_fd=descriptor)
        except FileNotFoundError:
            self._mark(descriptor, path, name)
            return
        if self._is_mark(descriptor, name, status):
            return
        if not self.is_ours(path, status):
            self.remove(descriptor, path, name, status)
            self._copied.discard(path)
            self._mark(descriptor, path, name)
        elif stat.S_ISDIR(status.st_mode):
            self.prune(path)
            self._make_opaque(path)

    def hide_all(self, descriptor: int, path: bytes) -> None:
        """
        An opaque whiteout of a directory.
        """
        del descriptor
        self.prune(path)
        self._make_opaque(path)

    def _mark(self, descriptor: int, path: bytes, name: bytes) -> None:
        """
        Make a whiteout. Since Linux 5.8 a device 0/0 takes no privilege; before, a marked file may do.
        """
        self.account.expect(0, 1, len(name))
        self.forget(path)
        self._marks.add(path)
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=descriptor)
        except PermissionError:
            os.mknod(name, stat.S_IFREG | 0o600, dir_fd=descriptor)
            os.setxattr(path_at(descriptor, name), self._prefix + "whiteout", b"y", follow_symlinks=False)
            above = path.rpartition(b"/")[0]
            if above not in self._opaque:
                os.setxattr(path_at(descriptor, b"."), self._prefix + "opaque", b"x")
        os.utime(name, ns=(self.mtime_ns, self.mtime_ns), dir_fd=descriptor, follow_symlinks=False)

    def _make_opaque(self, path: bytes) -> None:
        if path in self._opaque:
            return
        self._opaque.add(path)
        self._forget_aliases()  # they may lead through links that no longer show
        descriptor = self.real_directory(path)
        os.setxattr(path_at(descriptor, b"."), self._prefix + "opaque", b"y")

    def end(self) -> None:
        """
        What could not be decided before all is here, and the lower trees with it.
        """
        if not self._root_is_described and self._lowers.roots:
            self.directories[b""].lower = 0  # the top one's root is what shows
        if b"" in self._opaque:
            self._spell_out_root()
        for path in list(self._marks):
            self._drop_useless(path)

    def _drop_useless(self, path: bytes) -> None:
        """
        A whiteout that hides nothing would be listed by the kernel where the directory is in no other tree.
        """
        parent, _, name = path.rpartition(b"/")
        descriptor = self.existing_directory(parent)
        if descriptor is None or self._shows(path) is not None:
            return
        try:
            status = os.lstat(name, dir_fd=descriptor)
        except FileNotFoundError:
            return
        if self._is_mark(descriptor, name, status):
            self.remove(descriptor, path, name, status)

    def _spell_out_root(self) -> None:
        """
        Overlayfs does not look for the mark of an opaque directory at the root: it always merges the roots.
        """
        self._opaque.discard(b"")
        present = set(list_directory(self.root))
        for name in sorted(self._lowers.names(b"")):
            found = self._lowers.entry(name)
            if found is None:
                continue
            if name not in present:
                self._mark(self.root, name, name)
            elif stat.S_ISDIR(os.lstat(name, dir_fd=self.root).st_mode) and stat.S_ISDIR(found[1].st_mode):
                self._make_opaque(name)

    # ------------------------------------------------------------------ the rest

    def link_source(self, target: bytes) -> tuple[int, bytes, bytes]:
        """
        Where the file is that a hard link names: in this tree, or copied into it from the one that it shows of.
        """
        parent, _, name = target.rpartition(b"/")
        if parent not in self._nodes:
            parent = self.resolve(parent)
        path = join(parent, name)
        descriptor = self.existing_directory(parent)
        if not name:
            raise Refused("a hard link to a directory")
        if descriptor is not None:
            try:
                status = os.lstat(name, dir_fd=descriptor)
            except FileNotFoundError:
                pass
            else:
                if self._is_mark(descriptor, name, status):
                    raise Refused("a hard link to what is not there")
                return descriptor, path, name
        found = self._shows(path)
        if found is None:
            raise Refused("a hard link to what is not there")
        return self._copy_up(parent, path, name, found), path, name

    def _copy_up(self, parent: bytes, path: bytes, name: bytes, found: tuple[int, os.stat_result]) -> int:
        index, status = found
        if stat.S_ISDIR(status.st_mode):
            raise Refused("a hard link to a directory")
        self.account.expect(status.st_size + _BLOCK_MASK & ~_BLOCK_MASK, 1, len(name))
        descriptor = self.real_directory(parent)
        self._copier.copy(self._lowers.roots[index], path, status, descriptor, name)
        self.account.add_file(path, os.lstat(name, dir_fd=descriptor))
        self._copied.add(path)
        return descriptor

    def require_device(self, kind: Kind, device: int) -> None:
        """
        A device 0/0 in a layer would hide what lies below, which is not what the layer says.
        """
        if kind is Kind.CHARACTER_DEVICE and not device:
            raise Refused("a device 0/0, which overlayfs takes for a whiteout")
