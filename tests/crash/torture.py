"""
Several processes at once pull, unpack, tag, hold, remove, collect, evict, check and recover one store under a tight
limit, and are killed at random: after each round the store is whole to the byte.

    python tests/crash/torture.py --rounds 2000 --seed 1
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.images import ImageBuilder
from support.registry import FaultRegistry
from support.store import check_root
from ullage import EvictionPolicy, ImageError, ImageNotFound, ImageService, PullPolicy, RegistryClient

PROCESSES = 4
LAYERS = {name: 90_000 + 30_000 * number for number, name in enumerate("abcde")}
RECIPES = ("a", "ab", "abc", "bd", "e", "ade", "cd")
LIMIT = 1_000_000


def work(root: str, host: str, seed: int) -> None:
    """
    What a process does until it is killed. One line for each operation: its name and what came of it.
    """
    chance = random.Random(seed)
    images = [f"{host}/app{number}:1" for number in range(len(RECIPES))]
    service = _open(root)
    print("ready", flush=True)
    while True:
        name, act = chance.choice(_deeds(service, root, chance, chance.choice(images)))
        try:
            act()
            outcome = "done"
        except ImageError as error:
            outcome = type(error).__name__
        print(f"{name}: {outcome}", flush=True)


def _deeds(service: ImageService, root: str, chance: random.Random, image: str) -> list:
    policy = chance.choice([PullPolicy.IF_NOT_PRESENT, PullPolicy.ALWAYS])
    tag = f"local/{chance.randrange(3)}:1"
    return [
        *[("pull", lambda: service.pull_image(image, policy=policy))] * 3,
        *[("pull evicting", lambda: service.pull_image(image, evict=True))] * 3,
        *[("unpack", lambda: service.pull_image(image, unpack=True, evict=True))] * 2,
        ("make trees", lambda: service.make_trees(image)),
        ("remove", lambda: service.remove_image(image, missing_ok=True)),
        ("tag", lambda: service.tag_image(image, tag, move=True)),
        ("untag", lambda: service.untag_image(tag)),
        ("hold", lambda: _hold(service, image)),
        ("collect", service.collect),
        ("evict", lambda: service.collect(EvictionPolicy(0.5, 0.3))),
        ("check", lambda: _check(service)),
        ("open", lambda: _open(root).close()),
    ]


def _open(root: str) -> ImageService:
    return ImageService.open(root, registry=RegistryClient(plain_http=True, read_timeout_seconds=10))


def _hold(service: ImageService, image: str) -> None:
    with service.hold(image) as held:
        assert service.image_status(held.id) is not None, "a held image went"
        with contextlib.suppress(ImageNotFound):  # it is not unpacked
            for each in service.mount_spec(held.id).lowerdirs:
                assert Path(each).is_dir(), "a tree of a held image went"


def _check(service: ImageService) -> None:
    # Somebody may die while this looks: what he leaves is for recovery, and no invariant that is broken.
    wrong = [each for each in service.check() if each.problem != "lease of a dead owner"]
    assert wrong == [], wrong


class _Watcher(threading.Thread):
    """
    Looks at the limit all the time, as somebody at the shell would.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self.root, self.samples, self.over, self.ended = root, 0, 0, threading.Event()

    def run(self) -> None:
        with closing(
            sqlite3.connect(f"file:{self.root}/ullage.db?mode=ro", uri=True, timeout=10)
        ) as connection:
            while not self.ended.wait(0.002):
                query = "SELECT used_bytes + reserved_bytes > max_bytes FROM storage_usage"
                self.over += connection.execute(query).fetchone()[0]
                self.samples += 1


def round_of(root: Path, host: str, chance: random.Random, counts: collections.Counter) -> list[str]:
    """
    One round; what it violated.
    """
    command = [sys.executable, __file__, "--work", str(root), host]
    workers = [
        subprocess.Popen(
            [*command, str(chance.randrange(1 << 30))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    watcher = _Watcher(root)
    watcher.start()
    violations = []
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    for worker in chance.sample(workers, PROCESSES):
        time.sleep(chance.expovariate(8))  # the moment of a death is what is random here
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(signal.SIGKILL)
        out, err = worker.communicate(timeout=60)
        counts.update(line for line in out.splitlines() if line)
        counts["kills"] += worker.returncode == -signal.SIGKILL
        if worker.returncode != -signal.SIGKILL:
            violations.append(f"a process ended by itself: {err[-2000:]}")
    watcher.ended.set()
    watcher.join()
    counts["samples of the limit"] += watcher.samples
    if watcher.over:
        violations.append(f"over the limit in {watcher.over} samples")
    with _open(str(root)) as service:
        violations += [f"{problem}" for problem in service.check(digests=True)]
    try:
        check_root(root)
    except AssertionError as error:
        violations.append(f"{error}")
    return violations


def torture(rounds: int, seed: int) -> tuple[collections.Counter, list[str]]:
    """
    *rounds* rounds on one store; the counts, and what was violated.
    """
    chance, counts = random.Random(seed), collections.Counter()
    with FaultRegistry() as registry, tempfile.TemporaryDirectory(prefix="ullage-torture-") as directory:
        for number, recipe in enumerate(RECIPES):
            builder = ImageBuilder(registry, f"app{number}")
            for layer in recipe:
                builder.noise_layer(LAYERS[layer], layer)
            builder.push("1")
        root = Path(directory) / "store"
        ImageService.open(root, max_storage=LIMIT).close()
        for number in range(rounds):
            violations = round_of(root, registry.host, chance, counts)
            counts["rounds"] += 1
            if violations:
                return counts, [f"round {number}: {each}" for each in violations]
    return counts, []


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    counts, violations = torture(arguments.rounds, arguments.seed)
    for name, count in sorted(counts.items()):
        print(f"{count:>8}  {name}")
    print(f"{counts['rounds'] * PROCESSES:>8}  processes")
    print(f"{len(violations):>8}  violations")
    print("\n".join(violations))
    return 1 if violations else 0


if __name__ == "__main__":
    os.environ.setdefault("HOME", tempfile.gettempdir())
    raise SystemExit(main())
