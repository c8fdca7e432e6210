"""
What `benchmarks/unpack.py` unpacks, and who else does: layers, an image layout, a store, a registry, a containerd.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ullage.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["containerd", "docker_registry", "large_layer", "layout", "small_layer", "wipe"]

MTIME = 1_700_000_000
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def small_layer(path: Path, files: int, *, seed: int = 1) -> Path:
    """
    An archive of many small files, in as many directories as a `node_modules` has: about 3 kB each of words, which
    gzip makes a third of.
    """
    choice = random.Random(seed)
    words = [b"%x" % choice.getrandbits(choice.randrange(8, 40)) for _ in range(4000)]
    text = b" ".join(choice.choices(words, k=500_000))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(files):
            package, place = divmod(number, 40)
            directory = f"srv/node_modules/package{seed}-{package}/lib{place // 10}"
            if place % 10 == 0:
                # The package once: podman takes no path twice.
                for each in (directory.rpartition("/")[0], directory)[place != 0 :]:
                    entry = tarfile.TarInfo(each)
                    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, MTIME
                    archive.addfile(entry)
            size = min(int(choice.lognormvariate(7, 1.3)), 100_000)
            start = choice.randrange(len(text) - size)
            entry = tarfile.TarInfo(f"{directory}/module{number}.js")
            entry.size, entry.mode, entry.mtime = size, 0o644, MTIME + number
            archive.addfile(entry, io.BytesIO(text[start : start + size]))
    return path


def large_layer(path: Path, size: int) -> Path:
    """
    An archive of one file that does not compress.
    """
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("data/large.bin")
        entry.size, entry.mode, entry.mtime = size, 0o644, MTIME
        with open("/dev/urandom", "rb") as noise:  # noqa: PTH123 -- a device
            archive.addfile(entry, noise)
    return path


def layout(directory: Path, tag: str, layers: Sequence[Path], *, compress: bool) -> Path:
    """
    An OCI image layout with one image.
    """
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def add(raw: bytes, media_type: str) -> dict[str, object]:
        digest = digest_of(raw)
        (blobs / digest.encoded).write_bytes(raw)
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    plain = [layer.read_bytes() for layer in layers]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {
        "os": "linux",
        "architecture": machine,
        "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in plain]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [
            add(gzip.compress(each, 6, mtime=0), f"{_LAYER}+gzip") if compress else add(each, _LAYER)
            for each in plain
        ],
    }
    entry = add(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return directory


def wipe(*paths: Path) -> None:
    """
    Remove trees and wait until the disk has done with it: it must not be the next run that waits.
    """
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
    os.sync()


@contextmanager
def docker_registry(directory: Path, data: Path | None = None) -> Iterator[str]:
    """
    Debian's docker-registry on loopback, empty or with the *data* of another; its host and port.
    """
    directory.mkdir(parents=True)
    (directory / "config.yml").write_text(
        "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {data or directory / 'data'}}}}}\n"
        'http: {addr: "127.0.0.1:0"}\n'
    )
    log = directory / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["docker-registry", "serve", directory / "config.yml"], stdout=said, stderr=said
        )
    try:
        deadline = time.monotonic() + 20
        while not (listening := re.search(r"listening on (127\.0\.0\.1:[0-9]+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"docker-registry did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield listening[1]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def containerd(directory: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """
    A containerd with a root and a socket of its own: its process, and how to start `ctr` for it.
    """
    directory.mkdir(parents=True)
    socket = directory / "socket"
    (directory / "config.toml").write_text(
        f'version = 2\nroot = "{directory / "root"}"\nstate = "{directory / "state"}"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'[grpc]\n  address = "{socket}"\n[ttrpc]\n  address = "{socket}.ttrpc"\n'
    )
    log = directory / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["containerd", "--config", directory / "config.toml"], stdout=said, stderr=said
        )
    try:
        ctr = ("ctr", "--address", str(socket))
        deadline = time.monotonic() + 20
        while subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"containerd did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield process.pid, ctr
    finally:
        process.terminate()
        process.wait()
