"""
What is done to a store in the crash tests: each flow by its name, as a child of the nursery does it.

A flow says aloud what it was told is done, so that it can be held against what is left of the store.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.images import ImageBuilder
from support.killpoints import OUTSIDE
from support.turmoil import turmoil
from ullage import ImageError, ImageService, RegistryClient, SimulatedRegistry, StorageLimitExceeded
from ullage.demo.registry import LoopbackRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.killpoints import Points

__all__ = ["FLOWS", "broken_promises", "open_store", "perform", "warm_up"]

Say = "Callable[..., None]"


def open_store(root: Path, **options: Any) -> ImageService:
    """
    A service that pulls from the loopback registry.
    """
    client = RegistryClient(plain_http=True, connect_timeout_seconds=2.0, read_timeout_seconds=20.0)
    try:
        return ImageService.open(root, registry=client, **options)
    except BaseException:
        client.close()
        raise


def warm_up() -> None:
    """
    Import and compile what every child would; every connection is closed after.
    """
    with tempfile.TemporaryDirectory(prefix="ullage-warm-") as name:
        registry = SimulatedRegistry()
        with ImageService.open(Path(name) / "simulated", registry=registry) as store:
            store.pull_image("warm")
        with LoopbackRegistry() as loopback, open_store(Path(name) / "store") as store:
            image = ImageBuilder(loopback, "warm").layer({"warm": b"warm"}).push("1")
            store.pull_image(image.reference, unpack=True)
            store.check(digests=True)
            store.remove_image(image.reference)
            store.collect()


# ---------------------------------------------------------------------- the flows


def _nothing(_store: ImageService, say: Callable[..., None]) -> None:
    say("opened")


def _pull(
    store: ImageService,
    say: Callable[..., None],
    *,
    reference: str,
    evict: bool = False,
    unpack: bool = False,
) -> None:
    store.pull_image(reference, evict=evict, unpack=unpack)
    say("pulled", reference)


def _make_trees(store: ImageService, say: Callable[..., None], *, reference: str) -> None:
    store.make_trees(reference)
    say("pulled", reference)


def _unpack(store: ImageService, say: Callable[..., None], *, reference: str, bundle: bool = False) -> None:
    """
    Into a directory beside the store. Whatever became of it before: when it is done again, nothing else is left there.
    """
    outside = Path(f"{store._files.root}{OUTSIDE}")
    target, before = outside / "made", _names_in(outside)
    if "made" in before:
        shutil.rmtree(target)
    (store.bundle if bundle else store.unpack)(reference, target)
    say("unpacked", reference)
    assert ("config.json" in _names_in(target)) == bundle
    if before:
        assert _names_in(outside) == ["made"]


def _names_in(directory: Path) -> list[str]:
    """
    By a call of the C library's that is none of those that fail.
    """
    return subprocess.run(["ls", "-A", directory], check=True, capture_output=True, text=True).stdout.split()


def _import(store: ImageService, say: Callable[..., None], *, source: str) -> None:
    for image in store.import_images(source):
        for tag in image.repo_tags:
            say("pulled", tag)


def _pull_what_does_not_fit(
    store: ImageService, say: Callable[..., None], *, reference: str, evict: bool
) -> None:
    try:
        store.pull_image(reference, evict=evict)
    except StorageLimitExceeded:
        say("refused", reference)
    else:
        raise AssertionError("it fits")


def _pull_what_was_doomed(store: ImageService, say: Callable[..., None], *, reference: str) -> None:
    store._repository.remove(reference)  # and nobody sweeps
    store.pull_image(reference)
    say("pulled", reference)


def _remove(store: ImageService, say: Callable[..., None], *, reference: str) -> None:
    store.remove_image(reference, missing_ok=True)
    say("removed", reference)


def _collect(store: ImageService, say: Callable[..., None]) -> None:
    store.collect()
    say("collected")


def _hold(store: ImageService, say: Callable[..., None], *, reference: str) -> None:
    with store.hold(reference):
        say("held", reference)
    say("let go", reference)


def _limit(store: ImageService, say: Callable[..., None], *, max_bytes: int, evict: bool = False) -> None:
    store.set_max_storage(max_bytes, evict=evict)
    say("limited", max_bytes)


def _repair(store: ImageService, say: Callable[..., None]) -> None:
    store.check(digests=True, repair=True)
    say("repaired")


def _name(store: ImageService, say: Callable[..., None], *, reference: str, tag: str) -> None:
    if store.image_status_by_ref(reference) is None:
        store.tag_image(tag, reference)
    store.tag_image(reference, tag)
    say("tagged", tag)
    store.pin_image(reference)
    say("pinned", reference)
    store.register_image("elsewhere:1", size=1000)
    say("pulled", "elsewhere:1")
    store.untag_image(reference)
    say("removed", reference)
    # As it was, so that it can be done again.
    store.tag_image(tag, reference)
    say("tagged again", reference)


FLOWS: dict[str, Callable[..., None]] = {
    "nothing": _nothing,
    "pull": _pull,
    "make trees": _make_trees,
    "unpack": _unpack,
    "import": _import,
    "pull what does not fit": _pull_what_does_not_fit,
    "pull what was doomed": _pull_what_was_doomed,
    "remove": _remove,
    "collect": _collect,
    "hold": _hold,
    "limit": _limit,
    "repair": _repair,
    "name": _name,
    "turmoil": turmoil,
}


def broken_promises(store: ImageService, said: list[list[Any]]) -> list[str]:
    """
    What was said to be done, and is not.
    """
    last: dict[tuple[str, ...], bool] = {}
    broken = []
    for word, *facts in said:
        if word in ("pulled", "tagged", "tagged again"):
            last[("image", *facts)] = True
        elif word == "removed":
            last[("image", *facts)] = False
        elif word == "limited" and store.usage().max_bytes != facts[0]:
            broken.append(f"the limit was set to {facts[0]}")
        elif word == "collected" and store.view("reclaimable"):
            broken.append("all garbage was collected")
    for (_, reference), expected in last.items():
        # The flow's own next step may have been done, and not yet been said.
        if (store.image_status_by_ref(reference) is not None) != expected and not _may_have_changed(
            said, reference
        ):
            broken.append(f"{reference} was said to be {'here' if expected else 'gone'}")
    return broken


def _may_have_changed(said: list[list[Any]], reference: str) -> bool:
    return bool(said) and (
        said[-1] == ["pulled", "elsewhere:1"] or (said[-1] == ["removed", reference] and len(said) > 1)
    )


# ---------------------------------------------------------------------- in a child


def perform(question: dict[str, Any], points: Points, say: Callable[..., None]) -> None:
    """
    Open the store, do the flow, close it; after an error that was made, see that all is well and do it again.
    """
    flow, arguments = FLOWS[question["flow"]], question["arguments"]
    root, options = Path(question["root"]), question["options"]
    said: list[list[Any]] = []

    def tell(word: str, *facts: object) -> None:
        said.append([word, *facts])
        say(word, *facts)

    store: ImageService | None = None
    points.armed = question["arm"] == "start"
    try:
        store = open_store(root, **options)
        points.armed = True
        flow(store, tell, **arguments)
        closing, store = store, None
        closing.close()
    except ImageError as error:
        say("raised", type(error).__name__, str(error))
    except Exception:  # noqa: BLE001 -- it is what the test looks for
        say("untyped", _where())
    points.armed = False
    if points.fired is not None and question["points"]["action"].startswith("fail"):
        say("fired", *points.fired)
        try:
            store = open_store(root, **options) if store is None else store
            store.collect()
            problems = [
                f"{each.invariant}: {each.problem}: {each.object}" for each in store.check(digests=True)
            ]
            say("problems", problems + broken_promises(store, said))
            flow(store, lambda *_: None, **arguments)
            say("done again")
        except Exception:  # noqa: BLE001 -- it is what the test looks for
            say("untyped", _where())
    if store is not None:
        store.close()
    for each in points.overfilled:
        say("overfilled", each)
    say("trace", [list(each) for each in points.calls])


def _where() -> list[str]:
    """
    The exception that is being handled, and the package's lines that it came by.
    """
    kind, error, trace = sys.exc_info()
    frames = [each for each in traceback.extract_tb(trace) if "/ullage/" in each.filename]
    return [f"{Path(each.filename).name}:{each.lineno} {each.line}" for each in frames[-4:]] + [
        f"{kind}: {error}"
    ]


CODES = {name: getattr(errno, name) for name in ("EIO", "ENOSPC", "EACCES", "EMFILE", "EDQUOT")}
