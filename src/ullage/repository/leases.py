"""
Leases: who is at work, what is on its way for them, and how a lease ends.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, bindparam, select, text, update

from ullage.digest import Digest
from ullage.errors import StoreError
from ullage.repository.records import Records
from ullage.repository.storage import doom_garbage
from ullage.schema import ingests, leases, tree_ingests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Leases", "end_lease", "lease_id_of"]


_RECEIVED: Final = text(
    "UPDATE ingests SET state = 'partial',"
    " received_bytes = (SELECT value FROM json_each(:received) WHERE key = digest)"
    " WHERE lease_id = (SELECT id FROM leases WHERE token = :token)"
    " AND digest IN (SELECT key FROM json_each(:received))"
)
_DISCARDED: Final = text(
    "UPDATE ingests SET state = 'discarded' WHERE lease_id IS NULL AND received_bytes = 0"
    " AND digest IN (SELECT key FROM json_each(:received))"
)
_LEASE_ID: Final = select(leases.c.id).where(leases.c.token == bindparam("token"))


class Leases(Records):
    """
    The part of `ImageRepository` that is about leases.
    """

    # ------------------------------------------------------------------ one read transaction each

    def tokens(self) -> list[str]:
        """
        The tokens of all leases. One read.
        """
        with self._database.read() as connection:
            return list(connection.execute(select(leases.c.token)).scalars())

    def ingests_of(self, token: str) -> list[tuple[Digest, int]]:
        """
        Digest and size of what a lease is fetching. One read.
        """
        statement = (
            select(ingests.c.digest, ingests.c.size)
            .join(leases, leases.c.id == ingests.c.lease_id)
            .where(leases.c.token == token)
        )
        with self._database.read() as connection:
            return [(Digest(digest), size) for digest, size in connection.execute(statement)]

    def awaited(self, digests: Sequence[Digest]) -> dict[Digest, tuple[int, str | None]]:
        """
        Of blobs on their way: bytes received, and the token of who fetches them. One read.
        """
        statement = (
            select(ingests.c.digest, ingests.c.received_bytes, leases.c.token)
            .join(leases, leases.c.id == ingests.c.lease_id, isouter=True)
            .where(ingests.c.digest.in_(digests))
        )
        with self._database.read() as connection:
            return {
                Digest(digest): (received, token) for digest, received, token in connection.execute(statement)
            }

    # ------------------------------------------------------------------ one write transaction each

    def progress(self, token: str, received: Mapping[Digest, int]) -> None:
        """
        Let the shell and waiters see how far our ingests are. One write that costs no fsync.
        """
        with self._database.write(durable=False) as connection:
            connection.execute(_RECEIVED, {"received": json.dumps(received), "token": token})

    def end(self, token: str, received: Mapping[Digest, int], half_trees: Sequence[Digest] = ()) -> None:
        """
        End a lease that will not complete, ours or a dead owner's whose lock we have. One write.

        *received* says what is on disk of each of its ingests: that stays, charged and resumable; what has
        nothing goes, and so do *half_trees*, whose directories went before. Harmless when the lease is gone.
        """
        with self._database.write() as connection:
            connection.execute(_RECEIVED, {"received": json.dumps(received), "token": token})
            end_lease(connection, token)
            connection.execute(_DISCARDED, {"received": json.dumps(received)})
            if half_trees:
                nobodys = (tree_ingests.c.lease_id.is_(None), tree_ingests.c.chain_id.in_(half_trees))
                connection.execute(update(tree_ingests).where(*nobodys).values(state="discarded"))
            doom_garbage(connection)


def lease_id_of(connection: Connection, token: str) -> int:
    """
    The row of a lease that we have.
    """
    lease_id: int | None = connection.execute(_LEASE_ID, {"token": token}).scalar()
    if lease_id is None:
        raise StoreError("the lease of this pull was ended by somebody else")
    return lease_id


def end_lease(connection: Connection, token: str) -> None:
    """
    Say that the lock of a lease is no longer its owner's: the database does the rest. Harmless when it is gone.
    """
    connection.execute(update(leases).where(leases.c.token == token).values(ended_token=token))
