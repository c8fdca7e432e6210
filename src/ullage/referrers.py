"""
What refers to an image: listed at its registry, and what refers to that, to a depth.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ullage.digest import Digest
from ullage.errors import ContentError, ImageNotFound, InvalidReference
from ullage.model import Referrer
from ullage.reference import ImageSpec, Reference
from ullage.resolve import Plan, Resolver, Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ullage.blobs import BlobFiles
    from ullage.model import AuthConfig
    from ullage.registry import RegistryClient, RegistryRepo
    from ullage.repository import ImageKey, ImageRepository

__all__ = ["MAX_DEPTH", "MAX_FOLLOWED", "Referrers"]

#: What refers to the image, what refers to that (the signature of a list of parts), and once more.
MAX_DEPTH: Final = 3
#: Artifacts that are followed for one image.
MAX_FOLLOWED: Final = 100


class Referrers:
    """
    Lists what refers to images, and changes nothing.
    """

    def __init__(
        self,
        *,
        repository: ImageRepository,
        files: BlobFiles,
        registry: RegistryClient,
        auth: AuthConfig | None,
    ) -> None:
        self._repository = repository
        self._files = files
        self._registry = registry
        self._auth = auth

    def of(self, key: ImageKey, *, artifact_type: str) -> list[Referrer]:
        """
        What refers to an image: to its manifest, or to the index by which it came.

        Raises:
            ImageNotFound: it is not here, and *key* is no reference; or nothing says which registry to ask.
            What resolving and listing raise.
        """
        repo, subjects = self._subjects(key)
        return self._list(repo, subjects, artifact_type)

    def following(self, key: ImageKey, *, artifact_type: str) -> list[Referrer]:
        """
        What refers to an image, and to that, `MAX_DEPTH` deep; each artifact once, after what it refers to.

        Only of the first of them *artifact_type* is asked.

        Raises:
            ContentError: more than `MAX_FOLLOWED`.
            What `of` raises.
        """
        repo, subjects = self._subjects(key)
        found: dict[str, Referrer] = {}
        image = set(subjects)
        for depth in range(MAX_DEPTH):
            wanted = artifact_type if depth == 0 else ""
            new = [
                each
                for each in self._list(repo, subjects, wanted)
                if each.digest not in found and each.digest not in image
            ]
            found.update((each.digest, each) for each in new)
            if len(found) > MAX_FOLLOWED:
                raise ContentError(
                    f"more than {MAX_FOLLOWED} artifacts refer to {key}",
                    hint="list them with `ullage inspect --referrers`, and pull those that you need",
                )
            subjects = [Digest(each.digest) for each in new]
        return list(found.values())

    def _list(
        self, repo: tuple[str, RegistryRepo], subjects: Iterable[Digest], artifact_type: str
    ) -> list[Referrer]:
        name, asked = repo
        found: dict[str, Referrer] = {}
        for subject in subjects:
            for each in asked.referrers(subject, artifact_type=artifact_type):
                found.setdefault(
                    each.digest,
                    Referrer(
                        reference=f"{name}@{each.digest}",
                        digest=each.digest,
                        media_type=each.media_type,
                        artifact_type=each.artifact_type,
                        size=each.size,
                        subject=subject,
                        annotations=each.annotations,
                    ),
                )
        return [self._if_here(each) for each in found.values()]

    def _if_here(self, referrer: Referrer) -> Referrer:
        try:
            status = self._repository.known(Reference.parse(referrer.reference))
        except InvalidReference:
            return referrer  # a digest of an algorithm that no reference can have
        return referrer if status is None else replace(referrer, image_id=status.image_id)

    def _subjects(self, key: ImageKey) -> tuple[tuple[str, RegistryRepo], list[Digest]]:
        """
        Where to ask, and for what: the indexes of an image first, then its manifest.
        """
        content = self._repository.content_of(key)
        if content is None:
            return self._elsewhere(key)
        digests = {
            role: [Digest(digest) for each, digest, _ in content if each == role]
            for role in ("index", "manifest")
        }
        if not digests["manifest"]:
            raise ImageNotFound(f"the content of image {key} is not kept here", image=str(key))
        return self._repo(self._name_of(key)), [*digests["index"], *digests["manifest"]]

    def _name_of(self, key: ImageKey) -> Reference:
        status = self._repository.find(key)
        names = [] if status is None else [*status.repo_digests, *status.repo_tags]
        if isinstance(key, str):
            with contextlib.suppress(InvalidReference):  # an id, which says nothing of a registry
                asked = str(Reference.parse(key))
                names.sort(key=lambda name: name != asked)
        if not names:
            raise ImageNotFound(f"image {key} has no name that says which registry to ask", image=str(key))
        return Reference.parse(names[0])

    def _elsewhere(self, key: ImageKey) -> tuple[tuple[str, RegistryRepo], list[Digest]]:
        """
        Of an image that is not here, as a pull would resolve it now.
        """
        if isinstance(key, int):
            raise ImageNotFound(f"no such image: id {key}", image=str(key))
        spec = ImageSpec.parse(key)
        repo = self._repo(spec.normalised())
        plan = Resolver(
            self._repository, self._files, repo[1], Target.of(spec), None, look_only=True
        ).resolve()
        assert isinstance(plan, Plan), "who only looks is not told that it is here"
        return repo, [*(each.digest for each in plan.indexes), plan.manifest.digest]

    def _repo(self, reference: Reference) -> tuple[str, RegistryRepo]:
        return reference.name, self._registry.repo(reference, auth=self._auth)
