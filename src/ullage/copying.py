"""
Images from one place to another, with no store between: registries, layouts, archives.

What comes in goes out, a piece at a time, and is hashed in between; a blob that is there already is not fetched.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from ullage.archive import Outgoing, Place, open_destination, open_source
from ullage.consign import consign
from ullage.delivery import Pushed, PushProgress
from ullage.errors import DiskFull, InvalidReference, PullCancelled, PushCancelled
from ullage.platform import platform_choice
from ullage.push import Push
from ullage.reference import Reference

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from ullage.archive.outgoing import Readable
    from ullage.delivery import PushCallback
    from ullage.digest import Digest
    from ullage.model import AuthConfig
    from ullage.platform import Platform
    from ullage.registry import RegistryClient
    from ullage.resolve import Repo

__all__ = ["copy_image"]

_T = TypeVar("_T")
_TICK_SECONDS: Final = 0.05
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


def copy_image(  # noqa: PLR0913 -- each is a choice of its own, by name, with a default
    source: str,
    destination: str,
    *,
    registry: RegistryClient,
    auth: AuthConfig | None = None,
    destination_auth: AuthConfig | None = None,
    platform: str | Platform | None = None,
    timeout: float | None = None,
    cancel: threading.Event | None = None,
    on_progress: PushCallback | None = None,
) -> Pushed:
    """
    Copy an image from a registry, a layout or an archive to another one; nothing of it is kept here.

    Documents go as they came, to the byte. What the destination has is not fetched, and between repos of one registry
    blobs are mounted. Every blob is verified on the way: what is not what its digest says counts nowhere.

    Args:
        source: a reference, ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]`` or ``docker-archive:FILE[:REF]``; ``-`` for
            a FILE is standard input. Where there are several images, one has to be named.
        destination: the same; ``-`` is standard output. A layout that is there is added to.
        registry: the connections; it stays open.
        auth: for the registry that is copied from.
        destination_auth: for the one that is copied to.
        platform: ``os/arch[/variant]`` to choose of an index; this machine's by default; ``all`` is the index with all
            that it names.
        timeout: seconds for all of it.
        cancel: set it, from any thread, to end the copy.
        on_progress: called in this thread, at most some twenty times a second for each blob that moves.

    Raises:
        InvalidReference: *source*, *destination* or *platform* does not parse.
        ManifestUnknown, NoMatchingPlatform: there is no such image.
        AuthenticationFailed, RegistryUnavailable: a registry did not let us, or did not answer.
        ContentError: the image is not what it promises.
        PushFailed: the destination does not take it.
        ImageError: it cannot be written there.
    """
    asked, every = platform_choice(platform)
    deadline = None if timeout is None else time.monotonic() + timeout
    clock = _Clock(f"the copy to {destination}", deadline, cancel)
    to = Place.named(destination) or Reference.parse(destination)
    came = Place.named(source) or Reference.parse(source)
    with ExitStack() as stack:
        repo, ref, names = _opened(came, registry, auth, stack, clock)
        if isinstance(to, Place) and to.name:
            names = (to.name,)
        with ThreadPoolExecutor(1, thread_name_prefix="ullage-copy") as executor:
            image = clock.wait(
                executor.submit(lambda: consign(repo, ref, platform=asked, every=every, names=names)),
                repo.abort,
            )
            if isinstance(to, Place):
                return _Writing(image, to, repo, clock, on_progress).run(executor)
        mounted = came.path if isinstance(came, Reference) and came.domain == to.domain else ""
        return Push(
            target=registry.target(to, auth=destination_auth),
            image=image,
            reference=to,
            mounts=lambda _: [mounted] if mounted else [],
            deadline=deadline,
            cancel=cancel,
            on_progress=on_progress,
            abort=repo.abort,
        ).run()


def _opened(
    came: Place | Reference,
    registry: RegistryClient,
    auth: AuthConfig | None,
    stack: ExitStack,
    clock: _Clock,
) -> tuple[Repo, str, tuple[str, ...]]:
    """
    Whom to ask, for what, and what that is called.
    """
    if isinstance(came, Reference):
        ref = came.digest or came.tag
        assert ref is not None, "a normalised reference has one"
        repo = registry.repo(came, auth=auth)
        return repo, ref, () if came.digest is not None else (str(came),)
    opened = stack.enter_context(open_source(came, spool=_Spooled, check=clock.check))
    images = opened.choose(came.name)
    if len(images) > 1:
        raise InvalidReference(
            f"{opened.where} has {len(images)} images, and one is copied",
            reference=str(came),
            hint="choose one: PATH:TAG",
        )
    (image,) = images
    return opened.repo(image), image.descriptor.digest, tuple(image.names)


class _Clock:
    """
    How long it may take, and whether somebody wants it to end.
    """

    def __init__(self, what: str, deadline: float | None, cancel: threading.Event | None) -> None:
        self._what, self._deadline, self._cancel = what, deadline, cancel

    def check(self) -> None:
        """
        Raises:
            PushCancelled: it is over.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise PushCancelled(f"{self._what} was cancelled")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise PushCancelled(f"{self._what} did not end before its deadline")

    def wait(
        self, future: Future[_T], abort: Callable[[], None], tell: Callable[[], None] | None = None
    ) -> _T:
        """
        What *future* comes to; what it waits for is aborted when the time is over.
        """
        try:
            while not wait([future], timeout=_TICK_SECONDS).done:
                self.check()
                if tell is not None:
                    tell()
            return future.result()
        except PullCancelled as error:
            raise PushCancelled(f"{self._what} was ended") from error
        except BaseException:
            abort()
            raise


class _Writing:
    """
    One image on its way into a layout or an archive.
    """

    def __init__(
        self, image: Outgoing, place: Place, repo: Repo, clock: _Clock, on_progress: PushCallback | None
    ) -> None:
        self._image = replace(image, open=self._open)
        self._source = image
        self._place = place
        self._repo = repo
        self._clock = clock
        self._on_progress = on_progress
        self._sizes = {blob.digest: blob.size for blob in image.blobs}
        self._moved: dict[Digest, int] = {}
        self._told: dict[Digest, int] = {}

    def run(self, executor: ThreadPoolExecutor) -> Pushed:
        self._clock.wait(executor.submit(self._write), self._repo.abort, self._tell)
        self._tell()
        top = self._image.top
        return Pushed(
            reference=str(self._place),
            repo_digest="",
            digest=top.digest,
            media_type=top.media_type,
            sent_blobs=len(self._moved),
            sent_bytes=sum(self._moved.values()),
            present_blobs=len(self._sizes) - len(self._moved),
        )

    def _write(self) -> None:
        writer = open_destination(self._place)
        try:
            writer.add(self._image)
            self._clock.check()
            writer.finish()
        finally:
            writer.discard()

    @contextmanager
    def _open(self, digest: Digest) -> Iterator[Readable]:
        with self._source.open(digest) as stream:
            yield _Counted(stream, lambda count: self._count(digest, count))

    def _count(self, digest: Digest, count: int) -> None:
        self._moved[digest] = self._moved.get(digest, 0) + count

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        moved = dict(self._moved)
        for digest, done in moved.items():
            if self._told.get(digest) != done:
                self._told[digest] = done
                self._on_progress(
                    PushProgress(
                        reference=str(self._place),
                        done_bytes=sum(moved.values()),
                        total_bytes=sum(self._sizes[each] for each in moved),
                        blob=digest,
                        blob_done_bytes=done,
                        blob_total_bytes=self._sizes[digest],
                    )
                )


class _Counted:
    """
    A stream, and how much was read of it.
    """

    def __init__(self, stream: Readable, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._count(len(data))
        return data


class _Spooled:
    """
    A pipe or a compressed archive, in a file without a name for as long as it is read: `ullage.archive.Storage`.
    """

    def __init__(self, pieces: Iterator[bytes], where: str) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        try:
            for piece in pieces:
                self._file.write(piece)
            self._file.flush()
        except OSError as error:
            self._file.close()
            if error.errno in _NO_ROOM:
                raise DiskFull(f"no room to spool {where} in {tempfile.gettempdir()}") from error
            raise
        except BaseException:
            self._file.close()
            raise
        self.size = os.fstat(self._file.fileno()).st_size

    def read_at(self, offset: int, size: int, /) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        self._file.close()
