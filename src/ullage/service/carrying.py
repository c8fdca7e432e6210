"""
The verbs that carry images in and out without a registry.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from ullage import archive
from ullage.errors import DigestMismatch, InvalidReference, PullCancelled, SizeMismatch, StoreCorrupt
from ullage.platform import platform_choice
from ullage.reference import ImageSpec, Reference, parse_normalized
from ullage.service.consigning import Consigning
from ullage.service.handle import ImageLike, key_of
from ullage.service.mounting import Mounting

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

    from ullage.archive import Listed, Outgoing, Place, Source
    from ullage.digest import Digest
    from ullage.model import ImageStatus, ProgressCallback
    from ullage.platform import Platform
    from ullage.resolve import Target
    from ullage.spool import Spool

__all__ = ["Carrying"]


class Carrying(Mounting, Consigning):
    """
    The part of `ImageService` that is about images in directories and archives.
    """

    def import_images(
        self,
        source: str | os.PathLike[str] | Place,
        *,
        name: str | None = None,
        platform: str | Platform | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_progress: ProgressCallback | None = None,
        evict: bool | None = None,
    ) -> list[ImageStatus]:
        """
        Have the images of an OCI layout, an OCI archive or a Docker archive; in its order.

        Each is admitted, verified, deduplicated and accounted as in a pull, and those before one that fails stay. An
        image gets the names that it has there; one without a name, or with a tag alone, is known by its id.

        Args:
            source: ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]``, ``docker-archive:FILE[:REF]``, or the path of one
                of them, which is looked at; ``-`` is standard input. An archive may be compressed with gzip or zstd.
                A pipe or a compressed archive is spooled in the store first, and charged meanwhile.
            name: what to call the image, instead of its names there. Without a tag it is a repo, and an image that
                has a tag alone there gets that tag.
            platform: ``os/arch[/variant]`` to choose from indexes; this machine's by default; ``all`` as in a pull.
            timeout: seconds for all of it.
            cancel: set it, from any thread, to end it.
            on_progress: called as in a pull.
            evict: whether the least recently used images may go to make room; as the service was opened by default.

        Raises:
            InvalidArchive: nothing that can be read is there, or it contradicts itself.
            ManifestUnknown: it has no image of that tag.
            PullFailed: an image in it is broken, for another platform, or does not fit; see its subclasses.
            InvalidReference: *name* or *platform* does not parse, or *name* would be that of several images.
            StoreError: the store could not do it.
        """
        from ullage.pull import Pull

        place = _place(source)
        asked, every = platform_choice(platform)
        self._database.require_writable()
        deadline = None if timeout is None else time.monotonic() + timeout
        evicts = self._policy is not None if evict is None else evict

        how: dict[str, Any] = {"deadline": deadline, "cancel": cancel, "on_progress": on_progress}

        def pull(opened: Source, image: Listed, target: Target) -> ImageStatus:
            names = None if target.reference is None else str(target.reference)
            with self._failing_on_record("import", reference=names):
                status = Pull(
                    repository=self._repository,
                    files=self._files,
                    repo=opened.repo(image),
                    target=target,
                    platform=asked,
                    evict=evicts,
                    every=every,
                    unpack=None if self._unpack else False,
                    patience=self._database.patience,
                    **how,
                ).run()
            self._have_trees(status, evict=evict, **how)
            return status

        check = _end_of(place, cancel, deadline)
        with archive.open_source(place, spool=self._spooling(evict=evicts), check=check) as opened:
            images = opened.choose(place.name)
            named = [(image, _targets(image, name, opened.where, of=len(images))) for image in images]
            return [self._all_names(image, targets, opened, pull) for image, targets in named]

    def export_images(
        self,
        images: Iterable[ImageLike],
        destination: str | os.PathLike[str] | Place,
        *,
        form: str | None = None,
        platform: str | Platform | None = None,
        sparse: bool = False,
    ) -> list[ImageStatus]:
        """
        Write images to an OCI layout, an OCI archive or a Docker archive; what they share is in it once.

        The same images give the same bytes, in whatever order they are named. A file is written beside its place and
        takes it when it is whole; a layout that is there is added to, and its tags move at once. Nobody can remove
        the images meanwhile. An image that is named by a reference gets that name there, one that is named by its id
        all of its tags.

        Args:
            destination: ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]``, ``docker-archive:FILE``, or a path; ``-`` is
                standard output. A path is an OCI archive by default, or a layout where there is a directory. A
                TAG is the name there of the one image.
            form: ``oci``, ``oci-archive`` or ``docker-archive``, for a destination that does not say.
            platform: the image's own by default: its manifest, without the index by which it came. ``os/arch`` chooses
                another one of that index that is here, and ``all`` is the index with all that it names, which has to
                be here (``pull --platform all``).
            sparse: with ``all``, what of the index is here is enough. The index is the same to the byte, and names
                manifests that are not in the layout, which OCI allows.

        Raises:
            ImageNotFound: one of them is not here, or its content is kept elsewhere.
            InvalidReference: no images, or several for one TAG.
            NoMatchingPlatform: there is nothing for *platform*.
            ValueError: *sparse* without ``all``.
            InvalidArchive: there is a directory that is no layout.
            UnsupportedContent: a Docker archive has no room for what it is.
            StoreCorrupt: a blob is not what its row says.
            DiskFull: there is no room where it is written.
            ImageError: it cannot be written there.
        """
        place = _place(destination)
        if form is not None:
            place = place.of(form)
        asked, every = platform_choice(platform)
        if sparse and not every:
            raise ValueError("sparse is for all platforms")
        self._database.require_writable()
        with ExitStack() as held:
            named = list(images)
            statuses = [held.enter_context(self.hold(image)) for image in named]

            def consigned(key: int | str) -> Outgoing:
                if asked is None and not every:
                    return self._own(key)
                return self._consigned(key, held, platform=asked, every=every, sparse=sparse)

            outgoing = self._outgoing(zip(named, statuses, strict=True), place, consigned)
            writer = archive.open_destination(place)
            try:
                for each in outgoing:
                    writer.add(each)
                writer.finish()
            except (DigestMismatch, SizeMismatch) as error:
                raise StoreCorrupt(
                    f"a blob is not what its name says: {error.message}",
                    hint="`ullage check --digests --repair` fetches it again",
                ) from error
            finally:
                writer.discard()
        return statuses

    def _outgoing(
        self,
        images: Iterable[tuple[ImageLike, ImageStatus]],
        place: Place,
        consigned: Callable[[int | str], Outgoing],
    ) -> list[Outgoing]:
        """
        What goes out, each manifest and index once, in the order of their digests.

        Raises:
            InvalidReference: there is none, or one name for several.
        """
        names: dict[Digest, set[str]] = {}
        found: dict[Digest, Outgoing] = {}
        for image, status in images:
            named = self._named(image, status)
            keys: list[int | str] = [*named] or [status.id]
            for key in keys:
                each = consigned(key)
                found[each.top.digest] = each
                names.setdefault(each.top.digest, set()).update(named and [str(key)])
        if not found:
            raise InvalidReference("no images to export", reference="")
        if place.name and len(found) > 1:
            raise InvalidReference(
                f"{len(found)} images, and {place} names one",
                reference=place.name,
                hint="leave the name out",
            )
        return [
            replace(each, names=(place.name,) if place.name else tuple(sorted(names[digest])))
            for digest, each in sorted(found.items())
        ]

    def _own(self, key: int | str) -> Outgoing:
        """
        The manifest of an image that is held, without the index by which it came.
        """
        manifest = self.manifest(key)
        return archive.Outgoing(
            top=manifest.descriptor,
            documents={manifest.digest: manifest.raw},
            blobs=manifest.blobs,
            names=(),
            open=self._open_held,
        )

    def _named(self, image: ImageLike, status: ImageStatus) -> list[str]:
        """
        The references that an image goes out by: the one that it was named by, else all of its tags.
        """
        key = key_of(image)
        if isinstance(key, str):
            with suppress(InvalidReference):  # then it is an id
                reference = str(Reference.parse(key))
                if reference in (*status.repo_tags, *status.repo_digests):
                    return [reference]
        return list(status.repo_tags)

    def _open_held(self, digest: Digest) -> BinaryIO:
        return self._files.open(digest)

    def _spooling(self, *, evict: bool) -> Callable[[Iterator[bytes], str], Spool]:
        from ullage.spool import Spool

        return lambda pieces, where: Spool.of(self._repository, self._files, pieces, where=where, evict=evict)

    def _all_names(
        self,
        image: Listed,
        targets: list[Target],
        source: Source,
        pull: Callable[[Source, Listed, Target], ImageStatus],
    ) -> ImageStatus:
        """
        The image under each of its names: the first brings it, and the others cost a row.
        """
        for target in targets:
            status = pull(source, image, target)
        return self._used(status)


def _place(where: str | os.PathLike[str] | Place) -> Place:
    return where if isinstance(where, archive.Place) else archive.Place.parse(os.fspath(where))


def _end_of(place: Place, cancel: threading.Event | None, deadline: float | None) -> Callable[[], None]:
    """
    What raises when an import is to end.
    """

    def check() -> None:
        if cancel is not None and cancel.is_set():
            raise PullCancelled(f"the import of {place} was cancelled")
        if deadline is not None and time.monotonic() > deadline:
            raise PullCancelled(f"the import of {place} did not end before its deadline")

    return check


def _targets(image: Listed, name: str | None, where: str, *, of: int) -> list[Target]:
    """
    What an image is to be called here: at least one target, whose reference is None where it gets no name.

    Raises:
        InvalidReference: *name* would be that of several images.
    """
    from ullage.resolve import Target

    digest = image.descriptor.digest
    if name is not None and parse_normalized(name).digest is not None:
        raise InvalidReference("a name to give cannot be a digest", reference=name)
    if name is None:
        specs = [ImageSpec.parse(str(reference)) for reference in image.references]
    elif parse_normalized(name).is_name_only:
        tags = [each for each in image.names if archive.reference_of(each) is None]
        tags += [each.tag for each in image.references if each.tag is not None]
        if not tags and of > 1:
            raise InvalidReference(
                f"{where} has several images, and no tags for {name} to give them",
                reference=name,
                hint="choose one: PATH:TAG",
            )
        specs = [ImageSpec.parse(f"{name}:{tag}") for tag in dict.fromkeys(tags)] or [ImageSpec.parse(name)]
    elif of > 1:
        raise InvalidReference(
            f"{where} has {of} images, and one name is for one of them",
            reference=name,
            hint="choose one: PATH:TAG, or give a name without a tag",
        )
    else:
        specs = [ImageSpec.parse(name)]
    if not specs:
        return [Target(digest, ImageSpec(""), None, where)]
    return [Target(digest, spec, spec.normalised(), str(spec.normalised())) for spec in specs]
