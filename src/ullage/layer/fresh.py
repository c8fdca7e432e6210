"""
A directory that appears whole, or not at all: filled beside its place, renamed at the end.

While it is filled it is in a directory of its own, ``.<name>.<random>.partial``, which nobody else may enter: not to
run what is setuid in it, nor to move things about while we work in there. Whoever fills it holds a lock on that, which
goes with the process, however that ends. So the next run for the same target can tell what the dead left from what
somebody is filling now, and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ullage.errors import ImageError, StoreError, StoreReadOnly, TargetExists
from ullage.layer.account import Account
from ullage.layer.attributes import as_if_alone
from ullage.layer.flattened import FlattenedTree
from ullage.layer.options import Unlimited
from ullage.layer.refused import translated
from ullage.layer.tree import list_directory
from ullage.layer.writeback import Writeback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ullage.layer.options import Budget

__all__ = ["empty_directory", "fresh_directory", "made_directory_in", "remove_tree", "require_free"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What rename(2) says when something is in the way.
_IN_THE_WAY: Final = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_NO_RIGHT: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
#: Of the target's name, so much that the whole still is a name.
_NAME_BYTES: Final = 200
_FILLING: Final = "rootfs"


@contextmanager
def fresh_directory(
    target: Path, *, budget: Budget | None = None, durable: bool = False
) -> Iterator[tuple[int, Budget]]:
    """
    A directory that becomes *target* when the block is left, and is removed when it raises: a descriptor of it, and
    *budget* (by default one without end) as it is to be asked while it is filled, so that what is to be *durable* is on
    its way to the disk meanwhile.

    Raises:
        TargetExists: *target* is there, and is no empty directory.
        StoreError: its parent is not there, or (`StoreReadOnly`) nothing may be made in it.
    """
    require_free(target)
    budget = budget or Unlimited()
    with translated(os.fsencode(target), blames_entry=False):
        _remove_stale(target)
        workplace, lock = _make_workplace(target)
    try:
        with made_directory_in(lock, _FILLING) as directory, Writeback(directory) as writeback:
            yield directory, writeback.of(budget) if durable else budget
            with translated(os.fsencode(target), blames_entry=False):
                if durable:
                    writeback.finish()
                _rename(workplace / _FILLING, target)
                if durable:
                    _sync(target.parent)
    finally:
        try:
            # What cannot be removed is for the next run; it says nothing of what was made, or why not.
            with suppress(ImageError):
                remove_tree(workplace)  # while the lock is held: nobody else is at it
        finally:
            os.close(lock)


@contextmanager
def made_directory_in(directory: int, name: str) -> Iterator[int]:
    """
    A directory of mode 0755, made in the one that is open, and open itself while the block runs.
    """
    with translated(os.fsencode(name), blames_entry=False):
        os.mkdir(name, 0o755, dir_fd=directory)
        made = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        with translated(os.fsencode(name), blames_entry=False):
            as_if_alone(made)
            os.fchmod(made, 0o755)  # whatever the umask says
        yield made
    finally:
        os.close(made)


def require_free(target: Path) -> None:
    """
    Raises:
        TargetExists: *target* is there, and is no empty directory.
        StoreError: its parent is not there, or nothing may be made in it.
    """
    try:
        if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
            raise _exists(target)
        if not target.parent.is_dir():
            raise StoreError(
                f"cannot make {target}: {target.parent} is no directory", hint="make that one first"
            )
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot make {target}: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _exists(target: Path) -> TargetExists:
    return TargetExists(f"{target} is there already", path=str(target))


def _make_workplace(target: Path) -> tuple[Path, int]:
    """
    An empty directory beside *target*, and a descriptor that holds its lock.
    """
    while True:
        workplace = target.parent / f"{_prefix(target)}{secrets.token_hex(4)}.partial"
        try:
            workplace.mkdir(0o700)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno not in _NO_RIGHT:
                raise
            raise StoreReadOnly(
                f"cannot make {target}: {error.strerror}", hint="choose a directory that you may write to"
            ) from error
        lock = -1
        try:
            lock = os.open(workplace, _DIRECTORY)
            if _lock(lock) and _is_at(workplace, lock):
                return workplace, lock
        except OSError:
            with suppress(OSError):
                workplace.rmdir()
            if lock >= 0:
                os.close(lock)
            raise
        os.close(lock)  # somebody who cleans up was quicker with the lock


def _prefix(target: Path) -> str:
    name = os.fsencode(target.name)[:_NAME_BYTES]
    return f".{os.fsdecode(name)}."


def _lock(directory: int) -> bool:
    """
    Take the lock of a directory, if it is free. It goes with the descriptor.
    """
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _remove_stale(target: Path) -> None:
    """
    Remove what dead runs for the same target left: their locks are free.
    """
    name = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{8}\.partial")
    for each in [each for each in target.parent.iterdir() if name.fullmatch(each.name)]:
        try:
            directory = os.open(each, _DIRECTORY)
        except OSError:
            continue  # no directory, or not ours to open: nothing that we left
        try:
            # Another user's is not ours to judge: what is in it may change under our hands.
            if os.fstat(directory).st_uid == os.geteuid() and _lock(directory):
                remove_tree(each)
        finally:
            os.close(directory)


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            raise _exists(target) from error
        raise


def remove_tree(path: Path) -> None:
    """
    Remove a tree that a layer made, whatever its depth and its modes. Nothing happens where there is none.
    """
    with translated(os.fsencode(path), blames_entry=False):
        above = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        tree = FlattenedTree(above, Account(Unlimited()), max_path_bytes=0)
        try:
            name = os.fsencode(path.name)
            status = os.lstat(name, dir_fd=above)
            if stat.S_ISDIR(status.st_mode):
                tree.remove(above, name, name, status)
        except FileNotFoundError:
            return  # not made, or renamed
        finally:
            tree.close()
            os.close(above)


def empty_directory(directory: int) -> None:
    """
    Remove all that is in a directory of ours that is open.
    """
    with translated(blames_entry=False):
        tree = FlattenedTree(directory, Account(Unlimited()), max_path_bytes=0)
        try:
            for name in list_directory(directory):
                tree.remove(directory, name, name, os.lstat(name, dir_fd=directory))
        finally:
            tree.close()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
