"""
The verbs that are about what refers to images: signatures, lists of parts, proofs of origin.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ullage.digest import Digest
from ullage.errors import PullCancelled, UnsupportedContent
from ullage.reference import ImageSpec
from ullage.service.handle import Handle, ImageLike, key_of
from ullage.simulated import SimulatedRegistry

if TYPE_CHECKING:
    import threading

    from ullage.model import AuthConfig, ImageStatus, ProgressCallback, Referrer
    from ullage.platform import Platform

__all__ = ["Referring"]


class Referring(Handle):
    """
    The part of `ImageService` that is about referrers, and how it runs one pull.
    """

    def referrers(
        self,
        image: ImageLike,
        *,
        artifact_type: str = "",
        auth: AuthConfig | None = None,
        follow: bool = False,
    ) -> list[Referrer]:
        """
        What the registry lists as referring to an image: to its manifest, or to the index by which it came.

        Of an image that is here, what is here is asked about, wherever its tag has moved; a reference that is not
        here is resolved as a pull would. Changes nothing.

        Args:
            artifact_type: of this type alone.
            follow: also what refers to those, three deep; each once, after what it refers to.

        Raises:
            ImageNotFound: there is no such image, or it has no name that says which registry to ask.
            AuthenticationFailed, RegistryUnavailable: the registry did not let us, or did not answer.
            ContentError: its list is broken, or longer than 1000 (100 with *follow*).
        """
        if isinstance(self._registry, SimulatedRegistry):
            raise UnsupportedContent("a simulated registry has nothing that refers to anything")
        from ullage.referrers import Referrers

        listing = Referrers(
            repository=self._repository, files=self._files, registry=self._registry, auth=auth
        )
        of = listing.following if follow else listing.of
        return of(key_of(image), artifact_type=artifact_type)

    def pull_referrers(
        self,
        image: ImageLike,
        *,
        artifact_type: str = "",
        auth: AuthConfig | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_progress: ProgressCallback | None = None,
        evict: bool | None = None,
    ) -> list[ImageStatus]:
        """
        Have what `referrers` lists with *follow*, each an image of its own, named by its digest and removed by itself.

        Each is a pull of its own, and those before one that fails stay. What is here is not asked for again.

        Raises:
            InvalidManifest: what the registry lists refers to something else.
            What `referrers` and `pull_image` raise.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._database.require_writable()
        pulled = []
        for each in self.referrers(image, artifact_type=artifact_type, auth=auth, follow=True):
            known = None if each.image_id is None else self._lookups.find(each.reference)
            if cancel is not None and cancel.is_set():
                raise PullCancelled(f"the pull of what refers to {key_of(image)} was cancelled")
            pulled.append(
                self._used(known)
                if known is not None
                else self._pull(
                    ImageSpec.parse(each.reference),
                    auth=auth,
                    deadline=deadline,
                    cancel=cancel,
                    on_progress=on_progress,
                    evict=evict,
                    refers_to=Digest(each.subject),
                )
            )
        return pulled

    def _pull(  # noqa: PLR0913 -- what a pull is made of, each by its name
        self,
        spec: ImageSpec,
        *,
        auth: AuthConfig | None,
        deadline: float | None,
        cancel: threading.Event | None,
        on_progress: ProgressCallback | None,
        evict: bool | None,
        platform: Platform | None = None,
        every: bool = False,
        unpack: bool | None = False,
        refers_to: Digest | None = None,
    ) -> ImageStatus:
        from ullage.pull import Pull
        from ullage.resolve import Target

        assert not isinstance(self._registry, SimulatedRegistry), "that one is asked in another way"
        status = Pull(
            repository=self._repository,
            files=self._files,
            repo=self._registry.repo(spec.normalised(), auth=auth),
            target=replace(Target.of(spec), refers_to=refers_to),
            platform=platform,
            deadline=deadline,
            cancel=cancel,
            on_progress=on_progress,
            evict=self._policy is not None if evict is None else evict,
            every=every,
            unpack=unpack,
            patience=self._database.patience,
        ).run()
        return self._used(status)
