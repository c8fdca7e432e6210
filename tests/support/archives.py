"""
Layouts and archives of small images, as tools write them, and as nobody should.

    layout = Layout(tmp_path / "layout")
    layout.add(ImageBuilder(registry, "app").layer({"a": b"x"}).build(), "app:1")
    layout.write(); tar_of_folder(layout.path)

The images are those of `support.images`, so every byte is known.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from support.images import ImageBuilder, json_of, noise, tar_of
from ullage.archive import CONTAINERD_NAME, REF_NAME
from ullage.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from support.images import Image

__all__ = ["NOWHERE", "DockerSave", "Layout", "Link", "Saved", "built", "saved", "tar_bytes"]

#: Of images that no registry has.
NOWHERE = SimpleNamespace(host="example.com")


class Layout:
    """
    An OCI image layout below *path*: written by `write`, and after that a directory like any other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self.version = "1.0.0"

    def add(self, image: Image, *names: str, containerd: str | None = None) -> Layout:
        """
        List *image* under each of *names*, or without a name; with its content.
        """
        for blob in image.blobs:
            self.blobs[f"{blob.algorithm}/{blob.digest.encoded}"] = blob.raw
        top = image.index or image.manifest
        for name in names or (None,):
            annotations = {} if name is None else {REF_NAME: name}
            annotations |= {} if containerd is None else {CONTAINERD_NAME: containerd}
            self.entries.append(top.descriptor | ({"annotations": annotations} if annotations else {}))
        return self

    @property
    def files(self) -> dict[str, bytes]:
        index = {"schemaVersion": 2, "manifests": self.entries}
        return {
            "oci-layout": json_of({"imageLayoutVersion": self.version}),
            "index.json": json_of(index),
            **{f"blobs/{name}": raw for name, raw in sorted(self.blobs.items())},
        }

    def write(self) -> Path:
        for name, raw in self.files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(raw)
        return self.path

    def archive(self, path: Path) -> Path:
        path.write_bytes(tar_bytes(self.files))
        return path


@dataclass(frozen=True)
class Saved:
    """
    An image as an archive of docker's has it: config, uncompressed layers, names.
    """

    config: bytes
    layers: tuple[bytes, ...]
    tags: tuple[str, ...]

    @property
    def image_id(self) -> str:
        return digest_of(self.config)


class DockerSave:
    """
    What ``docker save`` writes, in its *old* form (a directory for each layer) or in skopeo's (files named by diff id).
    """

    def __init__(self, *, old: bool = False) -> None:
        self.old = old
        self.files: dict[str, bytes | Link] = {}
        self.entries: list[dict[str, Any]] = []

    def add(self, image: Saved) -> DockerSave:
        names = []
        for layer in image.layers:
            encoded = digest_of(layer).encoded
            if self.old:
                folder = digest_of(f"{len(self.files)} {encoded}".encode()).encoded
                self.files[f"{folder}/VERSION"] = b"1.0"
                self.files[f"{folder}/json"] = json_of({"id": folder})
                known = next((name for name, raw in self.files.items() if raw == layer), None)
                self.files[f"{folder}/layer.tar"] = layer if known is None else Link(f"../{known}")
                names.append(f"{folder}/layer.tar")
            else:
                self.files[f"{encoded}.tar"] = layer
                names.append(f"{encoded}.tar")
        config = f"{digest_of(image.config).encoded}.json"
        self.files[config] = image.config
        self.entries.append({"Config": config, "RepoTags": list(image.tags) or None, "Layers": names})
        return self

    def archive(self, path: Path, **manifest: Any) -> Path:
        """
        Write it; *manifest* overrides fields of its last image.
        """
        self.entries[-1] |= manifest
        path.write_bytes(tar_bytes(self.files | {"manifest.json": json.dumps(self.entries).encode()}))
        return path


@dataclass(frozen=True)
class Link:
    """
    A symbolic link in an archive.
    """

    target: str


def tar_bytes(files: Mapping[str, bytes | Link] | Iterable[tuple[str, bytes | Link]]) -> bytes:
    """
    A tar of *files* in their order; pairs may name one twice.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items() if hasattr(files, "items") else files:
            entry = tarfile.TarInfo(name)
            if isinstance(content, Link):
                entry.type, entry.linkname = tarfile.SYMTYPE, content.target
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def built(repo: str = "app", *layers: dict[str, bytes] | int, **options: Any) -> Image:
    """
    An image with *layers*: their files, or how many bytes of noise.
    """
    builder = ImageBuilder(NOWHERE, repo, **options)
    for number, each in enumerate(layers or ({"etc/a": b"a"},)):
        builder.layer(each if isinstance(each, dict) else {f"noise{number}": noise(each, f"{repo}{number}")})
    return builder.build()


def saved(*tags: str, layers: Iterable[dict[str, bytes]] = ({"etc/a": b"a"},), seed: str = "") -> Saved:
    """
    An image as docker saves it; those of another *seed* differ in their configs alone.
    """
    tars = tuple(tar_of(each) for each in layers)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "author": seed,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
    }
    return Saved(json_of(config), tars, tags)
