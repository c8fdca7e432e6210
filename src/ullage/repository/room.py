"""
Making room for what does not fit, inside the write transaction that wants it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from ullage.repository.eviction import Evictor
from ullage.repository.lookup import usage
from ullage.repository.storage import discard_partials, doom_garbage
from ullage.schema import images

if TYPE_CHECKING:
    from collections.abc import Collection

    from ullage.digest import Digest
    from ullage.model import Evicted
    from ullage.repository.acting import Acting

__all__ = ["Room"]


class Room:
    """
    Gives up what somebody can do without, one step at a time, the least harmful first.

    A refusal after it undoes the rows, and would not bring a file back: the files of `given_up` go last of all.

    Args:
        acting: who wants it, for the history of images that go.
        evict: whether they may.
        keep: partial blobs that are not given up, and ids of images that do not go.
    """

    def __init__(
        self, connection: Connection, acting: Acting, *, evict: bool, keep: Collection[Digest]
    ) -> None:
        self._connection = connection
        self._evict = evict
        self._acting = acting
        self._keep = list(keep)
        self._evictor: Evictor | None = None
        self._gave_up_partials = False
        #: Partial blobs whose rows are gone.
        self.given_up: list[Digest] = []
        self.discarded_bytes = 0

    @property
    def evicted(self) -> tuple[Evicted, ...]:
        """
        The images that went.
        """
        return () if self._evictor is None else tuple(self._evictor.evicted)

    def make(self) -> bool:
        """
        One more step; False when there is none left.
        """
        if not self._gave_up_partials:
            self._gave_up_partials = True
            given_up = discard_partials(self._connection, self.given_up.extend, keep=self._keep)
            self.discarded_bytes = sum(size for _, size in given_up)
            if given_up:
                return True
        if not self._evict:
            return False
        if self._evictor is None:
            before = usage(self._connection)
            doom_garbage(self._connection)
            spare = self._connection.execute(
                select(images.c.id).where(images.c.image_id.in_(self._keep))
            ).scalars()
            self._evictor = Evictor(self._connection, self._acting, before=self._acting.at, spare=set(spare))
            if usage(self._connection).available_bytes > before.available_bytes:
                return True
        return self._evictor.evict_one("pull")
