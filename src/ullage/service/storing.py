"""
The verbs that are about bytes: usage, limits, collection; and whether the store is well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ullage.recovery import collect, sweep_quietly, with_headroom
from ullage.service.handle import Handle, ImageLike, key_of
from ullage.simulated import SimulatedRegistry

if TYPE_CHECKING:
    from ullage.locks import LockWaits
    from ullage.model import (
        AuthConfig,
        Evicted,
        EvictionPolicy,
        Finding,
        ImageStatus,
        ImageStorage,
        Problem,
        Reclaimed,
        StorageUsage,
    )

__all__ = ["Storing", "check_limit"]


class Storing(Handle):
    """
    The part of `ImageService` that is about bytes.
    """

    def usage(self) -> StorageUsage:
        """
        Where the bytes are. Costs the same however large the store.
        """
        return self._lookups.usage()

    def used_storage(self) -> int:
        """
        Bytes that count against the limit: blobs and registered images.
        """
        return self.usage().used_bytes

    def available_storage(self) -> int:
        """
        Bytes that a pull may still reserve.
        """
        return self.usage().available_bytes

    def set_max_storage(self, max_storage: int, *, evict: bool = False) -> list[Evicted]:
        """
        Set the storage limit. Below what is used it admits nothing more, and removes nothing.

        With *evict*, images go until what is used fits under it, the least recently used first, never a pinned or
        held one. Returns those that went.
        """
        check_limit("max_storage", max_storage)
        if not evict:
            with_headroom(self._files, lambda: self._repository.set_limits(max_bytes=max_storage))
            return []
        evicted = with_headroom(self._files, lambda: self._repository.lower(max_storage, self._files.discard))
        sweep_quietly(self._repository, self._files)
        return evicted

    def set_min_free(self, min_free: int) -> None:
        """
        Set how many bytes pulls leave free on the filesystem, whatever the storage limit says.
        """
        check_limit("min_free", min_free)
        with_headroom(self._files, lambda: self._repository.set_limits(min_free_bytes=min_free))

    def min_free(self) -> int:
        """
        What `set_min_free` set.
        """
        return self._lookups.min_free()

    def _set_limits(self, max_storage: int | None, min_free: int | None) -> None:
        """
        What `open` was asked for, without a write when it is so already.
        """
        if max_storage is not None and self.usage().max_bytes != max_storage:
            self.set_max_storage(max_storage)
        if min_free is not None and self.min_free() != min_free:
            self.set_min_free(min_free)

    def image_storage(self, image: ImageLike | None = None) -> list[ImageStorage]:
        """
        What each image takes, and what removing it would free; of one image or of all.

        Raises:
            ImageNotFound: there is no such image.
        """
        return self._lookups.image_storage(None if image is None else self._get(image).id)

    def on_disk(self, image: ImageLike | None = None) -> list[tuple[ImageStatus, int]]:
        """
        One image, or all by id as of one moment, with what each takes on disk: its blobs and its trees.

        What images share is in each of them. Empty when *image* is not here.

        Raises:
            InvalidReference: *image* cannot name one, or is a prefix of several ids.
        """
        return self._lookups.on_disk(None if image is None else key_of(image))

    def collect(self, policy: EvictionPolicy | None = None, *, dry_run: bool = False) -> Reclaimed:
        """
        Free what nothing needs: blobs that no image names and no lease keeps, and partial blobs nobody fetches.

        Images go only by *policy*, or by the one that the service was opened with. What it says is freed is gone
        from the disk when it returns; a dry run says what would be, from the same transaction rolled back.
        """
        return collect(self._repository, self._files, policy or self._policy, dry_run=dry_run)

    def check(
        self, *, digests: bool = False, repair: bool = False, auth: AuthConfig | None = None
    ) -> list[Problem]:
        """
        Every broken invariant, by number; empty when all is well. Runs beside everybody else.

        Rows without files, files without rows, wrong sizes, counters that drifted, rows that point nowhere, leases of
        the dead. With *digests* every blob is hashed as well. With *repair*, what can be mended is: a bad blob is
        fetched again from where it came (with *auth*), files that no row explains go, counters are recounted. What we
        have no right to look at is named (`Problem.unseen`).

        Raises:
            StoreReadOnly: *repair*, and the store was opened to look.
        """
        from ullage.check import Checker

        if repair:
            self._database.require_writable()
        found = Checker(
            self._repository,
            self._files,
            digests=digests,
            repair=repair,
            registry=None if isinstance(self._registry, SimulatedRegistry) else self._registry,
            auth=auth,
            look_only=self._database.read_only,
        ).run()
        if repair:
            sweep_quietly(self._repository, self._files)
        return found

    def lock_waits(self) -> LockWaits:
        """
        How long the write transactions of this service have waited for their turn.
        """
        return self._database.waits

    def write_index(self) -> bool:
        """
        Make ``index.json`` what the database says now, for readers from outside; False where it was so already.

        It follows by itself, a second after a change and when the store is closed. This is for whoever wants to read
        it at once, or changed the database in the shell.

        Raises:
            StoreReadOnly: the store was opened to look.
            StoreBusy: another process was writing it for too long.
            StoreError: it cannot be written.
        """
        self._database.require_writable()
        assert self._index is not None, "a store that may be written to has one"
        return self._index.write(timeout_seconds=self._database.timeout_seconds)

    def doctor(self) -> list[Finding]:
        """
        What this machine and this store are like, with a hint for each thing that is not as it should be.
        """
        from ullage.doctor import examine

        return examine(self._database, self._repository, self._files)

    def view(self, name: str) -> list[dict[str, Any]]:
        """
        The rows of ``in_flight``, ``reclaimable``, ``accounting_drift`` or ``problems``, as the shell shows them.
        """
        return self._lookups.view(name)


def check_limit(name: str, limit: int | None) -> None:
    if limit is not None and not 0 <= limit <= 1 << 60:
        raise ValueError(f"{name}: {limit} is not between 0 and 1 EiB")
