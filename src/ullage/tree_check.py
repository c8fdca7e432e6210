"""
Are trees what their rows say? The part of a check that walks them.

A tree that was found wrong is looked at again once its row is seen to stand: it may have been swept meanwhile.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from ullage.digest import CONTENT_ALGORITHMS, Digest
from ullage.errors import InvalidReference
from ullage.filesystem import is_read_only
from ullage.model import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ullage.blobs import BlobFiles
    from ullage.repository import ImageRepository, TreeRow

__all__ = ["is_strangers", "may_look", "tree_problems", "unseen"]

_PAGE: Final = 1000


def tree_problems(repository: ImageRepository, files: BlobFiles, *, repair: bool) -> Iterator[Problem]:
    """
    Rows without their directories, directories that take more or less than their rows say, and those without a row.

    With *repair*, the first two are forgotten, since their layers make them again, and the last removed.
    """
    if files.trees.root.exists() and not os.access(files.trees.root, os.R_OK | os.X_OK):
        # They are their owner's alone. Where there are none, there is nothing to be wrong with them.
        if repository.tree_rows(after=0, limit=1):
            yield unseen("I1", "trees", os.strerror(errno.EACCES))
        return
    after = hidden = 0
    while page := repository.tree_rows(after=after, limit=_PAGE):
        after = page[-1].id
        for row in page:
            found = _wrong(files, row)
            if found is not None and repository.tree_still_ready(row.id) and _wrong(files, row) == found:
                hidden += found.unseen
                if not found.unseen:
                    yield _forgotten(repository, found, row) if repair else found
    if hidden:
        yield unseen("I1", "trees", f"{hidden} of them: {os.strerror(errno.EACCES)}")
    for algorithm in (*CONTENT_ALGORITHMS, None):
        strays = _strays(repository, files, algorithm, repair=repair)
        yield from strays if repair else may_look("I2", f"trees/{algorithm or 'ingest'}", strays)


def unseen(invariant: str, what: str, why: str) -> Problem:
    """
    That something could not be looked at by whoever checks.
    """
    return Problem(invariant, "cannot be looked at", what, why, unseen=True)


def may_look(invariant: str, what: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    """
    What is wrong with *what*; where we may not look any further, that.
    """
    try:
        yield from problems
    except PermissionError as error:
        yield unseen(invariant, what, str(error.strerror))


def is_strangers(files: BlobFiles, error: OSError) -> bool:
    """
    Whether a file cannot be read because the store is somebody else's: its owner has lost it, we know nothing.
    """
    return isinstance(error, PermissionError) and files.root.stat().st_uid != os.geteuid()


def _wrong(files: BlobFiles, row: TreeRow) -> Problem | None:
    try:
        space_bytes, inodes, is_all = files.trees.occupied(row.chain_id)
    except FileNotFoundError:
        return Problem("I1", "tree row without a directory", row.chain_id)
    except OSError as error:
        if is_strangers(files, error):
            return unseen("I1", row.chain_id, str(error.strerror))
        return Problem("I1", "tree that cannot be read", row.chain_id, str(error.strerror))
    if inodes == row.inodes and (space_bytes == row.space_bytes or is_read_only(files.root)):
        return None  # on squashfs, for one, a copy takes less: where nothing is written, nothing is charged for it
    if not is_all and space_bytes <= row.space_bytes and inodes <= row.inodes:
        return None  # the rest is behind what is closed
    return Problem(
        "I7",
        "tree of another size",
        row.chain_id,
        f"{space_bytes} bytes in {inodes} inodes here, its row says {row.space_bytes} in {row.inodes}",
    )


def _forgotten(repository: ImageRepository, problem: Problem, row: TreeRow) -> Problem:
    if repository.forget_tree(row.id):
        return replace(problem, repaired=True)
    return replace(problem, detail=f"{problem.detail}; somebody has it, so that it stays".lstrip("; "))


def _strays(
    repository: ImageRepository, files: BlobFiles, algorithm: str | None, *, repair: bool
) -> Iterator[Problem]:
    directory = files.trees.root / (algorithm or "ingest")
    # A store that was made by an earlier release, and only looked at, has none.
    for name in os.listdir(directory) if directory.exists() else ():  # noqa: PTH208 -- names are enough
        path, chain_ids = directory / name, _chain_ids(name, algorithm)
        seen = _identity(path)
        if repository.explained_trees(chain_ids, ingests_only=algorithm is None):
            continue
        # The row may have come since, with another directory, or the directory gone.
        if seen is None or _identity(path) != seen:
            continue
        problem = Problem(
            "I2", "directory without a row", str(path.relative_to(files.root)), "garbage, never damage"
        )
        if repair:
            removed = repository.remove_stray_tree(
                chain_ids, partial(files.trees.trash_stray, path), ingests_only=algorithm is None
            )
            files.trees.empty_trash()
            if not removed:
                continue  # a row explains it by now
            problem = replace(problem, repaired=True)
        yield problem


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_dev


def _chain_ids(name: str, algorithm: str | None) -> list[Digest]:
    """
    The chain ids that a directory of this name can be of; none for a name that we never give.
    """
    found = []
    for each in CONTENT_ALGORITHMS if algorithm is None else (algorithm,):
        try:
            found.append(Digest.parse(f"{each}:{name}"))
        except InvalidReference:
            continue
    return found
