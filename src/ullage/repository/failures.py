"""
What came to nothing, put on record.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ullage.repository.records import Records
from ullage.repository.rows import to_text

if TYPE_CHECKING:
    from ullage.errors import ImageError

__all__ = ["Failures"]

_NOTE: Final = (
    "INSERT INTO history (at, event, reference, image_id, owner, pid, detail)"
    " SELECT :at, 'failed', :reference, :image_id, :owner, :pid, :kind || :why WHERE NOT EXISTS ("
    "SELECT 1 FROM history WHERE id > (SELECT max(id) FROM history) - :looked_at AND event = 'failed'"
    " AND at > :since AND reference IS :reference AND image_id IS :image_id"
    " AND substr(detail, 1, length(:kind)) = :kind)"
)
#: Whoever asks for an image over and over gets one line of the same failure in that time, and the rest keeps its place.
_TOLD_ONCE: Final = timedelta(hours=1)
_LOOKED_AT: Final = 1000
#: Characters of what a line says about why.
_MAX_WHY: Final = 500


class Failures(Records):
    """
    The part of `ImageRepository` that is about what failed.
    """

    # ------------------------------------------------------------------ one write transaction each

    def note_failure(
        self, verb: str, error: ImageError, *, reference: str | None = None, image_id: str | None = None
    ) -> None:
        """
        Put on record that *verb* came to nothing, unless it did so within the hour. One write that costs no fsync.
        """
        acting = self._acting()
        parameters = {
            "at": acting.at,
            "reference": reference,
            "image_id": image_id,
            "owner": acting.owner,
            "pid": acting.pid,
            "kind": f"{verb}: {type(error).__name__}: ",
            "why": error.message[:_MAX_WHY],
            "looked_at": _LOOKED_AT,
            "since": to_text(self._clock() - _TOLD_ONCE),
        }
        with self._database.write(durable=False) as connection:
            connection.exec_driver_sql(_NOTE, parameters)
