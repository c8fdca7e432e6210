"""
A blob that is passed on while it arrives: out of the file that a pull writes, and from the registry where that is late.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from ullage.digest import Hasher
from ullage.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.digest import Digest
    from ullage.service import ImageService

__all__ = ["Coming", "Passing"]

_log = logging.getLogger(__name__)

_PIECE_BYTES: Final = 256 * 1024
_LOOK_SECONDS: Final = 0.02
#: How long a reader waits for a pull that has not come to its blob, or does not get on with it.
PATIENCE_SECONDS: Final = 3.0


class Coming:
    """
    A pull that is to bring blobs.
    """

    def __init__(self) -> None:
        self._over = threading.Event()

    def end(self) -> None:
        """
        It is over, however it went.
        """
        self._over.set()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def wait(self, seconds: float) -> None:
        """
        Until it is over, *seconds* at most.
        """
        self._over.wait(seconds)


class Passing:
    """
    One blob on its way through. ``size`` is what its manifest says.

    What is passed on is verified where all of it is: the last piece goes when the digest is right. A part of it cannot
    be, and whoever asked for a part has the digest.
    """

    def __init__(
        self, service: ImageService, repo: str, digest: Digest, size: int, coming: Coming | None
    ) -> None:
        self.size = size
        self._service = service
        self._repo = repo
        self._digest = digest
        self._coming = coming

    def pieces(self, start: int, length: int) -> Iterator[bytes]:
        """
        *length* bytes from *start* on.

        Raises:
            ConnectionError: they do not come, or are not what was promised: the answer ends here.
        """
        try:
            yield from self._verified(start, length)
        except ImageError as error:
            _log.warning("%s of %s: %s", self._digest, self._repo, error)
            raise ConnectionError(str(error)) from error

    def _verified(self, start: int, length: int) -> Iterator[bytes]:
        hasher = Hasher(self._digest) if (start, length) == (0, self.size) else None
        left = length
        for piece in self._raw(start, start + length):
            left -= len(piece)
            if hasher is not None:
                hasher.update(piece)
                if not left and not hasher.matches:
                    raise ConnectionError(f"{self._digest} is not what came for it")
            yield piece
            if left <= 0:
                return

    def _raw(self, position: int, end: int) -> Iterator[bytes]:
        if self._coming is not None:
            for piece in self._arriving(self._coming, position, end):
                position += len(piece)
                yield piece
        if position < end:
            yield from self._from_the_registry(position, end)

    def _arriving(self, coming: Coming, position: int, end: int) -> Iterator[bytes]:
        """
        What is in the file of the pull, as it gets there; ends where the pull ends, or makes us wait.
        """
        descriptor: int | None = None
        begun = position
        until = time.monotonic() + PATIENCE_SECONDS
        try:
            while position < end:
                was_over = coming.is_over
                if descriptor is None:
                    descriptor = self._service.open_arriving(self._digest)
                data = b""
                if descriptor is not None:
                    if begun < position > os.fstat(descriptor).st_size:
                        raise ConnectionError(
                            f"{self._digest} begins anew"
                        )  # what we have passed on was wrong
                    data = os.pread(descriptor, min(_PIECE_BYTES, end - position), position)
                if data:
                    position += len(data)
                    until = time.monotonic() + PATIENCE_SECONDS
                    yield data
                elif was_over or time.monotonic() > until:
                    return
                else:
                    coming.wait(_LOOK_SECONDS)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _from_the_registry(self, position: int, end: int) -> Iterator[bytes]:
        _log.info("%s is passed on from byte %d, and not kept", self._digest, position)
        with self._service.upstream(self._repo).open_blob(
            self._digest, size=self.size, offset=position
        ) as stream:
            skip = position - stream.offset
            while position < end:
                data = stream.read(_PIECE_BYTES)
                if not data:
                    raise ConnectionError(f"{self._digest} breaks off")
                data, skip = data[skip:], max(0, skip - len(data))
                if data:
                    data = data[: end - position]
                    position += len(data)
                    yield data
