"""
What is done to a store while every write to its disk is logged. Runs inside User-Mode Linux.

    workload.py FOLDER LENGTH MUTANT

Each step is announced in the log of writes before it starts (``begin:N``) and again when the service has returned
(``done:N``). What the store said then is appended to FOLDER/states, on the host, where no power cut reaches it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from support import registry as faults
from support.images import ImageBuilder
from support.registry import FaultRegistry
from ullage import EvictionPolicy, ImageError, ImageService, RegistryClient

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1024
LIMIT = 2000 * KIB


def state_of(store: ImageService) -> dict[str, object]:
    """
    All that must survive: the limit, and each image with its names, by its id as text (which is what JSON has).
    """
    images = {
        str(each.id): [each.image_id, each.size, each.pinned, list(each.repo_tags), list(each.repo_digests)]
        for each in store.list_images()
    }
    return {"max": store.usage().max_bytes, "images": images}


class Workload:
    def __init__(self, folder: Path, registry: FaultRegistry) -> None:
        self._folder = folder
        self._registry = registry
        self._root = folder / "disk" / "store"
        self._number = 0
        self.store = self._open()

    def _open(self) -> ImageService:
        client = RegistryClient(plain_http=True, connect_timeout_seconds=20.0, read_timeout_seconds=20.0)
        return ImageService.open(
            self._root, registry=client, max_storage=None if self._root.exists() else LIMIT
        )

    def step(
        self, name: str, action: Callable[[], object], *, atomic: bool = True, raises: bool = False
    ) -> None:
        """
        Do one thing, and say when it is done. What is not *atomic* may be found half done, image by image.
        """
        self._number += 1
        mark(f"begin:{self._number}")
        try:
            action()
        except ImageError:
            assert raises, name
        else:
            assert not raises, name
        said = {"step": self._number, "name": name, "atomic": atomic, **state_of(self.store)}
        with (self._folder / "states").open("a") as file:
            file.write(json.dumps(said) + "\n")
            file.flush()
            os.fsync(file.fileno())
        mark(f"done:{self._number}")

    def image(self, name: str, *layers: tuple[int, str]) -> str:
        builder = ImageBuilder(self._registry, name)
        for size, seed in layers:
            builder.noise_layer(size, seed)
        return builder.push("1").reference

    def pull(self, name: str, *layers: tuple[int, str], evict: bool = False) -> None:
        reference = self.image(name, *layers)
        self.step(f"pull {name}", lambda: self.store.pull_image(reference, evict=evict), atomic=not evict)

    def pull_broken(self, name: str, *layers: tuple[int, str]) -> None:
        """
        The registry hangs up in the middle of a layer, and is gone: what came stays, to be resumed.
        """
        reference = self.image(name, *layers)
        self._registry.inject("*/blobs/*", faults.reset())
        self._registry.inject("*/blobs/*", faults.truncate(150 * KIB), times=2)
        self.step(f"broken pull {name}", lambda: self.store.pull_image(reference), raises=True)
        self._registry.heal()

    def pull_at_once(self, *names: str) -> None:
        references = [self.image(name, (90 * KIB, "at-once"), (30 * KIB, name)) for name in names]

        def both() -> None:
            with ThreadPoolExecutor(len(references)) as executor:
                list(executor.map(lambda each: self.store.pull_image(each, evict=True), references))

        self.step(f"pull {' and '.join(names)} at once", both, atomic=False)

    def reopen(self) -> None:
        def again() -> None:
            self.store.close()
            self.store = self._open()

        self.step("close and open again", again)

    def run(self, length: str) -> None:
        base = (200 * KIB, "base")
        self.step("open", lambda: None)
        self.pull("one", base, (60 * KIB, "one"))
        self.pull("two", base, (90 * KIB, "two"))
        self.step("tag", lambda: self.store.tag_image(self._ref("one"), f"{self._registry.host}/other:2"))
        self.pull_broken("big", (400 * KIB, "big"))
        self.step("remove two", lambda: self.store.remove_image(self._ref("two")))
        self.pull("two", base, (90 * KIB, "two"))
        self.pull("big", (400 * KIB, "big"))
        self.step("pin", lambda: self.store.pin_image(self._ref("one")))
        self.step("remove big", lambda: self.store.remove_image(self._ref("big")))
        self.pull("filler", (900 * KIB, "filler"))
        self.pull("large", (700 * KIB, "large"), evict=True)
        self.pull_at_once("left", "right")
        self.step("lower the limit", lambda: self.store.set_max_storage(900 * KIB, evict=True))
        self.step("untag", lambda: self.store.untag_image(f"{self._registry.host}/other:2"))
        self.reopen()
        if length == "short":
            return
        self.step("raise the limit", lambda: self.store.set_max_storage(LIMIT))
        everything = EvictionPolicy(0.0, 0.0)
        for number in range(6):
            shared = (120 * KIB, f"shared-{number % 2}")
            self.pull(f"more-{number}", shared, (50 * KIB, f"more-{number}"), (5 * KIB, "small"))
            self.pull_broken(f"part-{number}", (300 * KIB, f"part-{number}"))
            if number % 3 == 1:
                self.step("collect by policy", lambda: self.store.collect(everything), atomic=False)
            if number % 3 == 2:
                self.step("collect", self.store.collect)
                self.step("remove", lambda: self.store.remove_image(self._ref(f"more-{number}")))  # noqa: B023 -- now
            self.step("hold", self._hold)
        self.pull_at_once("third", "fourth")
        self.reopen()

    def _hold(self) -> None:
        with self.store.hold(self._ref("one")):
            pass

    def _ref(self, name: str) -> str:
        return f"{self._registry.host}/{name}:1"


def mark(text: str) -> None:
    subprocess.run(["dmsetup", "message", "logged", "0", "mark", text], check=True)


# ---------------------------------------------------------------------- mistakes that the replay has to notice


def normal() -> None:
    """
    Commits that are not synced: PRAGMA synchronous = NORMAL throughout.
    """
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *arguments)

    def wrapped(*arguments: object, **options: object) -> sqlite3.Connection:
        return connect(*arguments, factory=Connection, **options)  # type: ignore[call-overload]

    sqlite3.connect = wrapped  # type: ignore[assignment]


def unsynced() -> None:
    """
    Blobs that are renamed to their digests without having been synced.
    """
    os.fdatasync = os.fsync = lambda _descriptor: None  # type: ignore[assignment]


MUTANTS = {"none": contextlib.nullcontext, "normal": normal, "unsynced": unsynced}


def main() -> None:
    folder, length, mutant = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    MUTANTS[mutant]()
    with FaultRegistry() as registry:
        workload = Workload(folder, registry)
        with workload.store:
            workload.run(length)
        workload.store.close()
    print("workload done", flush=True)


if __name__ == "__main__":
    main()
