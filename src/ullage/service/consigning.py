"""
What every way out of the store has in common: an image as it goes, of an index one platform or all of it.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, BinaryIO

from ullage.digest import Digest
from ullage.errors import ImageNotFound, InvalidReference
from ullage.reference import Reference
from ullage.service.changing import Changing
from ullage.service.handle import ImageLike, key_of, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from ullage.archive import Outgoing
    from ullage.blobs import BlobFiles
    from ullage.model import ImageStatus
    from ullage.platform import Platform
    from ullage.registry import FetchedManifest
    from ullage.repository import ImageRepository

__all__ = ["Consigning"]


class Consigning(Changing):
    """
    The part of `ImageService` that makes images ready to go.
    """

    def _consigned(
        self,
        image: ImageLike,
        held: ExitStack,
        *,
        platform: Platform | None,
        every: bool,
        sparse: bool = False,
    ) -> Outgoing:
        """
        What goes out, held until *held* ends.
        """
        from ullage.consign import consign

        status = held.enter_context(self.hold(image))
        content = self._repository.content_of(key_of(image)) or []
        types = {Digest(digest): kind for role, digest, kind in content if role in {"manifest", "index"}}
        manifest = next((Digest(digest) for role, digest, _ in content if role == "manifest"), None)
        if manifest is None:
            raise ImageNotFound(
                f"the content of image {shown(image)} is not kept here", image=str(key_of(image))
            )
        top = self._top(image, status) if platform is not None or every else None
        giver = _Stored(
            self._repository, self._files, status, types, lambda row: held.enter_context(self.hold(row))
        )
        return consign(
            giver, top or manifest, platform=platform, every=every, sparse=sparse, names=status.repo_tags
        )

    def _top(self, image: ImageLike, status: ImageStatus) -> Digest | None:
        """
        What the reference that names the image resolves to, or any of its own: an index, where it came by one.
        """
        references = [*status.repo_tags, *status.repo_digests]
        key = key_of(image)
        if isinstance(key, str):
            with suppress(InvalidReference):  # then it is an id
                references.insert(0, str(Reference.parse(key)))
        for text in references:
            reference = Reference.parse(text)
            if reference.digest is not None:
                found = self._repository.content_in(reference.name, reference.digest)
            else:
                found = self._repository.tagged(str(reference))
            if found is not None and found.is_document:
                return found.digest
        return None


class _Stored:
    """
    The store as who has an image: `ullage.consign.Giver`.

    Args:
        types: the media types of its own documents.
        hold: called with the row of each other image that is needed as well.
    """

    def __init__(
        self,
        repository: ImageRepository,
        files: BlobFiles,
        status: ImageStatus,
        types: dict[Digest, str],
        hold: Callable[[int], object],
    ) -> None:
        self._repository = repository
        self._files = files
        self._types = types
        self._hold = hold
        self._held = {status.id}
        names = (Reference.parse(each).name for each in (*status.repo_tags, *status.repo_digests))
        self._repos = tuple(dict.fromkeys(names))

    def get_manifest(self, ref: str) -> FetchedManifest:
        from ullage.manifest import MAX_DOCUMENT_BYTES
        from ullage.registry import FetchedManifest

        digest = Digest(ref)
        media_type = self._types.get(digest) or self._elsewhere(digest)
        return FetchedManifest(self._files.read(digest, max_bytes=MAX_DOCUMENT_BYTES), media_type, digest)

    def _elsewhere(self, digest: Digest) -> str:
        """
        The media type of another platform's manifest, whose image is held from now on.
        """
        for repo in self._repos:
            content = self._repository.content_in(repo, digest)
            if content is not None and content.is_document:
                if content.image not in self._held:
                    self._hold(content.image)
                    self._held.add(content.image)
                return content.media_type
        raise ImageNotFound(
            f"the index names a manifest that is not here: {digest}",
            image=digest,
            hint="`ullage pull --platform all` brings all of them; `ullage export --sparse` does without",
        )

    def open_blob(self, digest: Digest, *, size: int) -> BinaryIO:  # noqa: ARG002 -- as a registry's repo has it
        return self._files.open(digest)
