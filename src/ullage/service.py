"""
`ImageService`: the store as a host sees it.

The verbs and defaults are those of the Kubernetes CRI ImageService. This module decides the order of things; rows are
the repository's, files are `BlobFiles`', HTTP is the registry client's.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from ullage import migrate
from ullage.blobs import BlobFiles
from ullage.check import Checker
from ullage.database import Database
from ullage.digest import CONTENT_ALGORITHMS, Digest
from ullage.doctor import examine
from ullage.errors import (
    ImageInUse,
    ImageNotFound,
    InvalidReference,
    StorageLimitExceeded,
    StoreBusy,
    StoreError,
    StoreReadOnly,
    UnsupportedContent,
)
from ullage.filesystem import require_suitable
from ullage.manifest import MAX_DOCUMENT_BYTES, Manifest, parse_document
from ullage.model import (
    DEFAULT_MAX_STORAGE,
    Evicted,
    EvictionPolicy,
    Finding,
    ImageStatus,
    ImageStorage,
    Problem,
    PullPlan,
    PullPolicy,
    Reclaimed,
    StorageUsage,
)
from ullage.platform import Platform
from ullage.planning import plan_pull
from ullage.pull import Pull
from ullage.recovery import collect, give_back, owner_name, reap, recover, sweep_quietly, with_headroom
from ullage.reference import ImageSpec, Reference
from ullage.registry import RegistryClient
from ullage.repository import ImageRepository, Owner
from ullage.simulated import SimulatedRegistry

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from ullage.model import AuthConfig, ProgressCallback

__all__ = ["ImageLike", "ImageService"]

#: How a host names an image: the row's id, an image id or a prefix of one, a reference, a spec, or a status.
ImageLike = int | str | ImageSpec | ImageStatus

#: `last_used_at` is not written more often than this.
_TOUCH_AFTER: Final = timedelta(minutes=1)


class ImageService:
    """
    A store of container images under one directory.

    Threads may share a service, and processes may share a root; after a fork the child goes on with connections of
    its own. Close it, or use it as a context manager.

    >>> import tempfile
    >>> from ullage import ImageService, SimulatedRegistry
    >>> with tempfile.TemporaryDirectory() as root, ImageService.open(root, registry=SimulatedRegistry()) as images:
    ...     images.pull_image("nginx").repo_tags
    ('docker.io/library/nginx:latest',)
    """

    DEFAULT_MAX_STORAGE: Final = DEFAULT_MAX_STORAGE

    def __init__(
        self,
        *,
        files: BlobFiles,
        database: Database,
        registry: RegistryClient | SimulatedRegistry,
        clock: Callable[[], datetime],
        evict: EvictionPolicy | None,
    ) -> None:
        self._files = files
        self._database = database
        self._registry = registry
        self._clock = clock
        self._policy = evict
        self._repository = ImageRepository(database, clock=clock)
        self._closed = False

    @classmethod
    def open(  # noqa: PLR0913 -- a door: each option is a keyword with a default
        cls,
        root: str | os.PathLike[str],
        *,
        max_storage: int | None = None,
        min_free: int | None = None,
        evict: EvictionPolicy | None = None,
        registry: RegistryClient | SimulatedRegistry | None = None,
        read_only: bool = False,
        busy_timeout_seconds: float = 60.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Self:
        """
        Open the store under *root*, making it when there is none.

        What processes that died left is recovered first, at the cost of what they had in flight.

        Args:
            max_storage: the storage limit in bytes, kept in the store; a new store has 10 GiB without it.
            min_free: bytes that pulls leave free on the filesystem, kept in the store; 0 without it.
            evict: pulls of this service may evict to make room, and `collect` obeys this policy.
            registry: where pulls go; a `RegistryClient` of its own by default. It is closed with the service.
            read_only: look, and change nothing; there must be a store.
            busy_timeout_seconds: how long a write waits for its turn before `StoreBusy`.
            clock: what time it is, in UTC. For tests.

        Raises:
            StoreError: *root* is no directory that can hold a store; see its subclasses.
            ValueError: *max_storage* is negative or absurd.
        """
        for name, limit in (("max_storage", max_storage), ("min_free", min_free)):
            _check_limit(name, limit)
        files = BlobFiles(Path(root).absolute())
        path = files.root / "ullage.db"
        require_suitable(files.root)
        if not read_only:
            files.prepare()
        elif not path.exists():
            raise StoreError(f"there is no store in {files.root}")
        database = Database(
            path, gate=files.root / "gate", read_only=read_only, timeout_seconds=busy_timeout_seconds
        )
        try:
            if not path.exists():
                limit = DEFAULT_MAX_STORAGE if max_storage is None else max_storage
                migrate.create(database, max_bytes=limit)
            # A full disk has no room for the shared memory that opening needs.
            with_headroom(files, lambda: migrate.ensure_head(database, max_bytes=DEFAULT_MAX_STORAGE))
            service = cls(
                files=files,
                database=database,
                registry=RegistryClient() if registry is None else registry,
                clock=clock,
                evict=evict,
            )
            try:
                if not read_only:
                    recover(service._repository, files)
                    service._set_limits(max_storage, min_free)
            except BaseException:
                service._closed = True  # the caller never had it, and cannot close it
                raise
        except BaseException:
            database.close()
            raise
        return service

    def close(self) -> None:
        """
        Close every connection. Safe to call twice.
        """
        if not self._closed:
            self._closed = True
            self._registry.close()
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

    # ------------------------------------------------------------------ pull

    def pull_image(  # noqa: PLR0913 -- CRI's parameters, each with a default
        self,
        image: str | ImageSpec,
        *,
        auth: AuthConfig | None = None,
        platform: str | Platform | None = None,
        policy: PullPolicy = PullPolicy.IF_NOT_PRESENT,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_progress: ProgressCallback | None = None,
        evict: bool | None = None,
    ) -> ImageStatus:
        """
        Have an image: from here when it is known, else from its registry.

        Whether it fits under the storage limit is decided in one transaction before the first byte of content. When
        this returns, the image's rows and bytes are on disk, verified. When it raises, nothing of it is here but
        resumable bytes of large blobs, which are charged and are the first to give way.

        Args:
            platform: ``os/arch[/variant]`` to choose from an index; this machine's by default.
            policy: whether a known reference is answered without a request (the default), asked for anew, or must
                be here.
            timeout: seconds for all of it.
            cancel: set it, from any thread, to end the pull.
            on_progress: called in this thread, at most some twenty times a second for each blob that moves.
            evict: whether the least recently used images may go to make room, never a pinned or held one; as the
                service was opened by default. It all fits and they go, or nothing goes.

        Raises:
            InvalidReference: *image* or *platform* does not parse.
            ImageNotFound: the policy is NEVER and it is not here.
            AuthenticationFailed, RegistryUnavailable: the registry did not let us, or did not answer.
            PullFailed: it ended without an image; see its subclasses.
            StoreError: the store could not do it.
        """
        spec = image if isinstance(image, ImageSpec) else ImageSpec.parse(image)
        reference = spec.normalised()
        asked = Platform.parse(platform) if isinstance(platform, str) else platform
        if policy is not PullPolicy.ALWAYS or isinstance(self._registry, SimulatedRegistry):
            known = self._repository.known(
                reference, platform=None if asked is None else str(asked.normalised())
            )
            if known is not None:
                return self._used(known)
        if policy is PullPolicy.NEVER:
            raise ImageNotFound(
                f"{reference.familiar} is not here, and may not be pulled", image=str(reference)
            )
        # Before anybody is asked anything.
        _require_content(reference.digest)
        self._database.require_writable()
        if isinstance(self._registry, SimulatedRegistry):
            return self._register_simulated(self._registry, spec)
        deadline = None if timeout is None else time.monotonic() + timeout
        status = Pull(
            repository=self._repository,
            files=self._files,
            registry=self._registry,
            spec=spec,
            auth=auth,
            platform=asked,
            deadline=deadline,
            cancel=cancel,
            on_progress=on_progress,
            evict=self._policy is not None if evict is None else evict,
        ).run()
        return self._used(status)

    def plan_pull(
        self,
        image: str | ImageSpec,
        *,
        auth: AuthConfig | None = None,
        platform: str | Platform | None = None,
        evict: bool | None = None,
    ) -> PullPlan:
        """
        What `pull_image` would do now: what would be fetched, whether it fits, which images would go for it.

        Asks the registry for the manifest and changes nothing here: the admission is rehearsed and rolled back.

        Raises:
            InvalidReference, AuthenticationFailed, RegistryUnavailable, PullFailed: as `pull_image` does, but not for
                want of room.
        """
        spec = image if isinstance(image, ImageSpec) else ImageSpec.parse(image)
        if isinstance(self._registry, SimulatedRegistry):
            raise UnsupportedContent("a simulated registry has nothing to plan")
        return plan_pull(
            repository=self._repository,
            files=self._files,
            registry=self._registry,
            spec=spec,
            auth=auth,
            platform=Platform.parse(platform) if isinstance(platform, str) else platform,
            evict=self._policy is not None if evict is None else evict,
        )

    def register_image(
        self, image: str | ImageSpec, *, size: int, digest: str | None = None, platform: str | None = None
    ) -> ImageStatus:
        """
        Charge an image whose bytes the host keeps elsewhere: it has a row and no file here.

        A known reference is answered with its image. *digest* is what the reference resolves to, if the host
        knows; the image is told apart by it, or else by its name.

        Raises:
            StorageLimitExceeded: *size* bytes do not fit.
            ImageAlreadyExists: *digest* is an image that is here with its content.
            UnsupportedContent: *digest* is of an algorithm that is not content's.
            ValueError: *size* is negative or absurd.
        """
        if not 0 <= size <= 1 << 50:
            raise ValueError(f"size: {size} is not between 0 and 1 PiB")
        spec = image if isinstance(image, ImageSpec) else ImageSpec.parse(image)
        named = None if digest is None else Digest.parse(digest)
        identity = named or spec.normalised().digest or SimulatedRegistry().image_id(spec)
        for each in (identity, spec.normalised().digest):
            _require_content(each)
        normalised = None if platform is None else str(Platform.parse(platform).normalised())
        return self._with_room(
            lambda: self._repository.register(
                spec, image_id=identity, digest=named, size=size, platform=normalised
            )
        )

    def _register_simulated(self, registry: SimulatedRegistry, spec: ImageSpec) -> ImageStatus:
        return self._with_room(
            lambda: self._repository.register(
                spec,
                image_id=registry.image_id(spec),
                digest=registry.compute_digest(spec),
                size=registry.estimate_image_size(spec),
            )
        )

    def _with_room(self, register: Callable[[], ImageStatus]) -> ImageStatus:
        """
        One transaction; when that is refused, and what the dead left would make the room, another after it is gone.
        """
        try:
            return register()
        except StorageLimitExceeded:
            reap(self._repository, self._files)
        try:
            return register()
        except StorageLimitExceeded as error:
            if error.needed_bytes > error.available_bytes + error.reclaimable_bytes:
                raise
            collect(self._repository, self._files)
        return register()

    # ------------------------------------------------------------------ look

    def list_images(self) -> list[ImageStatus]:
        """
        Every image, by id, as of one moment.
        """
        return self._repository.all()

    def image_status(self, image: ImageLike) -> ImageStatus | None:
        """
        One image; None when it is not here.

        Raises:
            InvalidReference: *image* cannot name one, or is a prefix of several ids.
        """
        return self._repository.find(_key(image))

    def image_status_by_ref(self, reference: str | ImageSpec) -> ImageStatus | None:
        """
        The image that a reference denotes; None when there is none.
        """
        spec = reference if isinstance(reference, ImageSpec) else ImageSpec.parse(reference)
        return self._repository.known(spec.normalised())

    def image_count(self) -> int:
        """
        How many images there are.
        """
        return self.usage().image_count

    def manifest(self, image: ImageLike) -> Manifest:
        """
        The manifest of an image, read from its blob and verified.

        Raises:
            ImageNotFound: there is no such image, or the host keeps its content elsewhere.
        """
        content = self._repository.content_of(_key(image))
        if content is None:
            raise ImageNotFound(f"no such image: {_shown(image)}", image=str(_key(image)))
        for role, digest, media_type in content:
            if role == "manifest":
                raw = self._files.read(Digest(digest), max_bytes=MAX_DOCUMENT_BYTES)
                parsed = parse_document(raw, media_type=media_type, digest=Digest(digest))
                assert isinstance(parsed, Manifest), "the role says so"
                return parsed
        raise ImageNotFound(f"the content of image {_shown(image)} is not kept here", image=str(_key(image)))

    def config(self, image: ImageLike) -> dict[str, Any]:
        """
        The config of an image as its JSON says. Opens no file.

        Raises:
            ImageNotFound: there is no such image.
            UnsupportedContent: it is an artifact, or registered: it has no image config.
        """
        status = self._get(image)
        text = self._repository.config_of(status.id)
        if text is None:
            raise UnsupportedContent(f"image {status.image_id} has no image config")
        parsed = json.loads(text)
        assert isinstance(parsed, dict), "checked when it was pulled"
        return parsed

    def open_blob(self, digest: str) -> BinaryIO:
        """
        The bytes of a blob that is here, for reading. Close it; hold its image while you read.

        Raises:
            ImageNotFound: no such blob is here.
        """
        named = Digest.parse(digest)
        if not self._repository.ready(named):
            raise ImageNotFound(f"no blob {named} is here", image=named)
        return self._files.open(named)

    # ------------------------------------------------------------------ change

    def remove_image(self, image: ImageLike, *, missing_ok: bool = False) -> None:
        """
        Forget an image: every tag and digest by which it was known.

        What it alone used stops counting at once and is durable when this returns; the files go right after.
        A pinned image is removed too; one that is held is not.

        Raises:
            InvalidReference: *image* is not a reference, an image id or a row id.
            ImageNotFound: there is no such image, unless *missing_ok*.
            ImageInUse: somebody holds it.
            StoreBusy: another process held the write lock for too long.
        """
        try:
            removed = with_headroom(self._files, lambda: self._repository.remove(_key(image)))
        except ImageInUse:
            # A hold ends with its process, and the dead cannot say so.
            if not reap(self._repository, self._files):
                raise
            removed = with_headroom(self._files, lambda: self._repository.remove(_key(image)))
        if removed is None:
            if missing_ok:
                return
            raise ImageNotFound(f"no such image: {_shown(image)}", image=str(_key(image)))
        sweep_quietly(self._repository, self._files)

    def remove_image_by_ref(self, reference: str | ImageSpec, *, missing_ok: bool = False) -> None:
        """
        Forget the image that a reference denotes, with all its names. See `remove_image`.
        """
        status = self.image_status_by_ref(reference)
        if status is not None:
            self.remove_image(status.id, missing_ok=missing_ok)
        elif not missing_ok:
            raise ImageNotFound(f"no such image: {_shown(reference)}", image=str(_key(reference)))

    def tag_image(self, image: ImageLike, tag: str | ImageSpec, *, move: bool = False) -> ImageStatus:
        """
        Give an image one more tag, at the cost of a row.

        Raises:
            ImageNotFound: there is no such image.
            ImageAlreadyExists: the tag denotes another image, and not *move*.
            InvalidReference: *tag* does not parse, or is a digest.
        """
        spec = tag if isinstance(tag, ImageSpec) else ImageSpec.parse(tag)
        reference = spec.normalised()
        if reference.digest is not None:
            raise InvalidReference("a tag cannot be a digest", reference=str(reference))
        return self._repository.tag(_key(image), reference, move=move)

    def untag_image(self, reference: str | ImageSpec) -> ImageStatus:
        """
        Take one tag or digest reference away. The image stays, without a name if that was its last.

        Raises:
            ImageNotFound: there is no such reference.
        """
        spec = reference if isinstance(reference, ImageSpec) else ImageSpec.parse(reference)
        return self._repository.untag(spec.normalised())

    def pin_image(self, image: ImageLike) -> ImageStatus:
        """
        Keep an image from eviction and collection. An explicit removal is still obeyed.
        """
        return self._repository.pin(_key(image), pinned=True)

    def unpin_image(self, image: ImageLike) -> ImageStatus:
        """
        Undo `pin_image`.
        """
        return self._repository.pin(_key(image), pinned=False)

    @contextmanager
    def hold(self, image: ImageLike) -> Iterator[ImageStatus]:
        """
        Keep an image while a block runs: nobody can remove it, in any process.

        The hold ends with the block or with this process, whatever comes first; the view ``held`` shows it.

        Raises:
            ImageNotFound: there is no such image.
        """
        self._database.require_writable()
        lock = self._files.new_lease()
        try:
            status = self._repository.hold(Owner(lock.token, owner_name(), os.getpid()), _key(image))
            try:
                yield status
            finally:
                if (
                    lock.is_held
                ):  # not so in a child that was forked inside the block: the hold is the parent's
                    give_back(self._repository, self._files, lock.token, keep=False)
        finally:
            lock.drop()

    # ------------------------------------------------------------------ bytes

    def usage(self) -> StorageUsage:
        """
        Where the bytes are. Costs the same however large the store.
        """
        return self._repository.usage()

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
        _check_limit("max_storage", max_storage)
        if not evict:
            self._repository.set_limits(max_bytes=max_storage)
            return []
        evicted = with_headroom(self._files, lambda: self._repository.lower(max_storage, self._files.discard))
        sweep_quietly(self._repository, self._files)
        return evicted

    def set_min_free(self, min_free: int) -> None:
        """
        Set how many bytes pulls leave free on the filesystem, whatever the storage limit says.
        """
        _check_limit("min_free", min_free)
        self._repository.set_limits(min_free_bytes=min_free)

    def min_free(self) -> int:
        """
        What `set_min_free` set.
        """
        return self._repository.min_free()

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
        return self._repository.image_storage(None if image is None else self._get(image).id)

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
        fetched again from where it came (with *auth*), files that no row explains go, counters are recounted.
        """
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

    def doctor(self) -> list[Finding]:
        """
        What this machine and this store are like, with a hint for each thing that is not as it should be.
        """
        return examine(self._database, self._repository, self._files)

    def view(self, name: str) -> list[dict[str, Any]]:
        """
        The rows of ``in_flight``, ``reclaimable``, ``accounting_drift`` or ``problems``, as the shell shows them.
        """
        return self._repository.view(name)

    # ------------------------------------------------------------------ helpers

    def _get(self, image: ImageLike) -> ImageStatus:
        status = self.image_status(image)
        if status is None:
            raise ImageNotFound(f"no such image: {_shown(image)}", image=str(_key(image)))
        return status

    def _used(self, status: ImageStatus) -> ImageStatus:
        """
        Note the use, unless it was noted a moment ago.
        """
        if self._database.read_only or self._clock() - status.last_used_at < _TOUCH_AFTER:
            return status
        try:
            self._repository.touch([status.id])
        except (StoreBusy, StoreReadOnly):
            return status  # the image is here all the same; the next use notes it
        return self._repository.find(status.id) or status


def _require_content(digest: Digest | None) -> None:
    if digest is not None and digest.algorithm not in CONTENT_ALGORITHMS:
        raise UnsupportedContent(
            f"unsupported digest algorithm for content: {digest.algorithm}",
            hint="content is named by sha256 or sha512",
        )


def _check_limit(name: str, limit: int | None) -> None:
    if limit is not None and not 0 <= limit <= 1 << 60:
        raise ValueError(f"{name}: {limit} is not between 0 and 1 EiB")


def _key(image: ImageLike) -> int | str:
    if isinstance(image, ImageStatus):
        return image.id
    if isinstance(image, ImageSpec):
        return str(image.normalised())
    return image


def _shown(image: ImageLike) -> str:
    key = _key(image)
    return f"id {key}" if isinstance(key, int) else key
