"""
Blobs into a registry: not at all where it has them, whole or in pieces where not, and on from where it broke off.
"""

from __future__ import annotations

import enum
import logging
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self

from ullage.digest import Hasher
from ullage.errors import AuthenticationFailed, DigestMismatch, PushFailed, RegistryUnavailable, SizeMismatch
from ullage.registry import NoChunks, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ullage.archive import Outgoing
    from ullage.digest import Digest
    from ullage.document import Descriptor
    from ullage.registry import RegistryTarget, Upload

__all__ = ["BlobSender", "Sent"]

_log = logging.getLogger(__name__)

#: Blobs above this go in pieces, so that what is lost when a connection breaks is a piece at most.
CHUNKED_BYTES: Final = 64 * 1024 * 1024
#: A piece.
CHUNK_BYTES: Final = 64 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024


class Sent(enum.Enum):
    """
    What a blob cost.
    """

    PRESENT = "present"
    MOUNTED = "mounted"
    SENT = "sent"


class BlobSender:
    """
    Sends the blobs of one image to one repo. Thread-safe, one thread for each blob.

    Args:
        mounts: other repos of the same registry that may have a blob, the likeliest first.
    """

    def __init__(
        self, target: RegistryTarget, image: Outgoing, mounts: Callable[[Digest], Sequence[str]]
    ) -> None:
        self._target = target
        self._image = image
        self._mounts = mounts
        self._moved: dict[Digest, tuple[int, int]] = {}

    def moved(self) -> dict[Digest, tuple[int, int]]:
        """
        Of the blobs that are sent: how many bytes went, of how many.
        """
        return dict(self._moved)

    def send(self, blob: Descriptor) -> Sent:
        """
        Have a blob in the repo.

        Raises:
            PushFailed, AuthenticationFailed, RegistryUnavailable: the registry's answer.
            ContentError: the bytes are not what the descriptor says.
        """
        if self._target.has_blob(blob.digest):
            return Sent.PRESENT
        upload = None
        for source in self._mounts(blob.digest):
            if source != self._target.path:
                try:
                    upload = self._target.mount(blob.digest, source)
                except (PushFailed, AuthenticationFailed) as error:
                    _log.info("%s is not mounted from %s: %s", blob.digest, source, error)
                    continue
                if upload is None:
                    return Sent.MOUNTED
                break
        self._moved[blob.digest] = (0, blob.size)
        _Sending(self._target, blob, self._read, self._note, upload).run()
        return Sent.SENT

    def _note(self, blob: Descriptor, done: int) -> None:
        self._moved[blob.digest] = (done, blob.size)

    def _read(self, blob: Descriptor) -> _Reader:
        return _Reader(self._image, blob)


class _Sending:
    """
    One blob, until it is there.
    """

    def __init__(
        self,
        target: RegistryTarget,
        blob: Descriptor,
        read: Callable[[Descriptor], _Reader],
        note: Callable[[Descriptor, int], None],
        upload: Upload | None,
    ) -> None:
        self._target = target
        self._blob = blob
        self._read = read
        self._note = note
        self._upload = upload
        self._in_chunks = blob.size > CHUNKED_BYTES
        self._retries = target.patience.retries()
        self._position = 0
        #: How far it was when something failed: getting further than that is progress.
        self._failed_at = 0

    def run(self) -> None:
        while True:
            try:
                if self._upload is None:
                    self._upload, self._position = self._target.begin(self._blob.digest), 0
                if self._in_chunks:
                    self._send_chunks(self._upload)
                else:
                    self._upload.put(self._blob.digest, Stream(self._blob.size, self._pieces))
            except NoChunks as error:
                if not self._in_chunks:
                    raise
                _log.info("in one piece, then: %s", error)
                self._in_chunks = False
                self._give_up()
            except RegistryUnavailable as error:
                if self._target.has_blob(self._blob.digest):
                    break  # its answer was what got lost
                self._after(error)
            except BaseException:
                self._give_up()
                raise
            else:
                break
        self._note(self._blob, self._blob.size)

    def _after(self, error: RegistryUnavailable) -> None:
        """
        What can be gone on with, after *error*.
        """
        if self._position > self._failed_at:
            self._failed_at = self._position
            self._retries.start_over()
        seconds = self._retries.wait_seconds(error.retry_after_seconds)
        if error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and seconds is not None:
            self._target.pause(seconds)
        else:
            self._target.wait(seconds, error)
        offset = self._upload.offset() if self._in_chunks and self._upload is not None else None
        if offset is None or offset > self._blob.size:
            self._give_up()
        else:
            _log.info("%s goes on at byte %d", self._blob.digest, offset)
            self._position = offset

    def _give_up(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()

    def _send_chunks(self, upload: Upload) -> None:
        size = max(CHUNK_BYTES, upload.min_chunk_bytes)
        with ExitStack() as stack:
            readers: list[_Reader] = []

            def pieces(start: int, end: int) -> Iterator[bytes]:
                # One reader goes through all of it. Sent a second time (a token has ended), it is read anew.
                if not readers or readers[-1].position != start:
                    readers.append(stack.enter_context(self._read(self._blob)))
                    readers[-1].skip(start)
                return self._passed(readers[-1], end)

            while self._position < self._blob.size:
                start, end = self._position, min(self._position + size, self._blob.size)
                upload.append(start, Stream(end - start, partial(pieces, start, end)))
                self._position = end
        upload.put(self._blob.digest)

    def _pieces(self) -> Iterator[bytes]:
        with self._read(self._blob) as reader:
            yield from self._passed(reader, self._blob.size)

    def _passed(self, reader: _Reader, end: int) -> Iterator[bytes]:
        while reader.position < end:
            yield reader.read(end - reader.position)
            self._note(self._blob, reader.position)


class _Reader:
    """
    The bytes of a blob in order. Its last ones are handed out when all of them were what its descriptor says.
    """

    def __init__(self, image: Outgoing, blob: Descriptor) -> None:
        self.position = 0
        self._blob = blob
        self._stack = ExitStack()
        self._stream = self._stack.enter_context(image.open(blob.digest))
        self._hasher = Hasher(blob.digest)
        if not blob.size:
            self._finish()

    def skip(self, count: int) -> None:
        """
        Read over *count* bytes; they are verified like the others.
        """
        while self.position < count:
            self.read(count - self.position)

    def read(self, limit: int) -> bytes:
        """
        The next bytes, at least one and at most *limit*, as long as there are any by what the descriptor says.

        Raises:
            SizeMismatch, DigestMismatch: they are not what was promised.
        """
        data = self._stream.read(min(_READ_BYTES, limit))
        if not data:
            raise self._wrong_size(self.position)
        self._hasher.update(data)
        self.position += len(data)
        if self.position >= self._blob.size:
            self._finish()
        return data

    def _finish(self) -> None:
        more = len(self._stream.read(1))
        if more or self.position > self._blob.size:
            raise self._wrong_size(self.position + more)
        if not self._hasher.matches:
            actual = self._hasher.digest()
            raise DigestMismatch(
                f"digest mismatch: expected {self._blob.digest}, got {actual}",
                expected=self._blob.digest,
                actual=actual,
            )

    def _wrong_size(self, actual: int) -> SizeMismatch:
        return SizeMismatch(
            f"size mismatch: expected {self._blob.size} bytes of {self._blob.digest}, got {actual}",
            expected_bytes=self._blob.size,
            actual_bytes=actual,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()
