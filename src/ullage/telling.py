"""
How far a pull is, told in steps to whoever asked for it, in their own thread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ullage.model import PullProgress, PullStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ullage.digest import Digest
    from ullage.model import Evicted, ProgressCallback

__all__ = ["Telling"]


class Telling:
    """
    What is known of one pull's progress, and which of it was told.
    """

    def __init__(
        self,
        reference: str,
        on_progress: ProgressCallback | None,
        received_from: Mapping[str, int] | None = None,
    ) -> None:
        self._reference = reference
        self._on_progress = on_progress
        self._received_from = received_from
        #: Bytes of each blob that are here, and how many it has; of those that this pull did not find here.
        self.received: dict[Digest, int] = {}
        self.sizes: dict[Digest, int] = {}
        #: Bytes that it found.
        self.present_bytes = 0
        self._told: dict[Digest, int] = {}
        self._told_unpacked: dict[Digest, int] = {}
        self._told_evicted = 0

    def of(self, status: PullStatus) -> None:
        """
        Tell of the pull as a whole; while it downloads, of each blob that moved.
        """
        if self._on_progress is None:
            return
        received = dict(self.received)
        step = self._step(status, received)
        if status is not PullStatus.DOWNLOADING or not received:
            self._on_progress(step)
            return
        for digest, done in received.items():
            if self._told.get(digest) != done:
                self._told[digest] = done
                self._on_progress(
                    replace(
                        step, blob=digest, blob_done_bytes=done, blob_total_bytes=self.sizes.get(digest, 0)
                    )
                )

    def of_unpacking(self, progress: Mapping[Digest, tuple[int, int]], evicted: Sequence[Evicted]) -> None:
        """
        Tell of each layer that was read on: bytes read of its blob, and its size. And of images that had to go for it,
        in a list that grows.
        """
        self.of_evicted(evicted[self._told_evicted :])
        self._told_evicted = len(evicted)
        if self._on_progress is None:
            return
        step = self._step(PullStatus.EXTRACTING, dict(self.received))
        if not self._told_unpacked:
            self._on_progress(step)
        for digest, (read, size) in progress.items():
            if self._told_unpacked.get(digest) != read:
                self._told_unpacked[digest] = read
                self._on_progress(replace(step, blob=digest, blob_done_bytes=read, blob_total_bytes=size))

    def of_evicted(self, evicted: Sequence[Evicted]) -> None:
        """
        Tell of images that had to go.
        """
        if evicted and self._on_progress is not None:
            self._on_progress(
                PullProgress(reference=self._reference, status=PullStatus.PENDING, evicted=tuple(evicted))
            )

    def _step(self, status: PullStatus, received: Mapping[Digest, int]) -> PullProgress:
        return PullProgress(
            reference=self._reference,
            status=status,
            done_bytes=sum(received.values()),
            total_bytes=sum(self.sizes.values()),
            present_bytes=self.present_bytes,
            # A copy: those who receive go on meanwhile.
            received_bytes=sum(dict(self._received_from or {}).values()),
        )
