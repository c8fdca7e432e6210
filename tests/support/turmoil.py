"""
What one process of the torture does: anything that can be done to a store, in any order, beside others who do the same.

It tells of each operation what came of it; what may not come of it is a violation.
"""

from __future__ import annotations

import contextlib
import random
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullage import ImageError, ImageNotFound, ImageService, RegistryClient
from ullage.digest import Digest, Hasher

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["turmoil"]

#: What a check may find while others die around it: it is true, and the next recovery ends it.
_LEFT_BY_THE_DEAD = {("I8", "lease of a dead owner"), ("I3", "partial blob of another size")}


@dataclass
class _Actor:
    """
    One process at it.
    """

    store: ImageService
    say: Callable[..., None]
    rng: random.Random
    images: list[str]
    kept: str
    root: str

    def pull(self) -> None:
        reference = self.rng.choice(self.images)
        status = self.store.pull_image(
            reference, evict=self.rng.random() < 0.6, unpack=self.rng.random() < 0.35
        )
        assert reference in status.repo_tags, status

    def unpack(self) -> None:
        self.store.make_trees(self.rng.choice(self.images), evict=self.rng.random() < 0.6)

    def remove(self) -> None:
        self.store.remove_image(self.rng.choice(self.images), missing_ok=True)

    def tag(self) -> None:
        """
        Of the image that nobody removes, with a tag that nobody takes away: it is there for ever.
        """
        tag = f"kept:{self.rng.getrandbits(48):x}"
        self.store.tag_image(self.kept, tag)
        self.say("kept", tag)

    def move_a_tag(self) -> None:
        here = [status.id for status in self.store.list_images()]
        self.store.tag_image(self.rng.choice(here), "moving:1", move=True)

    def untag(self) -> None:
        self.store.untag_image("moving:1")

    def pin(self) -> None:
        reference = self.rng.choice(self.images)
        self.store.pin_image(reference)
        self.store.unpin_image(reference)

    def collect(self) -> None:
        self.store.collect()

    def hold(self) -> None:
        """
        All of a held image can be read, whatever the others do.
        """
        here = [status.id for status in self.store.list_images()]
        with self.store.hold(self.rng.choice(here)) as status:
            manifest = self.store.manifest(status.id)
            for each in manifest.blobs:
                with self.store.open_blob(each.digest) as file:
                    hasher = Hasher(Digest(each.digest))
                    hasher.update(file.read())
                assert hasher.matches, each.digest
            assert self.store.image_status(status.id) is not None
            with contextlib.suppress(ImageNotFound):  # it is not unpacked
                for each in self.store.mount_spec(status.id).lowerdirs:
                    assert any(Path(each).iterdir()) or each.endswith("none"), each

    def check(self) -> None:
        found = self.store.check(digests=True)
        wrong = [each for each in found if (each.invariant, each.problem) not in _LEFT_BY_THE_DEAD]
        assert not wrong, wrong

    def reopen(self) -> None:
        """
        Recovers what the dead left, beside others who do.
        """
        with ImageService.open(self.root, registry=RegistryClient(plain_http=True)) as second:
            second.list_images()

    def evict(self) -> None:
        self.store.set_max_storage(self.store.usage().max_bytes, evict=True)

    def look(self) -> None:
        for status in self.store.list_images():
            assert status.size > 0
        assert self.store.image_status_by_ref(self.kept) is not None, "the pinned image is gone"
        assert self.store.view("accounting_drift") == []
        assert self.store.view("problems") == []


_OPERATIONS: dict[str, tuple[int, set[str]]] = {
    # How often, and which exceptions are an answer.
    # A pull may find its image here, and lose it while it unpacks that.
    "pull": (40, {"StorageLimitExceeded", "ImageNotFound"}),
    "unpack": (8, {"StorageLimitExceeded", "ImageNotFound"}),
    "remove": (14, {"ImageInUse"}),
    "tag": (5, set()),
    "move_a_tag": (4, {"ImageNotFound"}),
    "untag": (2, {"ImageNotFound"}),
    "pin": (3, {"ImageNotFound"}),
    "collect": (7, set()),
    "hold": (8, {"ImageNotFound"}),
    "check": (5, set()),
    "reopen": (5, set()),
    "evict": (3, set()),
    "look": (4, set()),
}


def turmoil(
    store: ImageService,
    say: Callable[..., None],
    *,
    seed: int,
    operations: int,
    images: list[str],
    kept: str,
    root: str,
) -> None:
    """
    *operations* things at random.

    Args:
        images: references to pull, remove, hold and so on.
        kept: a pinned image, which is nobody's to remove.
    """
    actor = _Actor(store, say, random.Random(seed), images, kept, root)
    names = list(_OPERATIONS)
    for name in actor.rng.choices(names, [_OPERATIONS[each][0] for each in names], k=operations):
        say("doing", name)
        try:
            getattr(actor, name)()
        except Exception as error:  # noqa: BLE001 -- what is not expected is a violation, and told
            kind = type(error).__name__
            if kind not in _OPERATIONS[name][1]:
                say("violation", f"{name}: {kind}: {error}", _frames(error))
            say("did", name, kind)
            if not isinstance(error, ImageError):
                return
        else:
            say("did", name, "ok")


def _frames(error: BaseException) -> list[Any]:
    return [
        f"{each.filename.rpartition('/')[2]}:{each.lineno}"
        for each in traceback.extract_tb(error.__traceback__)
    ][-8:]
