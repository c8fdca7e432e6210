"""
Operations of microseconds, in turns: A B A B, each turn many calls of the one, then many of the other.

Measured is processor time of this thread, which neither a busy machine nor the one that writes index.json stretches. An
operation that leaves something behind is undone after each call, unmeasured.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ratios import Ratios, Row

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Micro", "Operation", "human_seconds"]


@dataclass(frozen=True)
class Operation:
    """
    What is measured: *call*, and unmeasured *undo* after it.
    """

    name: str
    call: Callable[[], object]
    undo: Callable[[], object] | None = None

    def seconds(self, calls: int) -> float:
        """
        Of one call, on average over *calls*.
        """
        call, undo, clock = self.call, self.undo, time.thread_time
        if undo is None:
            start = clock()
            for _ in range(calls):
                call()
            return (clock() - start) / calls
        spent = 0.0
        for _ in range(calls):
            start = clock()
            call()
            spent += clock() - start
            undo()
        return spent / calls


class Micro(Ratios):
    """
    A table of operations, each beside what it is held against. Seconds are of one call, on a processor.
    """

    def __enter__(self) -> Self:
        print(f"# {self.title}: {self.machine}\n")
        print("| | ours | floor | ratio | lowest, highest | target |")
        print("|---|---:|---:|---:|---:|---|")
        return self

    def pair(
        self,
        what: str,
        ours: Operation,
        floor: Operation,
        *,
        calls: int = 200,
        target_seconds: float | None = None,
    ) -> Row:
        """
        Both in turns, once each for nothing first. The target is of ours, in seconds.
        """
        for each in (ours, floor):
            each.seconds(max(1, calls // 10))
        gc.collect()
        pairs = [(ours.seconds(calls), floor.seconds(calls)) for _ in range(self.pairs)]
        ratios = [one / other for one, other in pairs]
        row = Row(
            what=what,
            ours=ours.name,
            theirs=floor.name,
            pairs=len(pairs),
            ours_seconds=statistics.median(one for one, _ in pairs),
            theirs_seconds=statistics.median(other for _, other in pairs),
            ratio=statistics.median(ratios),
            lowest=min(ratios),
            highest=max(ratios),
            cpu_ratio=float("nan"),
            target=target_seconds,
        )
        self.rows.append(row)
        target = ""
        if target_seconds is not None:
            reached = "≤" if row.ours_seconds <= target_seconds else "ABOVE"
            target = f"{reached} {human_seconds(target_seconds)}"
        print(
            f"| {what} | {human_seconds(row.ours_seconds)} | {floor.name} {human_seconds(row.theirs_seconds)} "
            f"| **{row.ratio:.1f}** | {row.lowest:.1f}, {row.highest:.1f} | {target} |",
            flush=True,
        )
        return row


def human_seconds(seconds: float) -> str:
    """
    Seconds in the unit in which they have two or three digits.
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"
