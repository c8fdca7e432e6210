"""
Unpacked images beside what is known of them: whatever is done to a store, its trees are those of its images, each once,
whole and charged to the byte, and none of them goes while somebody uses it.

``ULLAGE_TORTURE`` makes it last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.flows import open_store
from support.images import Image, ImageBuilder, gzip_of, noise
from support.layers import DIRECTORY, LINK, entry, tar
from support.nursery import Nursery
from support.registry import FaultRegistry
from support.store import check_root, query, trees_of
from support.store import usage as view_of
from support.treelook import chain_ids, seen, wanted
from ullage import DiskFull, EvictionPolicy, ImageInUse, ImageNotFound, StorageLimitExceeded, StoreReadOnly
from ullage.digest import digest_of

TORTURE = bool(os.environ.get("ULLAGE_TORTURE"))
KIB = 1024
RECIPES = ("a", "ab", "abc", "abd", "bd", "e", "aec")
#: Far below what all of it takes, and now and then below what is here.
LIMITS = (100 * KIB, 280 * KIB, 500 * KIB, 2000 * KIB)
#: What an account may be above what a tree takes in the end, while it is filled: directories that are guessed.
SLACK_BYTES = 24 * KIB


def layer_of(name: str) -> bytes:
    """
    A few files, the more the later its letter; its directories are listed, and nothing is hidden. Less of it than is
    worth to be kept of a pull that died.
    """
    count, folder = 4 + 3 * "abcde".index(name), name.encode()
    return tar(
        entry(folder, DIRECTORY),
        *(entry(folder + b"/%d" % each, data=noise(350 * each, f"{name}{each}")) for each in range(count)),
        entry(folder + b"/again", LINK, link=folder + b"/1"),
    )


@dataclass(frozen=True)
class Pushed:
    """
    An image in the registry, and what its trees are to be.
    """

    image: Image
    layers: str
    chain: tuple[str, ...]


class TreesBesideADictionary(RuleBasedStateMachine):
    registry: FaultRegistry
    nursery: Nursery
    pushed: tuple[Pushed, ...]
    #: What each tree takes on this filesystem, what is in it, and which one is below it, by its chain id.
    taken: dict[str, int]
    content: dict[str, dict]
    below: dict[str, str | None]

    @initialize(limit=st.sampled_from(LIMITS[1:]))
    def open_a_store(self, limit):
        self.directory = Path(tempfile.mkdtemp(prefix="ullage-trees-"))
        self.root = self.directory / "store"
        self.limit, self.lowered = limit, False
        #: By image id: which of `pushed` it is, and whether it is unpacked.
        self.images: dict[str, tuple[Pushed, bool]] = {}
        self.held: list[str] = []
        self.mounts: list[tuple[Path, Pushed]] = []
        self.uses = contextlib.ExitStack()
        self.store = open_store(self.root, max_storage=limit)

    # ------------------------------------------------------------------ what is known

    def _trees(self, images=None) -> set[str]:
        known = self.images if images is None else images
        return {each for pushed, is_unpacked in known.values() if is_unpacked for each in pushed.chain}

    def _used(self, images=None) -> int:
        known = self.images if images is None else images
        blobs = {blob.digest: blob.size for pushed, _ in known.values() for blob in pushed.image.blobs}
        return sum(blobs.values()) + sum(self.taken[each] for each in self._trees(known))

    def _fits(self, pushed: Pushed, *, unpack: bool) -> bool | None:
        """
        Whether it must fit; None where both answers are right.
        """
        here = self.images.get(pushed.image.image_id, (pushed, False))
        after = self._used(self.images | {pushed.image.image_id: (pushed, unpack or here[1])})
        if after > self.limit and after > self._used():
            return False
        missing = len(set(pushed.chain) - self._trees()) if unpack else 0
        return True if after + missing * SLACK_BYTES <= self.limit else None

    def _follow(self, *, evicts: bool) -> None:
        """
        Images that went for others: nobody's that is in use, and only where that was asked for.
        """
        here = {each.image_id for each in self.store.list_images()}
        gone = self.images.keys() - here
        assert evicts or not gone
        assert gone.isdisjoint(self.held)
        self.images = {key: value for key, value in self.images.items() if key in here}

    def _try(self, pushed: Pushed, act, *, unpack: bool, evict: bool) -> None:
        """
        *act*, and what may come of it.
        """
        fits = self._fits(pushed, unpack=unpack)
        try:
            act()
        except (StorageLimitExceeded, DiskFull):
            assert fits is not True, "there was room"
            self._follow(evicts=evict)
            return
        assert fits is not False or evict, "there was no room"
        here = self.images.get(pushed.image.image_id, (pushed, False))
        self.images[pushed.image.image_id] = (pushed, unpack or here[1])
        self._follow(evicts=evict)
        assert pushed.image.image_id in self.images

    # ------------------------------------------------------------------ what is done

    @rule(number=st.integers(0, len(RECIPES) - 1), unpack=st.booleans(), evict=st.booleans())
    def pull(self, number, unpack, evict):
        pushed = self.pushed[number]
        self._try(
            pushed,
            lambda: self.store.pull_image(pushed.image.reference, unpack=unpack, evict=evict),
            unpack=unpack,
            evict=evict,
        )

    @rule(number=st.integers(0, len(RECIPES) - 1), evict=st.booleans())
    def make_trees(self, number, evict):
        pushed = self.pushed[number]
        if pushed.image.image_id not in self.images:
            with pytest.raises(ImageNotFound):
                self.store.make_trees(pushed.image.reference)
            return
        self._try(
            pushed,
            lambda: self.store.make_trees(pushed.image.reference, evict=evict),
            unpack=True,
            evict=evict,
        )

    @rule(number=st.integers(0, len(RECIPES) - 1))
    def remove(self, number):
        image = self.pushed[number].image
        if image.image_id in self.held:
            with pytest.raises(ImageInUse):
                self.store.remove_image(image.reference)
            return
        self.store.remove_image(image.reference, missing_ok=True)
        self.images.pop(image.image_id, None)

    @precondition(lambda self: len(self.held) < 2)
    @rule(number=st.integers(0, len(RECIPES) - 1))
    def hold(self, number):
        image = self.pushed[number].image
        if image.image_id in self.images:
            self.uses.enter_context(self.store.hold(image.reference))
            self.held.append(image.image_id)

    @precondition(lambda self: len(self.held) < 2)
    @rule(number=st.integers(0, len(RECIPES) - 1))
    def mount(self, number):
        pushed = self.pushed[number]
        if not self.images.get(pushed.image.image_id, (None, False))[1]:
            with pytest.raises(ImageNotFound):
                self.store.mount_spec(pushed.image.reference)
            return
        target = self.directory / f"mounted-{len(self.mounts)}"
        target.mkdir()
        try:
            self.uses.enter_context(self.store.mounted(pushed.image.reference, target))
        except StoreReadOnly:
            target.rmdir()  # for want of privilege: what is below is held, and looked at, all the same
            self.hold(number)
            return
        self.mounts.append((target, pushed))
        self.held.append(pushed.image.image_id)

    @precondition(lambda self: self.held)
    @rule()
    def let_go(self):
        self.uses.close()
        for target, _ in self.mounts:
            target.rmdir()
        self.held.clear()
        self.mounts.clear()

    @rule(number=st.integers(0, len(RECIPES) - 1))
    def unpack(self, number):
        """
        What the host then does to its directory never reaches the store.
        """
        pushed = self.pushed[number]
        if pushed.image.image_id not in self.images:
            return
        target = self.directory / "unpacked"
        self.store.unpack(pushed.image.reference, target)
        assert seen(target) == self._shown(pushed)
        for each in target.rglob("*"):
            if each.is_file():
                each.write_bytes(b"written by the host")
        shutil.rmtree(target)

    def _shown(self, pushed: Pushed) -> dict:
        return {path: what for chain_id in pushed.chain for path, what in self.content[chain_id].items()}

    @rule(limit=st.sampled_from(LIMITS), evict=st.booleans())
    def set_the_limit(self, limit, evict):
        self.store.set_max_storage(limit, evict=evict)
        self.limit = limit
        before = self._used()
        self._follow(evicts=evict and before > limit)
        self.lowered |= self._used() > limit
        if evict and self._used() > limit:
            assert self.images.keys() <= set(self.held), "something could have gone"

    @rule(high=st.integers(0, 100), low=st.integers(0, 100), by_policy=st.booleans())
    def collect(self, high, low, by_policy):
        policy = EvictionPolicy(max(high, low) / 100, min(high, low) / 100) if by_policy else None
        reclaimed = self.store.collect(policy)
        assert by_policy or not (reclaimed.images or reclaimed.tree_count)
        self._follow(evicts=by_policy)

    @rule(number=st.integers(0, len(RECIPES) - 1), at=st.integers(1, 320), pulls=st.booleans())
    def die(self, number, at, pulls):
        """
        Another process, that unpacks as well, is killed at some call; whoever opens the store next puts it right.
        """
        pushed = self.pushed[number]
        image_id = pushed.image.image_id
        if not pulls and image_id not in self.images:
            return
        arguments = {"reference": pushed.image.reference} | ({"unpack": True} if pulls else {})
        flow = "pull" if pulls else "make trees"
        child = self.nursery.spawn(flow, self.root, arguments, action="die", at=at)
        child.wait()
        assert child.heard("untyped") == []
        open_store(self.root).close()
        here = {each.image_id: bool(each.tree_bytes) for each in self.store.image_storage()}
        assert here.keys() - {image_id} == self.images.keys() - {image_id}
        if image_id in here:
            was_unpacked = self.images.get(image_id, (pushed, False))[1]
            assert here[image_id] or not was_unpacked
            self.images[image_id] = (pushed, here[image_id])
        else:
            assert image_id not in self.images
        if child.heard("pulled"):
            assert here[image_id]

    @precondition(lambda self: not self.held)
    @rule()
    def open_anew(self):
        self.store.close()
        self.store = open_store(self.root)

    # ------------------------------------------------------------------ what is so

    @invariant()
    def the_trees_are_those_of_the_images(self):
        view = view_of(self.root)
        usage = self.store.usage()
        trees = {chain_id: self.taken[chain_id] for chain_id in self._trees()}
        rows = dict(query(self.root, "SELECT chain_id, space_bytes FROM trees WHERE state = 'ready'"))
        assert rows == trees
        assert {key: space for key, (space, _) in trees_of(self.root).items()} == trees
        assert usage.tree_bytes == view["tree_bytes"] == sum(trees.values())
        assert usage.used_bytes == view["used_bytes"] == self._used()
        assert (usage.reserved_bytes, usage.doomed_bytes) == (0, 0)
        assert usage.max_bytes == self.limit
        assert all(self.below[each] in {None, *trees} for each in trees), "a tree without the one below it"
        assert self.store.view("accounting_drift") == []
        assert self.store.view("problems") == []
        for algorithm_and_name in trees:
            path = self.root / "trees" / algorithm_and_name.replace(":", "/")
            assert seen(path) == self.content[algorithm_and_name]
        for target, pushed in self.mounts:
            assert seen(target) == self._shown(pushed)

    def teardown(self):
        if hasattr(self, "store"):
            self.uses.close()
            assert self.store.check(digests=True) == []
            self.store.close()
            check_root(self.root, limit_was_lowered=self.lowered)
            shutil.rmtree(self.directory)


def test_trees_are_those_of_the_images_whatever_is_done():
    with Nursery() as nursery, FaultRegistry() as registry:
        machine = TreesBesideADictionary
        machine.nursery, machine.registry = nursery, registry
        machine.content, machine.below, machine.taken, pushed = {}, {}, {}, []
        for recipe in RECIPES:
            builder = ImageBuilder(registry, f"image-{recipe}")
            for name in recipe:
                builder.raw_layer(gzip_of(layer_of(name)), diff_id=digest_of(layer_of(name)))
            image = builder.push("1")
            chain = chain_ids(image.diff_ids)
            machine.content |= zip(chain, [wanted(layer_of(name)) for name in recipe], strict=True)
            machine.below |= zip(chain, [None, *chain], strict=False)
            pushed.append(Pushed(image, recipe, tuple(chain)))
        machine.pushed = tuple(pushed)
        with tempfile.TemporaryDirectory(prefix="ullage-trees-") as directory:
            root = Path(directory) / "store"
            with open_store(root) as store:
                for each in pushed:
                    store.pull_image(each.image.reference, unpack=True)
            machine.taken |= {key: space for key, (space, _) in trees_of(root).items()}
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=200 if TORTURE else 5,
                stateful_step_count=60 if TORTURE else 25,
                deadline=None,
                derandomize=not TORTURE,
                phases=(Phase.generate, Phase.shrink) if TORTURE else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
