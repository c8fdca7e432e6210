"""
What trees take, charged to the store while they are filled: in steps, ahead of what is written.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ullage.errors import DiskFull, InvalidManifest, PullCancelled, StorageLimitExceeded
from ullage.image_config import parse_config
from ullage.layer import chain_ids
from ullage.recovery import reap, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from ullage.blobs import BlobFiles
    from ullage.digest import Digest
    from ullage.layer import LayerResult
    from ullage.model import Evicted
    from ullage.repository import ImageRepository

__all__ = ["Budgets", "Charge", "Course", "Layer", "layers_of"]

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.05
#: What is reserved beyond what a tree is about to take, so that not every file asks: a quarter more, or of its blob
#: where that is larger, within these, and no more than that part of what is available, since of two layers side by side
#: each could refuse the other.
_STEP_BYTES: Final = (1 << 20, 64 << 20)
_STEP_INODES: Final = (1024, 16384)
_PART_OF_AVAILABLE: Final = 16


@dataclass(frozen=True, slots=True)
class Layer:
    """
    One layer of an image: its blob, what that unpacks to, and what it makes of the layers below.
    """

    digest: Digest
    size: int
    diff_id: Digest
    chain_id: Digest


def layers_of(blobs: Sequence[tuple[Digest, int]], config: str) -> tuple[Layer, ...]:
    """
    The layers of a manifest (digest and size), the lowest first, with what the config says of them.

    Raises:
        InvalidManifest: the two do not fit together.
    """
    diff_ids = parse_config(config.encode()).diff_ids
    if len(diff_ids) != len(blobs):
        raise InvalidManifest(
            f"the manifest has {len(blobs)} layers, and the config {len(diff_ids)}",
            hint="the image is broken: ask who built it",
        )
    return tuple(
        Layer(digest, size, diff_id, chain_id)
        for (digest, size), diff_id, chain_id in zip(blobs, diff_ids, chain_ids(diff_ids), strict=True)
    )


@dataclass(frozen=True, slots=True)
class Course:
    """
    What whoever unpacks lets happen meanwhile.

    ``check`` ends it by raising; ``patience`` is `Database.patience`; ``told`` hears how far a blob was read. All are
    called by several threads. With ``evict`` images may go, never those of ``spare``.
    """

    check: Callable[[], None]
    patience: Callable[[Callable[[], None]], AbstractContextManager[None]]
    told: Callable[[Digest, int], None]
    evict: bool = False
    spare: tuple[Digest, ...] = ()


class Charge:
    """
    Reserves room for trees that a lease of ours makes.

    Args:
        settle: waits until the blob of a layer is verified, and those of others that hold room: nothing gives way to
            bytes that are not.
        outstanding: how many bytes of blobs are still to be written beside it.
    """

    def __init__(
        self,
        repository: ImageRepository,
        files: BlobFiles,
        *,
        token: str,
        course: Course,
        settle: Callable[[Layer], None],
        outstanding: Callable[[], int],
    ) -> None:
        self._repository = repository
        self._files = files
        self._token = token
        self.course = course
        self._settle = settle
        self._outstanding = outstanding
        #: Images that went for it.
        self.evicted: list[Evicted] = []

    def reserve(self, layer: Layer, space_bytes: int, inodes: int) -> None:
        with self.course.patience(self.course.check):
            self._repository.reserve_tree(self._token, layer.chain_id, space_bytes, inodes)

    def fill(self, layer: Layer, result: LayerResult) -> None:
        with self.course.patience(self.course.check):
            self._repository.fill_tree(self._token, layer.chain_id, result.space_bytes, result.inodes)

    def correct(self, layer: Layer, result: LayerResult) -> None:
        """
        A tree that is filled takes more than was thought, or less.

        Raises:
            StorageLimitExceeded: there is no room for what it takes.
        """
        try:
            self.reserve(layer, result.space_bytes, result.inodes)
        except StorageLimitExceeded:
            self.make_room(layer, result.space_bytes, result.inodes)
        self.fill(layer, result)

    def give_back(self, layers: Sequence[Layer]) -> None:
        """
        Nothing is written of these any more, and they are filled once more.
        """
        with self.course.patience(self.course.check):
            self._repository.begin_trees_anew(self._token, [layer.chain_id for layer in layers])

    def make_room(self, layer: Layer, space_bytes: int, inodes: int) -> None:
        """
        Reserve what does not fit, with what can go giving way, and unlink that before it is written over.
        """
        self._settle(layer)
        reap(self._repository, self._files)  # the dead may hold room that nobody gave back yet
        with self.course.patience(self.course.check):
            evicted = self._repository.make_room_for_tree(
                self._token,
                layer.chain_id,
                space_bytes,
                inodes,
                discard=self._files.discard,
                evict=self.course.evict,
                spare=self.course.spare,
            )
            sweep(self._repository, self._files)
        self.evicted += evicted
        for each in evicted:
            _log.info("evicted %s: freed %d bytes", each.image_id, each.freed_bytes)

    def require_disk(self, space_bytes: int, inodes: int) -> None:
        """
        Raises:
            DiskFull: the filesystem has no room for so much more, whatever the limit says.
        """
        # What is still to be written is asked first: of what comes meanwhile less is free.
        promised = self._outstanding() + self._repository.min_free()
        free = self._files.free_bytes() - promised
        free_inodes = self._files.trees.free_inodes()
        if space_bytes > free:
            raise DiskFull(
                f"the filesystem has no room: needed {space_bytes} bytes, free {max(0, free)}",
                needed_bytes=space_bytes,
                available_bytes=max(0, free),
            )
        if free_inodes is not None and inodes > free_inodes:
            raise DiskFull(f"the filesystem has no room: needed {inodes} inodes, free {free_inodes}")

    def step_bytes(self) -> int:
        """
        How much to reserve at once, at most.
        """
        return self._repository.usage().available_bytes // _PART_OF_AVAILABLE


class Budgets:
    """
    Who pays for layers that are filled side by side: the store, in steps.
    """

    def __init__(self, charge: Charge, layers: Sequence[Layer], stop: threading.Event) -> None:
        self.charge = charge
        self.layers = layers
        self.stop = stop
        self._changed = threading.Condition()
        self._growing = set(range(len(layers)))

    def check(self) -> None:
        """
        Raises:
            PullCancelled: another layer has failed, so that this one is for nothing.
        """
        if self.stop.is_set():
            raise PullCancelled("unpacking was given up: another layer failed")
        self.charge.course.check()

    def of(self, number: int) -> _Budget:
        return _Budget(self, number)

    def filled(self, number: int, result: LayerResult) -> None:
        """
        A layer is done: what it reserved and does not take is there for the others.
        """
        self.charge.fill(self.layers[number], result)
        with self._changed:
            self._growing.discard(number)
            self._changed.notify_all()

    def wait_for_lower(self, number: int) -> bool:
        """
        Wait until a lower layer that grows is done; False when there is none. (No lower one waits for a higher one.)
        """
        with self._changed:
            if min(self._growing) == number:
                return False
            before = len(self._growing)
            while len(self._growing) == before:
                self._changed.wait(_TICK_SECONDS)
                self.check()
            return True


class _Budget:
    """
    Of one layer.
    """

    def __init__(self, budgets: Budgets, number: int) -> None:
        self._budgets = budgets
        self._charge = budgets.charge
        self._layer = budgets.layers[number]
        self._number = number
        self._granted = (0, 0)

    def reserve(self, space_bytes: int, inodes: int) -> tuple[int, int]:
        self._budgets.check()
        step = min(self._charge.step_bytes(), _within(max(space_bytes, self._layer.size) // 4, _STEP_BYTES))
        ahead = space_bytes + step, inodes + _within(inodes // 4, _STEP_INODES)
        granted_bytes, granted_inodes = self._granted
        try:
            self._charge.require_disk(ahead[0] - granted_bytes, ahead[1] - granted_inodes)
            self._charge.reserve(self._layer, *ahead)
        except (StorageLimitExceeded, DiskFull):
            ahead = space_bytes, inodes
            self._reserve_exactly(space_bytes, inodes)
        self._granted = ahead
        return ahead

    def _reserve_exactly(self, space_bytes: int, inodes: int) -> None:
        granted_bytes, granted_inodes = self._granted
        self._charge.require_disk(space_bytes - granted_bytes, inodes - granted_inodes)
        while True:
            try:
                self._charge.reserve(self._layer, space_bytes, inodes)
            except StorageLimitExceeded:
                # A lower layer may have reserved more than it takes, and gives that back when it is done.
                if not self._budgets.wait_for_lower(self._number):
                    self._charge.make_room(self._layer, space_bytes, inodes)
                    return
            else:
                return


def _within(number: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(number, bounds[1]))
