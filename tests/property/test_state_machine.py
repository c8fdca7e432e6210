"""
A store beside a dictionary: whatever is done to both, they agree, to the byte.

``ULLAGE_TORTURE`` makes it last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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

from support.images import ImageBuilder
from support.registry import FaultRegistry
from support.store import check_root
from ullage import (
    EvictionPolicy,
    ImageAlreadyExists,
    ImageInUse,
    ImageNotFound,
    ImageService,
    PullPolicy,
    RegistryClient,
    StorageLimitExceeded,
)

TORTURE = bool(os.environ.get("ULLAGE_TORTURE"))
LAYERS = {name: 700 * (number + 1) for number, name in enumerate("abcde")}
RECIPES = ("a", "ab", "abc", "bd", "e", "ade")
TAGS = ("local/one:1", "local/two:2")
LIMITS = (0, 4_000, 9_000, 14_000, 40_000)


@dataclass
class Known:
    """
    What the dictionary has of an image.
    """

    blobs: dict[str, int]
    last_used_at: datetime
    registered: int = 0
    pinned: bool = False
    names: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        return sum(self.blobs.values()) + self.registered


class Model:
    """
    The store, as a dictionary of images and a limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.images: dict[str, Known] = {}
        self.held: list[str] = []

    def named(self, name: str) -> str | None:
        return next((image_id for image_id, known in self.images.items() if name in known.names), None)

    def blobs(self, images: dict[str, Known] | None = None) -> dict[str, int]:
        return {
            digest: size
            for known in (self.images if images is None else images).values()
            for digest, size in known.blobs.items()
        }

    def used(self) -> int:
        return sum(self.blobs().values()) + sum(known.registered for known in self.images.values())

    def exclusive(self, image_id: str, leased: frozenset[str] = frozenset()) -> int:
        others = {key: known for key, known in self.images.items() if key != image_id}
        elsewhere = self.blobs(others).keys() | leased
        mine = self.images[image_id]
        return mine.registered + sum(size for digest, size in mine.blobs.items() if digest not in elsewhere)

    def evictable(self, before: datetime) -> list[str]:
        """
        Who may go, the least recently used first.
        """
        candidates = [
            (known.last_used_at, number, image_id)
            for number, (image_id, known) in enumerate(self.images.items())
            if not known.pinned and image_id not in self.held and known.last_used_at <= before
        ]
        return [image_id for _, _, image_id in sorted(candidates)]

    def evict(self, enough, before: datetime, leased: frozenset[str] = frozenset()) -> list[str]:
        """
        The victims until *enough*; the images are taken away.
        """
        gone = []
        while not enough():
            victim = next((each for each in self.evictable(before) if self.exclusive(each, leased)), None)
            if victim is None:
                break
            del self.images[victim]
            gone.append(victim)
        return gone


class StoreBesideADictionary(RuleBasedStateMachine):
    """
    Each rule does one thing to both and compares what came of it; the invariants compare all that can be seen.
    """

    registry: FaultRegistry
    pushed: tuple

    @initialize(limit=st.sampled_from(LIMITS[2:]))
    def open_a_store(self, limit):
        self.directory = Path(tempfile.mkdtemp(prefix="ullage-machine-"))
        self.root = self.directory / "store"
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.model = Model(limit)
        self.holds = contextlib.ExitStack()
        self.lowered = False
        self.services = [self._open(max_storage=limit), self._open()]

    def _open(self, **options):
        client = RegistryClient(plain_http=True, read_timeout_seconds=5.0)
        return ImageService.open(self.root, registry=client, clock=lambda: self.now, **options)

    def _service(self):
        # Whatever is done through one service is seen through the other.
        self.services.reverse()
        self.now += timedelta(minutes=2)
        return self.services[0]

    def _any_name(self, number):
        names = sorted(name for known in self.model.images.values() for name in known.names)
        return names[number % len(names)] if names else None

    # ------------------------------------------------------------------ what is done

    @rule(number=st.integers(0, len(RECIPES) - 1), evict=st.booleans(), always=st.booleans())
    def pull(self, number, evict, always):
        service, image, model = self._service(), self.pushed[number], self.model
        policy = PullPolicy.ALWAYS if always else PullPolicy.IF_NOT_PRESENT
        names = {image.reference, image.repo_digest}
        known_as = model.named(image.reference)
        if known_as == image.image_id or image.image_id in model.images:
            service.pull_image(image.reference, policy=policy, evict=evict)
            model.images[image.image_id].last_used_at = self.now
            self._give(image.image_id, names if known_as is None else set())
            return
        blobs = {blob.digest: blob.size for blob in image.blobs}
        missing = sum(size for digest, size in blobs.items() if digest not in model.blobs())
        present = frozenset(blobs.keys() & model.blobs().keys())
        before = dict(model.images)
        leased = {digest: blobs[digest] for digest in present}

        def fits():
            kept = sum((model.blobs() | leased).values()) + sum(
                each.registered for each in model.images.values()
            )
            return kept + missing <= model.limit

        if evict:
            model.evict(fits, self.now, present)
        if not fits():
            model.images = before
            with pytest.raises(StorageLimitExceeded):
                service.pull_image(image.reference, policy=policy, evict=evict)
            return
        service.pull_image(image.reference, policy=policy, evict=evict)
        model.images[image.image_id] = Known(blobs, self.now)
        self._give(image.image_id, names)

    def _give(self, image_id, names):
        for known in self.model.images.values():
            known.names -= names
        self.model.images[image_id].names |= names

    @rule(size=st.integers(0, 6000), name=st.sampled_from(("kept/here:1", "kept/there:1")))
    def register(self, size, name):
        service, model = self._service(), self.model
        if model.named(f"docker.io/{name}") is not None:
            assert service.register_image(name, size=size).repo_tags
            return
        if model.used() + size > model.limit and size > 0:
            with pytest.raises(StorageLimitExceeded):
                service.register_image(name, size=size)
            return
        try:
            status = service.register_image(name, size=size)
        except StorageLimitExceeded:
            pytest.fail("there was room")
        known = model.images.setdefault(status.image_id, Known({}, self.now, registered=size))
        known.names |= {*status.repo_tags, *status.repo_digests}

    @rule(number=st.integers(0, 30))
    def remove(self, number):
        service, name = self._service(), self._any_name(number)
        if name is None:
            with pytest.raises(ImageNotFound):
                service.remove_image("nobody/knows:1")
            return
        image_id = self.model.named(name)
        if image_id in self.model.held:
            with pytest.raises(ImageInUse):
                service.remove_image(name)
            return
        service.remove_image(name)
        del self.model.images[image_id]

    @rule(number=st.integers(0, 30), tag=st.sampled_from(TAGS), move=st.booleans())
    def tag(self, number, tag, move):
        service, name, full = self._service(), self._any_name(number), f"docker.io/{tag}"
        if name is None:
            return
        image_id, other = self.model.named(name), self.model.named(full)
        if other is not None and other != image_id and not move:
            with pytest.raises(ImageAlreadyExists):
                service.tag_image(name, tag)
            return
        service.tag_image(name, tag, move=move)
        self._give(image_id, {full})

    @rule(number=st.integers(0, 30))
    def untag(self, number):
        service, name = self._service(), self._any_name(number)
        if name is not None:
            service.untag_image(name)
            self.model.images[self.model.named(name)].names.discard(name)

    @rule(number=st.integers(0, 30), pinned=st.booleans())
    def pin(self, number, pinned):
        service, name = self._service(), self._any_name(number)
        if name is not None:
            (service.pin_image if pinned else service.unpin_image)(name)
            self.model.images[self.model.named(name)].pinned = pinned

    @precondition(lambda self: len(self.model.held) < 2)
    @rule(number=st.integers(0, 30))
    def hold(self, number):
        service, name = self._service(), self._any_name(number)
        if name is not None:
            self.holds.enter_context(service.hold(name))
            self.model.held.append(self.model.named(name))

    @precondition(lambda self: self.model.held)
    @rule()
    def let_go(self):
        self.holds.close()
        self.model.held.clear()

    @rule(limit=st.sampled_from(LIMITS), evict=st.booleans())
    def set_the_limit(self, limit, evict):
        service, model = self._service(), self.model
        gone = service.set_max_storage(limit, evict=evict)
        model.limit = limit
        expected = model.evict(lambda: model.used() <= limit, self.now) if evict else []
        assert [each.image_id for each in gone] == expected
        self.lowered |= model.used() > limit

    @rule(
        high=st.integers(0, 100),
        low=st.integers(0, 100),
        min_age=st.integers(0, 20),
        max_age=st.integers(0, 60),
    )
    def collect(self, high, low, min_age, max_age):
        service, model = self._service(), self.model
        policy = EvictionPolicy(
            high_watermark=max(high, low) / 100,
            low_watermark=min(high, low) / 100,
            minimum_age=timedelta(minutes=min_age),
            maximum_age=timedelta(minutes=max_age) if max_age > 30 else None,
        )
        rehearsed = service.collect(policy, dry_run=True)
        freed = service.collect(policy)
        assert rehearsed == freed
        expected = []
        if policy.maximum_age is not None:
            expected = model.evictable(self.now - policy.maximum_age)
            for image_id in expected:
                del model.images[image_id]
        if model.used() > policy.high_watermark * model.limit:
            low_bytes = policy.low_watermark * model.limit
            expected += model.evict(lambda: model.used() <= low_bytes, self.now - policy.minimum_age)
        assert [each.image_id for each in freed.images] == expected

    @precondition(lambda self: not self.model.held)
    @rule()
    def open_anew(self):
        self.services[0].close()
        self.services[0] = self._open()

    # ------------------------------------------------------------------ what is so

    @invariant()
    def both_say_the_same(self):
        service, model = self.services[1], self.model
        usage = service.usage()
        assert usage.max_bytes == model.limit
        assert usage.used_bytes == model.used()
        assert usage.blob_bytes == sum(model.blobs().values())
        assert (usage.reserved_bytes, usage.doomed_bytes) == (0, 0)
        assert usage.logical_bytes == sum(known.size for known in model.images.values())
        listed = {status.image_id: status for status in service.list_images()}
        assert listed.keys() == model.images.keys()
        for image_id, known in model.images.items():
            status = listed[image_id]
            assert {*status.repo_tags, *status.repo_digests} == known.names
            assert (status.size, status.pinned) == (known.size, known.pinned)
            assert status.last_used_at == known.last_used_at
        exclusive = {each.image_id: each.exclusive_bytes for each in service.image_storage()}
        assert exclusive == {image_id: model.exclusive(image_id) for image_id in model.images}
        assert service.view("accounting_drift") == []

    def teardown(self):
        if hasattr(self, "services"):
            self.holds.close()
            assert self.services[0].check(digests=True) == []
            for service in self.services:
                service.close()
            check_root(self.root, limit_was_lowered=self.lowered)
            shutil.rmtree(self.directory)


def test_a_store_and_a_dictionary_agree_whatever_is_done_to_both():
    with FaultRegistry() as registry:
        StoreBesideADictionary.registry = registry
        images = []
        for number, recipe in enumerate(RECIPES):
            builder = ImageBuilder(registry, f"app{number}")
            for layer in recipe:
                builder.noise_layer(LAYERS[layer], layer)
            images.append(builder.push("1"))
        StoreBesideADictionary.pushed = tuple(images)
        run_state_machine_as_test(
            StoreBesideADictionary,
            settings=settings(
                max_examples=400 if TORTURE else 12,
                stateful_step_count=60 if TORTURE else 25,
                deadline=None,
                derandomize=not TORTURE,
                phases=(Phase.generate, Phase.shrink) if TORTURE else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
