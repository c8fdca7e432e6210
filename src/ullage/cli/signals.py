"""
Ctrl-C and its relatives: a command ends in order, and exits with 128 and the signal's number.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["Interrupted", "Stop", "gently", "install"]

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """
    A signal asked the command to end. Not an Exception: nobody on the way out may take it for a failure.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stop:
    """
    Whether a signal came while things went `gently`.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """
        Raises:
            Interrupted: one came.
        """
        if self.number is not None:
            raise Interrupted(self.number)


def install() -> None:
    """
    From now on each of the signals raises `Interrupted` in the main thread.
    """
    for number in _ours():
        signal.signal(number, _raise)


@contextmanager
def gently(stop: Callable[[], None]) -> Iterator[Stop]:
    """
    While the block runs, the first signal only calls *stop*; one more does not wait any longer.
    """
    state = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if state.number is not None:
            _raise(number, frame)
        state.number = number
        stop()

    previous = {number: signal.signal(number, handle) for number in _ours()}
    try:
        yield state
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ours() -> list[signal.Signals]:
    # What was ignored when we started (nohup, a shell's background job) stays ignored.
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
