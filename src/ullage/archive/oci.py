"""
OCI image layouts, in a directory or in a tar: image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ullage.archive.files import TarFiles, read_all, shown
from ullage.archive.listed import CONTAINERD_NAME, REF_NAME, Listed, reference_of
from ullage.digest import CONTENT_ALGORITHMS, Digest
from ullage.document import Descriptor, descriptors_in, read_object, text_in
from ullage.errors import InvalidArchive, InvalidManifest
from ullage.vocabulary import INDEX, LAYOUT_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ullage.archive.files import Files, Part

__all__ = ["MAX_INDEX_BYTES", "OciLayout"]

_MAX_LAYOUT_BYTES: Final = 4096
#: Of an ``index.json``. A store of a hundred thousand images writes one of some eighty megabytes.
MAX_INDEX_BYTES: Final = 256 << 20
_MAX_IMAGES: Final = 1_000_000


class OciLayout:
    """
    A layout that was opened: `Content`.

    Raises:
        InvalidArchive: it is of a version that is not known, or one name denotes two images.
        InvalidManifest: its ``index.json`` is none.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self.where = files.where
        self._require_version()
        raw = read_all(files, INDEX, max_bytes=MAX_INDEX_BYTES)
        if raw is None:
            raise InvalidArchive(f"{self.where}: an OCI layout without {INDEX}", path=self.where)
        try:
            document = read_object(raw, max_bytes=MAX_INDEX_BYTES)
            self.images: Sequence[Listed] = _listed(
                descriptors_in(document, "manifests", limit=_MAX_IMAGES), self.where
            )
        except InvalidManifest as error:
            raise InvalidManifest(f"{self.where}: {INDEX}: {error.message}") from error

    def _require_version(self) -> None:
        raw = read_all(self._files, LAYOUT_FILE, max_bytes=_MAX_LAYOUT_BYTES)
        try:
            version = "" if raw is None else text_in(read_object(raw), "imageLayoutVersion")
        except InvalidManifest as error:
            raise InvalidArchive(f"{self.where}: {LAYOUT_FILE}: {error.message}", path=self.where) from error
        if version.partition(".")[0] != "1":
            raise InvalidArchive(
                f"{self.where}: an OCI layout of version {shown(version)!r}, and 1 is known here",
                path=self.where,
            )

    def size_of(self, digest: Digest) -> int | None:
        return None if digest.algorithm not in CONTENT_ALGORITHMS else self._files.size_of(self._path(digest))

    def open(self, digest: Digest, offset: int) -> Part:
        return self._files.open(self._path(digest), offset)

    def read(self, digest: Digest, *, max_bytes: int) -> bytes | None:
        return read_all(self._files, self._path(digest), max_bytes=max_bytes)

    def close(self) -> None:
        self._files.close()

    def _path(self, digest: Digest) -> str:
        path = f"blobs/{digest.algorithm}/{digest.encoded}"
        # A directory follows none either: what a digest names is where the digest says.
        if isinstance(self._files, TarFiles) and self._files.is_link(path):
            raise InvalidArchive(f"{self.where}: {path} is a link, and no blob", path=self.where)
        return path


def _listed(descriptors: Iterable[Descriptor], where: str) -> list[Listed]:
    """
    An image for each digest, with all the names that it is listed under.
    """
    first: dict[Digest, Descriptor] = {}
    names: dict[Digest, dict[str, None]] = {}
    owners: dict[str, Digest] = {}
    for each in descriptors:
        each.require_supported()
        first.setdefault(each.digest, each)
        known = names.setdefault(each.digest, {})
        for name in _names(each):
            if owners.setdefault(name, each.digest) != each.digest:
                raise InvalidArchive(
                    f"{where}: {shown(name)} denotes both {owners[name]} and {each.digest}", path=where
                )
            known[name] = None
    return [Listed(first[digest], tuple(known)) for digest, known in names.items()]


def _names(descriptor: Descriptor) -> list[str]:
    """
    containerd's name first: docker writes the tag alone beside it.
    """
    name = descriptor.annotations.get(CONTAINERD_NAME, "")
    short = descriptor.annotations.get(REF_NAME, "")
    whole = reference_of(name)
    if whole is None:
        return [short] if short else []
    same = short == whole.tag or reference_of(short) == whole or not short
    return [name] if same else [name, short]
