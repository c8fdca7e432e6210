"""
Many at once, in one store: threads and processes that pull, and readers beside them: `make bench`.

The images share half of their layers. What is compared is so many pulls at once with as many one after the other; what
a reader waits meanwhile is told as p50 and p99 of a status, beside the same without pulls.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from micro import human_seconds
from pulls import ULLAGE, Corpus, missing
from ratios import Command, Ratios
from unpacking import docker_registry, wipe

from ullage import ImageService, RegistryClient

if TYPE_CHECKING:
    from collections.abc import Callable


class Crowd:
    """
    Images, and a store that is new in each turn.
    """

    def __init__(self, base: Path, references: list[str]) -> None:
        self.root = base / "store"
        self.references = references

    def clean(self) -> None:
        wipe(self.root)

    def pulls(self, at_once: int, count: int, *, same: bool = False) -> Callable[[], None]:
        references = self.references[:1] * count if same else self.references[:count]

        def run() -> None:
            with (
                ImageService.open(self.root, registry=RegistryClient(plain_http=True)) as store,
                ThreadPoolExecutor(at_once) as threads,
            ):
                list(threads.map(store.pull_image, references))

        return run

    def processes(self, count: int) -> Callable[[], None]:
        def run() -> None:
            started = [
                subprocess.Popen(
                    [ULLAGE, "pull", "--root", self.root, "--plain-http", "-q", each],
                    stdout=subprocess.DEVNULL,
                )
                for each in self.references[:count]
            ]
            codes = [each.wait() for each in started]
            if any(codes):
                raise SystemExit("a pull failed")

        return run

    def statuses(self, pulling: int) -> list[float]:
        """
        How long each status took, in seconds, while so many pulls are under way.
        """
        self.clean()
        took: list[float] = []
        until = time.monotonic() + 1.0
        with ImageService.open(self.root, registry=RegistryClient(plain_http=True)) as store:
            store.pull_image(self.references[0])
            while time.monotonic() < until:
                done = threading.Event()

                def pull(done: threading.Event = done) -> None:
                    with ThreadPoolExecutor(max(1, pulling)) as threads:
                        list(threads.map(store.pull_image, self.references[1 : pulling + 1]))
                    done.set()

                thread = threading.Thread(target=pull)
                if pulling:
                    thread.start()
                while (not done.is_set()) if pulling else time.monotonic() < until:
                    start = time.perf_counter()
                    store.image_status(self.references[0])
                    took.append(time.perf_counter() - start)
                    time.sleep(0.001)
                if pulling:
                    thread.join()
                for each in self.references[1 : pulling + 1]:
                    store.remove_image(each, missing_ok=True)
        return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--most", type=int, default=64, help="pulls at once")
    parser.add_argument("--size", type=int, default=1_000_000, help="bytes of a layer")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if missing("docker-registry", "skopeo"):
        raise SystemExit("apt install docker-registry skopeo")
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ullage-bench-")))
        corpus = Corpus(base, stack.enter_context(docker_registry(base / "registry")))
        shared = [corpus.noise(f"shared{each}", asked.size) for each in range(2)]
        references = [
            corpus.push(
                f"app{each}", [*shared, *(corpus.noise(f"own{each}-{n}", asked.size) for n in range(2))]
            )
            for each in range(asked.most + 1)
        ]
        crowd = Crowd(base, references)
        ratios = stack.enter_context(Ratios("many at once", pairs=asked.pairs, directory=base))
        for count in (1, 4, 16, 64):
            if count <= asked.most:
                ratios.compare(
                    f"pulls at once: {count}",
                    ours=Command("at once", call=crowd.pulls(count, count)),
                    theirs=Command("one after the other", call=crowd.pulls(1, count)),
                    before=crowd.clean,
                )
        ratios.compare(
            "8 processes that pull",
            ours=Command("at once", call=crowd.processes(8)),
            theirs=Command(
                "one after the other",
                tuple(
                    (ULLAGE, "pull", "--root", str(crowd.root), "--plain-http", "-q", each)
                    for each in references[:8]
                ),
            ),
            before=crowd.clean,
        )
        ratios.compare(
            "16 pulls of one image, of which 15 wait",
            ours=Command("at once", call=crowd.pulls(16, 16, same=True)),
            theirs=Command("one pull", call=crowd.pulls(1, 1)),
            before=crowd.clean,
        )
        print("\n| a status | p50 | p99 | of |\n|---|---:|---:|---:|")
        for pulling in (0, 1, 4, 16, 64):
            if pulling <= asked.most:
                took = sorted(crowd.statuses(pulling))
                p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
                print(
                    f"| pulls under way: {pulling} | {human_seconds(statistics.median(took))} "
                    f"| {human_seconds(p99)} | {len(took)} |",
                    flush=True,
                )
        shutil.rmtree(crowd.root, ignore_errors=True)
        if asked.json:
            ratios.write(asked.json)


if __name__ == "__main__":
    sys.exit(main())
