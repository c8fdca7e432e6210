"""
How a server answers, whatever the store behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ullage.cri.pins import Pins

__all__ = ["CriSettings"]


@dataclass(frozen=True, slots=True)
class CriSettings:
    """
    How a server answers, whatever the store behind it.

    Args:
        pinned_images: shell patterns; images with such a name are said to be pinned, beside those that are.
        runtime_handlers: names that requests may carry beside the empty one. An image is the same for all of them.
        parallel_pulls: how many pulls run at once; further ones wait for their turn.
        platform: the platform to pull; this machine's by default.
        stalled_seconds: a client that does not take the next message of a stream for so long is sent away.

    Raises:
        InvalidReference: a pattern is malformed.
        ValueError: no pull could ever run.
    """

    pinned_images: tuple[str, ...] = ()
    runtime_handlers: tuple[str, ...] = ()
    parallel_pulls: int = 16
    platform: str | None = None
    stalled_seconds: float = 60.0

    def __post_init__(self) -> None:
        Pins(self.pinned_images)
        if self.parallel_pulls < 1:
            raise ValueError(f"parallel_pulls: {self.parallel_pulls} is less than 1")
