"""
`ImageService`: the store as a host sees it.

The verbs and defaults are those of the Kubernetes CRI ImageService. This module decides the order of things; rows are
the repository's, files are `BlobFiles`', HTTP is the registry client's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from ullage.blobs import BlobFiles
from ullage.digest import CONTENT_ALGORITHMS, Digest
from ullage.errors import (
    ImageNotFound,
    StorageLimitExceeded,
    UnsupportedContent,
)
from ullage.filesystem import require_suitable
from ullage.head import create, database_in, ensure_head
from ullage.model import (
    DEFAULT_MAX_STORAGE,
    EvictionPolicy,
    ImageStatus,
    PullPlan,
    PullPolicy,
)
from ullage.platform import Platform, platform_choice
from ullage.recovery import collect, reap, recover, with_headroom
from ullage.reference import ImageSpec
from ullage.revision import guard
from ullage.service.carrying import Carrying
from ullage.service.delivering import Delivering
from ullage.service.referring import Referring
from ullage.service.serving import Serving
from ullage.service.storing import Storing, check_limit
from ullage.service.unpacking import Unpacking
from ullage.simulated import SimulatedRegistry

if TYPE_CHECKING:
    import os
    import threading
    from collections.abc import Callable

    from ullage.database import Database
    from ullage.model import AuthConfig, ProgressCallback, UpgradeCallback
    from ullage.registry import RegistryClient

__all__ = ["ImageService"]


class ImageService(Carrying, Delivering, Referring, Unpacking, Serving, Storing):
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

    @classmethod
    def open(  # noqa: PLR0913 -- each is a choice of its own, by name, with a default
        cls,
        root: str | os.PathLike[str],
        *,
        max_storage: int | None = None,
        min_free: int | None = None,
        evict: EvictionPolicy | None = None,
        registry: RegistryClient | SimulatedRegistry | None = None,
        unpack: bool = False,
        read_only: bool = False,
        migrate: bool = True,
        on_upgrade: UpgradeCallback | None = None,
        busy_timeout_seconds: float = 60.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Self:
        """
        Open the store under *root*, making it when there is none.

        One that an earlier release made is upgraded first, in one transaction, with a backup beside it. What
        processes that died left is recovered then, at the cost of what they had in flight.

        Args:
            max_storage: the storage limit in bytes, kept in the store; a new store has 10 GiB without it.
            min_free: bytes that pulls leave free on the filesystem, kept in the store; 0 without it.
            evict: pulls of this service may evict to make room, and `collect` obeys this policy.
            registry: where pulls go; a `RegistryClient` of its own by default. It is closed with the service.
            unpack: pulls and imports of this service have the image's trees as well, where it has layers of files.
            read_only: look, and change nothing; there must be a store, of this release or one that lets it look.
            migrate: whether a store of an earlier release may be upgraded; without, it is refused.
            on_upgrade: told, in this thread, how far an upgrade is; what it raises undoes the upgrade.
            busy_timeout_seconds: how long a write waits for its turn before `StoreBusy`.
            clock: what time it is, in UTC. For tests.

        Raises:
            StoreError: *root* is no directory that can hold a store; see its subclasses.
            SchemaTooNew, SchemaTooOld: another release made it, and this one may not do what it is opened for.
            DiskFull: there is no room for an upgrade and its backup.
            ValueError: *max_storage* is negative or absurd.
        """
        for name, limit in (("max_storage", max_storage), ("min_free", min_free)):
            check_limit(name, limit)
        files = BlobFiles(Path(root).absolute())
        if not read_only:
            require_suitable(files.root)
            files.prepare()
        database = database_in(
            files.root, read_only=read_only, timeout_seconds=busy_timeout_seconds, guard=guard
        )
        try:
            _have_tables(files, database, max_storage=max_storage, migrate=migrate, on_upgrade=on_upgrade)
            service = cls(
                files=files,
                database=database,
                registry=registry,
                clock=clock,
                evict=evict,
                unpack=unpack,
            )
            try:
                if not read_only:
                    recover(service._lookups, lambda: service._repository, files)
                    service._set_limits(max_storage, min_free)
                    service._follow()
            except BaseException:
                service._closed = True  # the caller never had it, and cannot close it
                raise
        except BaseException:
            database.close()
            raise
        return service

    # ------------------------------------------------------------------ pull

    def pull_image(  # noqa: PLR0913 -- each is a choice of its own, by name, with a default
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
        with_referrers: bool = False,
        unpack: bool | None = None,
    ) -> ImageStatus:
        """
        Have an image: from here when it is known, else from its registry.

        Whether it fits under the storage limit is decided in one transaction before the first byte of content. When
        this returns, the image's rows and bytes are on disk, verified. When it raises, nothing of it is here but
        resumable bytes of large blobs, which are charged and are the first to give way.

        Args:
            platform: ``os/arch[/variant]`` to choose from an index; this machine's by default. ``all`` has every
                platform's image: it all fits or nothing changes; the reference denotes this machine's, which is
                returned, and the others are named by their own manifests' digests.
            policy: whether a known reference is answered without a request (the default), asked for anew, or must
                be here.
            timeout: seconds for all of it.
            cancel: set it, from any thread, to end the pull.
            on_progress: called in this thread, at most some twenty times a second for each blob that moves.
            evict: whether the least recently used images may go to make room, never a pinned or held one; as the
                service was opened by default. It all fits and they go, or nothing goes.
            with_referrers: then `pull_referrers` as well. What that raises says nothing of the image, which is here.
            unpack: have the image's trees as well (see `make_trees`), also of one that is known; as the service was
                opened by default. Layers are unpacked while they are fetched, and the image is here with its
                trees or not at all; what they take is only known, and charged, while they grow.

        Raises:
            InvalidReference: *image* or *platform* does not parse.
            ImageNotFound: the policy is NEVER and it is not here; or it was here, and removed while it was unpacked.
            AuthenticationFailed, RegistryUnavailable: the registry did not let us, or did not answer.
            PullFailed: it ended without an image; see its subclasses.
            UnsupportedContent: it is to be unpacked, and has no layers of files.
            StoreError: the store could not do it.
        """
        if with_referrers and policy is PullPolicy.NEVER:
            raise ValueError("with_referrers asks the registry, and the policy forbids it")
        spec = image if isinstance(image, ImageSpec) else ImageSpec.parse(image)
        asked, every = platform_choice(platform)
        deadline = None if timeout is None else time.monotonic() + timeout
        how: dict[str, Any] = {
            "deadline": deadline,
            "cancel": cancel,
            "on_progress": on_progress,
            "evict": evict,
        }
        status = self._known(spec, asked, policy, every=every)
        if status is None:
            wanted = unpack or (None if self._unpack and unpack is None else False)
            with self._failing_on_record("pull", reference=str(spec.normalised())):
                status = self._asked_for(spec, auth=auth, platform=asked, every=every, unpack=wanted, **how)
        self._have_trees(spec, unpack=unpack, **how)
        status = self._used(status)
        if with_referrers:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self.pull_referrers(
                spec, auth=auth, timeout=left, cancel=cancel, on_progress=on_progress, evict=evict
            )
        return status

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
        asked, every = platform_choice(platform)
        if isinstance(self._registry, SimulatedRegistry):
            raise UnsupportedContent("a simulated registry has nothing to plan")
        from ullage.planning import plan_pull

        return plan_pull(
            repository=self._repository,
            files=self._files,
            registry=self._registry,
            spec=spec,
            auth=auth,
            platform=asked,
            evict=self._policy is not None if evict is None else evict,
            every=every,
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

    def _known(
        self, spec: ImageSpec, asked: Platform | None, policy: PullPolicy, *, every: bool
    ) -> ImageStatus | None:
        """
        The image, where a pull need not ask for it.

        Raises:
            ImageNotFound: it is not here, and may not be asked for.
        """
        reference = spec.normalised()
        # Which platforms there are, only the index says: that one of them is here is no answer.
        ask = policy is PullPolicy.ALWAYS or (every and policy is PullPolicy.IF_NOT_PRESENT)
        known = None
        if not ask or self._is_simulated:
            known = self._lookups.known(
                reference, platform=None if asked is None else asked.normalised().format_all()
            )
        if known is None and policy is PullPolicy.NEVER:
            raise ImageNotFound(
                f"{reference.familiar} is not here, and may not be pulled", image=str(reference)
            )
        return known

    def _asked_for(self, spec: ImageSpec, **options: Any) -> ImageStatus:  # noqa: ANN401 -- those of `_pull`
        # Before anybody is asked anything.
        _require_content(spec.normalised().digest)
        self._database.require_writable()
        if isinstance(self._registry, SimulatedRegistry):
            if options["unpack"]:
                raise UnsupportedContent("a simulated image has no layers of files to unpack")
            return self._register_simulated(self._registry, spec)
        return self._pull(spec, **options)

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


def _have_tables(
    files: BlobFiles,
    database: Database,
    *,
    max_storage: int | None,
    migrate: bool,
    on_upgrade: UpgradeCallback | None,
) -> None:
    """
    Those of this release: made, upgraded, or there.
    """
    if not database.path.exists():
        create(database, max_bytes=DEFAULT_MAX_STORAGE if max_storage is None else max_storage)
    # A full disk has no room for the shared memory that opening needs.
    with_headroom(
        files,
        lambda: ensure_head(database, max_bytes=DEFAULT_MAX_STORAGE, migrate=migrate, on_upgrade=on_upgrade),
    )


def _require_content(digest: Digest | None) -> None:
    if digest is not None and digest.algorithm not in CONTENT_ALGORITHMS:
        raise UnsupportedContent(
            f"unsupported digest algorithm for content: {digest.algorithm}",
            hint="content is named by sha256 or sha512",
        )
