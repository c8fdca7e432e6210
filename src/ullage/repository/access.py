"""
Who may use an image: the records of whose credentials it was fetched with.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from sqlalchemy import select, text

from ullage.errors import InvalidReference
from ullage.reference import Reference
from ullage.repository.lookup import find
from ullage.repository.records import Records
from ullage.schema import access, images

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ullage.model import ImageStatus
    from ullage.repository.lookup import ImageKey

__all__ = ["Access", "grant"]

_GRANT: Final = text(
    "INSERT INTO access (image_id, repo, credential, verified_at) VALUES (:image_id, :repo, :credential, :now)"
    " ON CONFLICT (image_id, repo, credential) DO UPDATE SET verified_at = excluded.verified_at"
)


class Access(Records):
    """
    The part of `ImageRepository` that is about who may use an image.
    """

    # ------------------------------------------------------------------ one read transaction each

    def access_to(self, key: ImageKey) -> list[tuple[str, str]]:
        """
        Repo and record of each credential that gives a right to an image; none when it is not here. One read.

        A reference is about its repo: what is somebody's in another one is not theirs in this, but what is
        everybody's is so anywhere. An image whose bytes the host keeps elsewhere is everybody's: who gets to see
        them is the host's to say.
        """
        with self._database.read() as connection:
            status = find(connection, key)
            if status is None:
                return []
            rows = connection.execute(
                select(access.c.repo, access.c.credential).where(access.c.image_id == status.id)
            ).all()
            registered = connection.execute(
                select(images.c.registered_bytes).where(images.c.id == status.id)
            ).scalar()
        repo = _repo_of(key, status)
        records = [
            (row.repo, row.credential) for row in rows if repo in (None, row.repo) or not row.credential
        ]
        return records if registered is None else [*records, ("", "")]

    # ------------------------------------------------------------------ one write transaction each

    def grant(self, image_row_id: int, repo: str, credential: str) -> None:
        """
        Record with what credentials an image that is here could be fetched from *repo* just now. One write.

        Nothing is written for an image that is gone.
        """
        with self._database.write() as connection:
            if connection.execute(select(images.c.id).where(images.c.id == image_row_id)).first() is not None:
                grant(connection, image_row_id, repo, credential, self._now())


def _repo_of(key: ImageKey, status: ImageStatus) -> str | None:
    """
    The repo that *key* names; None where it was an id that was found.
    """
    if isinstance(key, str):
        with contextlib.suppress(InvalidReference):
            reference = Reference.parse(key)
            if str(reference) in (*status.repo_tags, *status.repo_digests):
                return reference.name
    return None


def grant(connection: Connection, image_row_id: int, repo: str | None, credential: str, now: str) -> None:
    """
    The same, inside the transaction of a pull. An image that got no name has no *repo*.
    """
    connection.execute(
        _GRANT, {"image_id": image_row_id, "repo": repo or "", "credential": credential, "now": now}
    )
