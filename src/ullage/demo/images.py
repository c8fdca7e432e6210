"""
Three images that share layers, made of the files of this machine's Python.

Layers are deterministic: the same files give the same digests, whenever they are packed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ullage.digest import Digest, digest_of
from ullage.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ullage.demo.registry import LoopbackRegistry

__all__ = ["Image", "Layer", "build", "serve"]

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

#: What of the standard library goes into which layer, by its first name; all the rest is the base.
_PARTS: Final = {
    "runtime": ("lib-dynload", "concurrent", "ctypes", "encodings", "multiprocessing"),
    "web": ("asyncio", "email", "html", "http", "urllib", "wsgiref", "xml", "xmlrpc"),
    "tools": ("distutils", "lib2to3", "pydoc_data", "unittest", "venv", "pathlib", "_pyrepl"),
    "desk": ("curses", "idlelib", "sqlite3", "tkinter", "tomllib", "turtledemo", "zoneinfo", "dbm"),
}
#: Other people's packages, tests, and what is needed to build Python, not to run it.
_LEFT_OUT: Final = ("site-packages", "dist-packages", "test", "ensurepip")
_LARGEST_FILE_BYTES: Final = 8_000_000


@dataclass(frozen=True, slots=True)
class Layer:
    """
    A gzipped tar in a file.
    """

    name: str
    path: Path
    digest: Digest
    diff_id: Digest
    size: int
    tar_bytes: int
    file_count: int

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": _LAYER, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Image:
    """
    An image as a registry serves it.
    """

    repo: str
    tag: str
    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """
        Bytes of all its blobs.
        """
        return len(self.manifest) + len(self.config) + sum(layer.size for layer in self.layers)

    @property
    def own_bytes(self) -> int:
        """
        Bytes that no other of the images has.
        """
        return len(self.manifest) + len(self.config) + self.layers[-1].size


def build(directory: Path, on_layer: Callable[[Layer], None]) -> tuple[Image, ...]:
    """
    Pack the layers into *directory* and make the images: each is base, runtime, and a layer of its own.
    """
    contents: dict[str, dict[str, Path | bytes]] = {
        "base": {},
        "runtime": {},
        "web": {},
        "tools": {},
        "desk": {},
    }
    for name, path in _standard_library():
        first = name.split("/", 1)[0]
        part = next((part for part, names in _PARTS.items() if first in names), "base")
        contents[part][f"{_home()}/{name}"] = path
    contents["runtime"]["usr/bin/python3"] = Path(os.path.realpath(sys.executable))
    for app in ("web", "tools", "desk"):
        contents[app]["app/main.py"] = f'print("this is {app}")\n'.encode()
    layers = {}
    for name, files in contents.items():
        layers[name] = _pack(name, files, directory / f"{name}.tar.gz")
        on_layer(layers[name])
    shared = (layers["base"], layers["runtime"])
    return (
        _image("web", (*shared, layers["web"]), {"User": "1000:1000", "ExposedPorts": {"8080/tcp": {}}}),
        _image("tools", (*shared, layers["tools"]), {"User": "builder"}),
        _image("desk", (*shared, layers["desk"]), {}),
    )


def serve(registry: LoopbackRegistry, images: tuple[Image, ...]) -> None:
    """
    Put the images into a registry.
    """
    for image in images:
        registry.add_blob(image.config)
        for layer in image.layers:
            registry.add_blob(layer.path)
        registry.add_manifest(image.repo, image.manifest, _MANIFEST, [image.tag])


def _home() -> str:
    return f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"


def _standard_library() -> Iterator[tuple[str, Path]]:
    """
    Names and paths, in sorted order.
    """
    root = sysconfig.get_path("stdlib")
    for directory, below, files in os.walk(root):
        below[:] = sorted(each for each in below if each not in _LEFT_OUT and not each.startswith("config-"))
        for file in sorted(files):
            path = Path(directory, file)
            yield path.relative_to(root).as_posix(), path


def _pack(name: str, files: dict[str, Path | bytes], target: Path) -> Layer:
    tar_digest = hashlib.sha256()
    tar_bytes = file_count = 0
    # No name and no time in the gzip header, none of this machine's owners and times in the tar.
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        for entry in _entries(files):
            tar_digest.update(entry)
            tar_bytes += len(entry)
            file_count += 1
            packed.write(entry)
        end = bytes(2 * tarfile.BLOCKSIZE)
        tar_digest.update(end)
        packed.write(end)
    with target.open("rb") as whole:
        digest = Digest(f"sha256:{hashlib.file_digest(whole, 'sha256').hexdigest()}")
    return Layer(
        name=name,
        path=target,
        digest=digest,
        diff_id=Digest(f"sha256:{tar_digest.hexdigest()}"),
        size=target.stat().st_size,
        tar_bytes=tar_bytes + len(end),
        file_count=file_count,
    )


def _entries(files: dict[str, Path | bytes]) -> Iterator[bytes]:
    """
    Each file as tar has it: a header, and the content in whole blocks.
    """
    for name, source in files.items():
        content = source if isinstance(source, bytes) else _read(source)
        if content is None:
            continue
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        entry.mode = 0o755 if name.startswith("usr/bin/") else 0o644
        padding = -len(content) % tarfile.BLOCKSIZE
        yield entry.tobuf(tarfile.PAX_FORMAT) + content + bytes(padding)


def _read(path: Path) -> bytes | None:
    """
    The content; None of what is no file, too large for a show, or not for us to read.
    """
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE_BYTES:
            return None
        return path.read_bytes()
    except OSError:
        return None


def _image(app: str, layers: tuple[Layer, ...], settings: dict[str, Any]) -> Image:
    platform = Platform.of_host()
    config = _json(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": {
                "Env": ["PATH=/usr/bin", "PYTHONHOME=/usr"],
                "Cmd": ["python3", "/app/main.py"],
                "Labels": {"org.opencontainers.image.title": app},
                **settings,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created_by": f"files of Python: {layer.name}"} for layer in layers],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [layer.descriptor for layer in layers],
            "annotations": {"org.opencontainers.image.title": app},
        }
    )
    return Image(repo=f"demo/{app}", tag="1", manifest=manifest, config=config, layers=layers)


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
