"""
Making room: which images go, in which order, and what that frees.

Least recently used first; never a pinned one, one that somebody holds, or one that is spared by name. What a victim
frees is what it alone has at that moment (`exclusive_bytes`), so an image whose layers all live on in others is passed
over for as long as another helps more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, delete, select, text

from ullage.model import Evicted, EvictionPolicy
from ullage.repository.lookup import find, usage
from ullage.repository.records import Records
from ullage.repository.rows import to_text
from ullage.repository.storage import (
    discard_partials,
    doom_garbage,
    doomed_blobs,
    doomed_trees,
    set_limits,
)
from ullage.schema import image_storage, images

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from sqlalchemy import Connection

    from ullage.digest import Digest
    from ullage.repository.acting import Acting

__all__ = ["Collected", "Eviction", "Evictor"]

# A page at a time, by the index: most of an eviction looks at one or two, and everybody else waits meanwhile.
_CANDIDATES: Final = text(
    "SELECT i.id, i.last_used_at FROM images AS i WHERE i.pinned = 0 AND i.last_used_at <= :before"
    " AND (i.last_used_at, i.id) > (:used_at, :row_id)"
    " AND NOT EXISTS (SELECT 1 FROM lease_images AS l WHERE l.image_id = i.id)"
    " ORDER BY i.last_used_at, i.id LIMIT 100"
)
_FREES: Final = select(image_storage.c.exclusive_bytes).where(image_storage.c.id == bindparam("id"))


class Evictor:
    """
    Takes images away one by one inside somebody's write transaction, which undoes it all when it fails.
    """

    def __init__(
        self, connection: Connection, acting: Acting, *, before: str, spare: Collection[int] = ()
    ) -> None:
        self._connection = connection
        self._acting = acting
        self._candidates = self._pages(before, spare)
        self._worthless: list[int] = []
        self.evicted: list[Evicted] = []

    def evict_one(self, reason: str) -> bool:
        """
        The next victim, if there is one: the least recently used of those that free something.

        One that frees nothing now may do so when the next has gone, and is looked at again. Where none does, what is
        left lives on in images that stay, and would go for nothing: two images cannot share all they have, for each
        has a manifest of its own, and no two of those can name each other.
        """
        for row_id in self._worthless:
            if frees := self._frees(row_id):
                self._worthless.remove(row_id)
                self._take(row_id, frees, reason)
                return True
        for row_id in self._candidates:
            if frees := self._frees(row_id):
                self._take(row_id, frees, reason)
                return True
            self._worthless.append(row_id)
        return False

    def evict_all(self, reason: str) -> None:
        """
        Every candidate.
        """
        for row_id in (*self._worthless, *self._candidates):
            self._take(row_id, self._frees(row_id), reason)
        self._worthless.clear()

    def _pages(self, before: str, spare: Collection[int]) -> Iterator[int]:
        last = ("", 0)
        while True:
            parameters = {"before": before, "used_at": last[0], "row_id": last[1]}
            page = self._connection.execute(_CANDIDATES, parameters).all()
            yield from (row_id for row_id, _ in page if row_id not in spare)
            if not page:
                return
            last = (page[-1].last_used_at, page[-1].id)

    def _frees(self, row_id: int) -> int:
        frees: int = self._connection.execute(_FREES, {"id": row_id}).scalar_one()
        return frees

    def _take(self, row_id: int, frees: int, reason: str) -> None:
        status = find(self._connection, row_id)
        assert status is not None, "chosen in this transaction"
        with self._acting.on_record(self._connection, event="evicted", detail=reason):
            self._connection.execute(delete(images).where(images.c.id == row_id))
        doom_garbage(self._connection)
        self.evicted.append(
            Evicted(
                image_id=status.image_id,
                repo_tags=status.repo_tags,
                repo_digests=status.repo_digests,
                size=status.size,
                freed_bytes=frees,
                last_used_at=status.last_used_at,
                reason=reason,
            )
        )


class _DryRun(Exception):
    pass


@dataclass(slots=True)
class Collected:
    """
    What a collection did, or would do: who was evicted, which partial blobs went, and what is doomed now, with sizes.
    """

    evicted: list[Evicted] = field(default_factory=list)
    partials: list[tuple[Digest, int]] = field(default_factory=list)
    doomed: list[tuple[Digest, int]] = field(default_factory=list)
    doomed_trees: list[tuple[Digest, int]] = field(default_factory=list)


class Eviction(Records):
    """
    The part of `ImageRepository` that evicts by policy.
    """

    def collect(
        self,
        policy: EvictionPolicy | None,
        remove: Callable[[Sequence[Digest]], None],
        *,
        dry_run: bool = False,
    ) -> Collected:
        """
        Evict by *policy*, doom what nothing names, give up partial blobs that nobody fetches. One write.

        *remove* moves the files of the partial blobs aside. A dry run is the same transaction, rolled back, and
        moves nothing. Returns who was evicted, which partial blobs went, and all that is doomed now.
        """
        collected = Collected()
        try:
            with self._database.write() as connection:
                doom_garbage(connection)
                collected.partials = discard_partials(connection, remove if not dry_run else _nothing)
                if policy is not None:
                    collected.evicted = self._apply(connection, policy)
                collected.doomed = doomed_blobs(connection)
                collected.doomed_trees = doomed_trees(connection)
                if dry_run:
                    raise _DryRun  # noqa: TRY301 -- it has to leave the transaction's block
        except _DryRun:
            pass  # rolled back, which is what it was raised for
        return collected

    def lower(self, max_bytes: int, remove: Callable[[Sequence[Digest]], None]) -> list[Evicted]:
        """
        Set the limit and evict until what is used and reserved fits under it, as far as that goes. One write.
        """
        with self._database.write() as connection:
            set_limits(connection, max_bytes=max_bytes)
            doom_garbage(connection)
            evictor = Evictor(connection, self._acting(), before=self._now())
            now = usage(connection)
            if now.used_bytes + now.reserved_bytes > max_bytes:
                discard_partials(connection, remove)
            while (now := usage(connection)).used_bytes + now.reserved_bytes > max_bytes:
                if not evictor.evict_one("limit"):
                    break
            return evictor.evicted

    def _apply(self, connection: Connection, policy: EvictionPolicy) -> list[Evicted]:
        now = self._clock()
        evicted: list[Evicted] = []
        if policy.maximum_age is not None:
            aged = Evictor(connection, self._acting(), before=to_text(now - policy.maximum_age))
            aged.evict_all("age")
            evicted += aged.evicted
        max_bytes = usage(connection).max_bytes
        if usage(connection).used_bytes > policy.high_watermark * max_bytes:
            evictor = Evictor(connection, self._acting(), before=to_text(now - policy.minimum_age))
            while usage(connection).used_bytes > policy.low_watermark * max_bytes and evictor.evict_one(
                "space"
            ):
                pass
            evicted += evictor.evicted
        return evicted


def _nothing(_digests: Sequence[Digest]) -> None:
    """
    A dry run leaves the files where they are.
    """
