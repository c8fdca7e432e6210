"""
The verb that brings an image to a registry.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ullage.errors import (
    DigestMismatch,
    SizeMismatch,
    StoreCorrupt,
    UnsupportedContent,
)
from ullage.platform import platform_choice
from ullage.reference import ImageSpec, Reference
from ullage.service.consigning import Consigning
from ullage.simulated import SimulatedRegistry

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ullage.delivery import PushCallback, Pushed
    from ullage.digest import Digest
    from ullage.model import AuthConfig
    from ullage.platform import Platform
    from ullage.service.handle import ImageLike

__all__ = ["Delivering"]

#: Repos to ask a registry to take a blob from, for each blob.
_MOUNTS: Final = 2


class Delivering(Consigning):
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

    def _mounts(self, reference: Reference) -> Callable[[Digest], list[str]]:
        def repos(digest: Digest) -> list[str]:
            names = self._repository.repos_with(reference.domain, digest)
            others = [name for name in names if name != reference.name]
            return [name.partition("/")[2] for name in others[:_MOUNTS]]

        return repos
