"""
The files of a store: ingest, publish, open, remove. The only fsync of a blob is here.

    blobs/<algorithm>/<encoded>   a blob, mode 0444: the layout of an OCI image layout
    ingest/<encoded>              a blob on its way in; a partial one survives crash and cancel
    trash/                        files whose rows are going, about to be unlinked
    trees/                        unpacked layers: `ullage.trees`
    headroom                      given up when the disk is full, so that removing still works
    leases/<token>                locked by their owners

A path under ``blobs/`` is touched only by whoever owns the ingest row of its digest, or under the gate while its row
is doomed (I3). A file is complete, verified and synced before it is renamed to its digest, and the directory is
synced before the row is committed (I4).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO, Final

from ullage.digest import CONTENT_ALGORITHMS, Digest, Hasher
from ullage.errors import (
    StoreCorrupt,
    StoreError,
    StoreReadOnly,
)
from ullage.filesystem import is_read_only
from ullage.ingest import Ingest, translated
from ullage.locks import LeaseLock
from ullage.refusal import require_room_to_change
from ullage.trees import TreeFiles

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["BlobFiles"]

#: What a removal may need for its transaction: WAL, shared memory, a directory block.
_HEADROOM_BYTES: Final = 8 << 20


class BlobFiles:
    """
    The files below one root. Knows nothing of rows; its callers hold the rights that the module's text names.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.leases = root / "leases"
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"
        self._trash = root / "trash"
        self.trees = TreeFiles(root)

    def prepare(self) -> None:
        """
        Make the directories; durable on return.

        Raises:
            StoreReadOnly: the filesystem is mounted so, or we have no right.
        """
        if is_read_only(self.root):
            raise StoreReadOnly(f"cannot write to {self.root}: {os.strerror(errno.EROFS)}")
        with translated():
            for directory in (
                *(self._blobs / name for name in CONTENT_ALGORITHMS),
                self._ingest,
                self._trash,
                self.leases,
            ):
                directory.mkdir(parents=True, exist_ok=True)
            self.trees.prepare()
            for directory in (self._blobs, self.root):
                _sync_directory(directory)

    def blob_path(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.encoded

    def ingest_path(self, digest: Digest) -> Path:
        return self._ingest / digest.encoded

    # ------------------------------------------------------------------ reading

    def open(self, digest: Digest) -> BinaryIO:
        """
        A published blob, for reading.

        Raises:
            StoreCorrupt: the row said that it is here, and it is not (I1).
        """
        try:
            return self.blob_path(digest).open("rb")
        except FileNotFoundError as error:
            raise StoreCorrupt(
                f"blob {digest} has a row and no file", hint="`ullage check --repair` fetches it again"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot read blob {digest}: {error.strerror}") from error

    def open_arrived(self, digest: Digest) -> BinaryIO:
        """
        A blob that is here, or a finished ingest of ours, for reading: it may be published at any moment.

        Raises:
            StoreCorrupt: it is neither (I1).
        """
        try:
            return self.ingest_path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            return self.open(digest)
        except OSError as error:
            raise StoreError(f"cannot read blob {digest}: {error.strerror}") from error

    def read(self, digest: Digest, *, max_bytes: int) -> bytes:
        """
        A small published blob, whole and verified.

        Raises:
            StoreCorrupt: it is missing, longer than *max_bytes*, or has another digest.
        """
        with self.open(digest) as file:
            try:
                data = file.read(max_bytes + 1)
            except OSError as error:
                raise StoreError(f"cannot read blob {digest}: {error.strerror}") from error
        hasher = Hasher(digest)
        hasher.update(data)
        if len(data) > max_bytes or not hasher.matches:
            raise StoreCorrupt(
                f"the bytes of blob {digest} are not what its name says",
                hint="`ullage check --digests --repair` fetches it again",
            )
        return data

    def read_ingest(self, digest: Digest) -> bytes:
        """
        A small finished ingest of ours, whole. It was verified when it was finished.
        """
        with translated():
            return self.ingest_path(digest).read_bytes()

    def is_here(self, digest: Digest, size: int) -> bool:
        """
        Whether the blob's file is in place with that size.
        """
        with translated():
            try:
                return self.blob_path(digest).stat().st_size == size
            except FileNotFoundError:
                return False

    # ------------------------------------------------------------------ on the way in

    def ingest(self, digest: Digest, size: int) -> Ingest:
        """
        The file of an ingest whose row is ours, open for writing behind what is there already.
        """
        with translated():
            return Ingest(self.ingest_path(digest), digest, size)

    def write_piece(self, digest: Digest, data: bytes) -> None:
        """
        A piece of a stream that is spooled, in the file of an ingest that is ours and is never published.
        """
        with translated(), self.ingest_path(digest).open("wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def read_piece(self, digest: Digest, offset: int, size: int) -> bytes:
        """
        Bytes of such a piece.
        """
        with translated():
            descriptor = os.open(self.ingest_path(digest), os.O_RDONLY)
            try:
                return os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)

    def received_bytes(self, digest: Digest, size: int) -> int:
        """
        How much of a partial blob is here. A file that was renamed, but whose row never came, is moved back.

        For an ingest row that is ours, or that nobody owns with the gate locked.
        """
        with translated():
            if not self.ingest_path(digest).exists() and self.blob_path(digest).exists():
                self.blob_path(digest).rename(self.ingest_path(digest))
            try:
                return min(self.ingest_path(digest).stat().st_size, size)
            except FileNotFoundError:
                return 0

    def keep_partials(self, digests: Iterable[Digest]) -> None:
        """
        Sync partial blobs of ours: the row that says how much is here may follow, and no power cut makes it a lie.
        """
        paths = [self.ingest_path(digest) for digest in digests]
        with translated():
            for path in paths:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            if paths:
                _sync_directory(self._ingest)

    def partial_bytes(self, digest: Digest) -> int:
        """
        The size of a partial blob's file; 0 when there is none.
        """
        with translated():
            try:
                return self.ingest_path(digest).stat().st_size
            except FileNotFoundError:
                return 0

    def publish(self, digests: Iterable[Digest]) -> None:
        """
        Rename finished ingests to their digests and sync the directories: their rows may follow (I4).
        """
        directories = set()
        with translated():
            for digest in digests:
                target = self.blob_path(digest)
                try:
                    self.ingest_path(digest).rename(target)
                except FileNotFoundError:
                    if not target.exists():  # else an earlier attempt of ours got this far
                        raise
                directories.add(target.parent)
            for directory in sorted(directories):
                _sync_directory(directory)

    def discard(self, digests: Iterable[Digest]) -> None:
        """
        Remove partial files, for ingest rows that are ours, or that nobody owns with the gate locked.

        They are moved aside first, which is quick whatever their size; `empty_trash` unlinks.
        """
        moved = set()
        with translated():
            for digest in digests:
                for path in (self.ingest_path(digest), self.blob_path(digest)):
                    if self._move_to_trash(path):
                        moved |= {path.parent, self._trash}
            # The row ends next. Were it durable before this, a power cut could bring back a file that no row explains.
            for directory in sorted(moved):
                _sync_directory(directory)

    # ------------------------------------------------------------------ on the way out

    def trash(self, digests: Iterable[Digest]) -> None:
        """
        Move doomed blobs aside and sync, under the gate; their rows go next.
        """
        directories = {self._trash}
        with translated():
            for digest in digests:
                path = self.blob_path(digest)
                self._move_to_trash(path)
                directories.add(path.parent)
            for directory in sorted(directories):
                _sync_directory(directory)

    def empty_trash(self) -> None:
        """
        Unlink what was moved aside, with no lock held. Harmless beside others who do the same.
        """
        with translated():
            for entry in os.scandir(self._trash):
                try:
                    os.unlink(entry.path)  # noqa: PTH108 -- one call, no Path object for each of many
                except FileNotFoundError:
                    continue  # somebody else was quicker

    def _move_to_trash(self, path: Path) -> bool:
        try:
            path.rename(self._trash / f"{path.name}.{secrets.token_hex(4)}")
        except FileNotFoundError:
            return False  # it went in an attempt that did not get as far as its row
        return True

    # ------------------------------------------------------------------ mending

    def replace(self, digest: Digest, replacement: Path) -> None:
        """
        Put a finished replacement in the blob's place, and sync. Under the gate, while the blob's row stands.
        """
        with translated():
            replacement.rename(self.blob_path(digest))
            _sync_directory(self.blob_path(digest).parent)

    def trash_stray(self, path: Path) -> None:
        """
        Move a file that no row explains aside. Under the gate.
        """
        with translated():
            self._move_to_trash(path)

    # ------------------------------------------------------------------ the rest

    def new_lease(self) -> LeaseLock:
        """
        The lock of a new lease, held; its token is the name of its file.
        """
        with translated():
            return LeaseLock.create(self.leases)

    def take_lease(self, token: str) -> LeaseLock | None:
        """
        The lock of a dead owner's lease; None while the owner lives.
        """
        with translated():
            return LeaseLock.take(self.leases, token)

    def lease_tokens(self) -> list[str]:
        """
        The names under ``leases/``, those of leases that are being made among them.
        """
        with translated():
            return os.listdir(self.leases)  # noqa: PTH208 -- names are enough

    def keep_headroom(self) -> None:
        """
        Set aside what removing needs, if it is not there and the filesystem has plenty. Never fails.
        """
        path, spare = self.root / "headroom", self.root / "headroom.inode"
        try:
            figures = os.statvfs(self.root)
            size = min(_HEADROOM_BYTES, figures.f_blocks * figures.f_frsize // 16)
            # By its size: one that was made by somebody who died at that is empty.
            if path.exists() and path.stat().st_size >= size and spare.exists():
                return
            if figures.f_bavail * figures.f_frsize < 4 * size:
                return
            spare.touch()  # SQLite makes two files; one inode comes with the other
            with path.open(
                "ab"
            ) as file:  # not "xb": whoever makes it beside us is no failure, and loses nothing
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            # Without it a full disk is harder to clean, and nothing else is: not worth failing for.
            self.give_up_headroom()

    def give_up_headroom(self) -> bool:
        """
        Let go of what was set aside; False when there is none.
        """
        given_up = False
        for name in ("headroom", "headroom.inode"):
            with contextlib.suppress(OSError):
                (self.root / name).unlink()
                given_up = True
        return given_up

    def require_room_to_change(self) -> None:
        """
        Raises:
            DiskFull: whoever asked the database now could be killed for it.
        """
        require_room_to_change(self.root)

    def free_bytes(self) -> int:
        """
        What the filesystem has left for us.
        """
        with translated():
            figures = os.statvfs(self.root)
        return figures.f_bavail * figures.f_frsize


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
