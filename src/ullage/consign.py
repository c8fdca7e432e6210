"""
An image made ready to go from one place to another: which documents, which blobs, and where its bytes are.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from ullage.archive import Outgoing
from ullage.digest import Digest, Hasher, digest_of
from ullage.errors import (
    DigestMismatch,
    ImageNotFound,
    InvalidManifest,
    NoMatchingPlatform,
    SizeMismatch,
)
from ullage.manifest import (
    MAX_DOCUMENT_BYTES,
    MAX_INDEX_DEPTH,
    Index,
    is_image_config,
    parse_config,
    parse_document,
    select_manifest,
)
from ullage.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from ullage.archive.outgoing import Readable
    from ullage.document import Descriptor
    from ullage.manifest import Manifest
    from ullage.registry import FetchedManifest

__all__ = ["Giver", "consign"]

#: Documents of one image with all its platforms and attestations.
_MAX_DOCUMENTS: Final = 1000
_CHUNK_BYTES: Final = 256 * 1024


class Giver(Protocol):
    """
    Who has the image: a repo of a registry, a layout or an archive, a store.
    """

    def get_manifest(self, ref: str, /) -> FetchedManifest: ...

    def open_blob(self, digest: Digest, /, *, size: int) -> AbstractContextManager[Readable]: ...


def consign(
    giver: Giver,
    ref: str,
    *,
    platform: Platform | None,
    every: bool,
    sparse: bool = False,
    names: tuple[str, ...] = (),
) -> Outgoing:
    """
    What *ref*, a tag or a digest, is at *giver*: of an index the image of *platform*, or this machine's, or all of it.

    With *sparse*, all of it that is there: the index is the same, and names what does not go with it.

    Raises:
        ManifestUnknown: there is no such image.
        NoMatchingPlatform: there is none for *platform*.
        UnsupportedContent, ContentError: what is there is broken, or no image.
    """
    fetched = giver.get_manifest(ref)
    named = Digest(ref) if ":" in ref else fetched.digest
    top = parse_document(fetched.raw, media_type=fetched.media_type, digest=named or digest_of(fetched.raw))
    if every:
        documents = _everything(giver, top, sparse=sparse)
    else:
        documents = [_chosen(giver, top, platform)]
        top = documents[0]
    manifests = [each for each in documents if not isinstance(each, Index)]
    blobs = {blob.digest: blob for each in manifests for blob in each.blobs}
    for each in blobs.values():
        each.require_supported()

    @contextmanager
    def opened(digest: Digest) -> Iterator[Readable]:
        with giver.open_blob(digest, size=blobs[digest].size) as stream:
            yield stream

    return Outgoing(
        top=top.descriptor,
        documents={each.digest: each.raw for each in documents},
        blobs=tuple(blobs.values()),
        names=names,
        open=opened,
    )


def _chosen(giver: Giver, top: Manifest | Index, platform: Platform | None) -> Manifest:
    def fetch(descriptor: Descriptor) -> bytes:
        if is_image_config(descriptor.media_type):
            return _config(giver, descriptor)
        return giver.get_manifest(descriptor.digest).raw

    _, manifest = select_manifest(top, platform or Platform.of_host(), fetch)
    if platform is not None and not isinstance(top, Index) and is_image_config(manifest.config.media_type):
        # A platform was asked for, and there was no index to choose from.
        own = parse_config(_config(giver, manifest.config)).platform.normalised()
        if own != platform.normalised():
            raise NoMatchingPlatform(
                f"it is an image for {own}, not for {platform}",
                platform=str(platform),
                available=(str(own),),
            )
    return manifest


def _everything(giver: Giver, top: Manifest | Index, *, sparse: bool) -> list[Manifest | Index]:
    found: dict[Digest, Manifest | Index] = {top.digest: top}
    waiting: list[tuple[Index, int]] = [(top, 1)] if isinstance(top, Index) else []
    while waiting:
        index, depth = waiting.pop(0)
        if depth > MAX_INDEX_DEPTH:
            raise InvalidManifest(f"indexes within indexes: more than {MAX_INDEX_DEPTH} deep")
        for entry in index.manifests:
            if entry.digest in found:
                continue
            if len(found) >= _MAX_DOCUMENTS:
                raise InvalidManifest(f"index of more than {_MAX_DOCUMENTS} documents")
            entry.require_supported()
            try:
                raw = giver.get_manifest(entry.digest).raw
            except ImageNotFound:
                if not sparse:
                    raise
                continue
            document = parse_document(raw, media_type=entry.media_type, digest=entry.digest)
            found[entry.digest] = document
            if isinstance(document, Index):
                waiting.append((document, depth + 1))
    return list(found.values())


def _config(giver: Giver, descriptor: Descriptor) -> bytes:
    if descriptor.size > MAX_DOCUMENT_BYTES:
        raise InvalidManifest(f"config too large: {descriptor.size} bytes, limit {MAX_DOCUMENT_BYTES}")
    data = bytearray()
    with giver.open_blob(descriptor.digest, size=descriptor.size) as stream:
        while len(data) <= descriptor.size and (chunk := stream.read(_CHUNK_BYTES)):
            data += chunk
    hasher = Hasher(descriptor.digest)
    hasher.update(data)
    if len(data) != descriptor.size:
        raise SizeMismatch(
            f"size mismatch: expected {descriptor.size} bytes of {descriptor.digest}, got {len(data)}",
            expected_bytes=descriptor.size,
            actual_bytes=len(data),
        )
    if not hasher.matches:
        raise DigestMismatch(
            f"digest mismatch: expected {descriptor.digest}, got {hasher.digest()}",
            expected=descriptor.digest,
            actual=hasher.digest(),
        )
    return bytes(data)
