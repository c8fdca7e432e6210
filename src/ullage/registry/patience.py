"""
How often and for how long to ask again.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

__all__ = ["Patience", "Retries"]

_MAX_BACKOFF_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Patience:
    """
    At most *attempts*, the last of which begins within *retry_seconds* of the first.

    Between them *backoff_seconds*, doubled each time and shortened by up to a
    half at random, so that those who failed together do not come back together.
    """

    attempts: int = 5
    retry_seconds: float = 60.0
    backoff_seconds: float = 0.25

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.retry_seconds < 0 or self.backoff_seconds < 0:
            raise ValueError(
                "patience: attempts >= 1, retry_seconds >= 0, backoff_seconds >= 0 does not hold"
            )

    def retries(self) -> Retries:
        return Retries(self)

    @property
    def none(self) -> Patience:
        """
        One attempt: for a host that has others after it.
        """
        return Patience(1, 0.0, self.backoff_seconds)


class Retries:
    """
    The attempts of one operation; the first one is already under way.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.start_over()

    def start_over(self) -> None:
        """
        It got on: what failed before does not count any more.
        """
        self._left = self._patience.attempts - 1
        self._until = time.monotonic() + self._patience.retry_seconds
        self._backoff_seconds = self._patience.backoff_seconds

    def wait_seconds(self, asked_seconds: float | None = None) -> float | None:
        """
        How long to wait before the next attempt; None when there is none.

        *asked_seconds* is what the server asked for: it is waited for in full,
        or, where that is longer than we may wait, not at all.
        """
        if self._left <= 0:
            return None
        seconds = self._backoff_seconds * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
        seconds += asked_seconds or 0.0
        if time.monotonic() + seconds > self._until:
            return None
        self._left -= 1
        self._backoff_seconds = min(_MAX_BACKOFF_SECONDS, 2 * self._backoff_seconds)
        return seconds
