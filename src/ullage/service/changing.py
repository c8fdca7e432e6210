"""
The verbs that change what is here: removing, naming, pinning, holding.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ullage.errors import (
    ImageInUse,
    ImageNotFound,
    InvalidReference,
)
from ullage.recovery import owner_name, reap, sweep_quietly, with_headroom
from ullage.reference import ImageSpec
from ullage.service.handle import ImageLike, key_of, shown
from ullage.service.looking import Looking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.model import (
        ImageStatus,
    )

__all__ = ["Changing"]


class Changing(Looking):
    """
    The part of `ImageService` that is about images and their names.
    """

    def remove_image(self, image: ImageLike, *, missing_ok: bool = False) -> None:
        """
        Forget an image: every tag and digest by which it was known.

        What it alone used stops counting at once and is durable when this returns; the files go right after.
        A pinned image is removed too; one that is held is not.

        Raises:
            InvalidReference: *image* is not a reference, an image id or a row id.
            ImageNotFound: there is no such image, unless *missing_ok*.
            ImageInUse: somebody holds it.
            StoreBusy: another process held the write lock for too long.
        """
        try:
            removed = with_headroom(self._files, lambda: self._repository.remove(key_of(image)))
        except ImageInUse:
            # A hold ends with its process, and the dead cannot say so.
            if not reap(self._repository, self._files):
                raise
            removed = with_headroom(self._files, lambda: self._repository.remove(key_of(image)))
        if removed is None:
            if missing_ok:
                return
            raise ImageNotFound(f"no such image: {shown(image)}", image=str(key_of(image)))
        sweep_quietly(self._repository, self._files)

    def remove_image_by_ref(self, reference: str | ImageSpec, *, missing_ok: bool = False) -> None:
        """
        Forget the image that a reference denotes, with all its names. See `remove_image`.
        """
        status = self.image_status_by_ref(reference)
        if status is not None:
            self.remove_image(status.id, missing_ok=missing_ok)
        elif not missing_ok:
            raise ImageNotFound(f"no such image: {shown(reference)}", image=str(key_of(reference)))

    def tag_image(self, image: ImageLike, tag: str | ImageSpec, *, move: bool = False) -> ImageStatus:
        """
        Give an image one more tag, at the cost of a row.

        Raises:
            ImageNotFound: there is no such image.
            ImageAlreadyExists: the tag denotes another image, and not *move*.
            InvalidReference: *tag* does not parse, or is a digest.
        """
        spec = tag if isinstance(tag, ImageSpec) else ImageSpec.parse(tag)
        reference = spec.normalised()
        if reference.digest is not None:
            raise InvalidReference("a tag cannot be a digest", reference=str(reference))
        return self._repository.tag(key_of(image), reference, move=move)

    def untag_image(self, reference: str | ImageSpec) -> ImageStatus:
        """
        Take one tag or digest reference away. The image stays, without a name if that was its last.

        Raises:
            ImageNotFound: there is no such reference.
        """
        spec = reference if isinstance(reference, ImageSpec) else ImageSpec.parse(reference)
        return with_headroom(self._files, lambda: self._repository.untag(spec.normalised()))

    def pin_image(self, image: ImageLike) -> ImageStatus:
        """
        Keep an image from eviction and collection. An explicit removal is still obeyed.
        """
        return self._repository.pin(key_of(image), pinned=True)

    def unpin_image(self, image: ImageLike) -> ImageStatus:
        """
        Undo `pin_image`.
        """
        return self._repository.pin(key_of(image), pinned=False)

    @contextmanager
    def hold(self, image: ImageLike) -> Iterator[ImageStatus]:
        """
        Keep an image while a block runs: nobody can remove it, in any process.

        The hold ends with the block or with this process, whatever comes first; the view ``held`` shows it.

        Raises:
            ImageNotFound: there is no such image.
        """
        from ullage.repository import Owner

        self._database.require_writable()
        lookups = self._lookups
        lock = self._files.new_lease()
        try:
            status = lookups.hold(Owner(lock.token, owner_name(), os.getpid()), key_of(image))
            try:
                yield status
            finally:
                if (
                    lock.is_held
                ):  # not so in a child that was forked inside the block: the hold is the parent's
                    with_headroom(self._files, lambda: lookups.let_go(lock.token))
        finally:
            lock.drop()
