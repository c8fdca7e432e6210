"""
What the dead left, and what nothing names: ended, swept, unlinked.

Cost is what was in flight or doomed; no directory of blobs is ever scanned.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeVar

from ullage.errors import DiskFull, ImageError
from ullage.model import Reclaimed
from ullage.repository import owner_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ullage.blobs import BlobFiles
    from ullage.model import EvictionPolicy
    from ullage.repository import ImageRepository

__all__ = [
    "RESUMABLE_BYTES",
    "collect",
    "give_back",
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


def recover(repository: ImageRepository, files: BlobFiles) -> None:
    """
    Bring a store that others may have died on back to what its rows say. At open; harmless beside live users.
    """
    try:
        reap(repository, files)
        _give_up_torn(repository, files)
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
    received = {}
    worthless = []
    for digest, size in repository.ingests_of(token):
        here = files.received_bytes(digest, size)
        if keep and here >= RESUMABLE_BYTES:
            received[digest] = here
        else:
            received[digest] = 0
            worthless.append(digest)
    files.keep_partials(digest for digest, here in received.items() if here)
    files.discard(worthless)
    with_headroom(files, lambda: repository.end(token, received))
    files.empty_trash()


def sweep(repository: ImageRepository, files: BlobFiles) -> Reclaimed:
    """
    Remove the files of doomed blobs, then their rows: nothing is unlinked before its doom is durable (I3).
    """
    count = size = 0
    while repository.doomed(1):
        swept = repository.sweep(files.trash, _BATCH)
        if not swept:
            break
        count += len(swept)
        size += sum(each for _, each in swept)
    files.empty_trash()
    files.keep_headroom()
    return Reclaimed(blob_count=count, blob_bytes=size)


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
    evicted, partials, doomed = with_headroom(
        files, lambda: repository.collect(policy, files.discard, dry_run=dry_run)
    )
    if dry_run:
        swept = Reclaimed(blob_count=len(doomed), blob_bytes=sum(size for _, size in doomed))
    else:
        swept = with_headroom(files, lambda: sweep(repository, files))
    return Reclaimed(
        blob_count=swept.blob_count,
        blob_bytes=swept.blob_bytes,
        partial_count=len(partials),
        partial_bytes=sum(size for _, size in partials),
        images=tuple(evicted),
    )


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
