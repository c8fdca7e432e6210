"""
The directories of trees: begin, publish, remove.

    trees/<algorithm>/<encoded>   a tree, by its chain id
    trees/ingest/<encoded>        one that is being made; half of one is worth nothing
    trees/trash/                  what is about to be unlinked
    trees/none                    an empty directory, which overlayfs needs below a tree that is alone

A path is touched only by whoever owns the tree's ingest row, or under the gate while its row is doomed (I3). All of a
tree is synced before it is renamed to its chain id, and the directories are synced before its row is committed (I4).
Nobody but the store's owner gets in: what lies there may be setuid, and as old as its image.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ullage import layer
from ullage.digest import CONTENT_ALGORITHMS
from ullage.ingest import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ullage.digest import Digest

__all__ = ["TreeFiles"]

#: How long we wait for another process that removes the same directory; after that it is for the next to see to.
_PATIENCE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.02


class TreeFiles:
    """
    The directories below ``trees/``. Knows nothing of rows; its callers hold the rights that the module's text names.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "trees"
        #: Below a tree that is alone: overlayfs mounts no fewer than two when there is nothing to write to.
        self.none = self.root / "none"
        self._ingest = self.root / "ingest"
        self._trash = self.root / "trash"

    def prepare(self) -> None:
        """
        Make the directories; durable on return.
        """
        with translated():
            made = not self.root.exists()
            self.root.mkdir(0o700, parents=True, exist_ok=True)
            for directory in (
                *(self.root / name for name in CONTENT_ALGORITHMS),
                self._ingest,
                self._trash,
                self.none,
            ):
                made |= not directory.exists()
                directory.mkdir(exist_ok=True)
            if made:
                _sync_directory(self.root)

    def tree_path(self, chain_id: Digest) -> Path:
        return self.root / chain_id.algorithm / chain_id.encoded

    def ingest_path(self, chain_id: Digest) -> Path:
        return self._ingest / chain_id.encoded

    @contextmanager
    def open(self, chain_id: Digest) -> Iterator[int]:
        """
        A descriptor of a tree's root.
        """
        with translated():
            descriptor = _open(self.tree_path(chain_id))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------ on the way in

    @contextmanager
    def begin(self, chain_id: Digest) -> Iterator[int]:
        """
        A descriptor of the empty directory of a tree that is ours to make.
        """
        path = self.ingest_path(chain_id)
        with translated():
            above = _open(self._ingest)
            try:
                layer.spread_directories(above)
            finally:
                os.close(above)
            path.mkdir()
            descriptor = _open(path)
        try:
            with translated():
                layer.as_if_alone(descriptor)
                path.chmod(0o755)  # whatever the umask says
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def writeback(self) -> Iterator[layer.Writeback]:
        """
        What makes all that is made below durable, from before it is written: however many files, it is one call.
        """
        with translated():
            descriptor = _open(self.root)
        try:
            with layer.Writeback(descriptor) as writeback:
                yield writeback
        finally:
            os.close(descriptor)

    def publish(self, chain_ids: Iterable[Digest]) -> None:
        """
        Rename finished and synced trees to their chain ids, and sync the directories: their rows may follow (I4).
        """
        directories = {self._ingest}
        with translated():
            for chain_id in chain_ids:
                target = self.tree_path(chain_id)
                _move(self.ingest_path(chain_id), target)
                directories.add(target.parent)
            for directory in sorted(directories):
                _sync_directory(directory)

    # ------------------------------------------------------------------ on the way out

    def discard(self, chain_ids: Iterable[Digest]) -> None:
        """
        Move aside what lies where these trees are made or are to be, and sync: for ingest rows that are ours, or for
        rows of nobody's with the gate locked. `empty_trash` unlinks.
        """
        moved = set()
        with translated():
            for chain_id in chain_ids:
                for path in (self.ingest_path(chain_id), self.tree_path(chain_id)):
                    if self._move_to_trash(path):
                        moved |= {path.parent, self._trash}
            for directory in sorted(moved):
                _sync_directory(directory)

    def trash_stray(self, path: Path) -> None:
        """
        Move aside something that no row explains. Under the gate.
        """
        with translated():
            self._move_to_trash(path)

    def empty_trash(self) -> None:
        """
        Unlink what was moved aside, with no lock held but one for each of these directories.
        """
        with translated():
            for name in os.listdir(self._trash):  # noqa: PTH208 -- names are enough
                self._remove(self._trash / name)

    def _move_to_trash(self, path: Path) -> bool:
        try:
            path.lstat()  # what cannot be looked at is not gone, and its row is about to be: that is an error
            _move(path, self._trash / f"{path.name}.{secrets.token_hex(4)}")
        except FileNotFoundError:
            return False  # there was none, or it went in an attempt that did not get as far as its row
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # A lower layer of overlayfs has it, as where a store came with a container's image.
            self._remove(path)
        return True

    def _remove(self, path: Path) -> None:
        """
        Remove one directory. Where another process is at it, it is gone when that is done: we wait, for what is freed
        is said to be gone.
        """

        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()
                return
            path.chmod(0o700)
            descriptor = _open(path)
        except FileNotFoundError:
            return  # somebody else was quicker
        try:
            if _lock(descriptor, path):
                layer.remove_tree(path)
        finally:
            # Before it is closed: a forked child may have a copy, and keep the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    # ------------------------------------------------------------------ the rest

    def occupied(self, chain_id: Digest) -> tuple[int, int, bool]:
        """
        The bytes of blocks and the inodes that a tree takes, by the filesystem's word; and whether that is all of it.
        What a layer closed to its owner is closed to us as well, where we are not root.

        Raises:
            FileNotFoundError: it is not here.
        """
        closed: list[OSError] = []

        def note(error: OSError) -> None:
            if not isinstance(error, PermissionError):
                raise error
            closed.append(error)

        descriptor = _open(self.tree_path(chain_id))
        try:
            return *layer.occupied(descriptor, note), not closed
        finally:
            os.close(descriptor)

    def free_inodes(self) -> int | None:
        """
        What the filesystem has left for us; None where it has no fixed number of them.
        """
        with translated():
            figures = os.statvfs(self.root)
        return figures.f_favail if figures.f_files else None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except PermissionError:
        # Without privilege, a directory that we may not write to does not move: its .. would change.
        mode = stat.S_IMODE(source.lstat().st_mode)
        source.chmod(mode | 0o700)
        source.rename(target)
        target.chmod(mode)
        if mode & 0o400:
            _sync_directory(target)


def _lock(descriptor: int, path: Path) -> bool:
    """
    Whether the directory is ours to remove; if not, it is gone now, or its remover takes all too long.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_SECONDS)
        else:
            return path.exists()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
