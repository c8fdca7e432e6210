"""
Admission: who fetches which blob of a pull, and where the room comes from.

All of it inside one write transaction. A refusal of the limit comes from the database; what is tried then, in this
order, is to give up partial blobs that nobody fetches, and to evict images where the caller allows that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import Connection, TextClause, text, update

from ullage.database import RuleBroken
from ullage.digest import Digest
from ullage.errors import DiskFull, SizeMismatch
from ullage.repository.lookup import usage
from ullage.repository.room import Room
from ullage.repository.storage import limit_exceeded
from ullage.schema import ingests

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import CursorResult

    from ullage.model import Evicted, StorageUsage
    from ullage.repository.acting import Acting

__all__ = ["BLOBS", "Admission", "Claims", "Files", "Untouched", "as_json"]


class Files(Protocol):
    """
    What admission asks of the files: `ullage.blobs.BlobFiles` has it.
    """

    def is_here(self, digest: Digest, size: int) -> bool: ...

    def discard(self, digests: Sequence[Digest]) -> None: ...

    def free_bytes(self) -> int: ...


class Untouched:
    """
    Files that a dry run may look at, and does not touch.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def is_here(self, digest: Digest, size: int) -> bool:
        return self._files.is_here(digest, size)

    def discard(self, digests: Sequence[Digest]) -> None:
        pass  # the transaction is rolled back, so the files have to stay

    def free_bytes(self) -> int:
        return self._files.free_bytes()


@dataclass(frozen=True, slots=True)
class Claims:
    """
    How the blobs of a pull are shared out: here and leased, ours to fetch, or somebody else's to wait for;
    and which images had to go for it, whose files are still to be swept.
    """

    present: frozenset[Digest]
    owned: frozenset[Digest]
    awaited: frozenset[Digest]
    evicted: tuple[Evicted, ...] = ()


# json_each hands a list over in one statement that is compiled once, however long the list. These run on our own
# connections; the schema itself stays free of JSON functions.
BLOBS: Final = text(
    "SELECT digest, id, size, state FROM blobs WHERE digest IN (SELECT value FROM json_each(:digests))"
)
_INGESTS: Final = text(
    "SELECT digest, size, lease_id, received_bytes FROM ingests WHERE digest IN (SELECT value FROM json_each(:digests))"
)
_TAKE_BACK: Final = text(
    "UPDATE blobs SET state = 'ready' WHERE state = 'doomed' AND digest IN (SELECT value FROM json_each(:digests))"
)
_SWEPT: Final = text(
    "UPDATE blobs SET state = 'swept' WHERE digest IN (SELECT value FROM json_each(:digests))"
)
_LEASE: Final = text(
    "INSERT OR IGNORE INTO lease_blobs (lease_id, blob_id)"
    " SELECT :lease_id, id FROM blobs WHERE digest IN (SELECT value FROM json_each(:digests))"
)
_TAKE_OVER: Final = text(
    "UPDATE ingests SET lease_id = :lease_id, reserved_bytes = size"
    " WHERE lease_id IS NULL AND digest IN (SELECT value FROM json_each(:digests))"
)
_RESERVE: Final = text(
    "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at)"
    " SELECT key, value, :lease_id, value, :now FROM json_each(:sizes)"
)
_ROOM: Final = text(
    "SELECT (SELECT min_free_bytes FROM store) AS min_free_bytes,"
    " (SELECT doomed_bytes FROM store) AS doomed_bytes,"
    " (SELECT coalesce(sum(reserved_bytes - received_bytes), 0) FROM ingests) AS outstanding_bytes"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """
    What is here of the blobs that are wanted.
    """

    present: set[Digest]
    doomed: set[Digest]
    owned: set[Digest]
    awaited: set[Digest]
    resumable: dict[Digest, int]

    def absent_of(self, wanted: Mapping[Digest, int]) -> dict[Digest, int]:
        known = self.present | self.doomed | self.owned | self.awaited | self.resumable.keys()
        return {digest: size for digest, size in wanted.items() if digest not in known}


class Admission:
    """
    Claims blobs for one lease, in a write transaction that its caller has open.

    Args:
        evict: whether images may go to make room.
        acting: who claims, and when.
    """

    def __init__(
        self, connection: Connection, lease_id: int, files: Files, *, evict: bool, acting: Acting
    ) -> None:
        self._connection = connection
        self._lease_id = lease_id
        self._files = files
        self._evict = evict
        self._acting = acting
        self._given_up: list[Digest] = []
        self._before: StorageUsage | None = None
        self._taken_bytes = 0

    def claim(self, wanted: Mapping[Digest, int]) -> Claims:
        """
        See `Pulls.admit`.
        """
        room = Room(self._connection, self._acting, evict=self._evict, keep=wanted)
        found = self._look(wanted)
        if found.present:
            # First of all, so that no eviction takes away what this pull counts on.
            self._execute(_LEASE, found.present, lease_id=self._lease_id)
        absent = found.absent_of(wanted)
        to_fetch = sum(absent.values()) + sum(wanted[d] - here for d, here in found.resumable.items())
        growth = to_fetch + sum(wanted[digest] for digest in found.doomed)
        if growth:
            self._before = usage(self._connection)
        if to_fetch:
            self._check_disk(to_fetch, room)
        for statement, digests, parameters in (
            (_TAKE_BACK, found.doomed, {}),
            (_TAKE_OVER, found.resumable, {"lease_id": self._lease_id}),
            (
                _RESERVE,
                absent,
                {"lease_id": self._lease_id, "now": self._acting.at, "sizes": json.dumps(absent)},
            ),
        ):
            if digests:
                self._reserve(statement, digests, parameters, room, growth)
                self._taken_bytes += sum(wanted[d] - found.resumable.get(d, 0) for d in digests)
            if statement is _TAKE_BACK and digests:
                # At once: making room for the rest would doom them again.
                self._execute(_LEASE, digests, lease_id=self._lease_id)
        if given_up := [*self._given_up, *room.given_up]:
            # Last of all: a refusal undoes rows, and would not bring a file back.
            self._files.discard(given_up)
        return Claims(
            present=frozenset(found.present | found.doomed),
            owned=frozenset(found.owned | absent.keys() | found.resumable.keys()),
            awaited=frozenset(found.awaited),
            evicted=room.evicted,
        )

    # ------------------------------------------------------------------ what is here

    def _look(self, wanted: Mapping[Digest, int]) -> _Found:
        found = _Found(set(), set(), set(), set(), {})
        self._look_at_blobs(wanted, found)
        self._look_at_ingests(wanted, found)
        return found

    def _look_at_blobs(self, wanted: Mapping[Digest, int], found: _Found) -> None:
        gone = []
        for row in self._execute(BLOBS, wanted):
            digest = Digest(row.digest)
            if row.size != wanted[digest]:
                raise SizeMismatch(
                    f"size mismatch: the manifest says {wanted[digest]} bytes, blob {digest} has {row.size}",
                    expected_bytes=wanted[digest],
                    actual_bytes=row.size,
                )
            if row.state == "ready":
                found.present.add(digest)
            elif self._files.is_here(digest, row.size):
                found.doomed.add(digest)
            else:
                gone.append(digest)  # moved aside by a sweep that died before it ended the row
        if gone:
            self._execute(_SWEPT, gone)

    def _look_at_ingests(self, wanted: Mapping[Digest, int], found: _Found) -> None:
        unusable = []
        for row in self._execute(_INGESTS, wanted):
            digest = Digest(row.digest)
            if row.lease_id == self._lease_id:
                found.owned.add(digest)
            elif row.lease_id is not None:
                found.awaited.add(digest)
            elif row.size == wanted[digest]:
                found.resumable[digest] = row.received_bytes
            else:
                unusable.append(digest)  # one of two manifests announced a wrong size
        if unusable:
            self._given_up += unusable
            self._connection.execute(
                update(ingests).where(ingests.c.digest.in_(unusable)).values(state="discarded")
            )

    # ------------------------------------------------------------------ room

    def _reserve(
        self,
        statement: TextClause,
        digests: Collection[Digest],
        parameters: Mapping[str, Any],
        room: Room,
        growth: int,
    ) -> None:
        while True:
            try:
                self._execute(statement, digests, **parameters)
            except RuleBroken as error:
                if not room.make():
                    raise limit_exceeded(
                        self._connection,
                        error,
                        needed_bytes=growth,
                        before=self._before,
                        taken_bytes=self._taken_bytes,
                    ) from error
            else:
                return

    def _check_disk(self, needed_bytes: int, room: Room) -> None:
        """
        The physical limit: what the filesystem has, less what others were promised and what is to stay free.

        What is doomed or was given up counts as free: it is unlinked before the first byte is written.
        """
        while True:
            said = self._connection.execute(_ROOM).one()
            free = self._files.free_bytes() + said.doomed_bytes + room.discarded_bytes
            if needed_bytes <= free - said.outstanding_bytes - said.min_free_bytes:
                return
            if not room.make():
                raise DiskFull(
                    f"the filesystem has no room: needed {needed_bytes} bytes, free {free}, "
                    f"of which {said.outstanding_bytes} are promised to other pulls "
                    f"and {said.min_free_bytes} are to stay free"
                )

    def _execute(
        self, statement: TextClause, digests: Collection[Digest], **parameters: object
    ) -> CursorResult[Any]:
        return self._connection.execute(statement, {"digests": as_json(digests), **parameters})


def as_json(digests: Collection[Digest]) -> str:
    return json.dumps(list(digests))
