"""
The verbs of whoever serves the store to others: which repos there are, and what each of them has.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from ullage.digest import Digest
from ullage.errors import UnsupportedContent
from ullage.reference import Reference, with_name
from ullage.service.handle import Handle
from ullage.simulated import SimulatedRegistry

if TYPE_CHECKING:
    from ullage.model import AuthConfig
    from ullage.registry import RegistryRepo
    from ullage.repository import Referrer, ServedContent

__all__ = ["Serving"]


class Serving(Handle):
    """
    The part of `ImageService` that lets others read.

    A repo is a normalised name, ``docker.io/library/alpine``. It has what its tags and digests resolve to: an image
    that lost its names is in no repo, though its id still finds it.
    """

    def repos(self) -> list[str]:
        """
        The repos that have anything, by name.
        """
        return self._repository.repos()

    def is_repo(self, repo: str) -> bool:
        """
        Whether *repo* has anything.
        """
        return self._repository.is_repo(repo)

    def tags(self, repo: str) -> list[str]:
        """
        The tags of a repo, in no order.
        """
        return self._repository.tags_of(repo)

    def content(self, repo: str, ref: str) -> ServedContent | None:
        """
        What *ref* is in *repo*: a tag is the manifest or the index that it was resolved to, a digest anything that one
        of its manifests needs. None when it is nothing there.

        Raises:
            InvalidReference: *ref* is no tag and no digest.
        """
        if ":" in ref:
            return self._repository.content_in(repo, Digest.parse(ref))
        return self._repository.tagged(str(with_name(repo).with_tag(ref)))

    def served_referrers(self, repo: str, digest: str) -> list[Referrer]:
        """
        The manifests of *repo* that have *digest* as their subject.

        Raises:
            InvalidReference: *digest* is none.
        """
        return self._repository.referrers_of(repo, Digest.parse(digest))

    def read_document(self, content: ServedContent) -> bytes:
        """
        A manifest or an index, verified.

        Raises:
            StoreCorrupt: it is missing, or not what its digest says.
        """
        from ullage.manifest import MAX_DOCUMENT_BYTES

        return self._files.read(content.digest, max_bytes=MAX_DOCUMENT_BYTES)

    def open_content(self, content: ServedContent) -> BinaryIO:
        """
        The bytes of a blob, unverified. Who has it open has all of it, whatever becomes of the image.

        Raises:
            StoreCorrupt: it is missing.
        """
        return self._files.open(content.digest)

    def upstream(self, repo: str, *, auth: AuthConfig | None = None) -> RegistryRepo:
        """
        The same repo at its registry, to ask for what is not here.

        Raises:
            UnsupportedContent: the registry is a simulated one.
        """
        if isinstance(self._registry, SimulatedRegistry):
            raise UnsupportedContent("a simulated registry has no content")
        return self._registry.repo(Reference.parse(repo), auth=auth)

    def open_arriving(self, digest: str) -> int | None:
        """
        A descriptor of the file in which a blob is, or is being written; unverified, and None where there is none.
        """
        named = Digest.parse(digest)
        for path in (self._files.ingest_path(named), self._files.blob_path(named)):
            with suppress(OSError):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return None

    def note_use(self, image: int) -> None:
        """
        The image of that row was used just now: eviction takes it later. Never fails for want of a turn to write.
        """
        status = self._repository.find(image)
        if status is not None:
            self._used(status)
