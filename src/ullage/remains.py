"""
What is under ``blobs/`` and in ``index.json``, for who has no database: manifests that have all they need.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from ullage.digest import CONTENT_ALGORITHMS, Digest, Hasher
from ullage.document import read_object, text_in
from ullage.errors import ImageError, InvalidReference, StoreCorrupt, StoreError
from ullage.ingest import translated
from ullage.manifest import (
    MAX_DOCUMENT_BYTES,
    Index,
    Manifest,
    is_image_config,
    parse_document,
)
from ullage.reference import Reference
from ullage.repository import Edge, Naming, RestoredName
from ullage.resolve import Plan
from ullage.vocabulary import OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ullage.blobs import BlobFiles
    from ullage.repository import NewImage

__all__ = ["Finds", "Found", "InPlace", "Listing"]

_MAX_INDEX_BYTES: Final = 1 << 30
_CHUNK_BYTES: Final = 1 << 20
_REF_NAME: Final = "org.opencontainers.image.ref.name"


class InPlace:
    """
    The files of a salvage, as admission asks for them: all of them here, none of them to be moved.
    """

    def __init__(self, files: BlobFiles) -> None:
        self._files = files

    def is_here(self, digest: Digest, size: int) -> bool:
        return self._files.is_here(digest, size)

    def discard(self, digests: Sequence[Digest]) -> None:
        raise AssertionError(f"a salvage gives nothing up: {digests}")

    def free_bytes(self) -> int:
        return 1 << 60  # what is here needs no room


@dataclass(frozen=True, slots=True)
class Listing:
    """
    What an ``index.json`` says, if it says anything: names, pins, and the indexes that manifests came by.
    """

    names: tuple[RestoredName, ...] = ()
    pinned: frozenset[str] = frozenset()
    indexes: tuple[tuple[Digest, Digest], ...] = ()
    manifests: tuple[tuple[Digest, str], ...] = ()
    source: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """
        As much of it as can be read; a file that is damaged or not there says nothing.
        """
        try:
            if path.stat().st_size > _MAX_INDEX_BYTES:
                return cls()
            document = json.loads(path.read_bytes())
            entries = document["manifests"]
            assert isinstance(entries, list)
        except (OSError, ValueError, LookupError, TypeError, AssertionError, RecursionError):
            return cls()
        names, pinned, indexes, manifests = [], set(), [], []
        for entry in entries:
            try:
                digest, annotations = Digest.parse(entry["digest"]), entry.get("annotations") or {}
                manifests.append((digest, str(entry.get("mediaType") or "")))
                indexes += [(digest, Digest.parse(each)) for each in _words(annotations, "ullage.indexes")]
                if annotations.get("ullage.pinned") == "true":
                    pinned.add(str(annotations.get("ullage.image")))
                if (name := _name(digest, annotations)) is not None:
                    names.append(name)
            except (InvalidReference, LookupError, TypeError, AttributeError):
                continue  # somebody else's, or damaged: its manifest is found under blobs/ all the same
        return cls(tuple(names), frozenset(pinned), tuple(indexes), tuple(manifests), str(path.name))


def _words(annotations: dict[str, Any], key: str) -> list[str]:
    return str(annotations.get(key) or "").split()


def _name(digest: Digest, annotations: dict[str, Any]) -> RestoredName | None:
    if _REF_NAME not in annotations:
        return None
    reference = Reference.parse(str(annotations[_REF_NAME]))
    resolved = annotations.get("ullage.resolved")
    platform = annotations.get("ullage.platform")
    return RestoredName(
        reference=str(reference),
        is_tag=reference.digest is None,
        manifest=digest,
        digest=digest if resolved is None else Digest.parse(str(resolved)),
        platform=None if platform is None else str(platform),
    )


@dataclass(frozen=True, slots=True)
class Found:
    """
    A manifest under ``blobs/``: the image that it is, with the size of all it needs; or what is the matter with it.
    """

    digest: Digest
    plan: Plan | None = None
    image: NewImage | None = None
    problem: str | None = None


class Finds:
    """
    Everything under ``blobs/``, hashed as it is needed, each file once.
    """

    def __init__(self, files: BlobFiles, listing: Listing) -> None:
        self._files = files
        self._listing = listing
        self._sizes: dict[Digest, int] = {}
        self._hashed: dict[Digest, bool] = {}

    def images(self) -> Iterator[Found]:
        """
        Every manifest that is here or should be, in the order of their digests.
        """
        media_types = dict(self._listing.manifests)
        documents: dict[Digest, Manifest | Index] = {}
        for digest, raw in self._documents():
            try:
                media_type = media_types.get(digest) or _type_of(raw)
                documents[digest] = parse_document(raw, media_type=media_type, digest=digest)
            except ImageError:
                continue  # an image config, or a layer that begins like one
        manifests = {digest: each for digest, each in documents.items() if isinstance(each, Manifest)}
        came_by = self._came_by({d: each for d, each in documents.items() if isinstance(each, Index)})
        for digest in sorted({*manifests, *media_types}):
            manifest = manifests.get(digest)
            if manifest is not None:
                yield self._found(manifest, came_by.get(digest, {}))
            elif digest not in documents:
                yield Found(digest, problem=self._why_not(digest))

    def unused(self, needed: set[Digest]) -> tuple[int, int]:
        """
        How many files nothing needs, and their bytes.
        """
        left = [size for digest, size in self._sizes.items() if digest not in needed]
        return len(left), sum(left)

    # ------------------------------------------------------------------ documents

    def _documents(self) -> Iterator[tuple[Digest, bytes]]:
        with translated():
            for algorithm in CONTENT_ALGORITHMS:
                directory = self._files.root / "blobs" / algorithm
                for entry in os.scandir(directory) if directory.is_dir() else ():
                    try:
                        digest = Digest.parse(f"{algorithm}:{entry.name}")
                    except InvalidReference:
                        continue  # not a name that we give
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    self._sizes[digest] = entry.stat(follow_symlinks=False).st_size
                    raw = self._document(digest)
                    if raw is not None:
                        yield digest, raw

    def _document(self, digest: Digest) -> bytes | None:
        if self._sizes[digest] > MAX_DOCUMENT_BYTES:
            return None
        with self._files.blob_path(digest).open("rb", buffering=0) as file:
            head = file.read(1)
            if head not in (b"{", b" ", b"\n", b"\t", b"\r"):
                return None
            raw = head
            while chunk := file.read(_CHUNK_BYTES):
                raw += chunk
        if b'"layers"' not in raw and b'"manifests"' not in raw:
            return None
        return raw

    def _came_by(self, indexes: dict[Digest, Index]) -> dict[Digest, dict[Digest, Index]]:
        """
        The indexes that each manifest is in, those around them too, and those that the listing says.
        """
        around: dict[Digest, set[Digest]] = {}
        for index in indexes.values():
            for each in index.manifests:
                around.setdefault(each.digest, set()).add(index.digest)
        found: dict[Digest, dict[Digest, Index]] = {}
        for digest in around:
            reached: set[Digest] = set()
            todo = [digest]
            while todo:
                further = around.get(todo.pop(), set()) - reached
                reached |= further
                todo += further
            found[digest] = {outer: indexes[outer] for outer in sorted(reached)}
        for manifest, index_digest in self._listing.indexes:
            if index_digest in indexes:
                found.setdefault(manifest, {})[index_digest] = indexes[index_digest]
        return found

    # ------------------------------------------------------------------ images

    def _found(self, manifest: Manifest, indexes: dict[Digest, Index]) -> Found:
        plan = Plan(
            manifest=manifest,
            documents={manifest.digest: manifest.raw} | {each: index.raw for each, index in indexes.items()},
            indexes=tuple(
                Edge(each.digest, len(each.raw), "index", each.media_type) for each in indexes.values()
            ),
            naming=Naming("", "", "", repo=None, repo_tag=None, digest=manifest.digest, platform=None),
        )
        try:
            for digest, size in plan.wanted.items():
                problem = self._what_is_wrong(digest, size)
                if problem is not None:
                    return Found(manifest.digest, problem=f"{digest} {problem}")
            config = None
            if is_image_config(manifest.config.media_type):
                config = self._files.read(manifest.config.digest, max_bytes=MAX_DOCUMENT_BYTES)
            return Found(manifest.digest, plan, plan.image(config))
        except ImageError as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreCorrupt):
                raise  # that is the disk
            return Found(manifest.digest, problem=f"it cannot be used: {error}")

    def _what_is_wrong(self, digest: Digest, size: int) -> str | None:
        if digest not in self._sizes:
            return "is not here"
        if self._sizes[digest] != size:
            return f"has {self._sizes[digest]} bytes, and should have {size}"
        if digest not in self._hashed:
            self._hashed[digest] = self._has_its_digest(digest)
        return None if self._hashed[digest] else "has other bytes than its digest says"

    def _has_its_digest(self, digest: Digest) -> bool:
        hasher = Hasher(digest)
        try:
            with self._files.blob_path(digest).open("rb", buffering=0) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    hasher.update(chunk)
        except OSError as error:
            raise StoreError(f"cannot read blob {digest}: {error.strerror}") from error
        return hasher.matches

    def _why_not(self, digest: Digest) -> str:
        if digest not in self._sizes:
            return "it is listed, and is not here"
        return "it is listed, and its bytes are no manifest of that digest"


def _type_of(raw: bytes) -> str:
    """
    The media type of a document that nobody declared: its own, or by what is in it.
    """
    document = read_object(raw)
    stated = text_in(document, "mediaType")
    return stated or (OCI_INDEX if "manifests" in document else OCI_MANIFEST)
