"""
Stacks of layers: one whole directory, or a tree for each.

Within a layer, decompressing, hashing and writing each have a thread (`LayerStream`). One directory takes its layers
in order, and while one is written the next is already being decompressed; trees of their own are filled side by side.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ullage.errors import PullCancelled
from ullage.layer.apply import apply_layer, apply_overlay
from ullage.layer.composing import compose
from ullage.layer.fresh import fresh_directory
from ullage.layer.refused import translated
from ullage.layer.stream import LayerStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ullage.digest import Digest
    from ullage.layer.composing import ComposeResult
    from ullage.layer.options import ApplyOptions, Budget, LayerResult
    from ullage.layer.stream import Readable

__all__ = ["LayerBlob", "apply_overlays", "compose_directory", "unpack", "unpack_into"]

#: Trees filled at a time. Each has three threads, of which Python runs one at a time: more would only switch.
_WORKERS: Final = 2


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """
    A layer to unpack: where its bytes are, and what they have to be.

    ``blob`` is a file, or something that reads like one: a download in progress may be unpacked while it arrives.
    """

    blob: Path | Readable
    diff_id: Digest | None = None
    digest: Digest | None = None
    size: int | None = None

    @contextmanager
    def open(self, *, guard: Callable[[Readable], Readable] = lambda blob: blob) -> Iterator[LayerStream]:
        with ExitStack() as stack:
            blob: Readable
            if isinstance(self.blob, Path):
                with translated(os.fsencode(self.blob), blames_entry=False):
                    file = stack.enter_context(self.blob.open("rb", buffering=0))
                blob = _OfADisk(file, os.fsencode(self.blob))
            else:
                blob = self.blob
            yield stack.enter_context(
                LayerStream(guard(blob), diff_id=self.diff_id, digest=self.digest, size=self.size)
            )


def unpack(
    layers: Sequence[LayerBlob],
    target: Path,
    *,
    options: ApplyOptions | None = None,
    budget: Budget | None = None,
    durable: bool = False,
) -> list[LayerResult]:
    """
    Make *target* the root filesystem that *layers* are, the lowest first. It is there whole, or not at all.

    It must not be there before, or be an empty directory. With *durable*, it is on disk when this returns.

    Raises:
        UnsafeLayer, ContentError, DiskFull, StoreError: as `apply_layer` does. Nothing is left behind.
    """
    with fresh_directory(target, budget=budget, durable=durable) as (directory, watched):
        return unpack_into(layers, directory, options=options, budget=watched)


def unpack_into(
    layers: Sequence[LayerBlob],
    directory: int,
    *,
    options: ApplyOptions | None = None,
    budget: Budget | None = None,
) -> list[LayerResult]:
    """
    The same, into an empty *directory* that is open; after an exception what is in it is the caller's to remove.

    A root that no layer describes gets the time 0: the same layers give the same tree, whenever it is made.
    """
    with translated():
        os.utime(directory, ns=(0, 0))
    results = []
    with ExitStack() as stack:
        ahead = [stack.enter_context(layer.open()) for layer in layers[:1]]
        for number in range(len(layers)):
            if number + 1 < len(layers):
                ahead.append(stack.enter_context(layers[number + 1].open()))
            with ahead.pop(0) as stream:
                results.append(apply_layer(stream, directory, options=options, budget=budget))
    return results


def compose_directory(
    trees: Sequence[int], target: Path, *, budget: Budget | None = None, durable: bool = False
) -> ComposeResult:
    """
    The same from the trees that overlays of layers are: see `compose`.
    """
    with fresh_directory(target, budget=budget, durable=durable) as (directory, watched):
        return compose(trees, directory, budget=watched)


def apply_overlays(
    layers: Sequence[LayerBlob],
    roots: Sequence[int],
    *,
    lowers: Sequence[int] = (),
    options: ApplyOptions | None = None,
    budget: Callable[[int], Budget] | None = None,
    on_filled: Callable[[int, LayerResult], None] | None = None,
    stop: threading.Event | None = None,
) -> list[LayerResult]:
    """
    Fill a tree for each layer, the lowest first, several at a time.

    Args:
        roots: descriptors of the empty directories that the trees go to.
        lowers: descriptors of trees that are there already, below all of them, the lowest first.
        budget: gives the budget of the n-th layer. They are asked by several threads.
        on_filled: told of each layer that is done, by its thread.
        stop: is set when one fails, and then blobs that are still waited for are not read any more.

    Raises:
        The same as `apply_overlay`, for the first layer that fails; the others are given up.
    """
    below = [*lowers, *roots]
    futures: list[Future[LayerResult]] = []
    stop = threading.Event() if stop is None else stop

    def lower_roots(number: int) -> Sequence[int]:
        # Lower layers were begun before this one, so waiting for them ends.
        for future in futures[:number]:
            future.result()
        return below[: len(lowers) + number][::-1]

    def apply(number: int) -> LayerResult:
        with layers[number].open(guard=lambda blob: _Stoppable(blob, stop)) as stream:
            result = apply_overlay(
                stream,
                roots[number],
                lowers=lambda: lower_roots(number),
                options=options,
                budget=None if budget is None else budget(number),
            )
        if on_filled is not None:
            on_filled(number, result)
        return result

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="ullage-layer") as pool:
        try:
            for number in range(len(layers)):
                futures.append(pool.submit(apply, number))  # noqa: PERF401 -- workers read it while it grows
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            for future in futures:
                future.cancel()
    for future in futures:
        if future in done and (error := future.exception()) is not None:
            raise error
    return [future.result() for future in futures]


class _OfADisk:
    """
    A file whose disk may fail: that is no fault of an entry, and told as what it is.
    """

    def __init__(self, file: Readable, path: bytes) -> None:
        self._file = file
        self._path = path

    def read(self, size: int, /) -> bytes:
        with translated(self._path, blames_entry=False):
            return self._file.read(size)


class _Stoppable:
    """
    A blob that ends with an exception when the others have failed.
    """

    def __init__(self, blob: Readable, stop: threading.Event) -> None:
        self._blob = blob
        self._stop = stop

    def read(self, size: int, /) -> bytes:
        if self._stop.is_set():
            raise PullCancelled("unpacking was given up: another layer failed")
        return self._blob.read(size)
