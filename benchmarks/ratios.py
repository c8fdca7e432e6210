"""
Two ways of doing the same, run in turns: A B A B. Ratios in one run, not seconds: machines differ, and their days.

    with Ratios("unpack", pairs=5) as ratios:
        ratios.compare("60,000 files, gzip", ours=Command("ullage", …), theirs=Command("tar", …), target=1.33)

What is reported is the median of the pairs' ratios, of wall clock and of processor time (of all processes that were
started), with the smallest and the largest. Nothing here knows what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from disk import described

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Command", "Ratios", "Row", "machine", "scratch"]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Command:
    """
    A contestant: one or several commands in a row, all of which must succeed; or something to call.
    """

    name: str
    commands: tuple[tuple[str, ...], ...] = ()
    call: Callable[[], object] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    #: A process that does part of the work for them: what it takes of the processors counts.
    daemon: int | None = None

    def run(self) -> None:
        if self.call is not None:
            self.call()
        for command in self.commands:
            done = subprocess.run(
                command, env=os.environ | self.environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}\nfailed with {done.returncode}:\n{done.stderr}")


@dataclass(frozen=True)
class Row:
    """
    What came of one comparison. Seconds are medians, ratios are medians of the pairs' ratios.
    """

    what: str
    ours: str
    theirs: str
    pairs: int
    ours_seconds: float
    theirs_seconds: float
    ratio: float
    lowest: float
    highest: float
    cpu_ratio: float
    target: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return f"{'≤' if self.ratio <= self.target else 'ABOVE'} {self.target:g}"


class Ratios:
    """
    A table of comparisons, printed line by line, and as JSON with ``--json FILE``.
    """

    def __init__(self, title: str, *, pairs: int = 5, directory: Path | None = None) -> None:
        self.title = title
        self.pairs = pairs
        self.machine = machine(directory)
        self.rows: list[Row] = []

    def __enter__(self) -> Self:
        print(f"# {self.title}: {self.machine}\n")
        print("| | ours | theirs | ratio | lowest, highest | ratio of CPU | target |")
        print("|---|---:|---:|---:|---:|---:|---|")
        return self

    def __exit__(self, *_exception: object) -> None:
        print()

    def compare(
        self,
        what: str,
        *,
        ours: Command,
        theirs: Command,
        before: Callable[[], object] = _nothing,
        target: float | None = None,
        note: str = "",
    ) -> Row:
        """
        Run both in turns, once each for nothing first. *before* each run, unmeasured: clean up, settle the disk.
        """
        for each in (ours, theirs):
            before()
            each.run()
        pairs = [(_measured(ours, before), _measured(theirs, before)) for _ in range(self.pairs)]
        before()
        ratios = [one[0] / other[0] for one, other in pairs]
        row = Row(
            what=what,
            ours=ours.name,
            theirs=theirs.name,
            pairs=len(pairs),
            ours_seconds=statistics.median(one[0] for one, _ in pairs),
            theirs_seconds=statistics.median(other[0] for _, other in pairs),
            ratio=statistics.median(ratios),
            lowest=min(ratios),
            highest=max(ratios),
            cpu_ratio=statistics.median(one[1] / other[1] for one, other in pairs),
            target=target,
            note=note,
        )
        self.rows.append(row)
        print(
            f"| {what} | {ours.name} {row.ours_seconds:.2f} s | {theirs.name} {row.theirs_seconds:.2f} s "
            f"| **{row.ratio:.2f}** | {row.lowest:.2f}, {row.highest:.2f} | {row.cpu_ratio:.2f} | {row.verdict} |",
            flush=True,
        )
        return row

    def write(self, path: Path) -> None:
        document = {"title": self.title, "machine": self.machine, "rows": [asdict(row) for row in self.rows]}
        path.write_text(json.dumps(document, indent=2) + "\n")


def _measured(command: Command, before: Callable[[], object]) -> tuple[float, float]:
    """
    Seconds on the wall and of the processors.
    """
    before()
    cpu, start = _cpu_seconds(command.daemon), time.perf_counter()
    command.run()
    return time.perf_counter() - start, max(_cpu_seconds(command.daemon) - cpu, 1e-3)


def _cpu_seconds(daemon: int | None) -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    if daemon is not None:
        # User and system time, of it and of the children that it has waited for: proc(5), after the name in brackets.
        fields = Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


def machine(directory: Path | None = None) -> str:
    """
    What the figures were made on: the machine, and the filesystem of *directory*, else of TMPDIR.
    """
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    where = described(directory or Path(tempfile.gettempdir()))
    return (
        f"{os.cpu_count()} CPUs of {model}, Linux {platform.release()}, "
        f"Python {platform.python_version()} ({sys.implementation.name}); {where}"
    )


def scratch() -> Path:
    """
    Where a database is put that nobody said a place for: in TMPDIR, as by `disk.py`, else in memory if there is some.
    """
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK):
        return Path(tempfile.gettempdir())
    return memory
