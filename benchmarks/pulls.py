"""
Pulls from a docker-registry on loopback, beside what only moves bytes, and beside the peers: `make bench-peers`.

    tiny      one layer of 10 kB: what a pull costs before it has a byte
    layers    60 layers of 100 kB
    fleet     40 images, one after the other, that share three layers of 8 MB
    files     60,000 small files, gzip
    big       one layer of 1 GB that does not compress

Every contestant is a process from its start to its end, and starts with nothing but an empty store; or it is a store
that is open already, as a host has it. The floors do less than a pull: curl checks nothing, cp knows no name, a loop
of plain Python receives, hashes, writes and syncs one blob after the other and has no manifest, no limit, no database.
What a program is missing for is said and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ratios import Command, Ratios
from unpacking import containerd, docker_registry, large_layer, layout, small_layer, wipe

from ullage import ImageService, RegistryClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ULLAGE = str(Path(sys.executable).with_name("ullage"))
SETS = ("tiny", "layers", "fleet", "files", "big")
_CURL = ("curl", "--silent", "--show-error", "--fail", "--location", "--parallel", "--parallel-max", "3")


def missing(*programs: str) -> bool:
    absent = [each for each in programs if shutil.which(each) is None]
    if absent:
        print(f"(left out for want of {', '.join(absent)})")
    return bool(absent)


class Corpus:
    """
    Images in a registry, and their blobs as files.
    """

    def __init__(self, base: Path, host: str, data: Path | None = None) -> None:
        self.base = base
        self.host = host
        self.data = data or base / "registry/data"

    def names(self) -> list[str]:
        """
        The sets that there are.
        """
        return [*SETS]

    def push(self, name: str, layers: list[Path], *, compress: bool = False) -> str:
        """
        An image of these layers; its reference.
        """
        directory = layout(self.base / name.replace("/", "-"), "it", layers, compress=compress)
        reference = f"{self.host}/{name}:1"
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
             f"oci:{directory}:it", f"docker://{reference}"],
            check=True,
        )  # fmt: skip
        shutil.rmtree(directory)
        return reference

    def stored(self, digest: str) -> Path:
        """
        Where the registry has a blob.
        """
        encoded = digest.partition(":")[2]
        return self.data / "docker/registry/v2/blobs/sha256" / encoded[:2] / encoded / "data"

    def noise(self, name: str, size: int) -> Path:
        """
        A layer of one file that does not compress.
        """
        return large_layer(self.base / f"{name}.tar", size)

    def make(self, name: str, scale: float) -> list[str]:
        """
        The images of one set.
        """
        if name == "tiny":
            return [self.push("tiny", [self.noise("tiny", 10_000)])]
        if name == "layers":
            count = max(3, int(60 * scale))
            return [self.push("layers", [self.noise(f"layer{each}", 100_000) for each in range(count)])]
        if name == "fleet":
            shared = [self.noise(f"shared{each}", int(8_000_000 * scale)) for each in range(3)]
            return [
                self.push(f"fleet/app{each:02}", [*shared, self.noise(f"own{each}", int(1_000_000 * scale))])
                for each in range(max(4, int(40 * scale)))
            ]
        if name == "files":
            return [
                self.push("files", [small_layer(self.base / "files.tar", int(60_000 * scale))], compress=True)
            ]
        if name == "big":
            return [self.push("big", [self.noise("big", int(1_000_000_000 * scale))])]
        raise SystemExit(f"there is no {name} here, but {', '.join(SETS)}")

    def blobs(self, reference: str) -> list[tuple[str, str]]:
        """
        URL and digest of what a pull fetches.
        """
        repo, _, tag = reference.removeprefix(f"{self.host}/").rpartition(":")
        asked = urllib.request.Request(
            f"http://{self.host}/v2/{repo}/manifests/{tag}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            manifest = json.load(answer)
        return [
            (f"http://{self.host}/v2/{repo}/blobs/{each['digest']}", each["digest"])
            for each in (manifest["config"], *manifest["layers"])
        ]


class Made(Corpus):
    """
    Images that are in a registry's data already: one of a name, or all below it.
    """

    def names(self) -> list[str]:
        """
        What there is, of what is known to be worth a comparison.
        """
        repos = self.data / "docker/registry/v2/repositories"
        return [
            each
            for each in ("tiny", "base", "app", "deep", "manysmall", "fleet", "big")
            if (repos / each).is_dir()
        ]

    def make(self, name: str, scale: float) -> list[str]:  # noqa: ARG002 -- they are as large as they are
        repos = self.data / "docker/registry/v2/repositories"
        found = sorted((repos / name).glob("**/_manifests/tags/latest"))
        if not found:
            raise SystemExit(f"there is no {name}:latest here, but {', '.join(self.names())}")
        return [f"{self.host}/{each.parents[2].relative_to(repos)}:latest" for each in found]


def plain(blobs: dict[str, str], directory: Path) -> None:
    """
    The least that Python can do: each blob received, hashed, written and synced, one after the other.
    """
    buffer = memoryview(bytearray(1 << 20))
    for digest, url in blobs.items():
        hasher = hashlib.sha256()
        with (
            urllib.request.urlopen(url, timeout=30) as answer,
            (directory / digest[7:]).open("wb", 0) as file,
        ):
            while count := answer.readinto(buffer):
                hasher.update(buffer[:count])
                file.write(buffer[:count])
            os.fdatasync(file.fileno())
        assert hasher.hexdigest() == digest[7:]


class Bench:
    """
    A directory in which every contestant begins with nothing.
    """

    def __init__(self, base: Path, corpus: Corpus, ratios: Ratios, *, peers: bool, stack: ExitStack) -> None:
        self.base = base
        self.corpus = corpus
        self.ratios = ratios
        self.peers = peers
        self.store, self.other, self.empty = base / "store", base / "other", base / "empty"
        ImageService.open(self.empty).close()
        self.ctr: tuple[str, ...] = ()
        self.daemon: int | None = None
        if peers and not os.geteuid() and not missing("containerd", "ctr"):
            self.daemon, self.ctr = stack.enter_context(containerd(base / "containerd"))

    def clean(self) -> None:
        # podman leaves its storage mounted upon itself.
        subprocess.run(["umount", self.other / "podman/overlay"], check=False, capture_output=True)
        wipe(self.store, self.other, self.base / "run")
        self.other.mkdir()
        shutil.copytree(self.empty, self.store)

    def ours(self, references: list[str], *options: str) -> Command:
        return Command(
            "ullage",
            ((ULLAGE, "pull", "--root", str(self.store), "--plain-http", "-q", *options, *references),),
        )

    def floors(self, what: str, references: list[str]) -> None:
        check = ("sh", "-c", f"sha256sum {self.other}/* > {self.base}/sums")
        self._against(what, references, Command("curl, sha256sum", (*self._curl(references), check)))

    def _curl(self, references: list[str]) -> tuple[tuple[str, ...], ...]:
        files = []
        for reference in references:
            for url, digest in self.corpus.blobs(reference):
                files += [url, "--output", str(self.other / f"{len(files)}-{digest[7:]}")]
        return ((*_CURL, *files),)

    def against_peers(self, what: str, references: list[str]) -> None:
        """
        A process beside processes; a store that is open beside a daemon, which has its own open.
        """
        self._against(what, references, self._skopeo(references), target=1.0)
        with self.open_store(what, references) as beside:
            beside(self._skopeo(references), target=1.0)
            if self.ctr:
                fetches = tuple((*self.ctr, "content", "fetch", "--plain-http", each) for each in references)

                def clean() -> None:
                    self.clean()
                    for each in references:
                        subprocess.run(
                            [*self.ctr, "images", "rm", "--sync", each], check=False, capture_output=True
                        )

                theirs = Command("containerd, fetch", fetches, daemon=self.daemon)
                beside(theirs, before=clean, target=1.0)
        if not os.geteuid() and not missing("podman"):
            podman = ("podman", "--root", str(self.other / "podman"), "--runroot", str(self.base / "run"))
            pulls = tuple((*podman, "pull", "--quiet", "--tls-verify=false", each) for each in references)
            try:
                self._against(what, references, Command("podman (unpacks, too)", pulls))
            except SystemExit as error:
                print(f"(podman left out of {what}, for it fails here: {str(error).splitlines()[-1]})")
            finally:
                self.clean()

    def _skopeo(self, references: list[str]) -> Command:
        copies = tuple(
            ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false",
             f"docker://{each}", f"oci:{self.other}/layout:{number}")
            for number, each in enumerate(references)
        )  # fmt: skip
        return Command("skopeo to oci:", copies)

    @contextmanager
    def open_store(self, what: str, references: list[str]) -> Iterator[Callable[..., None]]:
        """
        What a host pays that has the store open: no start of a process, no import. Call it with who else does it.
        """
        with ImageService.open(self.base / "open", registry=RegistryClient(plain_http=True)) as store:

            def pull() -> None:
                for each in references:
                    store.pull_image(each)

            def beside(
                theirs: Command, *, before: Callable[[], None] = self.clean, target: float | None = None
            ) -> None:
                def clean() -> None:
                    before()
                    for each in references:
                        store.remove_image(each, missing_ok=True)

                self.ratios.compare(
                    f"{what}, by an open store",
                    ours=Command("ullage", call=pull),
                    theirs=theirs,
                    before=clean,
                    target=target,
                )

            yield beside

    def in_process(self, what: str, references: list[str]) -> None:
        """
        A store that is open beside the floors.
        """
        blobs = {digest: url for each in references for url, digest in self.corpus.blobs(each)}
        stored = [str(self.corpus.stored(digest)) for digest in blobs]
        copy = ("cp", "--backup=numbered", *stored, str(self.other))
        with self.open_store(what, references) as beside:
            beside(Command("plain Python", call=lambda: plain(blobs, self.other)))
            beside(Command("cp, fsync", (copy, ("sh", "-c", f"sync {self.other}/*"))))
            beside(Command("curl to files", self._curl(references)))
            beside(self._skopeo(references), target=1.0)

    def warm(self, what: str, references: list[str]) -> None:
        """
        Asked again, and all there.
        """
        self.clean()
        again = self.ours(references, "--policy", "always")
        again.run()
        copy = ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false",
                f"docker://{references[0]}", f"oci:{self.other}/layout:0")  # fmt: skip
        theirs = Command("skopeo to oci:", (copy,))
        theirs.run()
        self.ratios.compare(
            f"{what}, all there", ours=self.ours(references[:1], "--policy", "always"), theirs=theirs
        )

    def peak(self, what: str, references: list[str]) -> None:
        """
        Memory, of one run.
        """
        self.clean()
        process = subprocess.Popen(self.ours(references).commands[0], stdout=subprocess.DEVNULL)
        status = Path(f"/proc/{process.pid}/status")
        highest = 0
        # Not by getrusage: that starts with what this process has, which makes the layers.
        while process.poll() is None:
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+([0-9]+) kB", status.read_text())
                highest = max(highest, int(found[1]) if found else 0)
            time.sleep(0.005)
        if process.returncode:
            raise SystemExit("the pull failed")
        print(f"| {what}: peak memory | ullage {highest / 1024:.0f} MiB | | | | | < 100 MB |", flush=True)

    def _against(
        self,
        what: str,
        references: list[str],
        theirs: Command,
        *,
        before: Callable[[], object] | None = None,
        target: float | None = None,
    ) -> None:
        self.ratios.compare(
            what,
            ours=self.ours(references),
            theirs=theirs,
            before=before or self.clean,
            target=target,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", metavar="|".join(SETS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="smaller images, for a look")
    parser.add_argument(
        "--peers", action="store_true", help="beside skopeo, containerd and podman instead of floors"
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="DIR",
        help="real images instead: DIR/registry is the data of a registry",
    )
    parser.add_argument("--directory", type=Path, help="where it all goes (default: a temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if missing("docker-registry", "skopeo", "curl"):
        raise SystemExit("apt install docker-registry skopeo curl")
    with ExitStack() as stack:
        base = Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir=asked.directory, prefix="ullage-bench-"))
        )
        if asked.corpus:
            data = (asked.corpus / "registry").resolve()
            if not (data / "docker/registry/v2/repositories").is_dir():
                raise SystemExit(f"{data} is not the data of a registry")
            corpus: Corpus = Made(base, stack.enter_context(docker_registry(base / "registry", data)), data)
        else:
            corpus = Corpus(base, stack.enter_context(docker_registry(base / "registry")))
        ratios = stack.enter_context(
            Ratios("pulls from a docker-registry on loopback", pairs=asked.pairs, directory=base)
        )
        bench = Bench(base, corpus, ratios, peers=asked.peers, stack=stack)
        for name in asked.what or corpus.names():
            references = corpus.make(name, asked.scale)
            for each in base.glob("*.tar"):
                each.unlink()
            if asked.peers:
                bench.against_peers(name, references)
            else:
                bench.floors(name, references)
                bench.in_process(name, references)
                bench.warm(name, references)
                bench.peak(name, references)
        if asked.json:
            ratios.write(asked.json)


if __name__ == "__main__":
    main()
