"""
Trees: which layers are unpacked, for whom, and what is on its way.

A tree is to be made by one lease at a time, the lowest missing one first; what it takes is reserved in steps while it
grows, and becomes what it occupies when it is published. A manifest stacks on its trees from the moment that all of
them are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING, Final

from sqlalchemy import insert, select, text, update

from ullage.database import RuleBroken
from ullage.digest import Digest
from ullage.errors import StoreCorrupt, StoreError
from ullage.repository.admission import as_json
from ullage.repository.leases import lease_id_of
from ullage.repository.lookup import usage
from ullage.repository.records import Records
from ullage.repository.room import Room
from ullage.repository.storage import doomed_trees, limit_exceeded
from ullage.schema import (
    leases,
    tree_ingests,
    trees,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from ullage.model import Evicted, StorageUsage

__all__ = ["NewTree", "TreeClaims", "Trees"]


@dataclass(frozen=True, slots=True)
class TreeClaims:
    """
    Of a chain from the lowest up: the first ``present`` trees are here and kept, those of ``owned`` are next and ours
    to make; or else ``awaited`` is, which somebody else makes.

    ``rootless`` says how the lowest one was made, when there is one; ``cleared``, that something was moved aside for
    ours, and is to be unlinked.
    """

    present: int
    owned: tuple[Digest, ...]
    awaited: Digest | None
    rootless: bool | None
    cleared: bool


@dataclass(frozen=True, slots=True)
class NewTree:
    """
    A tree whose directory is in place: a row of ``trees``.
    """

    chain_id: Digest
    diff_id: Digest
    space_bytes: int
    inodes: int
    rootless: bool
    forgiven: int


_CHAIN: Final = text(
    "SELECT e.value AS chain_id, t.state, t.rootless, g.lease_id"
    " FROM json_each(:chain) AS e LEFT JOIN trees AS t ON t.chain_id = e.value"
    " LEFT JOIN tree_ingests AS g ON g.chain_id = e.value ORDER BY e.key"
)
_KEEP: Final = text(
    "INSERT OR IGNORE INTO lease_trees (lease_id, tree_id)"
    " SELECT :lease_id, id FROM trees WHERE chain_id IN (SELECT value FROM json_each(:chain))"
)
_BEGIN: Final = text(
    "INSERT INTO tree_ingests (chain_id, lease_id, created_at) SELECT value, :lease_id, :now FROM json_each(:chain)"
)
#: What grows is not filled: it may have been, and is begun again.
_RESERVE: Final = text(
    "UPDATE tree_ingests SET state = 'partial', reserved_bytes = max(reserved_bytes, :space_bytes),"
    " reserved_inodes = max(reserved_inodes, :inodes)"
    " WHERE chain_id = :chain_id AND lease_id = (SELECT id FROM leases WHERE token = :token)"
)
_FILL: Final = text(
    "UPDATE tree_ingests SET state = 'filled', reserved_bytes = :space_bytes, reserved_inodes = :inodes"
    " WHERE chain_id = :chain_id AND lease_id = (SELECT id FROM leases WHERE token = :token)"
)
#: Down goes what is reserved in one step alone, from a row that grows to one that is filled.
_ANEW: Final = tuple(
    text(
        f"UPDATE tree_ingests SET {change} WHERE chain_id IN (SELECT value FROM json_each(:chain))"
        " AND lease_id = (SELECT id FROM leases WHERE token = :token)"
    )
    for change in (
        "state = 'partial'",
        "state = 'filled', reserved_bytes = 0, reserved_inodes = 0",
    )
)
_ARRIVED: Final = text(
    "UPDATE tree_ingests SET state = 'arrived'"
    " WHERE lease_id = :lease_id AND chain_id IN (SELECT value FROM json_each(:chain))"
)


_ENDED: Final = "the lease of what is being unpacked was ended by somebody else"


class Trees(Records):
    """
    The part of `ImageRepository` that is about trees.
    """

    # ------------------------------------------------------------------ one read transaction each

    def tree_owner(self, chain_id: Digest) -> str | None:
        """
        The token of who makes a tree now; None when nobody does. One read.
        """
        statement = (
            select(leases.c.token)
            .join(tree_ingests, tree_ingests.c.lease_id == leases.c.id)
            .where(tree_ingests.c.chain_id == chain_id)
        )
        with self._database.read() as connection:
            token: str | None = connection.execute(statement).scalar()
            return token

    def trees_of(self, token: str) -> list[Digest]:
        """
        The trees that a lease is making. One read.
        """
        statement = (
            select(tree_ingests.c.chain_id)
            .join(leases, leases.c.id == tree_ingests.c.lease_id)
            .where(leases.c.token == token)
        )
        with self._database.read() as connection:
            return [Digest(chain_id) for chain_id in connection.execute(statement).scalars()]

    def half_trees(self) -> list[Digest]:
        """
        The trees that somebody began, and that nobody makes any more. One read.
        """
        statement = select(tree_ingests.c.chain_id).where(tree_ingests.c.lease_id.is_(None))
        with self._database.read() as connection:
            return [Digest(chain_id) for chain_id in connection.execute(statement).scalars()]

    def doomed_trees(self, limit: int) -> list[tuple[Digest, int]]:
        """
        The trees whose directories are to go, at most *limit*, and what they occupy. One read.
        """
        with self._database.read() as connection:
            return doomed_trees(connection, limit)

    # ------------------------------------------------------------------ one write transaction each

    def claim_trees(
        self, token: str, chain: Sequence[Digest], discard: Callable[[Sequence[Digest]], None]
    ) -> TreeClaims:
        """
        Keep the trees of *chain* that are here, from the lowest up, and begin those above them. One write.

        *discard* moves aside whatever lies where those are to be. Where the lowest one that is missing is somebody
        else's to make, nothing is begun.
        """
        with self._database.write() as connection:
            lease_id = lease_id_of(connection, token)
            rows = connection.execute(_CHAIN, {"chain": as_json(chain)}).all()
            above = list(dropwhile(lambda row: row.state == "ready", rows))
            free = list(takewhile(lambda row: row.state != "ready" and row.lease_id is None, above))
            kept, owned = (
                [Digest(row.chain_id) for row in each] for each in (rows[: -len(above) or None], free)
            )
            cleared = 0
            for table, state in ((trees, "swept"), (tree_ingests, "discarded")):
                # A doomed one that no sweep has taken yet goes now; so does half of one.
                ended = update(table).where(table.c.chain_id.in_(owned)).values(state=state)
                cleared += connection.execute(ended).rowcount
            parameters = {"lease_id": lease_id, "now": self._now()}
            connection.execute(_KEEP, parameters | {"chain": as_json(kept)})
            connection.execute(_BEGIN, parameters | {"chain": as_json(owned)})
            # Last of all: a refusal undoes rows, and would not bring a directory back.
            discard(owned)
            return TreeClaims(
                present=len(kept),
                owned=tuple(owned),
                awaited=Digest(above[0].chain_id) if above and not owned else None,
                rootless=bool(rows[0].rootless) if kept else None,
                cleared=cleared > 0,
            )

    def reserve_tree(self, token: str, chain_id: Digest, space_bytes: int, inodes: int) -> None:
        """
        Reserve so much for a tree that we make, in all. One write that costs no fsync: half a tree survives nothing.

        Raises:
            StorageLimitExceeded: it does not fit under the limit.
        """
        with self._database.write(durable=False) as connection:
            try:
                _reserve(connection, token, chain_id, space_bytes, inodes)
            except RuleBroken as error:
                raise limit_exceeded(
                    connection, error, needed_bytes=space_bytes, needed_inodes=inodes
                ) from error

    def fill_tree(self, token: str, chain_id: Digest, space_bytes: int, inodes: int) -> None:
        """
        All of a tree is written, and takes so much: what was reserved beyond that is given back. One write that costs
        no fsync.

        Raises:
            StorageLimitExceeded: it takes more than was reserved, and that does not fit under the limit.
        """
        with self._database.write(durable=False) as connection:
            parameters = {"token": token, "chain_id": chain_id, "space_bytes": space_bytes, "inodes": inodes}
            try:
                filled = connection.execute(_FILL, parameters)
            except RuleBroken as error:
                raise _refused(connection, error, chain_id, space_bytes, inodes) from error
            if not filled.rowcount:
                raise StoreError(_ENDED)

    def begin_trees_anew(self, token: str, chain: Sequence[Digest]) -> None:
        """
        What was written of these trees, which we make, is gone: nothing is reserved for them, and they grow again.
        One write that costs no fsync.
        """
        with self._database.write(durable=False) as connection:
            for statement in _ANEW:
                begun = connection.execute(statement, {"token": token, "chain": as_json(chain)})
            if begun.rowcount != len(chain):
                raise StoreError(_ENDED)

    def make_room_for_tree(
        self,
        token: str,
        chain_id: Digest,
        space_bytes: int,
        inodes: int,
        *,
        discard: Callable[[Sequence[Digest]], None],
        evict: bool,
        spare: Sequence[Digest],
    ) -> tuple[Evicted, ...]:
        """
        The same, with what can go giving way: partial blobs nobody fetches (*discard* removes their files), and with
        *evict* images, but those of *spare*. One write. What is doomed by it is to be swept before it is written over.

        Raises:
            StorageLimitExceeded: it does not fit all the same; nothing has changed.
        """
        with self._database.write() as connection:
            room = Room(connection, self._acting(), evict=evict, keep=spare)
            before = usage(connection)
            while True:
                try:
                    _reserve(connection, token, chain_id, space_bytes, inodes)
                except RuleBroken as error:
                    if not room.make():
                        raise _refused(
                            connection, error, chain_id, space_bytes, inodes, before=before
                        ) from error
                else:
                    break
            discard(room.given_up)
            return room.evicted

    def show_unpacking(self, token: str) -> None:
        """
        Let the shell see that all blobs of a pull are here, and that it unpacks. One write that costs no fsync.
        """
        with self._database.write(durable=False) as connection:
            connection.execute(update(leases).where(leases.c.token == token).values(status="extracting"))

    def publish_trees(self, token: str, made: Sequence[NewTree]) -> None:
        """
        Make trees of what we made: durable, and in place before. One write. Our lease keeps them.
        """
        with self._database.write() as connection:
            lease_id = lease_id_of(connection, token)
            chain = as_json([each.chain_id for each in made])
            arrived = connection.execute(_ARRIVED, {"lease_id": lease_id, "chain": chain}).rowcount
            if arrived != len(made):
                raise StoreCorrupt("trees of a live lease are gone from the database")
            for each in made:
                connection.execute(
                    insert(trees).values(
                        chain_id=each.chain_id,
                        diff_id=each.diff_id,
                        space_bytes=each.space_bytes,
                        inodes=each.inodes,
                        rootless=int(each.rootless),
                        forgiven=each.forgiven,
                        created_at=self._now(),
                    )
                )

    def sweep_trees(self, remove: Callable[[Sequence[Digest]], None], limit: int) -> list[tuple[Digest, int]]:
        """
        End the rows of at most *limit* doomed trees, after *remove* moved their directories aside. One write.
        """
        with self._database.write() as connection:
            doomed = doomed_trees(connection, limit, unused=True)
            if doomed:
                chain_ids = [chain_id for chain_id, _ in doomed]
                connection.execute(update(trees).where(trees.c.chain_id.in_(chain_ids)).values(state="swept"))
                remove(chain_ids)
            return doomed

    def discard_half_tree(self, chain_id: Digest, remove: Callable[[Sequence[Digest]], None]) -> None:
        """
        End what a dead owner began, after *remove* moved its directory aside. One write.
        """
        with self._database.write() as connection:
            nobodys = (tree_ingests.c.chain_id == chain_id, tree_ingests.c.lease_id.is_(None))
            if connection.execute(select(tree_ingests.c.id).where(*nobodys)).first() is not None:
                remove([chain_id])
                connection.execute(update(tree_ingests).where(*nobodys).values(state="discarded"))


def _reserve(connection: Connection, token: str, chain_id: Digest, space_bytes: int, inodes: int) -> None:
    reserved = connection.execute(
        _RESERVE, {"token": token, "chain_id": chain_id, "space_bytes": space_bytes, "inodes": inodes}
    )
    if not reserved.rowcount:
        raise StoreError(_ENDED)


def _refused(
    connection: Connection,
    error: RuleBroken,
    chain_id: Digest,
    space_bytes: int,
    inodes: int,
    *,
    before: StorageUsage | None = None,
) -> Exception:
    reserved = connection.execute(
        select(tree_ingests.c.reserved_bytes).where(tree_ingests.c.chain_id == chain_id)
    ).scalar_one()
    return limit_exceeded(
        connection, error, needed_bytes=space_bytes - reserved, needed_inodes=inodes, before=before
    )
