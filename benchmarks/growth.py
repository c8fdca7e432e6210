"""
What ten times and a hundred times the work cost: tags, layers, images, blobs, files, bytes. `make bench`.

Measured is processor time of the whole process, the least of a few turns, at n, 10n and 100n. The exponent is of the
last step, from 10n to 100n, where what is constant weighs least: 0 does not grow at all, 1 grows in proportion, 2 would
be a hundred times the cost for ten times the work. Nothing may be above 1.15, which n log n is not.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filled import filled, name_of
from micro import human_seconds
from ratios import machine, scratch
from unpacking import large_layer, small_layer

from ullage import ImageService
from ullage.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

HIGHEST = 1.15
#: Below this a clock's tick and a page more or less are most of it, and an exponent says nothing.
LEAST_SECONDS = 200e-6
_OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Step:
    """
    What is measured, and what is done, unmeasured, to do it again.
    """

    what: str
    call: Callable[[], object]
    undo: Callable[[], object] | None = None
    turns: int = 3
    #: Calls of one turn: for what takes microseconds.
    calls: int = 1

    def seconds(self) -> float:
        """
        The least of the turns, of one call.
        """
        least = math.inf
        for turn in range(self.turns):
            if turn and self.undo is not None:
                self.undo()
            start = time.process_time()
            for _ in range(self.calls):
                self.call()
            least = min(least, (time.process_time() - start) / self.calls)
        return least


# ---------------------------------------------------------------------- what grows


def tiny_tar(number: int) -> bytes:
    """
    A layer of one file, another for each number.
    """
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        content = b"%d" % number
        entry = tarfile.TarInfo(f"srv/file{number}")
        entry.size, entry.mode = len(content), 0o644
        archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def layout(directory: Path, images: Sequence[Sequence[bytes]], *, in_one_index: bool = False) -> str:
    """
    An OCI image layout of these images, each of these layers, as `import_images` takes it; or of one image for as many
    platforms.
    """
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(raw: bytes, kind: str) -> dict[str, object]:
        digest = digest_of(raw)
        (blobs / digest.encoded).write_bytes(raw)
        return {"mediaType": f"{_OCI}.{kind}", "digest": digest, "size": len(raw)}

    entries = []
    for number, layers in enumerate(images):
        config = {
            "os": "linux",
            "architecture": f"of{number}" if in_one_index and number else "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "config": add(json.dumps(config).encode(), "config.v1+json"),
            "layers": [add(each, "layer.v1.tar") for each in layers],
        }
        entry = add(json.dumps(manifest).encode(), "manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": f"growth.example/app{number}:1"}
        entry["platform"] = {"os": config["os"], "architecture": config["architecture"]}
        entries.append(entry)
    if in_one_index:
        index = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": entries}
        entry = add(json.dumps(index).encode(), "index.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": "growth.example/app:1"}
        entries = [entry]
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return f"oci:{directory}"


@contextmanager
def tags(base: Path, count: int) -> Iterator[list[Step]]:
    """
    One image with so many tags.
    """
    with ImageService.open(base / "store") as store:
        image = store.register_image("growth.example/app:first", size=1).id
        for number in range(count):
            store.tag_image(image, f"growth.example/app:{number}")
        another = "growth.example/app:another"
        yield [
            Step("one more", lambda: store.tag_image(image, another), lambda: store.untag_image(another)),
            Step("status", lambda: store.image_status(image), calls=20),
            Step("tags of the repo", lambda: store.tags("growth.example/app"), calls=20),
            Step("index.json", lambda: _index(store)),
            Step("remove", lambda: store.remove_image(image), turns=1),
        ]


@contextmanager
def layers(base: Path, count: int) -> Iterator[list[Step]]:
    """
    One image with so many layers.
    """
    source = layout(base / "layout", [[tiny_tar(number) for number in range(count)]])
    name = "growth.example/app0:1"
    with ImageService.open(base / "store") as store:

        def remove() -> None:
            store.remove_image(name)
            store.collect()

        yield [
            Step("pull", lambda: store.import_images(source), remove),
            Step("status", lambda: store.image_status(name), calls=20),
            Step("image_storage", lambda: store.image_storage(name), calls=20),
            Step("trees", lambda: store.make_trees(name), turns=1),
            Step("mount_spec", lambda: store.mount_spec(name), calls=20),
            Step("remove and collect", remove, turns=1),
        ]


@contextmanager
def platforms(base: Path, count: int) -> Iterator[list[Step]]:
    """
    One name for so many platforms.
    """
    shared = tiny_tar(0)
    each = [[shared, tiny_tar(number + 1)] for number in range(count)]
    source = layout(base / "layout", each, in_one_index=True)
    with ImageService.open(base / "store") as store:

        def remove() -> None:
            for image in store.list_images():
                store.remove_image(image)
            store.collect()

        yield [
            Step("pull of one", lambda: store.import_images(source, platform="linux/amd64"), remove),
            Step("pull of all", lambda: store.import_images(source, platform="all"), turns=1),
        ]


@contextmanager
def images(base: Path, count: int) -> Iterator[list[Step]]:
    """
    So many images, with their bytes, of a layer of their own and one of all.
    """
    shared = tiny_tar(0)
    source = layout(base / "layout", [[shared, tiny_tar(number + 1)] for number in range(count)])
    with ExitStack() as stack:
        store = stack.enter_context(ImageService.open(base / "store"))

        def remove() -> None:
            for image in store.list_images():
                store.remove_image(image)

        yield [
            Step("pull", lambda: store.import_images(source), turns=1),
            Step("list", store.list_images),
            Step("image_storage", store.image_storage),
            Step("index.json", lambda: _index(store)),
            Step("open", lambda: ImageService.open(base / "store").close()),
            Step("check", store.check),
            Step("export", lambda: _export(store, base / "exported"), turns=1),
            Step("remove", remove, turns=1),
            Step("collect", store.collect, turns=1),
        ]


@contextmanager
def evicted(base: Path, count: int) -> Iterator[list[Step]]:
    """
    So many images that all have to go at once.
    """
    with ImageService.open(base / "store") as store:
        for number in range(count):
            store.register_image(f"growth.example/app{number}:1", size=1)
        yield [Step("evict", lambda: store.set_max_storage(1, evict=True), turns=1)]


@contextmanager
def blobs(base: Path, count: int) -> Iterator[list[Step]]:
    """
    So many images of 12 blobs, in the database alone.
    """
    root = filled(base / "store", count)
    with ImageService.open(root) as store:
        name = name_of(count // 2)
        store.pull_image(name)
        store.write_index()  # else a thread does it, while something else is measured
        yield [
            Step("known pull", lambda: store.pull_image(name), calls=50),
            Step("status", lambda: store.image_status(name), calls=50),
            Step("usage", store.usage, calls=50),
            Step("list", store.list_images),
            Step("image_storage", store.image_storage),
            Step("reclaimable", lambda: store.view("reclaimable"), turns=2),
            Step("drift", lambda: store.view("accounting_drift"), turns=2),
            Step("collect nothing", lambda: store.collect(dry_run=True)),
        ]


@contextmanager
def files(base: Path, count: int) -> Iterator[list[Step]]:
    """
    A layer of so many files.
    """
    source = layout(base / "layout", [[small_layer(base / "layer.tar", count).read_bytes()]])
    with ImageService.open(base / "store") as store:
        store.import_images(source)
        yield [Step("trees", lambda: store.make_trees("growth.example/app0:1"), turns=1)]


@contextmanager
def megabytes(base: Path, count: int) -> Iterator[list[Step]]:
    """
    A layer of so many megabytes.
    """
    source = layout(base / "layout", [[large_layer(base / "layer.tar", count * 1_000_000).read_bytes()]])
    with ImageService.open(base / "store") as store:

        def remove() -> None:
            store.remove_image("growth.example/app0:1")
            store.collect()

        yield [Step("pull", lambda: store.import_images(source), remove)]


def _index(store: ImageService) -> None:
    (store.root / "index.json").unlink(missing_ok=True)
    store.write_index()


def _export(store: ImageService, directory: Path) -> None:
    store.export_images([image.id for image in store.list_images()], f"oci:{directory}")


#: What grows, and how many at first.
WORKS = {
    "tags": (tags, 10),
    "layers": (layers, 2),
    "platforms": (platforms, 1),
    "images": (images, 10),
    "evicted": (evicted, 10),
    "blobs": (blobs, 100),
    "files": (files, 100),
    "megabytes": (megabytes, 2),
}
#: 127 layers are what Docker and overlayfs allow, 100 platforms what we do.
MOST = {"layers": 127, "platforms": 100}
_TITLES = {
    "tags": "tags of one image",
    "layers": "layers of one image, to 127",
    "platforms": "platforms of one index",
    "images": "images",
    "evicted": "images that go at once",
    "blobs": "images of 12 blobs, rows alone",
    "files": "files of a layer",
    "megabytes": "megabytes of a layer",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", default=[*WORKS], metavar="|".join(WORKS))
    parser.add_argument("--small", action="store_true", help="n and 10n alone")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    times = (1, 10) if asked.small else (1, 10, 100)
    rows = []
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="ullage-bench-") as directory:
        print(f"# growth: {machine(Path(directory))}\n")
        print("| | n = | " + " | ".join(["n", "10n", "100n"][: len(times)]) + " | exponent | |")
        print("|---|---:|" + "---:|" * len(times) + "---:|---|")
        for name in asked.what:
            work, first = WORKS[name]
            for row in measured(work, name, [first * each for each in times], Path(directory)):
                rows.append(row)
                print(row.line(), flush=True)
    above = [f"{row.what}: {row.step}" for row in rows if row.is_above]
    print(f"\nabove n log n: {', '.join(above) or 'nothing'}\n")
    if asked.json:
        asked.json.write_text(json.dumps([row.document() for row in rows], indent=2) + "\n")
    return 0


@dataclass(frozen=True)
class Grown:
    """
    One step at each size.
    """

    what: str
    step: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """
        Of the last step.
        """
        (less, more), (few, many) = self.seconds[-2:], self.sizes[-2:]
        return math.log(more / less) / math.log(many / few)

    @property
    def is_above(self) -> bool:
        return self.exponent > HIGHEST and self.seconds[-1] > LEAST_SECONDS

    def line(self) -> str:
        values = " | ".join(map(human_seconds, self.seconds))
        said = "ABOVE" if self.is_above else ""
        return f"| {_TITLES[self.what]}: {self.step} | {self.sizes[0]:,} | {values} | {self.exponent:.2f} | {said} |"

    def document(self) -> dict[str, object]:
        return {
            "what": self.what,
            "step": self.step,
            "sizes": self.sizes,
            "seconds": self.seconds,
            "exponent": self.exponent,
        }


def measured(
    work: Callable[[Path, int], AbstractContextManager[list[Step]]],
    name: str,
    sizes: Sequence[int],
    directory: Path,
) -> list[Grown]:
    """
    A row for each step of *work*, at each size.
    """
    seconds: dict[str, list[float]] = {}
    real = [min(size, MOST.get(name, size)) for size in sizes]
    for size in real:
        base = directory / name
        base.mkdir()
        with work(base, size) as steps:
            for step in steps:
                seconds.setdefault(step.what, []).append(step.seconds())
        shutil.rmtree(base)
    return [Grown(name, step, tuple(real), tuple(each)) for step, each in seconds.items()]


if __name__ == "__main__":
    sys.exit(main())
