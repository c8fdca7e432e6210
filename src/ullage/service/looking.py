"""
The verbs that look: listing, status, manifest, config, blobs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

from ullage.digest import Digest
from ullage.errors import (
    ImageNotFound,
    UnsupportedContent,
)
from ullage.reference import ImageSpec
from ullage.service.handle import Handle, ImageLike, key_of, shown

if TYPE_CHECKING:
    from datetime import datetime

    from ullage.events import HistoryEntry
    from ullage.manifest import Manifest
    from ullage.model import AuthConfig, ImageStatus

__all__ = ["Looking"]


class Looking(Handle):
    """
    The part of `ImageService` that is about what is here.
    """

    def list_images(self) -> list[ImageStatus]:
        """
        Every image, by id, as of one moment.
        """
        return self._lookups.all()

    def image_status(self, image: ImageLike) -> ImageStatus | None:
        """
        One image; None when it is not here.

        Raises:
            InvalidReference: *image* cannot name one, or is a prefix of several ids.
        """
        return self._lookups.find(key_of(image))

    def image_status_by_ref(self, reference: str | ImageSpec) -> ImageStatus | None:
        """
        The image that a reference denotes; None when there is none.
        """
        spec = reference if isinstance(reference, ImageSpec) else ImageSpec.parse(reference)
        return self._lookups.known(spec.normalised())

    def may_use(self, image: ImageLike, auth: AuthConfig | None = None) -> bool:
        """
        Whether somebody with *auth*, or with no credentials, may use an image that is here without asking its registry.

        Yes for credentials that it was fetched with from the repo that *image* names (from any, where that is an id),
        for everybody where its registry asked for none, and for images that were imported or registered. No for
        everybody else, and when it is not here: no answer tells the two apart. Who is told no is to pull it with
        `PullPolicy.ALWAYS`: the registry decides, and what it says is on record from then on.

        Raises:
            InvalidReference: *image* cannot name one, or is a prefix of several ids.
            AuthenticationFailed: *auth* is not what it claims to be.
            InvalidConfiguration: the key that the records are made with cannot be read.
        """
        from ullage.access import AccessKey

        return AccessKey(self.root).fits(self._repository.access_to(key_of(image)), auth)

    def image_count(self) -> int:
        """
        How many images there are.
        """
        return self._lookups.usage().image_count

    def history(
        self, image: ImageLike | None = None, *, since: datetime | None = None, limit: int | None = None
    ) -> list[HistoryEntry]:
        """
        What happened to the images and their names, newest first.

        With *image*, what happened under that name and to the image that it denotes; the beginning of an image id
        finds images that are gone, too. The store keeps the last ten thousand facts of a year.

        Args:
            since: not what was before; a naive time is local.
            limit: at most so many.

        Raises:
            InvalidReference: *image* cannot name one.
            ImageNotFound: *image* is a row's id, and no image has it.
            ValueError: *limit* is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit: {limit} is negative")
        return self._lookups.history(
            None if image is None else key_of(image), since=since, limit=-1 if limit is None else limit
        )

    def sources(self, image: ImageLike) -> dict[Digest, str]:
        """
        The host that each blob of an image came from: a registry's or a mirror's ``name[:port]``.

        What was imported has none, and what was here already has that which it had come from.

        Raises:
            ImageNotFound: there is no such image.
        """
        return self._lookups.sources(key_of(image))

    def manifest(self, image: ImageLike) -> Manifest:
        """
        The manifest of an image, read from its blob and verified.

        Raises:
            ImageNotFound: there is no such image, or the host keeps its content elsewhere.
        """
        from ullage.manifest import MAX_DOCUMENT_BYTES, Manifest, parse_document

        content = self._lookups.content_of(key_of(image))
        if content is None:
            raise ImageNotFound(f"no such image: {shown(image)}", image=str(key_of(image)))
        for role, digest, media_type in content:
            if role == "manifest":
                raw = self._files.read(Digest(digest), max_bytes=MAX_DOCUMENT_BYTES)
                parsed = parse_document(raw, media_type=media_type, digest=Digest(digest))
                assert isinstance(parsed, Manifest), "the role says so"
                return parsed
        raise ImageNotFound(f"the content of image {shown(image)} is not kept here", image=str(key_of(image)))

    def config(self, image: ImageLike) -> dict[str, Any]:
        """
        The config of an image as its JSON says. Opens no file.

        Raises:
            ImageNotFound: there is no such image.
            UnsupportedContent: it is an artifact, or registered: it has no image config.
        """
        status = self._get(image)
        text = self._lookups.config_of(status.id)
        if text is None:
            raise UnsupportedContent(f"image {status.image_id} has no image config")
        parsed = json.loads(text)
        assert isinstance(parsed, dict), "checked when it was pulled"
        return parsed

    def open_blob(self, digest: str) -> BinaryIO:
        """
        The bytes of a blob that is here, for reading. Close it; hold its image while you read.

        Raises:
            ImageNotFound: no such blob is here.
        """
        named = Digest.parse(digest)
        if not self._repository.ready(named):
            raise ImageNotFound(f"no blob {named} is here", image=named)
        return self._files.open(named)
