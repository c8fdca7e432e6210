"""
Serving holds what it serves: an image whose content is being read is not removed under its readers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from ullage.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.service import ImageService

__all__ = ["Holds"]

_log = logging.getLogger(__name__)

#: A hold that could not be had is tried for again after this; and a use is noted so often.
_AGAIN_SECONDS: Final = 5.0
_NOTED_SECONDS: Final = 60.0


class _Held:
    """
    One image: how many read it now, since when nobody does, and the hold, if it could be had.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers = 0
        self.left_at = 0.0
        self.tried_at = float("-inf")
        self.noted_at = float("-inf")
        self.hold: ExitStack | None = None


class Holds:
    """
    One hold for each image that is read, however many read it, and for *seconds* after the last of them.

    A client fetches a manifest and then, one after the other, what is in it: the pause between is part of its pull.
    """

    def __init__(self, service: ImageService, seconds: float) -> None:
        self._service = service
        self._seconds = seconds
        self._lock = threading.Lock()
        self._images: dict[int, _Held] = {}
        self._closed = threading.Event()
        self._tidier = threading.Thread(target=self._tidy, name="ullage-holds", daemon=True)

    def start(self) -> None:
        self._tidier.start()

    def close(self) -> None:
        """
        Let everything go; nobody reads any more.
        """
        self._closed.set()
        if self._tidier.ident is not None:
            self._tidier.join()
        with self._lock:
            images, self._images = self._images, {}
        for held in images.values():
            _release(held)

    @contextmanager
    def using(self, image: int) -> Iterator[None]:
        """
        While the block runs, the image of that row is held; if it cannot be, what is open is still whole.
        """
        with self._lock:
            held = self._images.setdefault(image, _Held())
            held.readers += 1
        try:
            self._take(image, held)
            yield
        finally:
            with self._lock:
                held.readers -= 1
                held.left_at = time.monotonic()

    def _take(self, image: int, held: _Held) -> None:
        with held.lock:
            now = time.monotonic()
            with contextlib.suppress(ImageError):
                if now - held.noted_at >= _NOTED_SECONDS:
                    held.noted_at = now
                    self._service.note_use(image)
            if held.hold is not None or now - held.tried_at < _AGAIN_SECONDS:
                return
            held.tried_at = now
            stack = ExitStack()
            try:
                stack.enter_context(self._service.hold(image))
            except ImageError as error:
                # A store that is read-only, a disk that is full: it is served all the same.
                _log.info("image %d is served without a hold: %s", image, error)
            else:
                held.hold = stack

    def _tidy(self) -> None:
        while not self._closed.wait(min(5.0, self._seconds / 2)):
            until = time.monotonic() - self._seconds
            with self._lock:
                over = [
                    image
                    for image, held in self._images.items()
                    if not held.readers and held.left_at <= until
                ]
                gone = [self._images.pop(image) for image in over]
            for held in gone:
                _release(held)


def _release(held: _Held) -> None:
    with held.lock:
        hold, held.hold = held.hold, None
    if hold is None:
        return
    try:
        hold.close()
    except ImageError as error:
        _log.warning("a hold stays until this process ends: %s", error)
