"""
What any host writes, and what whoever opens a store asks first: as SQL, for those with no other need of SQLAlchemy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ullage.errors import ImageNotFound
from ullage.repository.lookup import find
from ullage.repository.records import Records

if TYPE_CHECKING:
    from ullage.model import ImageStatus
    from ullage.repository.lookup import ImageKey

__all__ = ["Holding", "Owner"]


@dataclass(frozen=True, slots=True)
class Owner:
    """
    Who takes a lease: the token of its lock, and what people want to know.
    """

    token: str
    name: str
    pid: int


_LEASE: Final = (
    "INSERT INTO leases (token, purpose, reference, owner, pid, created_at)"
    " VALUES (:token, 'hold', :reference, :owner, :pid, :created_at)"
)
_HOLD: Final = (
    "INSERT INTO lease_images (lease_id, image_id) SELECT id, :image_id FROM leases WHERE token = :token"
)
_LET_GO: Final = "UPDATE leases SET ended_token = token WHERE token = :token"
_USED: Final = "UPDATE images SET last_used_at = :now WHERE id = :image_id"
#: Everybody who is at work is in it, too: nobody knows who is dead without asking for their locks.
_LEFT: Final = (
    "SELECT EXISTS (SELECT 1 FROM leases)"
    " OR EXISTS (SELECT 1 FROM ingests WHERE lease_id IS NULL)"
    " OR EXISTS (SELECT 1 FROM tree_ingests WHERE lease_id IS NULL)"
    " OR EXISTS (SELECT 1 FROM blobs WHERE state = 'doomed')"
    " OR EXISTS (SELECT 1 FROM trees WHERE state = 'doomed')"
)


class Holding(Records):
    """
    The part of `Lookups` that keeps images, and notes that they are used.
    """

    # ------------------------------------------------------------------ one read transaction each

    def may_be_left(self) -> bool:
        """
        Whether there is anything that somebody may have died on. One read.
        """
        with self._database.glance() as snapshot:
            return bool(snapshot.exec_driver_sql(_LEFT).scalar())

    # ------------------------------------------------------------------ one write transaction each

    def hold(self, owner: Owner, key: ImageKey) -> ImageStatus:
        """
        Take a lease on an image: nobody removes it until the lease ends. One write.

        Raises:
            ImageNotFound: it is not here.
        """
        with self._database.write_plainly() as connection:
            status = find(connection, key)
            if status is None:
                raise ImageNotFound(f"no such image: {key}", image=str(key))
            lease = {
                "token": owner.token,
                "reference": str(key),
                "owner": owner.name,
                "pid": owner.pid,
                "created_at": self._now(),
            }
            connection.exec_driver_sql(_LEASE, lease)
            connection.exec_driver_sql(_HOLD, {"image_id": status.id, "token": owner.token})
            return status

    def let_go(self, token: str) -> None:
        """
        End a hold of ours. One write. Harmless when it is gone.
        """
        with self._database.write_plainly() as connection:
            connection.exec_driver_sql(_LET_GO, {"token": token})

    def touch(self, row_id: int) -> None:
        """
        Note that an image was used just now. One write that costs no fsync: it may be lost in a power cut.
        """
        with self._database.write_plainly(durable=False) as connection:
            connection.exec_driver_sql(_USED, {"now": self._now(), "image_id": row_id})
