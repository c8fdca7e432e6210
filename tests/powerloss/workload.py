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
from typing import TYPE_CHECKING, Any

from support import layers as entries
from support import registry as faults
from support.images import ImageBuilder, gzip_of, noise
from support.registry import FaultRegistry
from support.treelook import chain_ids, wanted
from ullage import EvictionPolicy, ImageError, ImageService, RegistryClient
from ullage.digest import digest_of
from ullage.layer import writeback
from ullage.repository import ImageRepository
from ullage.trees import TreeFiles

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1024
LIMIT = 2000 * KIB


def state_of(store: ImageService) -> dict[str, object]:
    """
    All that must survive: the limit, and each image with its names and the bytes of its trees, by its id as text (which
    is what JSON has).
    """
    unpacked = {each.id: each.tree_bytes for each in store.image_storage()}
    images = {
        str(each.id): [
            *(each.image_id, each.size, each.pinned, list(each.repo_tags), list(each.repo_digests)),
            unpacked[each.id],
        ]
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

    def files(self, name: str, *layers: bytes) -> str:
        """
        An image of these tars. What their trees are to be is told to the host.
        """
        builder = ImageBuilder(self._registry, name)
        for each in layers:
            builder.raw_layer(gzip_of(each), diff_id=digest_of(each))
        image = builder.push("1")
        with (self._folder / "trees").open("a") as file:
            for chain_id, layer in zip(chain_ids(image.diff_ids), layers, strict=True):
                file.write(json.dumps([chain_id, wanted(layer)]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return image.reference

    def unpack(self, name: str, *layers: bytes, **how: bool) -> None:
        reference = self.files(name, *layers)
        self.step(
            f"pull and unpack {name}",
            lambda: self.store.pull_image(reference, unpack=True, **how),
            atomic="evict" not in how,
        )

    def unpack_at_once(self, *names: str, evict: bool = False) -> None:
        """
        One layer is of all of them: one makes its tree, the others wait for it. Each commit of one cuts through the
        trees of the others.
        """
        shared = tree_layer("at-once", 20)
        references = [self.files(name, shared, tree_layer(name, 30)) for name in names]

        def all_of_them() -> None:
            with ThreadPoolExecutor(len(references)) as executor:
                list(
                    executor.map(
                        lambda each: self.store.pull_image(each, unpack=True, evict=evict), references
                    )
                )

        self.step(f"pull and unpack {' and '.join(names)} at once", all_of_them, atomic=False)

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
        self.run_trees(length)
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

    def run_trees(self, length: str) -> None:
        base, app = tree_layer("base", 12), tree_layer("app", 8, hides="base")
        self.step("raise the limit for trees", lambda: self.store.set_max_storage(3 * LIMIT))
        self.unpack("rooted", base, app)
        self.unpack("sibling", base, tree_layer("sibling", 5))
        stored = self.files("stored", base, tree_layer("stored", 25))
        self.step("pull stored", lambda: self.store.pull_image(stored))
        self.step("make the trees of stored", lambda: self.store.make_trees(stored))
        self.step("remove rooted, whose lowest tree is shared", lambda: self._remove("rooted"))
        bad = self.files("bad", base, tree_layer("bad", 20), entries.tar(entries.entry(b"x", b"7")))
        self.step("unpack what has a bad layer", lambda: self._unpack_known(bad), raises=True)
        self.unpack_at_once("upper", "lower")
        self.step("remove sibling", lambda: self._remove("sibling"))
        self.step(
            "lower the limit over trees",
            lambda: self.store.set_max_storage(1200 * KIB, evict=True),
            atomic=False,
        )
        self.unpack("roomy", base, tree_layer("roomy", 120), evict=True)
        self.step("collect trees", self.store.collect)
        for number in range(4 if length == "long" else 0):
            self.unpack(f"deep-{number}", base, app, tree_layer(f"deep-{number}", 15), evict=True)
            self.step("remove again", lambda: self._remove(f"deep-{number}"))  # noqa: B023 -- now
            self.unpack_at_once(f"wide-{number}", f"broad-{number}", f"far-{number}", evict=True)
            self.step("evict trees", lambda: self.store.collect(EvictionPolicy(0.0, 0.0)), atomic=False)
        self.reopen()

    def _remove(self, name: str) -> None:
        self.store.remove_image(self._ref(name))

    def _unpack_known(self, reference: str) -> None:
        self.store.pull_image(reference, unpack=True)

    def _hold(self) -> None:
        with self.store.hold(self._ref("one")):
            pass

    def _ref(self, name: str) -> str:
        return f"{self._registry.host}/{name}:1"


def tree_layer(seed: str, count: int, *, hides: str | None = None) -> bytes:
    """
    A tar of *count* files of many sizes, and of one of each other kind.
    """
    folder = seed.encode()
    made = [entries.entry(folder, entries.DIRECTORY, mode=0o750)]
    for number in range(count):
        name = b"%s/%03d" % (folder, number)
        data = noise((37 * number) % 9000, f"{seed}-{number}")
        made.append(entries.entry(name, data=data, mode=0o4755 if number % 7 == 3 else 0o644))
    first = folder + b"/000"
    made += [
        entries.pax({b"SCHILY.xattr.user.note": folder}),
        entries.entry(folder + b"/noted", data=b"noted"),
        entries.entry(folder + b"/again", entries.LINK, link=first),
        entries.entry(folder + b"/link", entries.SYMLINK, link=b"../elsewhere/" + b"x" * 80),
        entries.entry(folder + b"/inner", entries.DIRECTORY, mode=0o700),
        entries.entry(folder + b"/inner/" + b"long" * 40, data=noise(5000, seed)),
    ]
    if hides is not None:
        # Described before, or its metadata would be those of the tree below.
        above = hides.encode()
        made += [
            entries.entry(above, entries.DIRECTORY, mode=0o711),
            entries.entry(above + b"/.wh.001"),
        ]
    return entries.tar(*made)


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


def unsynced_trees() -> None:
    """
    Trees that are renamed to their chain ids without having been synced.
    """
    writeback.sync_filesystem = lambda _descriptor: None


def row_before_tree() -> None:
    """
    Rows of trees that are committed, and then their directories get their names.
    """
    publish, publish_trees = TreeFiles.publish, ImageRepository.publish_trees
    waiting: list[tuple[TreeFiles, list[Any]]] = []

    def later(files: TreeFiles, ids: Any) -> None:
        waiting.append((files, list(ids)))

    def rows_first(repository: ImageRepository, token: str, made: Any) -> None:
        publish_trees(repository, token, made)
        while waiting:
            publish(*waiting.pop())

    TreeFiles.publish, ImageRepository.publish_trees = later, rows_first  # type: ignore[method-assign]


MUTANTS = {
    "none": contextlib.nullcontext,
    "normal": normal,
    "unsynced": unsynced,
    "unsynced trees": unsynced_trees,
    "row before tree": row_before_tree,
}


def main() -> None:
    folder, length, mutant = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    MUTANTS[mutant]()
    # As if the trees were large: the disk is set to work, and the power goes, in the middle of them.
    writeback._STEP_BYTES = 128 * KIB  # type: ignore[misc]
    with FaultRegistry() as registry:
        workload = Workload(folder, registry)
        with workload.store:
            workload.run(length)
        workload.store.close()
    print("workload done", flush=True)


if __name__ == "__main__":
    main()
