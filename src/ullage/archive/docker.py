"""
Docker archives: what ``docker save``, ``podman save`` and ``skopeo copy … docker-archive:`` write.

A ``manifest.json`` lists the images: the file of the config, the files of the layers, the names. There is no manifest
in the sense of a registry, so one is made here: an OCI manifest with the config as it is and the layers as they lie
there, the same each time. The config is kept byte for byte, so an image that comes by an archive has the image id that
it has everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ullage.archive.files import Part, read_all, shown
from ullage.archive.listed import Listed
from ullage.digest import Digest, Hasher, digest_of
from ullage.document import MAX_DOCUMENT_BYTES, Descriptor, list_in, read_list, strings_in, text_in
from ullage.errors import DigestMismatch, InvalidArchive, InvalidManifest, InvalidReference
from ullage.image_config import MAX_LAYERS, parse_config
from ullage.layer import decompressed
from ullage.reference import Reference
from ullage.vocabulary import OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ullage.archive.files import Files

__all__ = ["MANIFEST", "DockerArchive"]

MANIFEST: Final = "manifest.json"
_MAX_MANIFEST_BYTES: Final = 64 << 20
_MAX_IMAGES: Final = 100_000
_OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_CHUNK_BYTES: Final = 256 << 10
_COMPRESSED: Final = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}


@dataclass(slots=True)
class _Blobs:
    """
    Where the content is: in a file of the archive, or made here.
    """

    files: dict[Digest, str] = field(default_factory=dict)
    made: dict[Digest, bytes] = field(default_factory=dict)


class DockerArchive:
    """
    An archive that was opened: `Content`.

    Layers are looked at and not read, for the config says what they have to be; only those that lie there compressed
    are read once more, because nothing says what their bytes are.

    Raises:
        InvalidArchive: what ``manifest.json`` names is not there, or one tag denotes two images.
        DigestMismatch: a config is not what its name says, or a layer not what the config says.
        InvalidManifest: ``manifest.json`` or a config is none.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self.where = files.where
        self._blobs = _Blobs()
        self._compressed: dict[str, Descriptor] = {}
        raw = read_all(files, MANIFEST, max_bytes=_MAX_MANIFEST_BYTES)
        if raw is None:
            raise InvalidArchive(
                f"{self.where}: no {MANIFEST} and no {'oci-layout'}: no archive of images",
                path=self.where,
                hint="what docker before 1.10 wrote is not read"
                if files.size_of("repositories") is not None
                else None,
            )
        try:
            self.images: Sequence[Listed] = self._listed(read_list(raw, max_bytes=_MAX_MANIFEST_BYTES))
        except InvalidManifest as error:
            raise InvalidManifest(f"{self.where}: {error.message}") from error

    def size_of(self, digest: Digest) -> int | None:
        made = self._blobs.made.get(digest)
        if made is not None:
            return len(made)
        name = self._blobs.files.get(digest)
        return None if name is None else self._files.size_of(name)

    def open(self, digest: Digest, offset: int) -> Part:
        made = self._blobs.made.get(digest)
        if made is not None:
            return Part(lambda at, size: made[at : at + size], offset=offset, end=len(made))
        return self._files.open(self._blobs.files[digest], offset)

    def read(self, digest: Digest, *, max_bytes: int) -> bytes | None:
        made = self._blobs.made.get(digest)
        if made is not None:
            return made
        name = self._blobs.files.get(digest)
        return None if name is None else read_all(self._files, name, max_bytes=max_bytes)

    def close(self) -> None:
        self._files.close()

    # ------------------------------------------------------------------ what is listed

    def _listed(self, entries: list[Any]) -> list[Listed]:
        if len(entries) > _MAX_IMAGES:
            raise InvalidManifest(f"{MANIFEST}: {len(entries)} images, limit {_MAX_IMAGES}")
        found: dict[Digest, Listed] = {}
        owners: dict[Reference, Digest] = {}
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise InvalidManifest(f"{MANIFEST}[{number}]: expected an object")
            descriptor = self._image(entry, f"{MANIFEST}[{number}].")
            names = strings_in(entry, "RepoTags", f"{MANIFEST}[{number}].")
            for name in names:
                reference = self._reference(name)
                if owners.setdefault(reference, descriptor.digest) != descriptor.digest:
                    raise InvalidArchive(f"{self.where}: {shown(name)} denotes two images", path=self.where)
            known = found.get(descriptor.digest)
            before = () if known is None else known.names
            found[descriptor.digest] = Listed(descriptor, tuple(dict.fromkeys((*before, *names))))
        return list(found.values())

    def _reference(self, name: str) -> Reference:
        try:
            return Reference.parse(name)
        except InvalidReference as error:
            raise InvalidArchive(f"{self.where}: RepoTags: {error.message}", path=self.where) from error

    def _image(self, entry: dict[str, Any], where: str) -> Descriptor:
        config = self._config(text_in(entry, "Config", where))
        diff_ids = parse_config(self._blobs.made[config.digest]).diff_ids
        paths = strings_in(entry, "Layers", where)
        list_in(entry, "Layers", where, limit=MAX_LAYERS)
        if len(paths) != len(diff_ids):
            raise InvalidManifest(f"{where}Layers: {len(paths)} layers, and its config says {len(diff_ids)}")
        layers = [self._layer(path, diff_id) for path, diff_id in zip(paths, diff_ids, strict=True)]
        raw = _manifest_of(config, layers)
        digest = digest_of(raw)
        self._blobs.made[digest] = raw
        return Descriptor(OCI_MANIFEST, digest, len(raw))

    def _config(self, path: str) -> Descriptor:
        raw = read_all(self._files, _clean(path), max_bytes=MAX_DOCUMENT_BYTES)
        if raw is None:
            raise self._missing(path)
        digest = digest_of(raw)
        # Writers name it by its digest; a name that is none says nothing.
        encoded = path.rpartition("/")[2].removesuffix(".json")
        if len(encoded) == len(digest.encoded) and encoded != digest.encoded and _is_hex(encoded):
            raise DigestMismatch(
                f"digest mismatch: the config {shown(path)} has {digest}",
                expected=f"sha256:{encoded}",
                actual=digest,
            )
        self._blobs.made[digest] = raw
        return Descriptor(_OCI_CONFIG, digest, len(raw))

    def _layer(self, path: str, diff_id: Digest) -> Descriptor:
        name = _clean(path)
        size = self._files.size_of(name)
        if size is None:
            raise self._missing(path)
        descriptor = Descriptor(_OCI_LAYER, diff_id, size)
        descriptor.require_supported()
        head = self._peek(name)
        for magic, suffix in _COMPRESSED.items():
            if head.startswith(magic):
                descriptor = self._compressed_layer(name, diff_id, size, suffix)
        self._blobs.files.setdefault(descriptor.digest, name)
        return descriptor

    def _compressed_layer(self, name: str, diff_id: Digest, size: int, suffix: str) -> Descriptor:
        """
        A layer that lies there compressed is kept so: what it is called is found out by reading it.
        """
        if name in self._compressed:
            return self._compressed[name]
        inside, outside = Hasher(diff_id), Hasher(Digest("sha256:" + "0" * 64))
        part = self._files.open(name)

        def read(amount: int) -> bytes:
            data = part.read(amount)
            outside.update(data)
            return data

        try:
            for piece in decompressed(read):
                inside.update(piece)
        finally:
            part.close()
        if not inside.matches:
            raise DigestMismatch(
                f"digest mismatch of the layer {shown(name)}: expected {diff_id}, got {inside.digest()}",
                expected=diff_id,
                actual=inside.digest(),
            )
        self._compressed[name] = Descriptor(f"{_OCI_LAYER}{suffix}", outside.digest(), size)
        return self._compressed[name]

    def _peek(self, name: str) -> bytes:
        part = self._files.open(name)
        try:
            return part.read(4)
        finally:
            part.close()

    def _missing(self, path: str) -> InvalidArchive:
        return InvalidArchive(
            f"{self.where}: {MANIFEST} names {shown(path)!r}, and the archive has no such file",
            path=self.where,
        )


def _manifest_of(config: Descriptor, layers: list[Descriptor]) -> bytes:
    """
    The manifest of an image that came without one: the same bytes today and tomorrow.
    """

    def plain(descriptor: Descriptor) -> dict[str, object]:
        return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}

    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": plain(config),
        "layers": [plain(layer) for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _clean(path: str) -> str:
    """
    A path as entries are called. One that leads out of the archive is a name that no entry has.
    """
    return "/".join(each for each in path.split("/") if each not in ("", "."))


def _is_hex(text: str) -> bool:
    return all(each in "0123456789abcdef" for each in text)
