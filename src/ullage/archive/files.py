"""
The files of a layout or an archive, by their names: below a directory, or in a tar.

Whoever made them is not trusted. A name is looked up, never walked to: in a directory step by step without following a
link, in a tar in a table of its entries. Both give files that can be read from any offset, by several threads.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, Protocol

from ullage.errors import InvalidArchive, UnsafeLayer
from ullage.layer import Entry, Kind, TarReader

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Files", "Folder", "Part", "Storage", "TarFiles", "read_all"]

#: Entries of one archive: each layer has a few, each image some more.
_MAX_ENTRIES: Final = 200_000
_MAX_OVERHEAD_BYTES: Final = 256 << 20
_MAX_LINKS: Final = 8
_CHUNK_BYTES: Final = 256 << 10


class Storage(Protocol):
    """
    Bytes that can be read from anywhere: a file, or a pipe that was spooled.
    """

    size: int

    def read_at(self, offset: int, size: int, /) -> bytes:
        """
        At most *size* bytes; none only at the end.
        """

    def close(self) -> None: ...


class Part:
    """
    One file, from an offset on. Close it.
    """

    def __init__(
        self,
        read_at: Callable[[int, int], bytes],
        *,
        offset: int,
        end: int,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._read_at = read_at
        self._at = offset
        self._end = end
        self._close = close

    def read(self, size: int) -> bytes:
        data = self._read_at(self._at, min(size, self._end - self._at)) if self._at < self._end else b""
        self._at += len(data)
        return data

    def close(self) -> None:
        self._close()


class Files(Protocol):
    """
    `Folder` or `TarFiles`. ``where`` is for messages.
    """

    where: str

    def size_of(self, name: str) -> int | None:
        """
        Bytes of the regular file *name*; None when there is none.

        Raises:
            InvalidArchive: there is something else of that name.
        """

    def open(self, name: str, offset: int = 0) -> Part:
        """
        The file *name*, which is there.
        """

    def close(self) -> None: ...


def read_all(files: Files, name: str, *, max_bytes: int) -> bytes | None:
    """
    A small file, whole; None when there is none.

    Raises:
        InvalidArchive: it is longer than *max_bytes*.
    """
    size = files.size_of(name)
    if size is None:
        return None
    if size > max_bytes:
        raise InvalidArchive(
            f"{files.where}: {shown(name)} has {size} bytes, limit {max_bytes}", path=files.where
        )
    part = files.open(name)
    try:
        data = bytearray()
        while chunk := part.read(_CHUNK_BYTES):
            data += chunk
    finally:
        part.close()
    return bytes(data)


def shown(name: str) -> str:
    """
    A name from outside on one line, of a length that a message can bear.
    """
    return ascii(name)[1:-1] if len(name) <= 100 else f"{ascii(name[:97])[1:-1]}..."


class Folder:
    """
    The files below a directory. No link in it is followed; *path* itself may be one.
    """

    def __init__(self, path: str) -> None:
        self.where = path
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidArchive(f"cannot open {shown(path)}: {error.strerror}", path=path) from error

    def size_of(self, name: str) -> int | None:
        descriptor = self._open(name)
        if descriptor is None:
            return None
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def open(self, name: str, offset: int = 0) -> Part:
        descriptor = self._open(name)
        if descriptor is None:
            raise InvalidArchive(f"{self.where}: {shown(name)} is gone", path=self.where)
        end = os.fstat(descriptor).st_size

        def read_at(at: int, size: int) -> bytes:
            try:
                return os.pread(descriptor, size, at)
            except OSError as error:
                raise unreadable(self.where, name, error) from error

        return Part(read_at, offset=offset, end=end, close=lambda: os.close(descriptor))

    def close(self) -> None:
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _open(self, name: str) -> int | None:
        """
        Step by step, each a directory of its own and no link to one; the last a regular file.
        """
        *parents, last = name.split("/")
        at = self._root
        try:
            for each in parents:
                below = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                if at != self._root:
                    os.close(at)
                at = below
            # Not blocking: a FIFO of that name would wait for a writer for ever.
            descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise self._no_file(name) from error
            raise unreadable(self.where, name, error) from error
        finally:
            if at != self._root:
                os.close(at)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._no_file(name)
        return descriptor

    def _no_file(self, name: str) -> InvalidArchive:
        return InvalidArchive(
            f"{self.where}: {shown(name)} is no regular file: links and the like are not followed",
            path=self.where,
        )


class TarFiles:
    """
    The files of a tar that is not compressed. Its headers are read once, here; the bytes between them are not.

    Raises:
        InvalidArchive: it is no tar, has two files of one name, or names that lead out of it.
    """

    def __init__(self, storage: Storage, where: str) -> None:
        self.where = where
        self._storage = storage
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._others: set[str] = set()
        blocks = _Blocks(storage)
        reader = TarReader(blocks, max_entries=_MAX_ENTRIES, max_overhead_bytes=_MAX_OVERHEAD_BYTES)
        try:
            while (entry := reader.next()) is not None:
                self._add(entry, blocks.at)
        except UnsafeLayer as error:
            reason = error.message.removeprefix("unsafe layer: ")
            raise InvalidArchive(f"{where}: no whole tar archive: {reason}", path=where) from error

    def size_of(self, name: str) -> int | None:
        found = self._files.get(self._followed(name))
        if found is None:
            if name in self._others:
                raise InvalidArchive(f"{self.where}: {shown(name)} is no regular file", path=self.where)
            return None
        return found[1]

    def open(self, name: str, offset: int = 0) -> Part:
        start, size = self._files[self._followed(name)]
        return Part(self._read_at, offset=start + offset, end=start + size)

    def is_link(self, name: str) -> bool:
        return name in self._links

    def close(self) -> None:
        self._storage.close()

    def _read_at(self, at: int, size: int) -> bytes:
        return self._storage.read_at(at, size)

    def _add(self, entry: Entry, at: int) -> None:
        name = self._name(entry.name)
        if entry.kind is Kind.DIRECTORY:
            return
        if name in self._files or name in self._links or name in self._others:
            raise InvalidArchive(f"{self.where}: two files are called {shown(name)}", path=self.where)
        if entry.kind is Kind.FILE and entry.extents is None:
            self._files[name] = (at, entry.size)
        elif entry.kind is Kind.LINK:
            self._links[name] = self._name(entry.link)
        elif entry.kind is Kind.SYMLINK:
            self._links[name] = self._target(name, entry.link)
        else:
            self._others.add(name)

    def _followed(self, name: str) -> str:
        """
        Where links lead: docker and skopeo write a layer that several images have once, and links to it.
        """
        for _ in range(_MAX_LINKS):
            if name not in self._links:
                return name
            name = self._links[name]
        raise InvalidArchive(f"{self.where}: links without end at {shown(name)}", path=self.where)

    def _name(self, raw: bytes) -> str:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = "\0"
        parts = [each for each in text.split("/") if each not in ("", ".")]
        if text.startswith("/") or ".." in parts or "\0" in text:
            raise self._leads_out(raw)
        return "/".join(parts)

    def _target(self, name: str, raw: bytes) -> str:
        """
        What a symbolic link leads to, as a name of the archive.
        """
        if raw.startswith(b"/"):
            raise self._leads_out(raw)
        parts = name.split("/")[:-1]
        for each in raw.decode("utf-8", "replace").split("/"):
            if each == "..":
                if not parts:
                    raise self._leads_out(raw)
                parts.pop()
            elif each not in ("", "."):
                parts.append(each)
        return "/".join(parts)

    def _leads_out(self, raw: bytes) -> InvalidArchive:
        return InvalidArchive(
            f"{self.where}: a name that leads out of the archive: {shown(raw.decode('utf-8', 'backslashreplace'))}",
            path=self.where,
        )


class _Blocks:
    """
    What a `TarReader` reads: headers as they come, and seeks over what is between them.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.at = 0

    def take(self, size: int, *, after: int = 0) -> bytes:
        self.at += after
        data = b""
        while len(data) < size and (more := self._storage.read_at(self.at, size - len(data))):
            data += more
            self.at += len(more)
        return data

    def skip(self, size: int) -> bool:
        self.at += size
        return self.at <= self._storage.size


def unreadable(where: str, name: str, error: OSError) -> InvalidArchive:
    return InvalidArchive(f"{where}: cannot read {shown(name)}: {error.strerror}", path=where)
