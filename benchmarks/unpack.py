"""
How fast layers become directories, as ratios in one run: `make bench-unpack`.

    small    60,000 small files, not compressed and gzip, beside GNU tar and umoci
    trees    the same in four layers, by a store that is open, until they are on disk, beside GNU tar and sync
    large    one file that does not compress, beside dd, both until it is on disk
    pull     pull and unpack: into a directory, beside skopeo and umoci; into trees, beside containerd, as a command and
             by a store that is open

What a program is missing for is said and left out. Root gives every file its owner; without, all of it runs rootless
and GNU tar as it does without root.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from ratios import Command, Ratios
from unpacking import containerd, docker_registry, large_layer, layout, small_layer, wipe

from ullage import ImageService, RegistryClient

ULLAGE = str(Path(sys.executable).with_name("ullage"))
ROOTLESS = ("--rootless",) if os.geteuid() else ()


def missing(*programs: str) -> bool:
    absent = [each for each in programs if shutil.which(each) is None]
    if absent:
        print(f"(left out for want of {', '.join(absent)})")
    return bool(absent)


class OpenStore:
    """
    A store that is open, as a host has it all day, and that unpacks what it pulls: a new one for each run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.images.close()
        wipe(self.root)

    def renew(self) -> None:
        self.__exit__()
        self.images = self._open()

    def _open(self) -> ImageService:
        return ImageService.open(self.root, registry=RegistryClient(plain_http=True), unpack=True)


class Bench:
    """
    A directory, a store and a registry in which all of it happens.
    """

    def __init__(self, base: Path, ratios: Ratios, stack: ExitStack) -> None:
        self.base = base
        self.ratios = ratios
        self.stack = stack
        self.target = base / "target"
        self.host = stack.enter_context(docker_registry(base / "registry"))

    def push(self, directory: Path, name: str, *, tag: str | None = None) -> str:
        """
        Put an image of a layout into the registry as it is; the reference.
        """
        reference = f"{self.host}/{name}:1"
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
             f"oci:{directory}:{tag or name}", f"docker://{reference}"],
            check=True,
        )  # fmt: skip
        return reference

    def pulled(self, reference: str) -> Path:
        """
        A store that has the image.
        """
        root = self.base / "store"
        with ImageService.open(root, registry=RegistryClient(plain_http=True)) as images:
            images.pull_image(reference)
        return root

    def clean(self) -> None:
        wipe(self.target)

    def clean_for_tar(self) -> None:
        self.clean()
        self.target.mkdir()

    def ours(self, root: Path, reference: str, *options: str) -> Command:
        """
        The installed command, from its start to its end.
        """
        # It takes a directory that is there and empty, so what is done before each run can be the same for all.
        return Command(
            "ullage",
            (
                (
                    ULLAGE,
                    "unpack",
                    "--root",
                    str(root),
                    "-q",
                    *ROOTLESS,
                    *options,
                    reference,
                    str(self.target),
                ),
            ),
        )

    # ------------------------------------------------------------------ what is measured

    def small(self, files: int) -> None:
        plain = small_layer(self.base / "small.tar", files)
        subprocess.run(["gzip", "-6", "--keep", plain], check=True)
        for name, compress, archive in (
            ("plain", False, plain),
            ("gzip", True, plain.with_name("small.tar.gz")),
        ):
            directory = layout(self.base / f"small-{name}", f"small-{name}", [plain], compress=compress)
            reference = self.push(directory, f"small-{name}")
            root = self.pulled(reference)
            self.ratios.compare(
                f"{files:,} small files, {name}",
                ours=self.ours(root, reference),
                theirs=Command("GNU tar", (("tar", "-xpf", str(archive), "-C", str(self.target)),)),
                before=self.clean_for_tar,
                target=1.33,
            )
            if not missing("umoci"):
                rootless = ("--rootless",) if ROOTLESS else ()
                self.ratios.compare(
                    f"{files:,} small files, {name}",
                    ours=self.ours(root, reference),
                    theirs=Command(
                        "umoci",
                        (
                            (
                                "umoci",
                                "raw",
                                "unpack",
                                *rootless,
                                "--image",
                                f"{directory}:small-{name}",
                                str(self.target),
                            ),
                        ),
                    ),
                    before=self.clean,
                )

    def trees(self, layers: list[Path], reference: str) -> None:
        with OpenStore(self.base / "opened") as opened:

            def begin() -> None:
                self.clean_for_tar()
                opened.renew()
                opened.images.pull_image(reference, unpack=False)

            target = shlex.quote(str(self.target))
            script = "".join(
                f"mkdir {target}/{each.stem} && tar -xpf {shlex.quote(str(each))} -C {target}/{each.stem} && "
                for each in layers
            )
            self.ratios.compare(
                f"{len(layers)} layers of small files, each a tree on disk",
                ours=Command("ullage, open", call=lambda: opened.images.make_trees(reference)),
                theirs=Command("GNU tar, sync", (("sh", "-c", f"{script} sync -f {target}"),)),
                before=begin,
            )

    def large(self, size: int) -> None:
        archive = large_layer(self.base / "large.tar", size)
        reference = self.push(layout(self.base / "large", "large", [archive], compress=False), "large")
        root = self.pulled(reference)
        self.ratios.compare(
            f"one file of {size >> 20} MiB, on disk",
            ours=self.ours(root, reference, "--durable"),
            theirs=Command(
                "dd", (("dd", f"if={archive}", f"of={self.target / 'file'}", "bs=1M", "conv=fsync"),)
            ),
            before=self.clean_for_tar,
        )

    def pull(self, name: str, reference: str) -> None:
        store, images = self.base / "fresh", self.base / "images"

        def clean() -> None:
            wipe(self.target, store, images)

        pull = (ULLAGE, "pull", "--root", str(store), "--plain-http", "-q")
        ours = Command("ullage", ((*pull, reference), *self.ours(store, reference).commands))
        if not missing("skopeo", "umoci"):
            copy = ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false")
            rootless = ("--rootless",) if ROOTLESS else ()
            self.ratios.compare(
                f"pull {name} and unpack it into a directory",
                ours=ours,
                theirs=Command(
                    "skopeo, umoci",
                    (
                        (*copy, f"docker://{reference}", f"oci:{images}:it"),
                        ("umoci", "raw", "unpack", *rootless, "--image", f"{images}:it", str(self.target)),
                    ),
                ),
                before=clean,
                target=0.2,
            )
        if ROOTLESS or missing("containerd", "ctr"):
            return
        with containerd(self.base / "containerd") as (daemon, ctr):

            def clean_both() -> None:
                clean()
                subprocess.run([*ctr, "images", "rm", "--sync", reference], check=False, capture_output=True)

            self.ratios.compare(
                f"pull {name} and unpack each layer",
                # Both end with a tree for each layer, which overlayfs mounts.
                ours=Command("ullage", ((*pull, "--unpack", reference),)),
                theirs=Command(
                    "containerd", ((*ctr, "images", "pull", "--plain-http", reference),), daemon=daemon
                ),
                before=clean_both,
                target=0.5,
            )
            with OpenStore(self.base / "opened") as opened:

                def begin() -> None:
                    clean_both()
                    opened.renew()

                self.ratios.compare(
                    f"pull {name} and unpack each layer, by an open store",
                    ours=Command("ullage, open", call=lambda: opened.images.pull_image(reference)),
                    theirs=Command(
                        "containerd", ((*ctr, "images", "pull", "--plain-http", reference),), daemon=daemon
                    ),
                    before=begin,
                    target=0.5,
                )
        wipe(self.base / "containerd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "what", nargs="*", default=["small", "trees", "large", "pull"], metavar="small|trees|large|pull"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--large", type=int, default=1024, metavar="MIB")
    parser.add_argument(
        "--layout", action="append", default=[], metavar="DIR:TAG", help="a real image to pull as well"
    )
    parser.add_argument("--directory", type=Path, help="where the trees go (default: a temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if missing("docker-registry", "skopeo"):
        raise SystemExit("apt install docker-registry skopeo")
    with ExitStack() as stack:
        base = Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir=asked.directory, prefix="ullage-bench-"))
        )
        ratios = stack.enter_context(Ratios("unpacking", pairs=asked.pairs, directory=base))
        bench = Bench(base, ratios, stack)
        if "small" in asked.what:
            bench.small(asked.files)
        if "large" in asked.what:
            bench.large(asked.large << 20)
        if {"pull", "trees"} & set(asked.what):
            layers = [small_layer(base / f"{seed}.tar", asked.files // 8, seed=seed) for seed in range(2, 6)]
            name = f"{asked.files // 2:,} small files in 4 layers"
            four = bench.push(layout(base / "four", "four", layers, compress=True), "four")
        if "trees" in asked.what:
            subprocess.run(["gzip", "-6", "--keep", *layers], check=True)
            bench.trees([each.with_name(f"{each.name}.gz") for each in layers], four)
        if "pull" in asked.what:
            bench.pull(name, four)
            for each in asked.layout:
                directory, _, tag = each.rpartition(":")
                bench.pull(
                    f"{Path(directory).name}", bench.push(Path(directory), Path(directory).name, tag=tag)
                )
        if asked.json:
            ratios.write(asked.json)


if __name__ == "__main__":
    main()
