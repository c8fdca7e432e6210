"""
What goes out to a layout or an archive: an image, its names, and where its bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ullage.archive.listed import CONTAINERD_NAME, REF_NAME, reference_of
from ullage.digest import Hasher
from ullage.errors import DigestMismatch, SizeMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from ullage.digest import Digest
    from ullage.document import Descriptor

__all__ = ["Destination", "Outgoing", "entries_of", "verified"]

_CHUNK_BYTES: Final = 1 << 20


class Readable(Protocol):
    """
    A blob being read: an open file of a store, or a download.
    """

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """
    One image on its way out.

    Args:
        top: the manifest, or the index, that its names denote.
        documents: that document and, of an index, those under it: all manifests and indexes, as they came.
        blobs: configs and layers, each digest once.
        names: references (``docker.io/library/app:1``), or tags alone.
        open: the bytes of one of its blobs, for reading.
    """

    top: Descriptor
    documents: Mapping[Digest, bytes]
    blobs: tuple[Descriptor, ...]
    names: tuple[str, ...]
    open: Callable[[Digest], AbstractContextManager[Readable]]


class Destination(Protocol):
    """
    A layout or an archive being written. Nobody sees it before `finish`, and after `discard` nothing of it is left.

    What goes in is verified. Blobs that are in already, of another image or from before, are not asked for again.
    """

    def add(self, image: Outgoing) -> None: ...

    def finish(self) -> None: ...

    def discard(self) -> None: ...


def entries_of(image: Outgoing) -> list[dict[str, object]]:
    """
    What an ``index.json`` has of an image: one descriptor for each name, or one without.
    """
    top: dict[str, object] = {
        "mediaType": image.top.media_type,
        "digest": image.top.digest,
        "size": image.top.size,
    }
    entries = []
    for name in sorted(set(image.names)):
        annotations = {REF_NAME: name}
        reference = reference_of(name)
        if reference is not None:
            annotations[CONTAINERD_NAME] = str(reference)
        entries.append(top | {"annotations": annotations})
    return entries or [top]


def verified(blob: Descriptor, stream: Readable) -> Iterator[bytes]:
    """
    The bytes of a blob, which are what its descriptor says or end in an exception.
    """
    hasher = Hasher(blob.digest)
    left = blob.size
    while chunk := stream.read(_CHUNK_BYTES):
        left -= len(chunk)
        if left < 0:
            break
        hasher.update(chunk)
        yield chunk
    if left:
        got = "more" if left < 0 else blob.size - left
        raise SizeMismatch(
            f"size mismatch: expected {blob.size} bytes of {blob.digest}, got {got}",
            expected_bytes=blob.size,
            actual_bytes=blob.size - left,
        )
    if not hasher.matches:
        raise DigestMismatch(
            f"digest mismatch: expected {blob.digest}, got {hasher.digest()}",
            expected=blob.digest,
            actual=hasher.digest(),
        )
