"""
A directory that layers are applied to: every step in it by descriptor, none of them through a link.

Names are resolved as a process inside a chroot would see them. The parents of an entry may be links, as ``/lib`` is on
most systems, and lead where they lead below the root; ``..`` stops at the root. The last component is never followed.
Where everything is a real directory, which is nearly always, a step is one ``open`` with ``O_NOFOLLOW``, kept for the
next entry; only on meeting a link is it read and its target walked in the same way. So nothing in a layer can make us
leave the root: there is no call here that could.

(``openat2`` with RESOLVE_IN_ROOT would do a walk in one call. Measured through ctypes it saves nothing, since one step
is what an entry usually takes, and it would need this walk beside it for older kernels and stricter seccomp filters.)
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ullage.layer.account import SECTOR_BYTES
from ullage.layer.refused import Refused
from ullage.layer.syscalls import DIRECTORY_FLAGS
from ullage.layer.tar import Entry, Kind

if TYPE_CHECKING:
    from ullage.layer.account import Account

__all__ = ["FILLING", "Directory", "Walk", "join", "made_directory"]

#: Directories kept open. Entries come depth first, so few are in use at a time.
_OPEN_DIRECTORIES: Final = 128
#: Links in one name: as many as the kernel follows.
_MAX_LINKS: Final = 40
#: Names that were found to lead through links, and where to.
_MAX_ALIASES: Final = 1 << 16
#: Mode of a directory while it is being filled; its own comes last.
FILLING: Final = 0o700

_IS_NO_DIRECTORY: Final = (errno.ENOTDIR, errno.ELOOP)


@dataclass(slots=True)
class Directory:
    """
    What a directory is to become when all that goes into it is there.

    ``entry`` is None for one that was there before and has no entry: it gets its time back. ``lower`` is the
    number of the lower tree that it is to be like. ``mode`` is what to put back where we had to open the directory to
    ourselves, and ``default_acl`` what would have been handed on to all that is made in it.
    """

    entry: Entry | None
    before_bytes: int | None
    mtime_ns: int
    lower: int | None = None
    mode: int | None = None
    default_acl: bytes | None = None


def join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def made_directory(mtime_ns: int) -> Entry:
    """
    A parent that no entry describes. It is as old as the first that needs it: the same layers give the same tree.
    """
    return Entry(Kind.DIRECTORY, b"", b"", 0o755, 0, 0, 0, mtime_ns, 0, 0)


class Walk:
    """
    The directory *root*, and what was done to it.

    Paths here are bytes relative to the root, without links and dots; b"" is the root.
    """

    def __init__(self, root: int, account: Account, *, max_path_bytes: int) -> None:
        self.root = root
        self.account = account
        self._max_path_bytes = max_path_bytes
        self._nodes: dict[bytes, int] = {b"": root}
        self._aliases: dict[bytes, bytes] = {}
        #: The links that aliases lead through.
        self._crossed: set[bytes] = set()
        self._pinned = root
        self._is_root = os.geteuid() == 0
        #: Every directory that was made or entered, and what it is to become.
        self.directories: dict[bytes, Directory] = {}
        #: The time of the entry at hand.
        self.mtime_ns = 0

    def close(self) -> None:
        """
        Close every directory but the root.
        """
        for path, descriptor in self._nodes.items():
            if path:
                os.close(descriptor)
        self._nodes = {b"": self.root}

    # ------------------------------------------------------------------ finding directories

    def directory(self, name: bytes) -> tuple[int, bytes]:
        """
        The directory of a cleaned *name*, made if it is not there: a descriptor of it, and its path.

        The descriptor is good until the next call, or as long as it is pinned.

        Raises:
            Refused: something on the way is neither a directory nor leads to one.
        """
        found = self._nodes.get(name)
        if found is not None:
            return found, name
        to_go = []
        while name not in self._nodes and name not in self._aliases:
            to_go.append(name)
            name = name.rpartition(b"/")[0]
        path = self._aliases.get(name, name)
        descriptor = self.real_directory(path)
        for each in reversed(to_go):
            descriptor, path = self._step(descriptor, path, each.rpartition(b"/")[2])
            if path != each:
                if len(self._aliases) >= _MAX_ALIASES:
                    self._forget_aliases()
                self._aliases[each] = path
        return descriptor, path

    def _step(self, descriptor: int, path: bytes, name: bytes) -> tuple[int, bytes]:
        child = join(path, name)
        found = self._nodes.get(child)
        if found is not None:
            return found, child
        try:
            return self._entered(child, os.open(name, DIRECTORY_FLAGS, dir_fd=descriptor)), child
        except FileNotFoundError:
            if not self.is_link_below(child):
                return self.make_directory(descriptor, child, name), child
        except OSError as error:
            if error.errno not in _IS_NO_DIRECTORY:
                raise
        target = self.resolve(child)
        return self.real_directory(target), target

    def real_directory(self, path: bytes) -> int:
        """
        A descriptor of *path*, in which there are no links; made if it is not there.
        """
        found = self._nodes.get(path)
        if found is not None:
            return found
        descriptor, to_go = self._nearest(path)
        for each in to_go:
            name = each.rpartition(b"/")[2]
            try:
                descriptor = self._entered(each, os.open(name, DIRECTORY_FLAGS, dir_fd=descriptor))
            except FileNotFoundError:
                descriptor = self.make_directory(descriptor, each, name)
            except OSError as error:
                if error.errno not in _IS_NO_DIRECTORY:
                    raise
                descriptor = self.make_directory_over(descriptor, each, name)
        return descriptor

    def existing_directory(self, path: bytes) -> int | None:
        """
        The same, made by nobody: None when there is no such directory.
        """
        found = self._nodes.get(path)
        if found is not None:
            return found
        descriptor, to_go = self._nearest(path)
        for each in to_go:
            name = each.rpartition(b"/")[2]
            try:
                descriptor = self._entered(each, os.open(name, DIRECTORY_FLAGS, dir_fd=descriptor))
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno not in _IS_NO_DIRECTORY:
                    raise
                return None
        return descriptor

    def _nearest(self, path: bytes) -> tuple[int, list[bytes]]:
        """
        The nearest directory above *path* that is open, and the paths from there on.
        """
        to_go = []
        while path not in self._nodes:
            to_go.append(path)
            path = path.rpartition(b"/")[0]
        return self._nodes[path], to_go[::-1]

    def resolve(self, name: bytes) -> bytes:
        """
        Where *name* leads below the root when every link on the way is followed. Nothing is made.

        What is not there is taken for a directory to be: a link may lead to what comes later.
        """
        done: list[bytes] = []
        to_go = name.split(b"/")[::-1]
        links = 0
        while to_go:
            part = to_go.pop()
            if part == b"..":
                del done[-1:]
                continue
            if part in (b"", b"."):
                continue
            target = self.link_at(b"/".join(done), part)
            if target is None:
                done.append(part)
                continue
            self._crossed.add(b"/".join([*done, part]))
            links += 1
            if links > _MAX_LINKS:
                raise Refused("too many links in its name")
            if target.startswith(b"/"):
                done.clear()
            to_go.extend(target.split(b"/")[::-1])
            if sum(map(len, to_go)) + len(to_go) > self._max_path_bytes:
                raise Refused("links in its name lead to one that is too long")
        path = b"/".join(done)
        if len(path) > self._max_path_bytes:
            raise Refused("links in its name lead to one that is too long")
        return path

    def link_at(self, path: bytes, name: bytes) -> bytes | None:
        """
        The target of a link; None for a directory and for what is not there.

        Raises:
            Refused: it is something else, and nothing can be below that.
        """
        descriptor = self.existing_directory(path)
        if descriptor is None:
            return None
        try:
            mode = os.lstat(name, dir_fd=descriptor).st_mode
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(mode):
            return os.readlink(name, dir_fd=descriptor)
        if not stat.S_ISDIR(mode):
            raise Refused("a parent of it is no directory")
        return None

    def is_link_below(self, path: bytes) -> bool:
        """
        What is missing here may be a link in a tree that this one goes on top of. (Overlays.)
        """
        del path
        return False

    def forget(self, path: bytes) -> None:
        """
        Something else is at *path* now: names that led through a link there may lead elsewhere.
        """
        if path in self._crossed:
            self._forget_aliases()

    def _forget_aliases(self) -> None:
        self._aliases.clear()
        self._crossed.clear()

    # ------------------------------------------------------------------ making and entering them

    def make_directory(self, descriptor: int, path: bytes, name: bytes) -> int:
        """
        Make a directory that is needed and that no entry has described.
        """
        return self.add_directory(descriptor, path, name, made_directory(self.mtime_ns))

    def make_directory_over(self, descriptor: int, path: bytes, name: bytes) -> int:
        """
        The same, where there is something that is no directory.
        """
        del descriptor, path, name
        raise Refused("a parent of it is no directory")

    def add_directory(
        self, descriptor: int, path: bytes, name: bytes, entry: Entry, *, lower: int | None = None
    ) -> int:
        """
        Make a directory that will become what *entry* says, and open it.
        """
        self.account.expect_directory(len(name))
        os.mkdir(name, FILLING, dir_fd=descriptor)
        self.directories[path] = Directory(entry, None, entry.mtime_ns, lower)
        return self._remember(path, os.open(name, DIRECTORY_FLAGS, dir_fd=descriptor))

    def _entered(self, path: bytes, descriptor: int) -> int:
        """
        A directory that was there is entered: what will its time and its size have been?
        """
        if path not in self.directories:
            status = os.fstat(descriptor)
            record = Directory(None, status.st_blocks * SECTOR_BYTES, status.st_mtime_ns)
            self.directories[path] = record
            if not self._is_root and status.st_mode & FILLING != FILLING:
                # Ours, and closed even to us. Its mode comes back with its time.
                record.mode = stat.S_IMODE(status.st_mode)
                os.chmod(b"/proc/self/fd/%d" % descriptor, record.mode | FILLING)  # noqa: PTH101 -- no path
        self.entered(path, descriptor)
        return self._remember(path, descriptor)

    def entered(self, path: bytes, descriptor: int) -> None:
        """
        A directory that was there is about to get something. (Flattened ones.)
        """

    def _remember(self, path: bytes, descriptor: int) -> int:
        nodes = self._nodes
        if len(nodes) > _OPEN_DIRECTORIES:
            for each, old in nodes.items():
                if each and old != self._pinned:
                    os.close(old)
                    del nodes[each]
                    break
        nodes[path] = descriptor
        return descriptor

    def pin(self, descriptor: int) -> None:
        """
        Keep *descriptor* open while others are found; one at a time.
        """
        self._pinned = descriptor
