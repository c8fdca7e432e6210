"""
Applying a layer to a directory, entry by entry.

What is safe about it is in `Tree`: this module only ever names the last component of a path, in a directory that was
reached without following anything. What is exact about it: a later entry replaces an earlier one, except that a
directory is merged with a directory; a whiteout speaks of what lower layers left and never of what its own layer
brings, wherever it stands; a hard link is the file that it names, not a copy; modes and times of directories are set
when all is in them. docs/unpacking.md lists what other engines do where they differ.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from ullage.errors import ImageError
from ullage.layer.account import SECTOR_BYTES, Account
from ullage.layer.attributes import Attributes, give_default_acl, path_at
from ullage.layer.flattened import FlattenedTree
from ullage.layer.options import ApplyOptions, LayerResult, Unlimited
from ullage.layer.overlay import OverlayTree
from ullage.layer.refused import Refused, translated
from ullage.layer.tar import Entry, Kind, TarReader
from ullage.layer.walk import join

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ullage.layer.options import Budget
    from ullage.layer.stream import LayerStream
    from ullage.layer.walk import Directory

__all__ = ["apply_layer", "apply_overlay"]

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
#: The kinds of most entries: looking a member up in an enumeration takes longer than the rest of the question.
_FILE: Final = Kind.FILE
_DIRECTORY: Final = Kind.DIRECTORY
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK_MASK: Final = 4095
#: What the budget is asked for before a file is made; beyond it, it is asked as the file grows.
_AT_ONCE_BYTES: Final = 1 << 20
#: What ext4, xfs, btrfs and tmpfs keep of a link in its inode.
_SHORT_LINK_BYTES: Final = 59
_MAJOR_MASK: Final = 0xFFF
_MINOR_MASK: Final = 0xFFFFF
_MODES: Final = {Kind.CHARACTER_DEVICE: stat.S_IFCHR, Kind.BLOCK_DEVICE: stat.S_IFBLK}


def apply_layer(
    stream: LayerStream,
    directory: int,
    *,
    options: ApplyOptions | None = None,
    budget: Budget | None = None,
) -> LayerResult:
    """
    Apply a layer on top of what is in *directory*: whiteouts delete there.

    Nothing is durable when this returns (see `Writeback`), and after an exception the directory holds some of
    the layer: it is the caller's to remove.

    Args:
        directory: a descriptor of the root, opened to read or as a path.
        budget: who pays; see `Budget`.

    Raises:
        UnsafeLayer: an entry that cannot be applied, or not inside *directory*. It names the entry.
        ContentError: the blob is damaged, or (`DigestMismatch`) another one than was promised.
        DiskFull: the filesystem has no room.
        StoreError: anything else that the filesystem says; `StoreReadOnly` where it is a right that we lack.
    """
    options = options or ApplyOptions()
    account = Account(budget or Unlimited(), os.fstat(directory).st_blksize)
    tree = FlattenedTree(directory, account, max_path_bytes=options.limits.max_path_bytes)
    return _Applier(stream, tree, account, options).run()


def apply_overlay(
    stream: LayerStream,
    directory: int,
    *,
    lowers: Callable[[], Sequence[int]] | None = None,
    options: ApplyOptions | None = None,
    budget: Budget | None = None,
) -> LayerResult:
    """
    Apply a layer to an empty *directory* that overlayfs will show on top of *lowers*.

    Whiteouts become device nodes 0/0 and opaque directories get their attribute. Lower trees are looked at, and never
    written to: for parents that the layer does not describe (they keep their owner and mode, and may be links), and
    for hard links to files of lower layers, which are copied up first, as overlayfs would.

    Args:
        lowers: gives descriptors of the lower trees, the next lower first. Called once, when the first of those cases
            comes up, which in layers that describe their parents is never: it may wait until they are there.

    Raises:
        The same as `apply_layer`.
    """
    options = options or ApplyOptions()
    account = Account(budget or Unlimited(), os.fstat(directory).st_blksize)
    tree = OverlayTree(directory, account, options, lowers)
    return _Applier(stream, tree, account, options).run()


def clean(name: bytes) -> bytes:
    """
    The path of an entry below the root: no dots, no empty parts; ``..`` stops at the root, as it does there.
    """
    if name[:2] == b"./":
        name = name[2:]
    if name[-1:] == b"/":
        name = name.rstrip(b"/")
    if b"/." not in name and b"//" not in name and name[:1] not in (b".", b"/"):
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _write_all(file: int, data: memoryview) -> None:
    count = os.write(file, data)
    while count < len(data):
        count += os.write(file, data[count:])


class _Applier:
    """
    One layer being applied.
    """

    def __init__(
        self, stream: LayerStream, tree: FlattenedTree | OverlayTree, account: Account, options: ApplyOptions
    ) -> None:
        self._stream = stream
        self._tree = tree
        self._account = account
        self._options = options
        self._max_path_bytes = options.limits.max_path_bytes
        self._attributes = Attributes(options)
        self._reader = TarReader(
            stream,
            max_entries=options.limits.max_entries,
            max_overhead_bytes=options.limits.max_overhead_bytes,
        )
        self._entries = 0

    def run(self) -> LayerResult:
        entry: Entry | None = None
        try:
            with translated():
                self._tree.begin()
            while (entry := self._reader.next()) is not None:
                self._apply(entry)
                self._entries += 1
            with translated():
                self._tree.end()
            diff_id = self._stream.finish(
                max_bytes=self._options.limits.max_overhead_bytes - self._reader.overhead_bytes
            )
            self._settle()
        except (Refused, OSError, OverflowError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            with translated(entry.name if entry else b""):
                raise
        finally:
            self._tree.close()
        return LayerResult(
            diff_id=diff_id,
            entries=self._entries,
            uncompressed_bytes=self._stream.uncompressed_bytes,
            compressed_bytes=self._stream.compressed_bytes,
            space_bytes=self._account.space_bytes,
            inodes=self._account.inodes,
            large=self._account.large,
            forgiven=self._attributes.forgiven,
        )

    # ------------------------------------------------------------------ one entry

    def _apply(self, entry: Entry) -> None:
        path = clean(entry.name)
        if len(path) > self._max_path_bytes:
            raise Refused("its name is too long")
        tree = self._tree
        tree.mtime_ns = entry.mtime_ns
        parent, _, name = path.rpartition(b"/")
        if name[:4] == _WHITEOUT:
            self._whiteout(parent, name)
            return
        if not name:
            if entry.kind is not Kind.DIRECTORY:
                raise Refused("the root can be nothing but a directory")
            tree.describe_root(entry)
            return
        descriptor, found = tree.directory(parent)
        if found is not parent:
            parent, path = found, join(found, name)
        kind = entry.kind
        if kind is _FILE:
            self._file(descriptor, path, name, entry)
        elif kind is _DIRECTORY:
            self._directory(descriptor, path, name, entry)
        elif kind is Kind.LINK:
            self._link(descriptor, path, name, entry)
        else:
            self._special(descriptor, path, name, entry)
        tree.added(parent, path)

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        hidden = name[len(_WHITEOUT) :]
        if name != _OPAQUE and hidden in (b"", b".", b".."):
            raise Refused("a whiteout of a directory by itself, or of the one above it")
        descriptor, parent = self._tree.directory(parent)
        if name == _OPAQUE:
            self._tree.hide_all(descriptor, parent)
        else:
            self._tree.hide(descriptor, join(parent, hidden), hidden)

    def _file(self, descriptor: int, path: bytes, name: bytes, entry: Entry) -> None:
        size = entry.stored_bytes
        self._account.expect(min(size, _AT_ONCE_BYTES) + _BLOCK_MASK & ~_BLOCK_MASK, 1, len(name))
        mode = 0o600 if entry.xattrs or not self._attributes.makes_final else entry.mode & 0o777
        try:
            file = os.open(name, _NEW_FILE, mode, dir_fd=descriptor)
        except FileExistsError:
            self._tree.make_way(descriptor, path, name)
            file = os.open(name, _NEW_FILE, mode, dir_fd=descriptor)
        try:
            if entry.extents is not None:
                self._write_sparse(file, entry)
            elif size:
                whole = self._stream.part(size)
                if whole is None:
                    self._write(file, size)
                else:
                    self._reader.unread_bytes = 0
                    written = os.write(file, whole)
                    if written < size:
                        _write_all(file, whole[written:])
            status = os.fstat(file)
            if self._attributes.finish_file(file, entry, status):
                status = os.fstat(file)
            self._account.add_file(path, status)
        finally:
            os.close(file)

    def _write(self, file: int, size: int) -> None:
        """
        Data that does not lie in one part in memory.
        """
        reader = self._reader
        written = 0
        for part in self._stream.parts(size):
            reader.unread_bytes -= len(part)
            written += len(part)
            if written > _AT_ONCE_BYTES:
                self._account.expect_data(written + _BLOCK_MASK)
            _write_all(file, part)
        if reader.unread_bytes:
            raise Refused("the stream ends within its data")

    def _write_sparse(self, file: int, entry: Entry) -> None:
        """
        Data where the map says so, and nothing in between.
        """
        if entry.size > self._options.limits.max_sparse_bytes:
            raise Refused(f"a sparse file of {entry.size} bytes")
        reader = self._reader
        occupied = 0
        for offset, length in entry.extents or ():
            occupied += length + 2 * _BLOCK_MASK & ~_BLOCK_MASK
            at = offset
            for part in self._stream.parts(length):
                reader.unread_bytes -= len(part)
                self._account.expect_data(occupied)
                while part:
                    count = os.pwrite(file, part, at)
                    at += count
                    part = part[count:]  # noqa: PLW2901 -- what is left of it
            if at != offset + length:
                raise Refused("the stream ends within its data")
        os.ftruncate(file, entry.size)

    def _directory(self, descriptor: int, path: bytes, name: bytes, entry: Entry) -> None:
        tree = self._tree
        try:
            tree.add_directory(descriptor, path, name, entry)
        except FileExistsError:
            tree.account.undo_directory(len(name))
            status = os.lstat(name, dir_fd=descriptor)
            if stat.S_ISDIR(status.st_mode):
                tree.describe(path, entry, status)
            else:
                tree.make_way_for_directory(descriptor, path, name, status, entry)

    def _link(self, descriptor: int, path: bytes, name: bytes, entry: Entry) -> None:
        """
        A hard link. Its header's metadata is the file's from here on: three engines of four set it, as tar's own do.
        """
        target = clean(entry.link)
        tree = self._tree
        tree.pin(descriptor)
        try:
            source, source_path, source_name = tree.link_source(target)
            try:
                status = os.lstat(source_name, dir_fd=source)
            except FileNotFoundError:
                raise Refused("a hard link to what is not there") from None
            if stat.S_ISDIR(status.st_mode):
                raise Refused("a hard link to a directory")
            if source_path == path:
                raise Refused("a hard link to itself")
            self._account.expect(0, 0, len(name))
            try:
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=descriptor, follow_symlinks=False)
            except FileExistsError:
                tree.make_way(descriptor, path, name)
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=descriptor, follow_symlinks=False)
            self._attributes.finish_name(descriptor, name, entry, status)
        finally:
            tree.pin(tree.root)

    def _special(self, descriptor: int, path: bytes, name: bytes, entry: Entry) -> None:
        """
        A symbolic link, a fifo or a device.
        """
        extra = entry.kind is Kind.SYMLINK and len(entry.link) > _SHORT_LINK_BYTES
        self._account.expect(_BLOCK_MASK + 1 if extra else 0, 1, len(name))
        try:
            made = self._make_special(descriptor, name, entry)
        except FileExistsError:
            self._tree.make_way(descriptor, path, name)
            made = self._make_special(descriptor, name, entry)
        if not made:
            self._account.inodes -= 1
            return
        self._attributes.finish_name(descriptor, name, entry, os.lstat(name, dir_fd=descriptor))
        self._account.files_bytes += os.lstat(name, dir_fd=descriptor).st_blocks * SECTOR_BYTES

    def _make_special(self, descriptor: int, name: bytes, entry: Entry) -> bool:
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=descriptor)
            return True
        if entry.kind is Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=descriptor)
            return True
        # What the kernel has no room for is cut off, as all four engines have it: a device 4096/0 is one 0/0.
        device = os.makedev(entry.major & _MAJOR_MASK, entry.minor & _MINOR_MASK)
        self._tree.require_device(entry.kind, device)
        try:
            os.mknod(name, _MODES[entry.kind] | 0o600, device, dir_fd=descriptor)
        except PermissionError as error:
            if self._options.forgive_devices:
                self._attributes.forgiven["device"] += 1
                return False
            raise Refused("a device node, and no right to make one") from error
        return True

    # ------------------------------------------------------------------ directories, last

    def _settle(self) -> None:
        """
        Give directories what they are to become, the deepest first: after that nothing in them changes.
        """
        tree = self._tree
        grown = 0
        for path in sorted(tree.directories, reverse=True):
            record = tree.directories[path]
            with translated(path):
                status = self._settle_directory(path, record)
            if status is not None:
                grown += status.st_blocks * SECTOR_BYTES - (record.before_bytes or 0)
        self._account.settle(grown)

    def _settle_directory(self, path: bytes, record: Directory) -> os.stat_result | None:
        tree = self._tree
        parent, _, name = path.rpartition(b"/")
        descriptor = tree.existing_directory(parent)
        if descriptor is None:
            return None
        name = name or b"."
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if record.lower is not None:
            tree.restore(descriptor, path, name, record.lower)
        elif record.entry is not None:
            if record.before_bytes is not None:
                self._attributes.clear_xattrs(path_at(descriptor, name))
            self._attributes.finish_name(descriptor, name, record.entry, status)
            if record.entry.xattrs:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        else:
            if record.default_acl is not None:
                give_default_acl(path_at(descriptor, name), record.default_acl)
            times = (status.st_atime_ns, record.mtime_ns)
            os.utime(name, ns=times, dir_fd=descriptor, follow_symlinks=False)
            if record.mode is not None:
                os.chmod(name, record.mode, dir_fd=descriptor)
        return status
