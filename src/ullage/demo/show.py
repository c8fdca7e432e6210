"""
The show: every line in it is the answer of a real command, a real request or a real query.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ullage import __version__
from ullage.demo.images import build, serve
from ullage.demo.paced import PacedRegistry
from ullage.demo.query import run_query
from ullage.errors import StorageLimitExceeded
from ullage.sizes import human

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ullage.demo.images import Image, Layer

__all__ = ["run"]

_USER: Final = "demo"
#: How long the first pull shall take.
_FIRST_PULL_SECONDS: Final = 4.0
_PATIENCE_SECONDS: Final = 30.0
#: What `_interrupt` waits for: enough that it is kept, and gone on with.
_ENOUGH_BYTES: Final = 128 * 1024

_QUERIES: Final = (
    "SELECT max_bytes, used_bytes, reserved_bytes, blob_count, blob_bytes, logical_bytes FROM storage_usage",
    "SELECT id, repo_tags, human_size, platform FROM image_listing",
    "SELECT id, size, shared_bytes, exclusive_bytes FROM image_storage",
    "SELECT id, json_extract(config, '$.config.User') AS user FROM images",
    "SELECT * FROM accounting_drift",
)


class BrokenShowError(Exception):
    """
    Something did not go as the show says. A mistake in ullage.
    """


def run(keep: Path | None) -> int:
    """
    Run the show; the exit code. The store stays in *keep*, or in a new temporary directory.
    """
    directory = Path(tempfile.mkdtemp(prefix="ullage-demo-")) if keep is None else keep
    directory.mkdir(parents=True, exist_ok=True)
    store = directory / "store"
    started = time.monotonic()
    password = secrets.token_hex(4)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="ullage-demo-layers-") as layers,
            PacedRegistry(username=_USER, password=password) as registry,
        ):
            _Show(store, registry, password, Path(layers)).run()
    except BaseException:
        # Half a show is of no use to anybody.
        shutil.rmtree(store, ignore_errors=True)
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    _title(f"That was it, in {time.monotonic() - started:.0f} seconds. The store stays for you:")
    root = shlex.quote(str(store))
    _say(f"  ullage --root {root} images")
    _say(f"  ullage --root {root} df -v")
    _say(f"  sqlite3 {root}/ullage.db 'select * from image_listing'")
    return 0


class _Show:
    def __init__(self, store: Path, registry: PacedRegistry, password: str, layers: Path) -> None:
        self._store = store
        self._registry = registry
        self._layers = layers
        self._environment = {**os.environ, "ULLAGE_ROOT": str(store)}
        self._password = password

    def run(self) -> None:
        _say(f"ullage {__version__}: a store of container images that holds its limit and counts every byte")
        web, tools, desk = self._build()
        self._pulls(web, tools)
        self._known(web)
        self._limit(desk)
        self._what_is_here()
        self._serving(tools)
        self._removal(web)
        self._queries()

    def _build(self) -> tuple[Image, ...]:
        _title("Three images out of this machine's Python, on a registry on loopback")

        def shown(layer: Layer) -> None:
            _say(
                f"  layer {layer.name:<8} {layer.file_count:>5} files   {human(layer.tar_bytes):>8}, "
                f"{human(layer.size):>8} compressed"
            )

        images = build(self._layers, shown)
        serve(self._registry, images)
        for image in images:
            names = " + ".join(layer.name for layer in image.layers)
            _say(f"  image {self._name(image)}: {names}, {human(image.size)}")
        self._registry.bytes_per_second = images[0].size / _FIRST_PULL_SECONDS
        pace = human(int(self._registry.bytes_per_second))
        _say(f"  The registry asks for credentials, and sends {pace} a second, as a network might.")
        return images

    def _pulls(self, web: Image, tools: Image) -> None:
        _title("Pull: verified while it comes in, and what two images share is fetched once")
        _say(f"$ export ULLAGE_ROOT={shlex.quote(str(self._store))}")
        self._pull(web)
        self._pull(tools)

    def _known(self, web: Image) -> None:
        _title("Pull what is known: no request")
        before = len(self._registry.requests)
        self._pull(web)
        asked = len(self._registry.requests) - before
        _say(f"  The registry has seen {asked} requests meanwhile.")
        _require(asked == 0, "a known reference asked the registry")

    def _limit(self, desk: Image) -> None:
        _title("A limit that holds: what does not fit is refused before its first byte")
        used = self._figure("used_bytes")
        self._ullage("quota", "--max", str(used + desk.own_bytes // 2))
        before = self._sent_bytes()
        self._pull(desk, exit_code=StorageLimitExceeded.exit_code)
        _say(f"  Of the layers the registry has sent {self._sent_bytes() - before} bytes.")
        self._ullage("quota", "--max", "1GiB")
        self._pull(desk)

    def _what_is_here(self) -> None:
        _title("What is here, and what it takes")
        self._ullage("images")
        self._ullage("df", "-v")

    def _serving(self, image: Image) -> None:
        _title("Serve: another store pulls from this one, and the registry is not asked")
        before = len(self._registry.requests)
        with (
            tempfile.TemporaryDirectory(prefix="ullage-demo-other-") as other,
            self._started(("serve", "--listen", "127.0.0.1:0"), stdout=subprocess.PIPE) as server,
        ):
            assert server.stdout is not None, "asked for"
            url = server.stdout.readline().decode().strip()
            _say(url)
            # A name of a registry's repo has no colon in it: docs/serving.md.
            repo = f"{self._registry.host.replace(':', '__')}/{image.repo}"
            self._ullage("--root", other, "pull", f"{url.partition('://')[2]}/{repo}:{image.tag}")
            server.terminate()
            _require(server.wait() == 0, "the server did not end in order")
        asked = len(self._registry.requests) - before
        _say(f"  The registry has seen {asked} requests meanwhile.")
        _require(asked == 0, "a store that is served asked the registry")

    def _removal(self, web: Image) -> None:
        _title("Remove: what an image alone used is free at once, what others share stays")
        self._ullage("rm", self._name(web))
        self._ullage("df")
        _title("Interrupt a pull: no image, and what had come is counted until it is used or collected")
        self._interrupt(web)
        self._ullage("df")
        self._ullage("gc")
        _require(self._figure("reserved_bytes") == 0, "collection left reserved bytes")

    def _queries(self) -> None:
        _title("The same facts in SQL, for whoever looks")
        for query in _QUERIES:
            run_query(self._store / "ullage.db", query)
        _say("  The last one is empty when every counter is right.")
        on_disk = sum(each.stat().st_size for each in (self._store / "blobs").rglob("*") if each.is_file())
        counted = self._figure("blob_bytes")
        _say(f"  Bytes in the files under blobs/: {on_disk}; blob_bytes: {counted}.")
        _require(on_disk == counted, "the accounting is not what is on disk")

    # What it is made of

    def _name(self, image: Image) -> str:
        return f"{self._registry.host}/{image.repo}:{image.tag}"

    def _pull_arguments(self, image: Image) -> tuple[str, ...]:
        credentials = f"{_USER}:{self._password}"
        return "pull", self._name(image), "--plain-http", "--creds", credentials

    def _pull(self, image: Image, *, exit_code: int = 0) -> None:
        self._ullage(*self._pull_arguments(image), exit_code=exit_code)

    def _ullage(self, *arguments: str, exit_code: int = 0) -> None:
        with self._started(arguments) as process:
            code = process.wait()
        if exit_code:
            _say(f"  (exit code {code})")
        _require(code == exit_code, f"exit code {code}, not {exit_code}")

    def _interrupt(self, image: Image) -> None:
        """
        Pull until a good part of the last layer is here, and press Ctrl-C.
        """
        self._registry.stalled = image.layers[-1].path
        with self._started(self._pull_arguments(image)) as process:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while self._partial_bytes() < _ENOUGH_BYTES:
                _require(time.monotonic() < deadline and process.poll() is None, "the pull does not come in")
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            code = process.wait()
        self._registry.release()
        _say(f"  (Ctrl-C: exit code {code})")
        _require(code == 128 + signal.SIGINT, f"exit code {code} after Ctrl-C")

    def _started(self, arguments: Sequence[str], *, stdout: int | None = None) -> _Process:
        _say(f"$ ullage {shlex.join(arguments)}")
        return _Process(arguments, self._environment, stdout=stdout)

    def _partial_bytes(self) -> int:
        size = 0
        with contextlib.suppress(
            FileNotFoundError
        ):  # it was just finished, or the directory is still to come
            for each in (self._store / "ingest").iterdir():
                size += each.stat().st_size
        return size

    def _sent_bytes(self) -> int:
        return sum(each.bytes_sent for each in list(self._registry.requests) if "/blobs/" in each.path)

    def _figure(self, column: str) -> int:
        from ullage.service import ImageService  # noqa: PLC0415 -- SQLAlchemy: while the layers are packed nobody needs it

        with ImageService.open(self._store, read_only=True) as service:
            figure: int = getattr(service.usage(), column)
            return figure


class _Process(subprocess.Popen[bytes]):
    """
    A command of ours, on this terminal. Leaving the block in a hurry ends it.
    """

    def __init__(
        self, arguments: Sequence[str], environment: dict[str, str], *, stdout: int | None = None
    ) -> None:
        super().__init__([sys.executable, "-P", "-m", "ullage", *arguments], env=environment, stdout=stdout)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self.terminate()
        if self.stdout is not None:
            self.stdout.close()
        self.wait()


def _title(text: str) -> None:
    _say(f"\n=== {text}")


def _say(text: str) -> None:
    print(text, flush=True)


def _require(condition: bool, what: str) -> None:  # noqa: FBT001 -- reads like an assertion, which -O would drop
    if not condition:
        raise BrokenShowError(what)
