"""
Small images whose every byte is known, pushed to a registry of the tests.

    image = ImageBuilder(registry, "app").layer({"etc/a": b"x"}).push("1")
    image.manifest.digest, image.layers[0].raw, image.reference

The same calls give the same bytes, today and tomorrow.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ullage.digest import Digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ullage.demo.registry import LoopbackRegistry

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass(frozen=True)
class Blob:
    """
    Bytes with their media type: a layer, a config, a manifest or an index.
    """

    raw: bytes = field(repr=False)
    media_type: str
    algorithm: str = "sha256"

    @property
    def digest(self) -> Digest:
        return digest_of(self.raw, self.algorithm)

    @property
    def size(self) -> int:
        return len(self.raw)

    @property
    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Image:
    """
    What was pushed. ``reference`` is what to pull, ``size`` the bytes of its distinct blobs.
    """

    host: str
    repo: str
    tag: str | None
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    diff_ids: tuple[str, ...]
    index: Blob | None = None

    @property
    def name(self) -> str:
        return f"{self.host}/{self.repo}"

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.tag}" if self.tag else self.repo_digest

    @property
    def digest(self) -> Digest:
        """
        What the reference denotes: the digest of the index where there is one.
        """
        return (self.index or self.manifest).digest

    @property
    def repo_digest(self) -> str:
        return f"{self.name}@{self.digest}"

    @property
    def image_id(self) -> Digest:
        return self.config.digest if "image" in self.config.media_type else self.manifest.digest

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """
        All that a pull stores, each digest once.
        """
        every = (*((self.index,) if self.index else ()), self.manifest, self.config, *self.layers)
        return tuple({blob.digest: blob for blob in every}.values())

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """
    A tar archive of *files*, with nothing of this machine or of today in it.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def gzip_of(data: bytes) -> bytes:
    """
    A gzip member without a name, without a time and without compression.

    Stored blocks, written here: what zlib makes of the same bytes differs from one version to the next.
    """
    blocks = [data[at : at + 65535] for at in range(0, len(data), 65535)] or [b""]
    stored = b"".join(
        struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF) + block
        for number, block in enumerate(blocks, 1)
    )
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    return header + stored + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def noise(size: int, seed: str = "") -> bytes:
    """
    Bytes that do not compress and are the same each time.
    """
    return hashlib.shake_128(seed.encode()).digest(size)


def json_of(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


class ImageBuilder:
    """
    Builds one image and puts it into *registry*. Each method returns the builder.

    Args:
        docker: Docker's schema 2 media types instead of OCI's.
        platform: ``os/architecture[/variant]``.
        algorithm: of the digests of config and layers.
    """

    def __init__(
        self,
        registry: LoopbackRegistry,
        repo: str,
        *,
        docker: bool = False,
        platform: str = "linux/amd64",
        algorithm: str = "sha256",
    ):
        self._registry, self._repo, self._docker = registry, repo, docker
        self._os, self._architecture, *variant = platform.split("/")
        self._variant = variant[0] if variant else None
        self._algorithm = algorithm
        self._layers: list[Blob] = []
        self._diff_ids: list[str] = []
        self._config: dict[str, object] = {}
        self._annotations: dict[str, str] = {}
        self._artifact: tuple[str, Blob] | None = None
        self._manifest_extra: dict[str, object] = {}

    def layer(self, files: Mapping[str, bytes]) -> ImageBuilder:
        """
        A gzipped tar of *files*.
        """
        tar = tar_of(files)
        return self.raw_layer(gzip_of(tar), diff_id=digest_of(tar))

    def noise_layer(self, size: int, seed: str = "") -> ImageBuilder:
        """
        A layer of one file that does not compress: a little over *size* bytes.
        """
        return self.layer({f"noise{seed}": noise(size, seed)})

    def raw_layer(
        self, raw: bytes, *, diff_id: str | None = None, media_type: str | None = None
    ) -> ImageBuilder:
        """
        These bytes, whatever they are.
        """
        media_type = media_type or (DOCKER_LAYER if self._docker else OCI_LAYER)
        self._layers.append(Blob(raw, media_type, self._algorithm))
        self._diff_ids.append(diff_id or digest_of(raw))
        return self

    def config(self, **settings: object) -> ImageBuilder:
        """
        Settings of the container: ``User="1000"``, ``Env=[…]``.
        """
        self._config |= settings
        return self

    def annotate(self, **annotations: str) -> ImageBuilder:
        self._annotations |= annotations
        return self

    def artifact(
        self, artifact_type: str, config: bytes = b"{}", config_type: str = OCI_EMPTY
    ) -> ImageBuilder:
        """
        No image: any config, any layers.
        """
        self._artifact = (artifact_type, Blob(config, config_type, self._algorithm))
        return self

    def manifest_fields(self, **fields: object) -> ImageBuilder:
        """
        Fields of the manifest to add or to override, to make a bad one.
        """
        self._manifest_extra |= fields
        return self

    def build(self) -> Image:
        """
        The image, without serving it.
        """
        config = self._config_blob()
        manifest = self._manifest_blob(config)
        layers, diff_ids = tuple(self._layers), tuple(self._diff_ids)
        return Image(self._registry.host, self._repo, None, manifest, config, layers, diff_ids)

    def push(self, *tags: str) -> Image:
        """
        Serve the image under *tags*, or under its digest alone.
        """
        image = self.build()
        for blob in (image.config, *image.layers):
            self._registry.add_blob(blob.raw, algorithm=blob.algorithm)
        self._registry.add_manifest(self._repo, image.manifest.raw, image.manifest.media_type, tags)
        return replace(image, tag=tags[0] if tags else None)

    @property
    def platform(self) -> dict[str, str]:
        platform = {"os": self._os, "architecture": self._architecture}
        return platform | ({"variant": self._variant} if self._variant else {})

    def _config_blob(self) -> Blob:
        if self._artifact is not None:
            return self._artifact[1]
        content = {
            **self.platform,
            "config": self._config,
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
            "history": [{"created_by": f"layer {number}"} for number in range(len(self._layers))],
        }
        return Blob(json_of(content), DOCKER_CONFIG if self._docker else OCI_CONFIG, self._algorithm)

    def _manifest_blob(self, config: Blob) -> Blob:
        media_type = DOCKER_MANIFEST if self._docker else OCI_MANIFEST
        content: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor,
            "layers": [layer.descriptor for layer in self._layers],
        }
        if self._artifact is not None:
            content["artifactType"] = self._artifact[0]
        if self._annotations:
            content["annotations"] = self._annotations
        return Blob(json_of(content | self._manifest_extra), media_type)


def push_index(
    registry: LoopbackRegistry,
    repo: str,
    builders: Sequence[ImageBuilder],
    *tags: str,
    docker: bool = False,
    extra: Sequence[dict[str, object]] = (),
) -> tuple[Image, ...]:
    """
    An index (or a Docker manifest list) over the images of *builders*, in their order.

    Returns one `Image` for each builder, all with the index; *extra* are further descriptors in it.
    """
    images = tuple(builder.push() for builder in builders)
    media_type = DOCKER_LIST if docker else OCI_INDEX
    content = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [
            *(
                image.manifest.descriptor | {"platform": builder.platform}
                for image, builder in zip(images, builders, strict=True)
            ),
            *extra,
        ],
    }
    index = Blob(json_of(content), media_type)
    registry.add_manifest(repo, index.raw, index.media_type, tags)
    return tuple(replace(image, tag=tags[0] if tags else None, index=index) for image in images)
