"""
Unpacking an image's layers into trees.

    claim     one transaction: trees that are here are kept, those above are begun     `ImageRepository.claim_trees`
    fill      layers side by side, each into its own directory; what they take is reserved ahead of them, in steps
    sync      once for all of them; what the filesystem counts otherwise now that it is on disk is charged so
    publish   rename, sync the directories, one transaction                            `ImageRepository.publish_trees`
    wait      for a tree that somebody else makes; from the claim again when that is here, or its maker dead

Nobody waits for another's tree while having begun some: so no two wait for each other, and what one has made is there
for all while it waits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from ullage.arrivals import Arrivals
from ullage.charge import Budgets, Charge, Course, Layer, layers_of
from ullage.digest import Digest
from ullage.errors import ImageError, PullCancelled, StoreReadOnly, UnsupportedContent
from ullage.ingest import translated
from ullage.layer import ApplyOptions, LayerBlob, apply_overlays, grown_since
from ullage.recovery import give_back, owner_name, reap, sweep_quietly
from ullage.repository import NewTree, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from ullage.arrivals import Blob
    from ullage.blobs import BlobFiles
    from ullage.layer import LayerResult
    from ullage.model import Evicted, ImageStatus
    from ullage.repository import ImageKey, ImageRepository, Stack, TreeClaims

    #: `Database.patience`.
    Patience = Callable[[Callable[[], None]], AbstractContextManager[None]]

__all__ = ["Unpacker", "UnpackingJob", "make_trees"]

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.05
#: CAP_CHOWN, CAP_SYS_ADMIN, CAP_MKNOD: for owners, for ``trusted.`` attributes, for devices.
_CHOWN: Final = 1 << 0
_ALL_RIGHTS: Final = _CHOWN | 1 << 21 | 1 << 27


class Unpacker:
    """
    Makes the trees of one image, for a lease that the caller has and ends.

    Args:
        arrivals: gives the bytes of the layers' blobs, once or while they come.
    """

    def __init__(
        self,
        repository: ImageRepository,
        files: BlobFiles,
        *,
        token: str,
        layers: Sequence[Layer],
        arrivals: Arrivals,
        course: Course,
    ) -> None:
        self._repository = repository
        self._files = files
        self._token = token
        self._layers = layers
        self._arrivals = arrivals
        self._course = course
        self.charge = Charge(
            repository,
            files,
            token=token,
            course=course,
            settle=self._settle,
            outstanding=lambda: arrivals.outstanding_bytes,
        )

    @property
    def chain(self) -> list[Digest]:
        """
        The chain ids, the lowest first.
        """
        return [layer.chain_id for layer in self._layers]

    def run(self) -> list[Digest]:
        """
        Have all the trees, kept by the lease. On any exception those that are not whole are the caller's to give up.
        """
        while True:
            self._course.check()
            claims = self._repository.claim_trees(self._token, self.chain, self._files.trees.discard)
            if claims.owned:
                self._make(claims)
            elif claims.awaited is not None:
                self._wait(claims.awaited)
            else:
                return self.chain

    def _wait(self, chain_id: Digest) -> None:
        while (owner := self._repository.tree_owner(chain_id)) is not None:
            if not reap(self._repository, self._files, tokens={owner}):
                self._course.check()
                time.sleep(_TICK_SECONDS)

    def _make(self, claims: TreeClaims) -> None:
        layers = self._layers[claims.present : claims.present + len(claims.owned)]
        trees = self._files.trees
        options, rootless = _options(claims.rootless)
        if claims.cleared:
            trees.empty_trash()
        try:
            results = self._fill(claims, layers, options)
        except PullCancelled:
            raise
        except ImageError as error:
            if not self._arrivals.is_early:
                raise
            # Of bytes that nobody has verified nobody knows what that says. Once more, of those that are.
            _log.debug("unpacking again, from whole blobs: %s", error)
            self._arrivals.forget([layer.digest for layer in layers], self._course.check)
            trees.discard(claims.owned)
            trees.empty_trash()
            # Not sooner: what was reserved for it is room that it took.
            self.charge.give_back(layers)
            results = self._fill(claims, layers, options)
        made = [
            NewTree(
                layer.chain_id,
                layer.diff_id,
                result.space_bytes,
                result.inodes,
                rootless=rootless,
                forgiven=sum(result.forgiven.values()),
            )
            for layer, result in zip(layers, results, strict=True)
        ]
        trees.publish(claims.owned)
        with self._course.patience(self._course.check):
            self._repository.publish_trees(self._token, made)

    def _fill(self, claims: TreeClaims, layers: Sequence[Layer], options: ApplyOptions) -> list[LayerResult]:
        """
        Fill the directories of trees that are ours to make, and make them durable.
        """
        trees = self._files.trees
        stop = threading.Event()
        with ExitStack() as stack:
            below = self._layers[: claims.present]
            lowers = [stack.enter_context(trees.open(layer.chain_id)) for layer in below]
            roots = [stack.enter_context(trees.begin(layer.chain_id)) for layer in layers]
            budgets = Budgets(self.charge, layers, stop)
            writeback = stack.enter_context(trees.writeback())
            sources = [
                stack.enter_context(_Source(layer, self._arrivals, self._course, budgets.check))
                for layer in layers
            ]
            results = apply_overlays(
                [
                    LayerBlob(source, diff_id=layer.diff_id)
                    for layer, source in zip(layers, sources, strict=True)
                ],
                roots,
                lowers=lowers,
                options=options,
                budget=lambda number: writeback.of(budgets.of(number)),
                on_filled=budgets.filled,
                stop=stop,
            )
            with translated():
                writeback.finish()
            return [self._charged(*each) for each in zip(layers, roots, results, strict=True)]

    def _charged(self, layer: Layer, root: int, result: LayerResult) -> LayerResult:
        """
        What a tree takes now that it is on disk, charged where it is not what was charged as it was written.
        """
        with translated():
            grown = grown_since(root, result.large)
        if grown:
            result = replace(result, space_bytes=result.space_bytes + grown)
            self.charge.correct(layer, result)
        return result

    def _settle(self, layer: Layer) -> None:
        self._arrivals.settle(layer.digest, self._course.check)


class _Source:
    """
    The blob of a layer, opened when it is first read: by then some of it may have come.
    """

    def __init__(self, layer: Layer, arrivals: Arrivals, course: Course, check: Callable[[], None]) -> None:
        self._layer = layer
        self._arrivals = arrivals
        self._course = course
        self._check = check
        self._file: Blob | None = None
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, size: int, /) -> bytes:
        self._check()
        if self._file is None:
            self._file = self._arrivals.open(self._layer.digest, self._layer.size, self._check)
        with translated():
            data = self._file.read(size)
        self._at += len(data)
        self._course.told(self._layer.digest, self._at)
        return data


class UnpackingJob:
    """
    An `Unpacker` in a thread of its own, beside whatever brings the blobs. Each layer is
    begun when its blob is.

    Args:
        check: ends it by raising.
    """

    def __init__(  # noqa: PLR0913 -- what a job is made of, each by its name
        self,
        repository: ImageRepository,
        files: BlobFiles,
        *,
        token: str,
        layers: Sequence[Layer],
        arrivals: Arrivals,
        check: Callable[[], None],
        patience: Patience,
        evict: bool,
        spare: tuple[Digest, ...] = (),
    ) -> None:
        self._check_caller = check
        self._patience = patience
        self._stopped = threading.Event()
        self._told = threading.Lock()
        self._read: dict[Digest, int] = {}
        self._sizes = {layer.digest: layer.size for layer in layers}
        self._unpacker = Unpacker(
            repository,
            files,
            token=token,
            layers=layers,
            arrivals=arrivals,
            course=Course(check=self._check, patience=patience, told=self._tell, evict=evict, spare=spare),
        )
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="ullage-unpack")
        self._future = self._executor.submit(self._run)

    @property
    def evicted(self) -> tuple[Evicted, ...]:
        """
        The images that went for it, up to now.
        """
        return tuple(self._unpacker.charge.evicted)

    def progress(self) -> dict[Digest, tuple[int, int]]:
        """
        Bytes read of each blob that is being unpacked, and its size.
        """
        with self._told:
            return {digest: (read, self._sizes[digest]) for digest, read in self._read.items()}

    def poll(self, *, seconds: float = 0.0) -> list[Digest] | None:
        """
        The chain of trees, when all of them are here; None while it goes on, after so long. Raises what it failed with.
        """
        wait([self._future], timeout=seconds)
        return self._future.result() if self._future.done() else None

    def stop(self) -> None:
        """
        End it, and wait until nothing of it writes any more. Harmless when it is done.
        """
        self._stopped.set()
        self._executor.shutdown(wait=True)

    # ------------------------------------------------------------------ in its threads

    def _run(self) -> list[Digest]:
        with self._patience(self._check):
            return self._unpacker.run()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise PullCancelled("unpacking was given up")
        self._check_caller()

    def _tell(self, digest: Digest, read: int) -> None:
        with self._told:
            # Two layers may be of one blob, and one may be read twice.
            self._read[digest] = max(self._read.get(digest, 0), read)


def make_trees(
    repository: ImageRepository,
    files: BlobFiles,
    key: ImageKey,
    *,
    check: Callable[[], None],
    patience: Patience,
    evict: bool,
    on_tick: Callable[[UnpackingJob], None] = lambda _job: None,
) -> ImageStatus:
    """
    Have the trees of an image that is here. Its blobs are kept meanwhile; it may be removed, and then that was that.

    Raises:
        ImageNotFound: it is not here, or was removed meanwhile.
        UnsupportedContent: it has no layers of files.
        UnsafeLayer, ContentError: a layer cannot be unpacked.
        StorageLimitExceeded, DiskFull: the trees do not fit. Nothing of them is left.
    """
    lock = files.new_lease()
    token = lock.token
    try:
        stack = repository.begin_unpacking(Owner(token, owner_name(), os.getpid()), key)
        try:
            manifest, layers = _layers_in(stack)
            arrivals = Arrivals(files)
            arrivals.here(layer.digest for layer in layers)
            job = UnpackingJob(
                repository,
                files,
                token=token,
                layers=layers,
                arrivals=arrivals,
                check=check,
                patience=patience,
                evict=evict,
                spare=(Digest(stack.image.image_id),),
            )
            try:
                while (chain := job.poll(seconds=_TICK_SECONDS)) is None:
                    on_tick(job)
                on_tick(job)
            finally:
                job.stop()
            repository.finish_unpacking(token, manifest, chain)
        except BaseException:
            give_back(repository, files, token, keep=False)
            sweep_quietly(repository, files)
            raise
        return stack.image
    finally:
        lock.drop()


def _layers_in(stack: Stack) -> tuple[Digest, tuple[Layer, ...]]:
    if stack.config is None or stack.manifest_digest is None:
        raise UnsupportedContent(
            f"image {stack.image.image_id} has no layers of files to unpack",
            hint="it is an artifact, or its content is kept elsewhere",
        )
    return stack.manifest_digest, layers_of(stack.layers, stack.config)


def _options(below: bool | None) -> tuple[ApplyOptions, bool]:  # noqa: FBT001 -- None is the third answer
    """
    How trees are made on top of one that was made without privilege, or with it, or of none; and whether without.

    All trees of a chain are of one kind, since overlayfs looks for one kind of marks.
    """
    rights = _rights()
    if rights & _ALL_RIGHTS == _ALL_RIGHTS:
        return (ApplyOptions(), False) if not below else (ApplyOptions(user_xattrs=True), True)
    if below is False:
        raise StoreReadOnly(
            "the layers below were unpacked with privilege, and on top of those only root unpacks",
            hint="unpack as root, or in a store of your own",
        )
    options = ApplyOptions.rootless()
    # In a user namespace that has ids to give away, owners are kept.
    return (replace(options, ownership="keep") if rights & _CHOWN else options), True


def _rights() -> int:
    """
    Our capabilities, where they are those of the machine; in a user namespace CAP_CHOWN at most.
    """
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    rights = int(effective.split()[1], 16)
    ids = Path("/proc/self/uid_map").read_text().split()
    if ids == ["0", "0", str(2**32 - 1)]:
        return rights
    return rights & _CHOWN if not os.geteuid() and sum(map(int, ids[2::3])) > 1 else 0
