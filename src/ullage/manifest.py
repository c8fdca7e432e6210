"""
Manifests and indexes: raw bytes in, checked values out, and which of several is pulled.

What a media type makes of a document, and which manifest of an index is chosen
for a host, is as containerd has it (``core/images``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from ullage.digest import Digest, Hasher, digest_of
from ullage.document import (
    MAX_CONTENT_BYTES,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    annotations_in,
    descriptor_in,
    descriptors_in,
    platform_in,
    read_object,
    text_in,
)
from ullage.errors import (
    DigestMismatch,
    InvalidManifest,
    NoMatchingPlatform,
    SizeMismatch,
    UnsupportedContent,
)
from ullage.image_config import MAX_LAYERS, ImageConfig, is_image_config, parse_config
from ullage.matcher import only
from ullage.vocabulary import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ullage.matcher import Matcher
    from ullage.platform import Platform

__all__ = [
    "ACCEPT",
    "MAX_CONTENT_BYTES",
    "MAX_DOCUMENT_BYTES",
    "MAX_INDEX_DEPTH",
    "MAX_LAYERS",
    "MAX_MANIFESTS",
    "MAX_PLATFORMS",
    "OCI_INDEX",
    "Descriptor",
    "ImageConfig",
    "Index",
    "Manifest",
    "choose",
    "document_kind",
    "every_manifest",
    "is_image_config",
    "is_index",
    "is_manifest",
    "parse_config",
    "parse_document",
    "select_manifest",
]

_SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

#: What a pull asks a registry for, in this order.
ACCEPT: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
#: Entries of one index.
MAX_MANIFESTS: Final = 10_000
#: Indexes within indexes. One that points to itself ends here.
MAX_INDEX_DEPTH: Final = 8
#: Documents that a pull of every platform reads below its index.
MAX_PLATFORMS: Final = 100


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    One image, or an artifact: a config and layers.
    """

    raw: bytes = field(repr=False)
    digest: Digest
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None
    annotations: Mapping[str, str] = field(hash=False)
    artifact_type: str

    @property
    def descriptor(self) -> Descriptor:
        """
        What names this document.
        """
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """
        The content it names, config first, each digest once.
        """
        distinct: dict[Digest, Descriptor] = {}
        for each in (self.config, *self.layers):
            distinct.setdefault(each.digest, each)
        return tuple(distinct.values())


@dataclass(frozen=True, slots=True)
class Index:
    """
    Manifests for several platforms, or further indexes.
    """

    raw: bytes = field(repr=False)
    digest: Digest
    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    annotations: Mapping[str, str] = field(hash=False)
    artifact_type: str

    @property
    def descriptor(self) -> Descriptor:
        """
        What names this document.
        """
        return Descriptor(self.media_type, self.digest, len(self.raw))


def is_manifest(media_type: str) -> bool:
    """
    A document of this type is one image's manifest. (Go: ``IsManifestType``)
    """
    return media_type in (OCI_MANIFEST, DOCKER_MANIFEST)


def is_index(media_type: str) -> bool:
    """
    A document of this type lists manifests. (Go: ``IsIndexType``)
    """
    return media_type in (OCI_INDEX, DOCKER_LIST)


def document_kind(raw: bytes, *, media_type: str) -> Literal["manifest", "index"]:
    """
    What the declared *media_type* makes of a document, if the document bears it out.

    Nothing is guessed: a document of another type, or of none, is not looked at.

    Raises:
        UnsupportedContent: the type is no manifest's and no index's, or the
            document is of Docker's schema 1.
        InvalidManifest: it is no JSON object, or has in it what belongs to the other kind.
    """
    _require_known(media_type)
    return _kind(read_object(raw), media_type)


def parse_document(raw: bytes, *, media_type: str, digest: Digest | None = None) -> Manifest | Index:
    """
    Read a manifest or an index. The bytes are kept as they came.

    It is read as leniently as a pull can afford: registries serve documents
    that break image-spec's schema (an empty list of layers, no schemaVersion, a
    layer without a media type). What must hold is what a pull relies on: a
    config, digests and sizes. `ullage.conformance` has the strict checks.

    Args:
        media_type: what the registry declared, empty where it said nothing.
        digest: what the bytes were promised to be.

    Raises:
        UnsupportedContent: see `document_kind`; or a config or a layer is named
            by a digest that we cannot verify.
        DigestMismatch: the bytes are others.
        InvalidManifest: it is no such document, or over a limit.
    """
    _require_known(media_type)
    document = read_object(raw)
    kind = _kind(document, media_type)
    if digest is None:
        digest = digest_of(raw)
    else:
        _verify(raw, digest)
    version = document.get("schemaVersion")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise InvalidManifest("schemaVersion: expected a number")
    subject = descriptor_in(document, "subject")
    annotations, artifact_type = annotations_in(document), text_in(document, "artifactType")
    if kind == "index":
        manifests = descriptors_in(document, "manifests", limit=MAX_MANIFESTS)
        return Index(raw, digest, media_type, manifests, subject, annotations, artifact_type)
    config = descriptor_in(document, "config")
    if config is None:
        raise InvalidManifest("manifest without a config")
    layers = descriptors_in(document, "layers", limit=MAX_LAYERS)
    _require_pullable((config, *layers))
    return Manifest(raw, digest, media_type, config, layers, subject, annotations, artifact_type)


def choose(index: Index, matcher: Matcher) -> list[Descriptor]:
    """
    The entries of *index* that fit, best first; equals stay in the index's order.

    An entry without a platform may fit (its config has to say) and comes last.
    """
    fitting = [each for each in index.manifests if each.platform is None or matcher.match(each.platform)]

    def rank(entry: Descriptor) -> tuple[bool, tuple[int, ...]]:
        return entry.platform is None, () if entry.platform is None else matcher.key(entry.platform)

    return sorted(fitting, key=rank)


def select_manifest(
    document: Manifest | Index,
    platform: Platform,
    fetch: Callable[[Descriptor], bytes],
    *,
    matcher: Matcher | None = None,
) -> tuple[Descriptor, Manifest]:
    """
    The manifest that is pulled for *platform*, and the descriptor that led to it.

    A manifest that was asked for by itself is taken whatever it runs on. Of an
    index the best entry is followed and no other, as containerd does; where it
    says no platform, its config does. *fetch* is asked for what is under way,
    a few indexes deep at most; what it returns is checked here.

    Args:
        matcher: which platforms fit, `only` what *platform* can run by default.

    Raises:
        NoMatchingPlatform: nothing fits.
        UnsupportedContent: what fits best is no manifest and no index.
        ContentError: a document on the way is not what was promised, is broken
            or too large, or indexes never end.
    """
    if isinstance(document, Manifest):
        return document.descriptor, document
    matcher = only(platform) if matcher is None else matcher
    available: list[str] = []
    for _ in range(MAX_INDEX_DEPTH):
        available += _available(document)
        candidates = choose(document, matcher)
        if not candidates:
            break
        entry = candidates[0]
        _require_known(entry.media_type)
        document = parse_document(_fetched(entry, fetch), media_type=entry.media_type, digest=entry.digest)
        if isinstance(document, Index):
            continue
        if entry.platform is None:
            own = platform_in(read_object(_fetched(document.config, fetch)))
            if not matcher.match(own):
                available.append(own.format_all())
                break
        return entry, document
    else:
        raise InvalidManifest(f"indexes within indexes: more than {MAX_INDEX_DEPTH} deep")
    raise NoMatchingPlatform(
        f"no match for platform in index: {platform.format_all()}",
        platform=platform.format_all(),
        available=tuple(dict.fromkeys(available)),
    )


def every_manifest(
    index: Index, fetch: Callable[[Descriptor], bytes]
) -> list[tuple[Manifest, tuple[Index, ...]]]:
    """
    Every platform's manifest in *index* and in indexes within it, each once, with the indexes on the way to it.

    What says ``unknown/unknown`` (BuildKit's attestations) is for no platform, and is left out.

    Raises:
        UnsupportedContent: an entry is no manifest and no index.
        ContentError: a document is not what was promised, is broken or too large; there are more than `MAX_PLATFORMS`
            of them, or indexes never end.
    """
    found: dict[Digest, tuple[Manifest, tuple[Index, ...]]] = {}
    waiting: list[tuple[Index, ...]] = [(index,)]
    seen: set[Digest] = set()
    while waiting:
        path = waiting.pop(0)
        if len(path) > MAX_INDEX_DEPTH:
            raise InvalidManifest(f"indexes within indexes: more than {MAX_INDEX_DEPTH} deep")
        for entry in path[-1].manifests:
            if entry.digest in seen or (entry.platform is not None and _is_unknown(entry.platform)):
                continue
            seen.add(entry.digest)
            if len(seen) > MAX_PLATFORMS:
                raise InvalidManifest(f"index of more than {MAX_PLATFORMS} platforms")
            _require_known(entry.media_type)
            document = parse_document(
                _fetched(entry, fetch), media_type=entry.media_type, digest=entry.digest
            )
            if isinstance(document, Index):
                waiting.append((*path, document))
            else:
                found[document.digest] = (document, path)
    return list(found.values())


def _fetched(descriptor: Descriptor, fetch: Callable[[Descriptor], bytes]) -> bytes:
    descriptor.require_supported()
    if descriptor.size > MAX_DOCUMENT_BYTES:
        raise InvalidManifest(f"document too large: {descriptor.size} bytes, limit {MAX_DOCUMENT_BYTES}")
    raw = fetch(descriptor)
    if len(raw) != descriptor.size:
        raise SizeMismatch(
            f"size mismatch: expected {descriptor.size} bytes, got {len(raw)}",
            expected_bytes=descriptor.size,
            actual_bytes=len(raw),
        )
    _verify(raw, descriptor.digest)
    return raw


def _available(index: Index) -> list[str]:
    """
    What an index says it has. Attestations say ``unknown/unknown``, and are no choice.
    """
    platforms = (each.platform for each in index.manifests if each.platform is not None)
    return [each.format_all() for each in platforms if not _is_unknown(each)]


def _is_unknown(platform: Platform) -> bool:
    return "unknown" in (platform.os, platform.architecture)


def _require_known(media_type: str) -> None:
    if media_type in _SCHEMA_1:
        raise _schema_1(media_type)
    if not is_manifest(media_type) and not is_index(media_type):
        raise UnsupportedContent(
            f"unexpected media type: {media_type[:255]!a}",
            media_type=media_type,
            hint="a manifest or an index, of OCI's or Docker's kind, is what can be pulled",
        )


def _kind(document: dict[str, Any], media_type: str) -> Literal["manifest", "index"]:
    # Go finds a field whatever its case, and a null in it counts as being there.
    keys = {key.casefold() for key in document}
    inner = text_in(document, "mediaType")
    if "fslayers" in keys:
        raise _schema_1(media_type)
    if is_manifest(media_type):
        if "manifests" in keys or is_index(inner):
            raise InvalidManifest(f"expected manifest but found index: {media_type}")
        return "manifest"
    if "config" in keys or "layers" in keys or is_manifest(inner):
        raise InvalidManifest(f"expected index but found manifest: {media_type}")
    return "index"


def _schema_1(media_type: str) -> UnsupportedContent:
    return UnsupportedContent(
        "Docker schema 1 is not supported",
        media_type=media_type,
        hint="push the image again with a current tool",
    )


def _verify(raw: bytes, digest: Digest) -> None:
    hasher = Hasher(digest)
    hasher.update(raw)
    if not hasher.matches:
        actual = hasher.digest()
        raise DigestMismatch(
            f"digest mismatch: expected {digest}, got {actual}", expected=digest, actual=actual
        )


def _require_pullable(descriptors: tuple[Descriptor, ...]) -> None:
    sizes: dict[Digest, int] = {}
    for each in descriptors:
        each.require_supported()
        if sizes.setdefault(each.digest, each.size) != each.size:
            # One of the two is wrong, and what is reserved must be right.
            raise InvalidManifest(f"two sizes for one digest: {each.digest}")
