"""
What the parts of the repository share: the database, the clock, and the values that queries hand around.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ullage.repository.acting import Acting
from ullage.repository.rows import to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from ullage.database import Database
    from ullage.digest import Digest

__all__ = ["Edge", "Naming", "NewImage", "Records"]


class Records:
    """
    The base of the repository's parts. Each public method says which transaction it is: one read, or one write.
    """

    def __init__(
        self, database: Database, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._clock = clock

    def _now(self) -> str:
        return to_text(self._clock())

    def _acting(self) -> Acting:
        return Acting.now(self._now())


@dataclass(frozen=True, slots=True)
class Edge:
    """
    One blob that a manifest needs: a row of ``manifest_blobs``.
    """

    digest: Digest
    size: int
    role: str
    media_type: str


@dataclass(frozen=True, slots=True)
class NewImage:
    """
    An image whose content is here, as its manifest and its config say.
    """

    image_id: Digest
    manifest_digest: Digest
    media_type: str
    edges: tuple[Edge, ...]
    platform: str | None = None
    uid: int | None = None
    username: str = ""
    config: str | None = None
    artifact_type: str | None = None
    subject: str | None = None
    annotations: str | None = None


@dataclass(frozen=True, slots=True)
class Naming:
    """
    How an image gets its names: the normalised references and what the registry resolved them to.

    ``repo`` is None for an image that gets no name; ``repo_tag`` for a pull by digest. ``repo_digest`` names
    ``digest``, an index's or a manifest's.
    ``platform`` is the one that was asked for. ``credential`` is what to record of whom its registry served.
    """

    spec_image_name: str
    spec_tag: str
    spec_digest: str
    repo: str | None
    repo_tag: str | None
    digest: Digest
    platform: str | None
    credential: str | None = None

    @property
    def repo_digest(self) -> str:
        return f"{self.repo}@{self.digest}"

    @property
    def reference(self) -> str | None:
        """
        The name that a line of history is about; None for an image that gets none.
        """
        return self.repo_tag or (None if self.repo is None else self.repo_digest)
