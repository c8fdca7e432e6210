"""
A layout or an archive that was opened, and each of its images as what a pull asks: a repo.

    with open_source(Place.parse("oci:images:app"), spool=spool) as source:
        for image in source.images:
            repo = source.repo(image)
            repo.get_manifest(image.descriptor.digest), repo.open_blob(digest, size=size)

`SourceRepo` answers as `ullage.registry.RegistryRepo` does, so admission, verification, deduplication and accounting
are those of a pull, and nothing here verifies anything.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from typing import TYPE_CHECKING, Final, Self

from ullage.archive.docker import DockerArchive
from ullage.archive.files import Folder, TarFiles, shown, unreadable
from ullage.archive.oci import OciLayout
from ullage.archive.place import DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIRECTORY, PIPE
from ullage.digest import Digest
from ullage.document import MAX_DOCUMENT_BYTES, read_object, text_in
from ullage.errors import (
    ContentError,
    InvalidArchive,
    InvalidManifest,
    ManifestUnknown,
    PullCancelled,
    SizeMismatch,
    UnsupportedContent,
)
from ullage.layer import decompressed
from ullage.registry import FetchedHead, FetchedManifest
from ullage.vocabulary import LAYOUT_FILE, OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ullage.archive.files import Files, Part, Storage
    from ullage.archive.listed import Content, Listed
    from ullage.archive.place import Place

__all__ = ["Source", "SourceRepo", "SourceStream", "open_source"]

_CHUNK_BYTES: Final = 1 << 20
_LOOK_SECONDS: Final = 0.05
_STDIN: Final = 0
#: First bytes of what `decompressed` knows, or knows to refuse.
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00")


def open_source(
    place: Place,
    *,
    spool: Callable[[Iterator[bytes], str], Storage],
    check: Callable[[], None] = lambda: None,
) -> Source:
    """
    What is at *place*. Close it, or use it as a context manager.

    Args:
        spool: keeps what cannot be read twice, a pipe or an archive that is compressed, for as long as it is open.
        check: called while a pipe is waited for; raises to end that.

    Raises:
        InvalidArchive: there is nothing that can be read, or it contradicts itself.
        ContentError: what it lists is damaged.
    """
    where = str(place) if not place.is_pipe else "the pipe"
    if not place.is_pipe and os.path.isdir(place.path):  # noqa: PTH112 -- a path as it was typed
        if place.transport not in ("", OCI_DIRECTORY):
            raise InvalidArchive(f"{where}: a directory, and no archive", path=place.path)
        return _opened(Folder(place.path), place)
    if place.transport == OCI_DIRECTORY:
        raise InvalidArchive(
            f"{where}: no such directory", path=place.path, hint="an archive of a layout is oci-archive:FILE"
        )
    storage = _storage(place, where, spool, check)
    try:
        files = TarFiles(storage, where)
    except BaseException:
        storage.close()
        raise
    return _opened(files, place)


def _opened(files: Files, place: Place) -> Source:
    try:
        return Source(_content(files, place.transport))
    except BaseException:
        files.close()
        raise


def _content(files: Files, transport: str) -> Content:
    # Docker 25 and later write both into one archive: the layout has the manifest as it was built.
    is_layout = files.size_of(LAYOUT_FILE) is not None
    if transport == DOCKER_ARCHIVE:
        return DockerArchive(files)
    if is_layout or transport in (OCI_DIRECTORY, OCI_ARCHIVE):
        return OciLayout(files)
    return DockerArchive(files)


class Source:
    """
    A layout or an archive that was opened. ``images`` is what it lists, in its order.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self.where = content.where

    @property
    def images(self) -> Sequence[Listed]:
        return self._content.images

    def choose(self, name: str) -> list[Listed]:
        """
        The images that *name*, a tag or a reference, denotes: one; without a name, all of them.

        Raises:
            ManifestUnknown: there is none of that name, or none at all.
        """
        found = [image for image in self.images if not name or image.is_called(name)]
        if not found:
            names = [each for image in self.images for each in image.names]
            raise ManifestUnknown(
                f"{self.where} has no image{f' called {shown(name)}' if name else ''}",
                reference=name,
                hint=f"it has {', '.join(shown(each) for each in names[:10])}"
                if names
                else "it has none with a name",
            )
        return found

    def repo(self, image: Listed) -> SourceRepo:
        """
        *image* as a pull asks for it.
        """
        return SourceRepo(self._content, image)

    def close(self) -> None:
        self._content.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class SourceRepo:
    """
    One image of a source, asked as a repo of a registry is. Thread-safe.
    """

    def __init__(self, content: Content, image: Listed) -> None:
        self._content = content
        self._image = image
        self._aborted = threading.Event()

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """
        No host sent any of it.
        """
        return {}

    @property
    def received_from(self) -> None:
        """
        None of it came over a network.
        """

    @property
    def served(self) -> None:
        """
        Nobody was asked who they are.
        """

    def distrust(self, digest: Digest) -> bool:  # noqa: ARG002 -- as a registry's repo has it
        """
        Whether there is another copy to ask for: there is none.
        """
        return False

    def head_manifest(self, ref: str) -> FetchedHead | None:
        """
        What *ref* denotes, where that is the image itself; None for another document.
        """
        self._check()
        top = self._image.descriptor
        return FetchedHead(self._type_of_top(), top.digest, top.size) if ref == top.digest else None

    def get_manifest(self, ref: str) -> FetchedManifest:
        """
        The manifest or index of that digest.

        Raises:
            ManifestUnknown: it is not there.
            SizeMismatch: it is of another size than it is listed with.
        """
        self._check()
        digest = Digest.parse(ref)
        raw = self._content.read(digest, max_bytes=MAX_DOCUMENT_BYTES)
        if raw is None:
            raise ManifestUnknown(
                f"{self._content.where} lists a manifest that is not there: {digest}",
                reference=digest,
                hint="the layout is incomplete: write it again",
            )
        if digest != self._image.descriptor.digest:
            return FetchedManifest(raw, _type_of(raw), digest)
        self._require_size(digest, len(raw), self._image.descriptor.size)
        return FetchedManifest(raw, self._type_of_top(), digest)

    def open_blob(
        self,
        digest: Digest,
        *,
        size: int,
        offset: int = 0,
        urls: Sequence[str] = (),  # noqa: ARG002 -- as a registry's repo has it; nobody else is asked here
    ) -> SourceStream:
        """
        The bytes of a blob of *size* bytes, from *offset* on.

        Raises:
            ContentError: it is not there.
            SizeMismatch: it is of another size.
        """
        assert 0 <= offset <= size, "a blob ends at its size"
        self._check()
        actual = self._content.size_of(digest)
        if actual is None:
            raise ContentError(
                f"{self._content.where}: the manifest names a blob that is not there: {digest}",
                hint="the layout or archive is incomplete: write it again",
            )
        self._require_size(digest, actual, size)
        return SourceStream(self._content.open(digest, offset), offset, self._check)

    def abort(self) -> None:
        """
        End whatever is being read, from any thread.
        """
        self._aborted.set()

    def _check(self) -> None:
        if self._aborted.is_set():
            raise PullCancelled(f"reading {self._content.where} was cancelled")

    def _require_size(self, digest: Digest, actual: int, size: int) -> None:
        if actual != size:
            raise SizeMismatch(
                f"{self._content.where}: size mismatch of {digest}: expected {size} bytes, there are {actual}",
                expected_bytes=size,
                actual_bytes=actual,
            )

    def _type_of_top(self) -> str:
        top = self._image.descriptor
        if top.media_type:
            return top.media_type
        raw = self._content.read(top.digest, max_bytes=MAX_DOCUMENT_BYTES)
        return "" if raw is None else _type_of(raw)


class SourceStream:
    """
    A blob of a source being read, as `ullage.registry.stream.BlobStream` is. Close it.
    """

    def __init__(self, part: Part, offset: int, check: Callable[[], None]) -> None:
        self.offset = offset
        self._part = part
        self._check = check

    def read(self, amount: int = _CHUNK_BYTES) -> bytes:
        """
        The next bytes, at most *amount*; b'' at the end.
        """
        self._check()
        return self._part.read(amount)

    def close(self) -> None:
        self._part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class _File:
    """
    A file as `Storage`.
    """

    def __init__(self, descriptor: int, where: str) -> None:
        self._descriptor = descriptor
        self._where = where
        self.size = os.fstat(descriptor).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise unreadable(self._where, "it", error) from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _storage(
    place: Place,
    where: str,
    spool: Callable[[Iterator[bytes], str], Storage],
    check: Callable[[], None],
) -> Storage:
    if place.path == PIPE:
        return spool(_tar_of(_STDIN, where, check), where)
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidArchive(f"cannot open {shown(place.path)}: {reason}", path=place.path) from error
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if is_file and not os.pread(descriptor, 6, 0).startswith(_COMPRESSED):
            return _File(os.dup(descriptor), where)
        return spool(_tar_of(descriptor, where, check), where)
    finally:
        os.close(descriptor)


def _tar_of(descriptor: int, where: str, check: Callable[[], None]) -> Iterator[bytes]:
    """
    What comes out of a pipe or a compressed file, decompressed.
    """

    def read(size: int) -> bytes:
        try:
            while not select.select([descriptor], [], [], _LOOK_SECONDS)[0]:
                check()
            check()
            return os.read(descriptor, size)
        except OSError as error:
            raise unreadable(where, "it", error) from error

    try:
        yield from decompressed(read)
    except UnsupportedContent as error:
        name = error.message.rpartition(" ")[2]
        raise UnsupportedContent(
            f"{where}: unsupported compression of an archive: {name}",
            hint="archives are gzip, zstd or not compressed",
        ) from error
    except ContentError as error:
        if isinstance(error, InvalidArchive):
            raise
        reason = error.message.rpartition(": ")[2]
        raise InvalidArchive(f"{where}: it does not decompress: {reason}", path=where) from error


def _type_of(raw: bytes) -> str:
    """
    The media type of a document that nobody declared: its own, or by what is in it.
    """
    try:
        document = read_object(raw)
        stated = text_in(document, "mediaType")
    except InvalidManifest:
        return ""
    return stated or (OCI_INDEX if "manifests" in document else OCI_MANIFEST)
