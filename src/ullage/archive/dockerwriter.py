"""
Docker archives being written: what ``docker load``, ``podman load`` and skopeo read.

Layers lie there as tars, so those of the image are decompressed, and have to be what its config says.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from ullage.archive.beside import Beside
from ullage.archive.docker import MANIFEST
from ullage.archive.listed import reference_of
from ullage.archive.outgoing import verified
from ullage.archive.tarwriter import TarWriter
from ullage.errors import ContentError, InvalidArchive, UnsupportedContent
from ullage.image_config import is_image_config, parse_config
from ullage.layer import LayerStream
from ullage.manifest import Manifest, parse_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.archive.beside import Stdout
    from ullage.archive.outgoing import Outgoing
    from ullage.digest import Digest
    from ullage.document import Descriptor

__all__ = ["DockerArchiveWriter"]

_ALL: Final = 1 << 62
#: What may follow the archive in a layer: padding, of any size that is meant seriously.
_MAX_PADDING_BYTES: Final = 1 << 40


class DockerArchiveWriter:
    """
    A Docker archive: `Destination`. The same images in the same order give the same bytes.

    Raises:
        UnsupportedContent: an image is no image: an artifact, or several platforms.
        InvalidArchive: two images have one tag.
        DigestMismatch: a layer is not what the config says.
    """

    def __init__(self, out: Beside | Stdout) -> None:
        self._out = out
        self._tar = TarWriter(out)
        self._written: set[str] = set()
        self._entries: list[dict[str, object]] = []
        self._owners: dict[str, Digest] = {}

    def add(self, image: Outgoing) -> None:
        manifest = parse_document(
            image.documents[image.top.digest], media_type=image.top.media_type, digest=image.top.digest
        )
        if not isinstance(manifest, Manifest) or not is_image_config(manifest.config.media_type):
            raise UnsupportedContent(
                f"a Docker archive has images of one platform, and {image.top.digest} is none",
                media_type=image.top.media_type,
                hint="export it to an OCI layout or archive",
            )
        with image.open(manifest.config.digest) as stream:
            config = b"".join(verified(manifest.config, stream))
        diff_ids = parse_config(config).diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise ContentError(
                f"the config of {image.top.digest} has {len(diff_ids)} diff ids for {len(manifest.layers)} layers"
            )
        tags = self._tags(image, manifest.config.digest)
        names = [f"{diff_id.encoded}.tar" for diff_id in diff_ids]
        for name, layer, diff_id in sorted(
            zip(names, manifest.layers, diff_ids, strict=True), key=lambda each: each[0]
        ):
            if name not in self._written:
                self._written.add(name)
                self._layer(name, image, layer, diff_id)
        name = f"{manifest.config.digest.encoded}.json"
        if name not in self._written:
            self._written.add(name)
            self._tar.file(name, len(config), [config])
        self._entries.append({"Config": name, "RepoTags": tags or None, "Layers": names})

    def finish(self) -> None:
        raw = json.dumps(self._entries, separators=(",", ":")).encode()
        self._tar.file(MANIFEST, len(raw), [raw])
        self._tar.finish()
        self._out.finish()

    def discard(self) -> None:
        self._out.discard()

    def _tags(self, image: Outgoing, config: Digest) -> list[str]:
        references = [reference_of(name) for name in sorted(set(image.names))]
        tags = [str(each) for each in references if each is not None and each.tag is not None]
        for tag in tags:
            if self._owners.setdefault(tag, config) != config:
                raise InvalidArchive(f"{tag} would denote two images", path=tag)
        return tags

    def _layer(self, name: str, image: Outgoing, layer: Descriptor, diff_id: Digest) -> None:
        """
        A layer as a tar. How long it is, is known when it is decompressed: a file gets the header then, and into a pipe
        it goes the second time.
        """
        if isinstance(self._out, Beside):
            at = self._out.tell()
            self._tar.file(name, 0, [])
            size = 0
            for piece in self._pieces(image, layer, diff_id):
                self._out.write(piece)
                size += len(piece)
            self._tar.pad(size)
            self._out.patch(at, self._tar.header(name, size))
        else:
            size = sum(len(piece) for piece in self._pieces(image, layer, diff_id))
            self._tar.file(name, size, self._pieces(image, layer, diff_id))

    def _pieces(self, image: Outgoing, layer: Descriptor, diff_id: Digest) -> Iterator[memoryview]:
        with (
            image.open(layer.digest) as blob,
            LayerStream(blob, diff_id=diff_id, digest=layer.digest, size=layer.size) as stream,
        ):
            yield from stream.parts(_ALL)
            stream.finish(max_bytes=_MAX_PADDING_BYTES)
