"""
Cut the power at every point of a recording, and look at what is left.

A point is the end of a flush, of a write that was written through, or a mark: the disk then holds all that was logged
before. Between two flushes a disk with a cache may have kept any of the writes; of each such interval one choice is
tried as well, drawn from a seed.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import tempfile
import traceback
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workload import state_of
from writelog import Write, read_log

from support.store import check_root
from support.treelook import seen
from ullage import ImageError, ImageService, SimulatedRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from machine import Recording

State = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """
    What the store on a disk says, and what is wrong with it.
    """

    state: State | None
    wrong: str = ""


@dataclass
class Report:
    """
    How many cuts there were, of which kind, and what was wrong after them.
    """

    flushes: int = 0
    forced: int = 0
    marks: int = 0
    torn: int = 0
    mounts: int = 0
    trees: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def points(self) -> int:
        return self.flushes + self.forced + self.marks + self.torn

    def __str__(self) -> str:
        return (
            f"{self.points} power cuts ({self.flushes} flushes, {self.forced} writes through, {self.marks} marks, "
            f"{self.torn} torn), {self.mounts} disks and {self.trees} trees "
            f"looked at, {len(self.violations)} violations"
        )


def replay(recording: Recording, *, until: str | None = None, seed: int = 0) -> Report:
    """
    Cut at every point; with *until*, up to the first violation that says so.
    """
    report = Report()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        cut = _Cut(recording, Path(folder), report, random.Random(seed))
        for write in read_log(recording.log):
            cut.step(write)
            if until is not None and any(until in each for each in report.violations):
                break
    return report


class _Cut:
    def __init__(self, recording: Recording, folder: Path, report: Report, chance: random.Random) -> None:
        self._report = report
        self._chance = chance
        self._states = {0: None} | {
            each["step"]: each for each in map(json.loads, recording.states.read_text().splitlines())
        }
        self._trees = dict(map(json.loads, recording.trees.read_text().splitlines()))
        self._image, self._copy, self._mounted = folder / "disk", folder / "cut", folder / "mounted"
        self._mounted.mkdir()
        shutil.copyfile(recording.base, self._image)
        shutil.copyfile(recording.base, folder / "stable")
        self._stable = folder / "stable"  # the disk as of the last flush
        self._pending: list[Write] = []
        self._begun = self._done = 0
        self._seen: Found | None = None  # what was found on the disk as it is; None when that is not known

    def step(self, write: Write) -> None:
        if write.is_flush and len(self._pending) > 1:
            self._tear()
        if write.data:
            _apply(self._image, [write])
            self._pending.append(write)
            self._seen = None
        if write.is_flush:
            _apply(self._stable, self._pending)
            self._pending.clear()
            self._report.flushes += 1
        elif write.is_forced:
            self._report.forced += 1
        elif write.mark:
            self._report.marks += 1
            what, _, number = write.mark.partition(":")
            if what == "begin":
                self._begun = int(number)
            elif what == "done":
                self._done = int(number)
        else:
            return
        if self._seen is None:
            self._seen = self._look(self._image)
        self._judge(self._seen, "cut")

    def _tear(self) -> None:
        """
        Some of what was written since the last flush: each write by the toss of a coin.
        """
        kept = [each for each in self._pending if each.is_forced or self._chance.random() < 0.5]
        self._report.torn += 1
        torn = self._stable.with_name("torn")
        shutil.copyfile(self._stable, torn)
        _apply(torn, kept)
        self._judge(self._look(torn), "torn")

    def _look(self, image: Path) -> Found:
        """
        After ext4's recovery and our own.
        """
        state, wrong = None, ""
        self._report.mounts += 1
        shutil.copyfile(image, self._copy)
        with _mounted(self._copy, self._mounted):
            root = self._mounted / "store"
            try:
                torn = [*self._lost_trees(root), *self._torn_trees(root)]
                with ImageService.open(root, registry=SimulatedRegistry()) as store:
                    state = state_of(store)
                    wrong = "; ".join(
                        f"{each.invariant} {each.problem} {each.detail}" for each in store.check(digests=True)
                    )
                if not wrong:
                    check_root(root)
                wrong = "; ".join(filter(None, (wrong, *torn, *self._torn_trees(root))))
            except (ImageError, OSError, AssertionError) as error:
                wrong = "".join(traceback.format_exception(error)[-2:])
        return Found(state, wrong)

    def _lost_trees(self, root: Path) -> list[str]:
        """
        The trees that have a row and no directory, before anybody recovers: by a copy, since a look recovers as well.
        """
        for each in ("ullage.db", "ullage.db-wal"):
            copy = self._copy.with_name(each)
            copy.unlink(missing_ok=True)
            if (root / each).exists():
                shutil.copyfile(root / each, copy)
        try:
            with closing(sqlite3.connect(self._copy.with_name("ullage.db"))) as connection:
                rows = connection.execute("SELECT chain_id FROM trees WHERE state = 'ready'").fetchall()
        except sqlite3.Error:
            return []  # it was being made: what opens the store says what is wrong, if anything is
        here = {f"sha256:{path.name}" for path in (root / "trees" / "sha256").glob("*")}
        return [
            f"I1 tree row without a directory: {chain_id}" for (chain_id,) in rows if chain_id not in here
        ]

    def _torn_trees(self, root: Path) -> list[str]:
        """
        The trees that are not what their layers say, of those that have their names: with a row or still without.
        """
        torn = []
        for path in (root / "trees" / "sha256").glob("*"):
            self._report.trees += 1
            here, whole = seen(path), self._trees[f"sha256:{path.name}"]
            wrong = [each for each in sorted({*here, *whole}) if here.get(each) != whole.get(each)]
            if wrong:
                torn.append(
                    f"I4 tree {path.name[:12]}: {[(e, here.get(e), whole.get(e)) for e in wrong[:3]]}"
                )
        return torn

    def _judge(self, found: Found, kind: str) -> None:
        place = f"{kind} with step {self._begun} begun and step {self._done} done"
        if found.wrong:
            self._report.violations.append(f"{place}: {found.wrong}")
        if found.state is None or not self._done:
            return
        if not _is_between(found.state, self._states[self._done], self._states[self._begun]):
            self._report.violations.append(f"{place}: not what was reported: {found.state}")


def _is_between(found: State, before: State, after: State) -> bool:
    """
    Whether *found* is a state that can be seen while *before* becomes *after*.
    """
    states = [{key: each[key] for key in ("max", "images")} for each in (before, after)]
    if found in states:
        return True
    if after["atomic"]:
        return False
    old, new = before["images"], after["images"]
    kept = {key: value for key, value in old.items() if new.get(key) == value}
    known = all(value in (old.get(key), new.get(key)) for key, value in found["images"].items())
    return known and kept.items() <= found["images"].items() and found["max"] == after["max"]


def _apply(image: Path, writes: list[Write]) -> None:
    with image.open("r+b") as file:
        for each in writes:
            file.seek(each.offset)
            file.write(each.data)


@contextmanager
def _mounted(image: Path, point: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)
