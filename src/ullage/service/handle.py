"""
What every part of the service shares: the store that is open, and how a host names an image in it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from ullage.errors import (
    AuthenticationFailed,
    DiskFull,
    ImageError,
    ImageNotFound,
    PullFailed,
    RegistryUnavailable,
    SignatureValidationFailed,
    StoreBusy,
    StoreError,
    StoreReadOnly,
)
from ullage.model import (
    EvictionPolicy,
    ImageStatus,
)
from ullage.reference import ImageSpec
from ullage.repository import Lookups
from ullage.simulated import SimulatedRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ullage.blobs import BlobFiles
    from ullage.database import Database
    from ullage.layout import LayoutIndex
    from ullage.registry import RegistryClient
    from ullage.repository import ImageRepository


__all__ = ["Handle", "ImageLike", "key_of", "shown"]

_log = logging.getLogger(__name__)

#: How a host names an image: the row's id, an image id or a prefix of one, a reference, a spec, or a status.
ImageLike = int | str | ImageSpec | ImageStatus

#: `last_used_at` is not written more often than this.
_TOUCH_AFTER: Final = timedelta(minutes=1)
#: What a pull or an unpacking can come to that says something of an image or of its registry, not of the store.
_WORTH_A_LINE: Final = (PullFailed, AuthenticationFailed, RegistryUnavailable, SignatureValidationFailed)


class Handle:
    """
    An open store. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        *,
        files: BlobFiles,
        database: Database,
        registry: RegistryClient | SimulatedRegistry | None,
        clock: Callable[[], datetime],
        evict: EvictionPolicy | None,
        unpack: bool,
    ) -> None:
        self._files = files
        self._database = database
        self._given_registry = registry
        self._making_registry = threading.Lock()
        self._clock = clock
        self._policy = evict
        self._unpack = unpack
        self._rows = Lookups(database, clock=clock)
        self._closed = False
        self._index: LayoutIndex | None = None
        if not database.read_only:
            from ullage.layout import LayoutIndex

            self._index = LayoutIndex(self._rows, files.root)

    @property
    def _lookups(self) -> Lookups:
        """
        What can be asked without SQLAlchemy, which takes longer to load than all else.

        Raises:
            StoreError: it was closed. A pull that another thread has under way still gives back what it has.
        """
        if self._closed:
            raise StoreError(f"the store in {self._files.root} was closed")
        return self._rows

    @property
    def _repository(self) -> ImageRepository:
        """
        All that can be asked and done.

        Raises:
            StoreError: as above.
        """
        from ullage.repository import ImageRepository

        rows = self._lookups
        if not isinstance(rows, ImageRepository):
            rows = self._rows = ImageRepository(self._database, clock=self._clock)
        return rows

    @property
    def _registry(self) -> RegistryClient | SimulatedRegistry:
        """
        Where pulls go. A client of our own is made when somebody asks a registry, for it takes longer than a look-up.
        """
        with self._making_registry:
            if self._given_registry is None:
                from ullage.registry import RegistryClient

                self._given_registry = RegistryClient()
                if self._closed:
                    self._given_registry.close()
            return self._given_registry

    @property
    def _is_simulated(self) -> bool:
        return isinstance(self._given_registry, SimulatedRegistry)

    @property
    def root(self) -> Path:
        """
        The directory of the store, as an absolute path.
        """
        return self._files.root

    def _follow(self) -> None:
        """
        From now on ``index.json`` follows the database.
        """
        if self._index is not None:
            self._index.look()
            self._database.on_commit = self._index.note

    def close(self) -> None:
        """
        Close every connection, and write ``index.json`` if it is behind. Safe to call twice.
        """
        if not self._closed:
            self._closed = True
            if self._given_registry is not None:
                self._given_registry.close()
            if self._index is not None:
                self._index.close()
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # getattr: an __init__ that raised leaves an object without it.
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<ImageService {self._files.root}>"

    def _get(self, image: ImageLike) -> ImageStatus:
        status = self._lookups.find(key_of(image))
        if status is None:
            raise ImageNotFound(f"no such image: {shown(image)}", image=str(key_of(image)))
        return status

    def _used(self, status: ImageStatus) -> ImageStatus:
        """
        Note the use, unless it was noted a moment ago.
        """
        if self._database.read_only or self._clock() - status.last_used_at < _TOUCH_AFTER:
            return status
        try:
            with self._database.patience(_do_not_wait):
                self._lookups.touch(status.id)
        except (StoreBusy, StoreReadOnly, DiskFull):
            return status  # the image is here all the same; the next use notes it
        return self._lookups.find(status.id) or status

    @contextmanager
    def _failing_on_record(
        self, verb: str, *, reference: str | None = None, image_id: str | None = None
    ) -> Iterator[None]:
        """
        What comes to nothing inside is in the history, if that can be had at once: it only informs, and the failure
        is the same without it.
        """
        try:
            yield
        except _WORTH_A_LINE as error:
            # On a full disk, no byte more than what gives room back.
            if not (isinstance(error, DiskFull) or self._closed or self._database.read_only):
                try:
                    with self._database.patience(_do_not_wait):
                        self._repository.note_failure(verb, error, reference=reference, image_id=image_id)
                except ImageError as second:
                    _log.debug("a failure is not on record: %s", second)
                except Exception:  # noqa: BLE001 -- it must not take the place of what failed
                    _log.exception("a failure is not on record")
            raise


def _do_not_wait() -> None:
    raise StoreBusy("others are writing", waited_seconds=0.0)


def key_of(image: ImageLike) -> int | str:
    if isinstance(image, ImageStatus):
        return image.id
    if isinstance(image, ImageSpec):
        return str(image.normalised())
    return image


def shown(image: ImageLike) -> str:
    key = key_of(image)
    return f"id {key}" if isinstance(key, int) else key
