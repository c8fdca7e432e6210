"""
OCI image layouts being written: as a directory, new or added to, and as a tar.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ullage.archive.beside import Beside, beside_name, sync_directory, writing
from ullage.archive.files import Folder, read_all
from ullage.archive.listed import REF_NAME
from ullage.archive.oci import MAX_INDEX_BYTES, OciLayout
from ullage.archive.outgoing import entries_of, verified
from ullage.archive.tarwriter import TarWriter
from ullage.digest import CONTENT_ALGORITHMS, Digest, Hasher
from ullage.document import Descriptor, read_object
from ullage.errors import InvalidArchive
from ullage.manifest import OCI_INDEX
from ullage.vocabulary import INDEX, LAYOUT, LAYOUT_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ullage.archive.beside import Stdout
    from ullage.archive.outgoing import Outgoing

__all__ = ["OciArchiveWriter", "OciDirectoryWriter"]

_CHUNK_BYTES: Final = 1 << 20
#: What makes a directory the root of a store, which writes its layout itself.
_DATABASE: Final = "ullage.db"


class OciArchiveWriter:
    """
    A tar of a layout: `Destination`. The same images in the same order give the same bytes.
    """

    def __init__(self, out: Beside | Stdout) -> None:
        self._out = out
        self._tar = TarWriter(out)
        self._written: set[Digest] = set()
        self._entries: list[dict[str, object]] = []
        self._folders: set[str] = set()

    def add(self, image: Outgoing) -> None:
        for digest, raw in sorted(image.documents.items()):
            if self._is_new(digest):
                self._tar.file(_path(digest), len(raw), [raw])
        for blob in sorted(image.blobs, key=lambda each: each.digest):
            if self._is_new(blob.digest):
                with image.open(blob.digest) as stream:
                    self._tar.file(_path(blob.digest), blob.size, verified(blob, stream))
        self._entries += entries_of(image)

    def _is_new(self, digest: Digest) -> bool:
        for folder in ("blobs", f"blobs/{digest.algorithm}"):
            if folder not in self._folders:
                self._folders.add(folder)
                self._tar.directory(folder)
        known = digest in self._written
        self._written.add(digest)
        return not known

    def finish(self) -> None:
        index = _index_of(self._entries)
        self._tar.file(INDEX, len(index), [index])
        self._tar.file(LAYOUT_FILE, len(LAYOUT), [LAYOUT])
        self._tar.finish()
        self._out.finish()

    def discard(self) -> None:
        self._out.discard()


class OciDirectoryWriter:
    """
    A layout in a directory: `Destination`. A new one is made beside its place and renamed; one that is there is added
    to, and what its tags denote changes at once, with its ``index.json``.

    Raises:
        InvalidArchive: *path* is something else, or the root of a store.
    """

    def __init__(self, path: str) -> None:
        self._path = path.rstrip("/") or "/"
        self._entries: list[dict[str, object]] = []
        self._added: list[tuple[int, str]] = []
        self._folders: dict[str, int] = {}
        self._temporary = ""
        self._before: dict[str, Any] = {}
        exists = os.path.lexists(self._path)
        with writing(path):
            if not exists:
                parent, name = os.path.split(self._path)
                self._temporary = os.path.join(parent, beside_name(name))  # noqa: PTH118 -- a path as it was typed
                os.mkdir(self._temporary)  # noqa: PTH102
        where = self._temporary or self._path
        try:
            with writing(path):
                self._root = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._folders[""] = self._root
            # One at a time: who adds reads the index first, and writes it last.
            fcntl.flock(self._root, fcntl.LOCK_EX)
            if exists and os.listdir(self._root):  # noqa: PTH208 -- a descriptor, not a path
                self._before = self._what_is_there()
            for folder in ("blobs", *(f"blobs/{each}" for each in CONTENT_ALGORITHMS)):
                self._folders[folder] = self._open_folder(folder)
        except BaseException:
            self.discard()
            raise

    def add(self, image: Outgoing) -> None:
        for digest, raw in image.documents.items():
            descriptor = Descriptor("", digest, len(raw))
            if not self._has(descriptor):
                self._write(_path(digest), [raw])
        for blob in image.blobs:
            if not self._has(blob):
                with image.open(blob.digest) as stream:
                    self._write(_path(blob.digest), verified(blob, stream))
        self._entries += entries_of(image)

    def finish(self) -> None:
        self._write(LAYOUT_FILE, [LAYOUT], unless_there=True)
        self._write(INDEX, [_index_of(self._entries, before=self._before)])
        self._added.clear()
        if self._temporary:
            with writing(self._path):
                os.rename(self._temporary, self._path)  # noqa: PTH104
                self._temporary = ""
                parent = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120
                sync_directory(parent)
                os.close(parent)
        self.discard()

    def discard(self) -> None:
        for folder, name in self._added:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
        self._added.clear()
        for descriptor in self._folders.values():
            os.close(descriptor)
        self._folders.clear()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = ""

    # ------------------------------------------------------------------ what is there

    def _what_is_there(self) -> dict[str, Any]:
        folder = Folder(self._path)
        try:
            if folder.size_of(_DATABASE) is not None:
                raise InvalidArchive(
                    f"{self._path} is the root of a store",
                    path=self._path,
                    hint="what is brought in by `ullage import --root` is in its layout",
                )
            OciLayout(folder)
            raw = read_all(folder, INDEX, max_bytes=MAX_INDEX_BYTES)
            assert raw is not None, "a layout has one"
            return read_object(raw, max_bytes=MAX_INDEX_BYTES)
        finally:
            folder.close()

    def _open_folder(self, name: str) -> int:
        parent, _, last = name.rpartition("/")
        with writing(self._path):
            with suppress(FileExistsError):
                os.mkdir(last, dir_fd=self._folders[parent])
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(last, flags, dir_fd=self._folders[parent])

    def _has(self, blob: Descriptor) -> bool:
        """
        Whether a blob is there, and is what its name says: what another tool left half written is not.
        """
        folder, _, name = _path(blob.digest).rpartition("/")
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folders[folder]
            )
        except OSError:
            return False
        with os.fdopen(descriptor, "rb", buffering=0) as file, suppress(OSError):
            if os.fstat(descriptor).st_size != blob.size:
                return False
            hasher = Hasher(blob.digest)
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
            return hasher.matches
        return False

    def _write(self, path: str, pieces: Iterable[bytes], *, unless_there: bool = False) -> None:
        folder, _, name = path.rpartition("/")
        parent = self._folders[folder]
        is_new = not _is_there(name, parent)
        if unless_there and not is_new:
            return
        with writing(self._path):
            file = Beside(os.dup(parent), name, f"{self._path}/{path}")
        try:
            for piece in pieces:
                file.write(piece)
            file.finish()
        except BaseException:
            file.discard()
            raise
        if is_new:
            self._added.append((parent, name))


def _is_there(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return True


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def _index_of(entries: Sequence[dict[str, object]], *, before: dict[str, Any] | None = None) -> bytes:
    """
    An ``index.json`` with *entries*; those *before* stay, but for names that denote something else now.
    """
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX} | (before or {})
    taken = {_name_of(entry) for entry in entries} - {None}
    nameless = {entry["digest"] for entry in entries if _name_of(entry) is None}
    kept = [
        entry
        for entry in document.get("manifests") or []
        if _name_of(entry) not in taken and not (_name_of(entry) is None and entry.get("digest") in nameless)
    ]
    document["manifests"] = [*kept, *_unique(entries)]
    return json.dumps(document, separators=(",", ":")).encode()


def _unique(entries: Sequence[dict[str, object]]) -> Iterator[dict[str, object]]:
    seen = set()
    for entry in entries:
        key = (_name_of(entry), entry["digest"])
        if key not in seen:
            seen.add(key)
            yield entry


def _name_of(entry: dict[str, Any]) -> str | None:
    name = (entry.get("annotations") or {}).get(REF_NAME)
    return name if isinstance(name, str) else None
