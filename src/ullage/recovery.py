"""
What the dead left, and what nothing names: ended, swept, unlinked.

Cost is what was in flight or doomed; no directory of blobs is ever scanned.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from ullage.errors import DiskFull, ImageError
from ullage.model import Reclaimed
from ullage.repository import owner_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ullage.blobs import BlobFiles
    from ullage.model import EvictionPolicy
    from ullage.repository import ImageRepository, Lookups

__all__ = [
    "RESUMABLE_BYTES",
    "collect",
    "give_back",
    "has_lease",
    "owner_name",
    "reap",
    "recover",
    "sweep",
    "sweep_quietly",
    "with_headroom",
]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Less than this of a blob is not worth resuming: an attempt that failed leaves nothing of it.
RESUMABLE_BYTES: Final = 64 * 1024
#: Blobs swept under one hold of the gate: others get their turn between.
_BATCH: Final = 256


def recover(lookups: Lookups, make: Callable[[], ImageRepository], files: BlobFiles) -> None:
    """
    Bring a store that others may have died on back to what its rows say. At open; harmless beside live users.

    *make* gives the repository, which takes a while to load, where anything may be left.
    """
    if not files.lease_tokens() and not lookups.may_be_left():
        try:
            _tidy(files)
        except DiskFull as error:
            _log.warning("recovery waits for room: %s", error)
        return
    repository = make()
    try:
        reap(repository, files)
        _give_up_torn(repository, files)
        _give_up_half_trees(repository, files)
        with_headroom(files, lambda: sweep(repository, files))
    except DiskFull as error:
        # Whoever opens a store on a full disk may be the one who makes room: what the dead left can wait.
        _log.warning("recovery waits for room: %s", error)
    known = set(repository.tokens())
    for token in files.lease_tokens():
        # The lock first and the row second: a file whose row is still to come is locked by its owner.
        if token not in known and (lock := files.take_lease(token)) is not None:
            lock.drop()


def _give_up_torn(repository: ImageRepository, files: BlobFiles) -> None:
    """
    Give up partial blobs whose file is not what the row says: whoever discarded them died between file and commit.
    """
    for digest, _, received in repository.resumable():
        # A row that somebody else moved on with is theirs to answer for.
        if files.partial_bytes(digest) != received and repository.resumable_bytes(digest) == received:
            with_headroom(files, lambda: repository.discard_partial(digest, files.discard))  # noqa: B023 -- now


def _give_up_half_trees(repository: ImageRepository, files: BlobFiles) -> None:
    """
    Remove what nobody makes any more: nobody goes on with half a tree.
    """
    for chain_id in repository.half_trees():
        with_headroom(files, lambda: repository.discard_half_tree(chain_id, files.trees.discard))  # noqa: B023 -- now


def reap(repository: ImageRepository, files: BlobFiles, *, tokens: Iterable[str] | None = None) -> bool:
    """
    End the leases of the dead: those, of *tokens* or of all, whose lock can be taken. Whether there were any.

    What they had received stays, charged and resumable; what is too little for that goes.
    """
    reaped = False
    for token in repository.tokens() if tokens is None else tokens:
        lock = files.take_lease(token)
        if lock is None:
            continue
        try:
            give_back(repository, files, token, keep=True)
            reaped = True
        finally:
            lock.drop()
    return reaped


def give_back(repository: ImageRepository, files: BlobFiles, token: str, *, keep: bool) -> None:
    """
    End a lease that will not complete, whose lock we have.

    With *keep*, what was received of large blobs stays, charged and resumable.
    """
    _have_room(files)
    received = {}
    worthless = []
    for digest, size in repository.ingests_of(token):
        here = files.received_bytes(digest, size)
        if keep and here >= RESUMABLE_BYTES:
            received[digest] = here
        else:
            received[digest] = 0
            worthless.append(digest)
    half_trees = repository.trees_of(token)

    def let_go() -> None:
        # Under a quota, or where nothing is changed in its place, moving a file takes room as well.
        files.keep_partials(digest for digest, here in received.items() if here)
        files.discard(worthless)
        files.trees.discard(half_trees)
        repository.end(token, received, half_trees)

    with_headroom(files, let_go)
    files.empty_trash()
    if half_trees:
        files.trees.empty_trash()


def sweep(repository: ImageRepository, files: BlobFiles) -> Reclaimed:
    """
    Remove the files of doomed blobs, then their rows: nothing is unlinked before its doom is durable (I3). The same
    for trees.
    """
    swept: list[int] = []
    while repository.doomed(1) and (batch := repository.sweep(files.trash, _BATCH)):
        swept += [size for _, size in batch]
    trees: list[int] = []
    while repository.doomed_trees(1) and (batch := repository.sweep_trees(files.trees.discard, _BATCH)):
        trees += [size for _, size in batch]
    _tidy(files)
    return Reclaimed(
        blob_count=len(swept), blob_bytes=sum(swept), tree_count=len(trees), tree_bytes=sum(trees)
    )


def _tidy(files: BlobFiles) -> None:
    files.empty_trash()
    files.trees.empty_trash()
    files.keep_headroom()


def sweep_quietly(repository: ImageRepository, files: BlobFiles) -> None:
    """
    Sweep after a removal that is durable already: what fails here is garbage for the next sweep, not the
    caller's failure (I10).
    """
    try:
        with_headroom(files, lambda: sweep(repository, files))
    except ImageError as error:
        _log.warning("doomed files stay for the next collection: %s", error)


def collect(
    repository: ImageRepository,
    files: BlobFiles,
    policy: EvictionPolicy | None = None,
    *,
    dry_run: bool = False,
) -> Reclaimed:
    """
    Free everything that nothing names, nobody fetches and nobody holds, and evict by *policy* if there is one.
    """
    if not dry_run:
        reap(repository, files)
        _give_up_half_trees(repository, files)
    done = with_headroom(files, lambda: repository.collect(policy, files.discard, dry_run=dry_run))
    if dry_run:
        blobs, trees = ([size for _, size in each] for each in (done.doomed, done.doomed_trees))
        swept = Reclaimed(
            blob_count=len(blobs), blob_bytes=sum(blobs), tree_count=len(trees), tree_bytes=sum(trees)
        )
    else:
        swept = with_headroom(files, lambda: sweep(repository, files))
    return replace(
        swept,
        partial_count=len(done.partials),
        partial_bytes=sum(size for _, size in done.partials),
        images=tuple(done.evicted),
    )


def has_lease(repository: ImageRepository, files: BlobFiles, token: str) -> bool:
    """
    Whether a lease of ours, that comes to nothing, is there to be given back.
    """
    _have_room(files)
    return token in repository.tokens()


def _have_room(files: BlobFiles) -> None:
    """
    Before the database is asked by whoever may have met a full disk: see `require_room_to_change`.
    """
    with_headroom(files, files.require_room_to_change)


def with_headroom(files: BlobFiles, action: Callable[[], _T]) -> _T:
    """
    Do what frees space; on a full disk, with the room that was set aside for it.
    """
    try:
        return action()
    except DiskFull:
        if not files.give_up_headroom():
            raise
    return action()
