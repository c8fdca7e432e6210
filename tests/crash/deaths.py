"""
Several processes at one store under a tight limit, killed at any moment and at any call, again and again.

    python tests/crash/deaths.py --rounds 2000 --seed 1

Each round forks a few processes that pull (images that share layers, from a registry in this process), remove, tag,
collect, evict, hold, check and recover. Some are killed with SIGKILL at a random moment, some kill themselves at a
random call, and some live to tell. Then what is left is looked at: by rules that hold at any instant, and, when the
store was recovered, by those of a store at rest. Whether the limit holds is looked at in each commit, by the process
that makes it, and from outside by a reader.

It ends with counts, and with exit code 1 when there was a violation.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).parent.parent))

from support import audit
from support.flows import open_store
from support.images import ImageBuilder, noise
from support.nursery import Nursery
from support.registry import FaultRegistry, drip, truncate

_LAYERS = {"a": 90_000, "b": 150_000, "c": 70_000, "d": 3_000, "e": 40_000, "f": 200_000, "g": 500}
_IMAGES = ("ab", "abd", "bc", "cde", "ef", "dfg", "ag", "ceg")
_PATIENCE_SECONDS = 60.0
_NEW_STORE_EVERY = 40  # rounds


class Torture:
    """
    One run.

    Args:
        room: a directory for stores.
        seed: of all that is random, but for the moments at which things happen.
        processes: at most so many at once.
    """

    def __init__(
        self, registry: FaultRegistry, nursery: Nursery, room: Path, *, seed: int, processes: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.violations: list[str] = []
        self._registry, self._nursery, self._room = registry, nursery, room
        self._rng = random.Random(seed)
        self._most = processes
        self._round = 0
        self._tags: set[str] = set()
        self._kept = ImageBuilder(registry, "kept").layer({"kept": noise(1000, "kept")}).push("1")
        self._images = []
        for name in _IMAGES:
            builder = ImageBuilder(registry, f"image-{name}")
            for layer in name:
                # One large file, and some that make it take a while to unpack.
                small = {f"{layer}s/{number}": b"%d" % number for number in range(12)}
                builder.layer({layer: noise(_LAYERS[layer], layer)} | small)
            self._images.append(builder.push("1"))
        every = {blob.digest: blob.size for image in (self._kept, *self._images) for blob in image.blobs}
        # Any image fits alone, and unpacked, beside the one that is kept; about half of them fit at once.
        self._limit = max(
            sum(every.values()), 3 * (self._kept.size + max(each.size for each in self._images))
        )
        self._root = self._new_store()

    def _new_store(self) -> Path:
        root = self._room / f"store-{self._round}"
        with open_store(root, max_storage=self._limit) as store:
            store.pull_image(self._kept.reference)
            store.pin_image(self._kept.reference)
        self._tags.clear()
        return root

    # ------------------------------------------------------------------ a round

    def round(self) -> None:
        """
        A few processes, most of which die, and a look at what they left.
        """
        self._round += 1
        self.counts["rounds"] += 1
        if self._round % _NEW_STORE_EVERY == 0:
            shutil.rmtree(self._root)
            self._root = self._new_store()
        self._trouble_the_registry()
        with _Reader(self._root) as reader:
            self._processes()
        self._registry.heal()
        self.counts["looks at the limit"] += reader.looks
        self._violated(reader.violations)
        self._violated(audit.of_wreck(self._root))
        # Now and then it is the next round that has to recover, several processes at once.
        if self._rng.random() < 0.6:
            self._at_rest()

    def _processes(self) -> None:
        rng = self._rng
        running = []
        started = time.monotonic()
        for _ in range(rng.randint(2, self._most)):
            fate = rng.choices(("moment", "call", "live"), (4, 4, 3))[0]
            arguments = {
                "seed": rng.getrandbits(32),
                "operations": rng.randint(2, 9),
                "images": [image.reference for image in self._images],
                "kept": self._kept.reference,
                "root": str(self._root),
            }
            how = {"action": "die", "at": _skewed(rng)} if fate == "call" else {}
            child = self._nursery.spawn("turmoil", self._root, arguments, arm="start", fetches=3, **how)
            running.append((child, rng.uniform(0.0, 0.2) if fate == "moment" else None))
            self.counts["processes"] += 1
        for child, moment in sorted(running, key=lambda each: (each[1] is None, each[1] or 0.0)):
            if moment is not None and child.is_late(max(0.0, started + moment - time.monotonic())):
                child.kill()
            try:
                child.wait(_PATIENCE_SECONDS)
            except AssertionError as error:
                self._violated([f"deadlock: {error}"])
            self._heard(child, at_a_moment=moment is not None)

    def _heard(self, child, *, at_a_moment: bool) -> None:
        if child.end == "signal 9":
            self.counts["killed at a moment" if at_a_moment else "killed at a call"] += 1
        elif child.end != "exit 0":
            self._violated([f"a process ended with {child.end}"])
        doing = None
        for word, *facts in child.said:
            if word == "doing":
                (doing,) = facts
            elif word == "did":
                self.outcomes[facts[0], facts[1]] += 1
                doing = None
            elif word == "kept":
                self._tags.add(facts[0])
            elif word in ("violation", "untyped", "overfilled", "raised"):
                self._violated([f"{word}: {facts}"])
        if doing is not None and child.end == "signal 9":
            self.outcomes[doing, "killed"] += 1
        child.forget()

    def _at_rest(self) -> None:
        with open_store(self._root) as store:
            self._violated([f"check: {each}" for each in store.check(digests=True)])
            names = {tag for image in store.list_images() for tag in image.repo_tags}
        lost = [tag for tag in self._tags if f"docker.io/library/{tag}" not in names]
        self._violated([f"{tag} was said to be here" for tag in lost])
        self._violated(audit.at_rest(self._root))
        self.counts["recoveries looked at"] += 1

    def finish(self) -> None:
        """
        The last look: every image can be pulled again, and everything collected.
        """
        self._at_rest()
        with open_store(self._root) as store:
            for image in self._images:
                store.pull_image(image.reference, evict=True)
            store.collect()
            self._violated([str(each) for each in store.check(digests=True)])
        self._violated(audit.at_rest(self._root))
        self.counts["resumed requests"] = sum(bool(each.range) for each in self._registry.requests)

    def _trouble_the_registry(self) -> None:
        """
        Bodies that come slowly, or end too soon: more happens in the middle of a blob.
        """
        chance = self._rng.random()
        if chance < 0.3:
            self._registry.inject("*/blobs/*", drip(20_000, 0.004), times=4)
        elif chance < 0.5:
            self._registry.inject("*/blobs/*", truncate(after=70_000), times=2)

    def _violated(self, found: list[str]) -> None:
        for each in found:
            self.violations.append(f"round {self._round}: {each}")
            print(self.violations[-1], file=sys.stderr, flush=True)


class _Reader:
    """
    Reads the ledger over and over while others write: what is charged never exceeds the limit.
    """

    def __init__(self, root: Path) -> None:
        self.looks = 0
        self.violations: list[str] = []
        self._root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        with closing(sqlite3.connect(self._root / "ullage.db", timeout=10.0)) as connection:
            while not self._over.wait(0.001):
                charged, limit = connection.execute(
                    "SELECT used_bytes + reserved_bytes, max_bytes FROM storage_usage"
                ).fetchone()
                self.looks += 1
                if charged > limit:
                    self.violations.append(f"I7: {charged} bytes are charged, the limit is {limit}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()


def _skewed(rng: random.Random) -> int:
    """
    The number of a call: early ones more often, so that opening and recovering die too.
    """
    return min(5000, int(rng.paretovariate(0.5))) if rng.random() < 0.3 else rng.randint(1, 500)


# ---------------------------------------------------------------------- the program


def torture(
    *, rounds: int, seed: int, processes: int = 4, seconds: float | None = None, room: Path | None = None
):
    """
    So many rounds, or until *seconds* are over.
    """
    memory = Path("/dev/shm")
    if room is None and memory.is_dir() and os.access(memory, os.W_OK):
        room = memory  # a death needs no disk
    started = time.monotonic()
    with (
        Nursery() as nursery,
        FaultRegistry() as registry,
        tempfile.TemporaryDirectory(prefix="ullage-torture-", dir=room) as name,
    ):
        run = Torture(registry, nursery, Path(name), seed=seed, processes=processes)
        for number in range(1, rounds + 1):
            if (seconds is not None and time.monotonic() - started > seconds) or len(run.violations) > 20:
                break
            run.round()
            if number % 100 == 0:
                print(f"round {number}, violations {len(run.violations)}", flush=True)
        run.finish()
    return run


def report(run: Torture) -> str:
    """
    Counts, for people.
    """
    counts = run.counts
    kills = counts["killed at a moment"] + counts["killed at a call"]
    lines = [
        f"rounds {counts['rounds']}, processes {counts['processes']}, kills {kills}",
        *(
            f"{name} {counts[name]}"
            for name in ("killed at a moment", "killed at a call", "recoveries looked at")
        ),
        *(f"{name} {counts[name]}" for name in ("looks at the limit", "resumed requests")),
    ]
    for name in sorted({name for name, _ in run.outcomes}):
        said = sorted((outcome, count) for (each, outcome), count in run.outcomes.items() if each == name)
        lines.append(f"  {name:12} " + ", ".join(f"{outcome} {count}" for outcome, count in said))
    return "\n".join([*lines, f"violations {len(run.violations)}"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill processes at a store, and see whether it stays whole.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--processes", type=int, default=4, help="at most so many at once")
    parser.add_argument("--seconds", type=float, default=None, help="stop after so many, whatever the rounds")
    parser.add_argument("--room", type=Path, default=None, help="where the stores are; in memory by default")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    started = time.monotonic()
    run = torture(**vars(given))
    print(report(run))
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if run.violations else 0


if __name__ == "__main__":
    sys.exit(main())
