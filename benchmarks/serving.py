"""
How fast a store is served, pushed and copied, as ratios in one run: `make bench-serving`.

    serve    one large blob, four of it at once, and many small requests, beside docker-registry
    push     the same image to docker-registry, beside skopeo
    copy     from one docker-registry to another, beside skopeo
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from ratios import Command, Ratios
from unpacking import docker_registry, large_layer, layout, wipe

from ullage import ImageService, RegistryClient

ULLAGE = str(Path(sys.executable).with_name("ullage"))
SKOPEO = ("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests")
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PROGRAMS = ("docker-registry", "skopeo", "curl")


class Bench:
    """
    One image of one large layer: in a layout, in a store that is served, and in a registry.
    """

    def __init__(self, base: Path, ratios: Ratios, stack: ExitStack, size: int) -> None:
        self.base, self.ratios = base, ratios
        self.layout = layout(base / "layout", "app", [large_layer(base / "layer.tar", size)], compress=False)
        self.theirs = stack.enter_context(docker_registry(base / "theirs"))
        self.other = stack.enter_context(docker_registry(base / "other"))
        self.root = base / "store"
        with ImageService.open(
            self.root, max_storage=4 * size, registry=RegistryClient(plain_http=True)
        ) as service:
            (status,) = service.import_images(f"oci:{self.layout}:app", name="app:1")
            service.push_image(status.id, f"{self.theirs}/library/app:1")
            self.layer = service.manifest(status.id).layers[0].digest
        self.server = subprocess.Popen(
            (ULLAGE, "serve", "--root", str(self.root), "--listen", "127.0.0.1:0"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        stack.callback(self.server.communicate)
        stack.callback(self.server.terminate)
        self.ours = self.server.stdout.readline().strip().partition("://")[2]

    def cpu_seconds(self, host: str) -> float:
        """
        What the server takes of the processors to send the blob once.
        """
        before = self._used(host)
        url = f"http://{host}/v2/library/app/blobs/{self.layer}"
        subprocess.run(("curl", "-sf", "-o", "/dev/null", url), check=True)
        return self._used(host) - before

    def _used(self, host: str) -> float:
        if host == self.ours:
            return _cpu_seconds(self.server.pid)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.base / "theirs").encode() in (process / "cmdline").read_bytes():
                    return _cpu_seconds(int(process.name))
        raise SystemExit("docker-registry is gone")

    def serve(self) -> None:
        for name, host in (("ullage serve", self.ours), ("docker-registry", self.theirs)):
            seconds = statistics.median(self.cpu_seconds(host) for _ in range(self.ratios.pairs))
            print(f"({name}: {seconds:.2f} s of processor time for one large blob)")

        def fetch(host: str, times: int) -> Command:
            url = f"http://{host}/v2/library/app/blobs/{self.layer}"
            each = [piece for _ in range(times) for piece in ("-o", "/dev/null", url)]
            name = "ullage serve" if host == self.ours else "docker-registry"
            return Command(name, (("curl", "-sf", "--parallel", *each),))

        self.ratios.compare(
            "one large blob", ours=fetch(self.ours, 1), theirs=fetch(self.theirs, 1), target=1.0
        )
        self.ratios.compare(
            "four of it at once", ours=fetch(self.ours, 4), theirs=fetch(self.theirs, 4), target=1.0
        )

        def ask(host: str) -> Command:
            return Command(
                "ullage serve" if host == self.ours else "docker-registry", call=lambda: _many(host)
            )

        self.ratios.compare("2,000 manifests by tag", ours=ask(self.ours), theirs=ask(self.theirs))

    def push(self) -> None:
        reference = f"{self.other}/library/app:1"
        self.ratios.compare(
            "push to docker-registry",
            ours=Command(
                "ullage push", ((ULLAGE, "push", "-q", "--root", str(self.root), "app:1", reference),)
            ),
            theirs=Command(
                "skopeo",
                ((*SKOPEO, "--dest-tls-verify=false", f"oci:{self.layout}:app", f"docker://{reference}"),),
            ),
            before=lambda: wipe(self.base / "other" / "data" / "docker"),
            target=1.0,
        )

    def copy(self) -> None:
        source, reference = f"{self.theirs}/library/app:1", f"{self.other}/library/app:1"
        self.ratios.compare(
            "copy from docker-registry to docker-registry",
            ours=Command("ullage copy", ((ULLAGE, "copy", "-q", source, reference),)),
            theirs=Command(
                "skopeo",
                (
                    (
                        *SKOPEO, "--src-tls-verify=false", "--dest-tls-verify=false",
                        f"docker://{source}", f"docker://{reference}",
                    ),
                ),
            ),
            before=lambda: wipe(self.base / "other" / "data" / "docker"),
            target=1.0,
        )  # fmt: skip


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _many(host: str) -> None:
    connection = http.client.HTTPConnection(host)
    for _ in range(2000):
        connection.request("GET", "/v2/library/app/manifests/1", headers={"Accept": OCI_MANIFEST})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"{host} answered {answer.status}")
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["serve", "push", "copy"])
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of the layer")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    absent = [each for each in PROGRAMS if shutil.which(each) is None]
    if absent:
        raise SystemExit(f"apt install {' '.join(absent)}")
    with (
        tempfile.TemporaryDirectory(prefix="ullage-bench-serving-") as base,
        Ratios("Serving, pushing, copying", pairs=options.pairs) as ratios,
        ExitStack() as stack,
    ):
        bench = Bench(Path(base), ratios, stack, options.size)
        for what in options.what:
            getattr(bench, what)()
        if options.json:
            ratios.write(options.json)


if __name__ == "__main__":
    main()
