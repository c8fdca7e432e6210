"""
One pull, from a reference to an image in the store.

    resolve    HEAD of what may be here; the manifest of our platform             no lock, no row
    admit      one transaction: a lease, and a claim on every blob                `ImageRepository.admit`
    fetch      config and layers in parallel: hash, write, sync                   no lock held
    wait       for blobs that another pull fetches; take over when it dies
    unpack     if asked: beside fetching, each layer while it comes               `ullage.unpacker`
    complete   rename, sync the directory, one transaction                        `ImageRepository.complete`

A pull that ends otherwise gives back what it reserved. What it had received of large blobs stays, charged and
resumable, unless the bytes were wrong.
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, TypeVar

from ullage.arrivals import Arrivals
from ullage.charge import layers_of
from ullage.errors import (
    DigestMismatch,
    DiskFull,
    ImageError,
    PullCancelled,
    RegistryUnavailable,
    StorageLimitExceeded,
    StoreBusy,
    StoreError,
    UnsupportedContent,
)
from ullage.manifest import MAX_DOCUMENT_BYTES, is_image_config
from ullage.model import ImageStatus, PullStatus
from ullage.recovery import give_back, has_lease, owner_name, reap, sweep, sweep_quietly
from ullage.repository import Origin, Owner
from ullage.resolve import Resolver
from ullage.telling import Telling

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ullage.blobs import BlobFiles
    from ullage.digest import Digest
    from ullage.ingest import Ingest
    from ullage.model import ProgressCallback
    from ullage.platform import Platform
    from ullage.repository import Claims, ImageRepository, NewImage
    from ullage.resolve import Plan, Repo, Target
    from ullage.unpacker import UnpackingJob

__all__ = ["Pull"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

PARALLEL_FETCHES: Final = 3
_TICK_SECONDS: Final = 0.05
_SHOWN_SECONDS: Final = 1.0
#: How long a pull that was cancelled waits for its turn to tidy up; after that it is recovery's to do.
_ABANDON_SECONDS: Final = 1.0
# After these the bytes that arrived are as good as any; after others the image itself is wrong.
_WORTH_RESUMING: Final = (RegistryUnavailable, PullCancelled, DiskFull, StoreError)


class Pull:
    """
    One pull. `run` it once.

    Args:
        repo, target: who is asked, a registry or an archive; what for, and what it is to be called.
        platform: the one that was asked for, None for this machine's.
        every: the other platforms' images as well, all in one admission and one completion.
        deadline, cancel: what ends it: a moment of `time.monotonic`, an event that any thread sets.
        unpack: have its trees as well, or nothing; None to have them where it is made of layers of files.
        patience: `Database.patience`, so that waiting to write ends as well when the pull has to.
    """

    def __init__(  # noqa: PLR0913 -- what a pull is made of, each by its name
        self,
        *,
        repository: ImageRepository,
        files: BlobFiles,
        repo: Repo,
        target: Target,
        platform: Platform | None,
        deadline: float | None,
        cancel: threading.Event | None,
        on_progress: ProgressCallback | None,
        evict: bool,
        every: bool,
        unpack: bool | None,
        patience: Callable[[Callable[[], None]], AbstractContextManager[None]],
    ) -> None:
        self._repository = repository
        self._files = files
        self._target = target
        self._repo = repo
        self._resolver = Resolver(repository, files, repo, target, platform, every=every)
        self._deadline = deadline
        self._cancel = cancel
        self._telling = Telling(target.shown, on_progress, repo.received_from)
        self._evict = evict
        self._unpack = unpack
        self._patience = patience
        self._job: UnpackingJob | None = None
        self._images: dict[Digest, NewImage] = {}
        self._arrivals = Arrivals(files)
        self._arrived: set[Digest] = set()
        self._shown_at = time.monotonic()

    def run(self) -> ImageStatus:
        """
        Pull. On any exception the store is as it was, but for resumable bytes.
        """
        self._telling.of(PullStatus.PENDING)
        try:
            with ThreadPoolExecutor(PARALLEL_FETCHES, thread_name_prefix="ullage-fetch") as executor:
                try:
                    with self._patience(self._check_time):
                        status = self._run(executor)
                except BaseException:
                    self._repo.abort()  # what the workers wait for ends now, so that the executor can
                    executor.shutdown(cancel_futures=True)
                    raise
        except BaseException:
            self._telling.of(PullStatus.FAILED)
            raise
        self._telling.of(PullStatus.COMPLETE)
        return status

    def _run(self, executor: ThreadPoolExecutor) -> ImageStatus:
        found = self._until_done(executor.submit(self._resolve))
        if isinstance(found, ImageStatus):
            return found
        lock = self._files.new_lease()
        token = lock.token
        try:
            claims = self._admit(Owner(token, owner_name(), os.getpid()), found.wanted)
            self._telling.sizes = {d: found.wanted[d] for d in claims.owned}
            self._telling.present_bytes = sum(found.wanted[d] for d in claims.present)
            image = self._fetch_all(executor, token, found, claims)
            chain = self._unpacked(token)
            others = [(self._new_image(each), each.naming) for each in found.others]
            self._files.publish(self._arrived)
            origin = Origin(self._repo.served_by, self._repo.received_from)
            return self._repository.complete(
                token,
                sorted(self._arrived),
                image,
                found.naming,
                others,
                origin=origin,
                chain=chain,
            )
        except BaseException as error:
            executor.shutdown(wait=False, cancel_futures=True)
            self._repo.abort()
            executor.shutdown(wait=True)  # nobody writes to our ingests any more
            if self._job is not None:
                self._job.stop()  # nor to our trees
            self._abandon(token, error)
            raise
        finally:
            lock.drop()

    def _resolve(self) -> Plan | ImageStatus:
        with self._patience(self._check_time):  # in the thread that waits
            return self._resolver.resolve()

    # ------------------------------------------------------------------ admit

    def _admit(self, owner: Owner, wanted: dict[Digest, int]) -> Claims:
        def admit() -> Claims:
            return self._repository.admit(owner, self._target.shown, wanted, self._files, evict=self._evict)

        try:
            claims = admit()
        except (DiskFull, StorageLimitExceeded):
            # The dead may hold room that nobody gave back yet.
            if not reap(self._repository, self._files):
                raise
            claims = admit()
        self._make_way(claims)
        return claims

    def _make_way(self, claims: Claims) -> None:
        """
        Unlink what had to give way, before a byte is written in its place.
        """
        if claims.evicted or self._repository.doomed(1):
            sweep(self._repository, self._files)
        self._files.empty_trash()
        for each in claims.evicted:
            _log.info("evicted %s: freed %d bytes", each.image_id, each.freed_bytes)
        self._telling.of_evicted(claims.evicted)

    # ------------------------------------------------------------------ fetch

    def _fetch_all(self, executor: ThreadPoolExecutor, token: str, plan: Plan, claims: Claims) -> NewImage:
        image: NewImage | None = None
        config = plan.manifest.config.digest
        mine, awaited = set(claims.owned), set(claims.awaited)
        while True:
            self._arrivals.claimed(claims.present, {digest: plan.wanted[digest] for digest in mine})
            if config in claims.present:
                self._begin_unpacking(token, plan)
            self._fetch(executor, token, plan, mine)
            if config not in awaited and image is None:
                image = self._new_image(plan)
            if not awaited:
                assert image is not None, "its config is here"
                return image
            # Others may wait for what we have, as we wait for them: they get it before we wait.
            self._publish(token)
            claims = self._wait_for_others(token, plan, awaited)
            mine, awaited = set(claims.owned), set(claims.awaited)
            self._telling.sizes |= {d: plan.wanted[d] for d in mine}
            self._telling.received |= {d: plan.wanted[d] for d in claims.present}

    def _fetch(self, executor: ThreadPoolExecutor, token: str, plan: Plan, mine: set[Digest]) -> None:
        # Ours last: where two manifests have one config, it stands for ours.
        configs = {each.manifest.config.digest: each for each in reversed(plan.images)}
        futures: dict[Future[None], Digest] = {}
        listed = [each for each in plan.wanted if each in mine]  # as a mirror's clients read along
        for digest in sorted(listed, key=lambda each: (each not in plan.documents, each not in configs)):
            raw = plan.documents.get(digest)
            urls = plan.urls.get(digest, ())
            futures[executor.submit(self._fetch_one, digest, plan.wanted[digest], raw, urls)] = digest
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=self._tick_seconds(), return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                self._arrived.add(futures[future])
                self._arrivals.here({futures[future]})
                if image := configs.get(futures[future]):
                    self._new_image(image)  # a config that is none ends the pull here, not after the layers
                    if image is plan:
                        self._begin_unpacking(token, plan)
            self._check_time()
            self._show(token)

    def _fetch_one(self, digest: Digest, size: int, raw: bytes | None, urls: tuple[str, ...]) -> None:
        with self._files.ingest(digest, size) as ingest:
            resumed = ingest.received_bytes > 0
            self._came(ingest, digest)
            while True:
                if raw is not None:
                    ingest.restart()
                    ingest.write(raw)
                elif ingest.received_bytes < size:
                    with self._repo.open_blob(
                        digest, size=size, offset=ingest.received_bytes, urls=urls
                    ) as stream:
                        for _ in ingest.receive(stream):
                            self._came(ingest, digest)
                self._came(ingest, digest)
                try:
                    ingest.finish()
                except DigestMismatch:
                    # What an earlier attempt left may have been torn by a power cut, and what a mirror serves
                    # may be wrong: once more from the start.
                    if not resumed and not self._repo.distrust(digest):
                        raise
                    resumed = False
                    ingest.restart()
                    self._came(ingest, digest)  # before anything is written: others read along
                else:
                    return

    def _came(self, ingest: Ingest, digest: Digest) -> None:
        self._telling.received[digest] = ingest.received_bytes
        self._arrivals.received(digest, ingest.received_bytes)

    def _publish(self, token: str) -> None:
        if self._arrived:
            self._files.publish(self._arrived)
            self._repository.publish(token, sorted(self._arrived), sources=self._repo.served_by)
            self._arrived.clear()

    def _wait_for_others(self, token: str, plan: Plan, awaited: set[Digest]) -> Claims:
        """
        Until something that we wait for is no longer on its way: then it is claimed anew, whatever became of it.
        """
        while True:
            moving = self._repository.awaited(sorted(awaited))
            if any(digest not in moving or moving[digest][1] is None for digest in awaited):
                wanted = {digest: plan.wanted[digest] for digest in awaited}
                claims = self._repository.claim(token, wanted, self._files, evict=self._evict)
                self._make_way(claims)
                return claims
            for digest, (received, _) in moving.items():
                self._telling.sizes[digest] = plan.wanted[digest]
                self._telling.received[digest] = received
            if reap(self._repository, self._files, tokens={owner for _, owner in moving.values() if owner}):
                continue
            self._check_time()
            self._show(token)
            time.sleep(self._tick_seconds())

    # ------------------------------------------------------------------ unpack

    def _begin_unpacking(self, token: str, plan: Plan) -> None:
        """
        The config is here: layers may be unpacked from now on, each while it comes.
        """
        if self._unpack is False or self._job is not None:
            return
        config = self._new_image(plan).config
        if config is None:
            if self._unpack is None:
                return
            raise UnsupportedContent(f"{self._target.familiar} has no layers of files to unpack")
        from ullage.unpacker import UnpackingJob  # noqa: PLC0415 -- most pulls unpack nothing

        self._job = UnpackingJob(
            self._repository,
            self._files,
            token=token,
            layers=layers_of([(each.digest, each.size) for each in plan.manifest.layers], config),
            arrivals=self._arrivals,
            check=self._check_time,
            patience=self._patience,
            evict=self._evict,
        )

    def _unpacked(self, token: str) -> list[Digest]:
        """
        The trees, when all of them are here.
        """
        if self._job is None:
            return []
        # Others may wait for our blobs to make a tree, as we wait for that.
        self._publish(token)
        self._repository.show_unpacking(token)
        try:
            while (chain := self._job.poll(seconds=self._tick_seconds())) is None:
                self._check_time()
                self._telling.of_unpacking(self._job.progress(), self._job.evicted)
            self._telling.of_unpacking(self._job.progress(), self._job.evicted)
            return chain
        finally:
            self._job.stop()

    # ------------------------------------------------------------------ complete, or not

    def _new_image(self, plan: Plan) -> NewImage:
        if (image := self._images.get(plan.manifest.digest)) is None:
            config, raw = plan.manifest.config, None
            if is_image_config(config.media_type) and config.digest in self._arrived:
                raw = self._files.read_ingest(config.digest)
            elif is_image_config(config.media_type):
                raw = self._files.read(config.digest, max_bytes=MAX_DOCUMENT_BYTES)
            image = self._images[plan.manifest.digest] = plan.image(raw)
        return image

    def _abandon(self, token: str, error: BaseException) -> None:
        """
        Give back what was reserved. Whatever goes wrong here, the lock is dropped after, and recovery does the rest.
        """
        keep = isinstance(error, _WORTH_RESUMING) or not isinstance(error, ImageError)
        in_a_hurry = isinstance(error, PullCancelled) or not isinstance(error, ImageError)
        until = time.monotonic() + (_ABANDON_SECONDS if in_a_hurry else float("inf"))

        def check() -> None:
            if time.monotonic() > until:
                raise StoreBusy("others are writing", waited_seconds=_ABANDON_SECONDS)

        try:
            if has_lease(self._repository, self._files, token):  # else it was refused, and has nothing
                with self._patience(check):
                    give_back(self._repository, self._files, token, keep=keep)
                    sweep_quietly(self._repository, self._files)
        except ImageError as second:
            _log.warning("the lease of a failed pull stays for recovery: %s", second)

    # ------------------------------------------------------------------ time and talk

    def _until_done(self, future: Future[_T]) -> _T:
        while not wait([future], timeout=self._tick_seconds()).done:
            self._check_time()
        return future.result()

    def _tick_seconds(self) -> float:
        if self._deadline is None:
            return _TICK_SECONDS
        return min(_TICK_SECONDS, max(0.0, self._deadline - time.monotonic()))

    def _check_time(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise PullCancelled(f"the pull of {self._target.familiar} was cancelled")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise PullCancelled(f"the pull of {self._target.familiar} did not end before its deadline")

    def _show(self, token: str) -> None:
        if self._job is not None:
            self._job.poll()  # a layer that cannot be unpacked ends the pull here, not after the others
        self._telling.of(PullStatus.DOWNLOADING)
        if time.monotonic() - self._shown_at >= _SHOWN_SECONDS:
            self._shown_at = time.monotonic()
            try:
                self._repository.progress(token, dict(self._telling.received))
            except StoreBusy:
                return  # it only informs, and the next one informs as well
