"""
The verb that brings an image to a registry.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, BinaryIO, Final

from ullage.digest import Digest
from ullage.errors import (
    DigestMismatch,
    ImageNotFound,
    InvalidReference,
    SizeMismatch,
    StoreCorrupt,
    UnsupportedContent,
)
from ullage.platform import platform_choice
from ullage.reference import ImageSpec, Reference
from ullage.service.changing import Changing
from ullage.service.handle import ImageLike, key_of, shown
from ullage.simulated import SimulatedRegistry

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ullage.archive import Outgoing
    from ullage.blobs import BlobFiles
    from ullage.delivery import PushCallback, Pushed
    from ullage.model import AuthConfig, ImageStatus
    from ullage.platform import Platform
    from ullage.registry import FetchedManifest
    from ullage.repository import ImageRepository

__all__ = ["Delivering"]

#: Repos to ask a registry to take a blob from, for each blob.
_MOUNTS: Final = 2


class Delivering(Changing):
    """
    The part of `ImageService` that is about images on their way to registries.
    """

    def push_image(
        self,
        image: ImageLike,
        destination: str | ImageSpec,
        *,
        auth: AuthConfig | None = None,
        platform: str | Platform | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_progress: PushCallback | None = None,
    ) -> Pushed:
        """
        Bring an image to a registry, under *destination*.

        What the registry has is not sent: it is asked for the manifest first, then for each blob, and may take a blob
        from another of its repos. Manifests go as they came, so the digest is the same there. Nobody can remove the
        image meanwhile. The tag is put last: when this raises, it denotes there what it denoted before.

        Args:
            destination: a reference with a tag, ``latest`` by default; or with the digest that the image has.
            platform: the image's own by default: its manifest, without the index by which it came. ``os/arch`` chooses
                another one of that index that is here, and ``all`` is the index with all that it names, which has to
                be here (``pull --platform all``).
            timeout: seconds for all of it.
            cancel: set it, from any thread, to end the push.
            on_progress: called in this thread, at most some twenty times a second for each blob that moves.

        Raises:
            InvalidReference: *image*, *destination* or *platform* does not parse.
            ImageNotFound: it is not here, or not all of it.
            AuthenticationFailed, RegistryUnavailable: the registry did not let us, or did not answer.
            PushFailed: the registry does not take it.
            StoreCorrupt: a blob is not what its name says.
        """
        from ullage.push import Push

        spec = destination if isinstance(destination, ImageSpec) else ImageSpec.parse(destination)
        reference = spec.normalised()
        asked, every = platform_choice(platform)
        if isinstance(self._registry, SimulatedRegistry):
            raise UnsupportedContent("a simulated registry takes no images")
        deadline = None if timeout is None else time.monotonic() + timeout
        with ExitStack() as held:
            outgoing = self._consigned(image, held, platform=asked, every=every)
            push = Push(
                target=self._registry.target(reference, auth=auth),
                image=outgoing,
                reference=reference,
                mounts=self._mounts(reference),
                deadline=deadline,
                cancel=cancel,
                on_progress=on_progress,
            )
            try:
                return push.run()
            except (DigestMismatch, SizeMismatch) as error:
                raise StoreCorrupt(
                    f"a blob is not what its name says: {error.message}",
                    hint="`ullage check --digests --repair` fetches it again",
                ) from error

    def _consigned(
        self, image: ImageLike, held: ExitStack, *, platform: Platform | None, every: bool
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
        return consign(giver, top or manifest, platform=platform, every=every, names=status.repo_tags)

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

    def _mounts(self, reference: Reference) -> Callable[[Digest], list[str]]:
        def repos(digest: Digest) -> list[str]:
            names = self._repository.repos_with(reference.domain, digest)
            others = [name for name in names if name != reference.name]
            return [name.partition("/")[2] for name in others[:_MOUNTS]]

        return repos


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
            hint="`ullage pull --platform all` brings all of them",
        )

    def open_blob(self, digest: Digest, *, size: int) -> BinaryIO:  # noqa: ARG002 -- as a registry's repo has it
        return self._files.open(digest)
