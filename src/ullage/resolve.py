"""
From a reference to what is to be fetched, or to an image that is here already.

One HEAD where the registry knows it; documents that are here are read from here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from ullage.access import AccessKey
from ullage.digest import Digest, Hasher, digest_of
from ullage.errors import DigestMismatch, InvalidManifest, NoMatchingPlatform, SizeMismatch, StoreCorrupt
from ullage.manifest import (
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Index,
    Manifest,
    every_manifest,
    is_image_config,
    parse_config,
    parse_document,
    select_manifest,
)
from ullage.platform import Platform
from ullage.repository import Edge, Naming, NewImage, Origin

if TYPE_CHECKING:
    from ullage.archive import SourceRepo
    from ullage.blobs import BlobFiles
    from ullage.model import ImageStatus
    from ullage.reference import ImageSpec, Reference
    from ullage.registry import RegistryRepo
    from ullage.repository import ImageRepository

__all__ = ["Plan", "Repo", "Resolver", "Target"]

_CHUNK_BYTES: Final = 256 * 1024

#: Who is asked: a registry, or a layout or an archive in its place.
Repo: TypeAlias = "RegistryRepo | SourceRepo"


@dataclass(frozen=True, slots=True)
class Target:
    """
    What is asked for, and what it is to be called.

    Args:
        ref: what the repo knows it by: a tag or a digest.
        spec: as it was typed, for the row of a new image.
        reference: its name here; None for an image that gets none.
        shown: what it is called in messages and in rows of work under way.
        refers_to: what its manifest has to have for a subject; None where that does not matter.
    """

    ref: str
    spec: ImageSpec
    reference: Reference | None
    shown: str
    refers_to: Digest | None = None

    @classmethod
    def of(cls, spec: ImageSpec) -> Target:
        """
        What a registry has under the name that *spec* is, and that name for it.
        """
        reference = spec.normalised()
        ref = reference.digest or reference.tag
        assert ref is not None, "a normalised reference has one"
        return cls(ref, spec, reference, str(reference))

    @property
    def familiar(self) -> str:
        return self.shown if self.reference is None else self.reference.familiar

    @property
    def digest(self) -> Digest | None:
        """
        What it has to be, where it was asked for by digest.
        """
        return Digest(self.ref) if ":" in self.ref else None


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What resolving found: the manifest, the indexes on the way to it, the bytes of both (and of the config, where it
    had to be looked at), and the names to give.

    ``others`` are the images of the other platforms, where all were asked for; their documents are among ours.
    """

    manifest: Manifest
    documents: dict[Digest, bytes]
    indexes: tuple[Edge, ...]
    naming: Naming
    others: tuple[Plan, ...] = ()

    @property
    def images(self) -> tuple[Plan, ...]:
        """
        Each image of this plan, the one that the reference denotes first.
        """
        return (self, *self.others)

    def image(self, config: bytes | None) -> NewImage:
        """
        The image that this becomes, with its *config*; None for an artifact, whose config is no image's.

        Raises:
            InvalidManifest: the config is no such document.
        """
        manifest = self.manifest
        edges = (
            Edge(manifest.digest, len(manifest.raw), "manifest", manifest.media_type),
            Edge(manifest.config.digest, manifest.config.size, "config", manifest.config.media_type),
            *(Edge(layer.digest, layer.size, "layer", layer.media_type) for layer in manifest.layers),
            *self.indexes,
        )
        parsed = None if config is None else parse_config(config)
        return NewImage(
            # Every artifact shares the empty config, so that cannot be what tells artifacts apart.
            image_id=manifest.digest if parsed is None else manifest.config.digest,
            manifest_digest=manifest.digest,
            media_type=manifest.media_type,
            edges=edges,
            platform=None if parsed is None else str(parsed.platform.normalised()) or None,
            uid=None if parsed is None else parsed.uid,
            username="" if parsed is None else parsed.username,
            config=None if parsed is None else parsed.text,
            artifact_type=manifest.artifact_type or None,
            subject=None if manifest.subject is None else manifest.subject.digest,
            annotations=json.dumps(dict(manifest.annotations)) if manifest.annotations else None,
        )

    @property
    def wanted(self) -> dict[Digest, int]:
        """
        Every blob that the images need, with its size.
        """
        sizes = {digest: len(raw) for digest, raw in self.documents.items()}
        for each in (blob for image in self.images for blob in image.manifest.blobs):
            if sizes.setdefault(each.digest, each.size) != each.size:
                raise InvalidManifest(f"two sizes for one digest: {each.digest}")
        return sizes

    @property
    def urls(self) -> dict[Digest, tuple[str, ...]]:
        """
        Where else layers are that the registry may not distribute, by the manifest's word.
        """
        layers = (layer for image in self.images for layer in image.manifest.layers)
        return {each.digest: each.urls for each in layers if each.urls}


class Resolver:
    """
    Resolves one reference, once.

    Args:
        asked: the platform that the caller asked for; None for this machine's.
        every: every platform's image, beside the one that the reference is to denote.
        look_only: give no names to what turns out to be here, and record nothing; plan it like everything else.
    """

    def __init__(
        self,
        repository: ImageRepository,
        files: BlobFiles,
        repo: Repo,
        target: Target,
        asked: Platform | None,
        *,
        every: bool = False,
        look_only: bool = False,
    ) -> None:
        self._repository = repository
        self._files = files
        self._repo = repo
        self._target = target
        self._asked = asked
        self._every = every
        self._look_only = look_only
        self._key = None if look_only else AccessKey(files.root)
        self._platform = Platform.of_host() if asked is None else asked
        self._configs: dict[Digest, bytes] = {}

    def resolve(self) -> Plan | ImageStatus:
        """
        The image, when the registry's answer shows that it is here; else what to fetch.

        Raises:
            ManifestUnknown, AuthenticationFailed, RegistryUnavailable: the registry's answer.
            NoMatchingPlatform, UnsupportedContent, ContentError: what it sent cannot be pulled.
        """
        ref, asked_digest = self._target.ref, self._target.digest
        # That one image is here says nothing of the other platforms'.
        may_be_here = not (self._look_only or self._every)
        # What nobody has heard of here has to be fetched, whatever a HEAD says: that would be a round trip for nothing.
        head = self._repo.head_manifest(ref) if self._heard_of() else None
        if head is not None:
            # What was asked for by digest is held to that, whatever the registry calls it.
            digest = asked_digest or head.digest
            if may_be_here and (here := self._here(digest)) is not None:
                return here
            raw, media_type = self._document(digest, head.media_type)
            return self._plan(parse_document(raw, media_type=media_type, digest=digest))
        fetched = self._repo.get_manifest(ref)
        digest = asked_digest or fetched.digest or digest_of(fetched.raw)
        top = parse_document(fetched.raw, media_type=fetched.media_type, digest=digest)
        if may_be_here and (here := self._here(top.digest)) is not None:
            return here
        return self._plan(top)

    def _heard_of(self) -> bool:
        """
        Whether what is asked for may be here as it is: the digest, or an image that the name has denoted.
        """
        if (digest := self._target.digest) is not None:
            return self._repository.ready(digest)
        reference = self._target.reference
        return reference is None or self._repository.find(str(reference)) is not None

    def _here(self, digest: Digest) -> ImageStatus | None:
        """
        The image that *digest* resolves to, under this name already or given it now.
        """
        asked = None if self._asked is None else self._asked.normalised().format_all()
        platform = self._platform.normalised().format_all()
        reference = self._target.reference
        known = None
        if reference is not None:
            known = self._repository.known(
                reference, platform=platform, digest=digest, or_unasked=asked is None
            )
        if known is not None:
            return self._granted(known)
        if not self._repository.ready(digest):
            return None
        origin = Origin(self._repo.served_by, self._repo.received_from)
        return self._repository.adopt(self._naming(digest, self._platform), asked=asked, origin=origin)

    def _granted(self, status: ImageStatus) -> ImageStatus:
        """
        An image that keeps its name, with a record of whom its registry served just now.
        """
        reference, credential = self._target.reference, self._credential()
        assert reference is not None, "it was found by that"
        if credential is not None and (reference.name, credential) not in self._repository.access_to(
            status.id
        ):
            self._repository.grant(status.id, reference.name, credential)
        return status

    def _credential(self) -> str | None:
        """
        What to record of whom the registry served. Imported images are everybody's.
        """
        if self._key is None:
            return None
        reference = self._target.reference
        return self._key.record_of("" if reference is None else reference.domain, self._repo.served)

    def _plan(self, top: Manifest | Index) -> Plan:
        self._check_subject(top)
        documents = {top.digest: (top.raw, top.media_type)}

        def fetch(descriptor: Descriptor) -> bytes:
            if is_image_config(descriptor.media_type):
                return self._config(descriptor)
            if descriptor.digest in documents:
                return documents[descriptor.digest][0]
            raw, _ = self._document(descriptor.digest, descriptor.media_type)
            documents[descriptor.digest] = (raw, descriptor.media_type)
            return raw

        _, manifest = select_manifest(top, self._platform, fetch)
        if is_image_config(manifest.config.media_type):
            self._check_config(manifest, chosen=isinstance(top, Index))
        indexes = tuple(
            Edge(digest, len(raw), "index", media_type)
            for digest, (raw, media_type) in documents.items()
            if digest != manifest.digest
        )
        others: tuple[Plan, ...] = ()
        if self._every and isinstance(top, Index):
            found = every_manifest(top, fetch)
            others = tuple(self._other(each, path) for each, path in found if each.digest != manifest.digest)
        # A config that had to be looked at is not fetched a second time.
        config = {digest: raw for digest, raw in self._configs.items() if digest == manifest.config.digest}
        return Plan(
            manifest=manifest,
            documents={digest: raw for digest, (raw, _) in documents.items()} | config,
            indexes=indexes,
            naming=self._naming(top.digest, self._platform if isinstance(top, Index) else self._asked),
            others=others,
        )

    def _other(self, manifest: Manifest, path: tuple[Index, ...]) -> Plan:
        """
        The image of another platform: named by its own manifest alone, as if it had been pulled by that.
        """
        if is_image_config(manifest.config.media_type):
            self._check_config(manifest, chosen=True)
        reference = self._target.reference
        return Plan(
            manifest=manifest,
            documents={},
            indexes=tuple(Edge(each.digest, len(each.raw), "index", each.media_type) for each in path),
            naming=Naming(
                spec_image_name="" if reference is None else self._target.spec.image_name,
                spec_tag="",
                spec_digest="" if reference is None else manifest.digest,
                repo=None if reference is None else reference.name,
                repo_tag=None,
                digest=manifest.digest,
                platform=None,
                credential=self._credential(),
            ),
        )

    def _naming(self, digest: Digest, platform: Platform | None) -> Naming:
        spec, reference = self._target.spec, self._target.reference
        return Naming(
            spec_image_name=spec.image_name,
            spec_tag=spec.tag,
            spec_digest=spec.digest,
            repo=None if reference is None else reference.name,
            repo_tag=None if reference is None or reference.digest else str(reference),
            digest=digest,
            platform=None if platform is None else platform.normalised().format_all(),
            credential=self._credential(),
        )

    def _check_subject(self, top: Manifest | Index) -> None:
        wanted = self._target.refers_to
        if wanted is not None and (top.subject is None or top.subject.digest != wanted):
            raise InvalidManifest(
                f"{self._target.familiar} does not refer to {wanted}, under which its registry lists it"
            )

    def _check_config(self, manifest: Manifest, *, chosen: bool) -> None:
        size = manifest.config.size
        if size > MAX_DOCUMENT_BYTES:
            raise InvalidManifest(f"config too large: {size} bytes, limit {MAX_DOCUMENT_BYTES}")
        if chosen or self._asked is None:
            return
        # A platform was asked for, and there was no index to choose from: the config says what the image runs on.
        own = parse_config(self._config(manifest.config)).platform.normalised()
        if own != self._platform.normalised():
            raise NoMatchingPlatform(
                f"{self._target.familiar} is an image for {own}, not for {self._platform}",
                platform=str(self._platform),
                available=(str(own),),
            )

    def _document(self, digest: Digest, media_type: str) -> tuple[bytes, str]:
        """
        A manifest or an index with its media type: from here when it is here, else from the registry.
        """
        if media_type and (raw := self._local(digest)) is not None:
            return raw, media_type
        fetched = self._repo.get_manifest(digest)
        return fetched.raw, fetched.media_type

    def _config(self, descriptor: Descriptor) -> bytes:
        """
        A config that decides whether to pull at all, before anything is reserved for it.
        """
        if descriptor.size > MAX_DOCUMENT_BYTES:
            raise InvalidManifest(f"config too large: {descriptor.size} bytes, limit {MAX_DOCUMENT_BYTES}")
        if descriptor.digest in self._configs:
            return self._configs[descriptor.digest]
        if (raw := self._local(descriptor.digest)) is not None:
            return raw
        data = bytearray()
        with self._repo.open_blob(descriptor.digest, size=descriptor.size) as stream:
            while len(data) <= descriptor.size and (chunk := stream.read(_CHUNK_BYTES)):
                data += chunk
        if len(data) != descriptor.size:
            raise SizeMismatch(
                f"size mismatch: expected {descriptor.size} bytes of {descriptor.digest}, got {len(data)}",
                expected_bytes=descriptor.size,
                actual_bytes=len(data),
            )
        hasher = Hasher(descriptor.digest)
        hasher.update(data)
        if not hasher.matches:
            actual = hasher.digest()
            raise DigestMismatch(
                f"digest mismatch: expected {descriptor.digest}, got {actual}",
                expected=descriptor.digest,
                actual=actual,
            )
        self._configs[descriptor.digest] = bytes(data)
        return bytes(data)

    def _local(self, digest: Digest) -> bytes | None:
        if not self._repository.ready(digest):
            return None
        try:
            return self._files.read(digest, max_bytes=MAX_DOCUMENT_BYTES)
        except StoreCorrupt:
            # Gone since we looked, for no lease keeps it, or damaged: the registry has it.
            return None
