"""
Eviction: who goes, in which order, for what, and never for nothing.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from support import registry as faults
from support.images import ImageBuilder
from support.store import files_of, query, snapshot
from support.worker import Worker, environment
from ullage import ContentError, EvictionPolicy, PullPolicy, RegistryUnavailable, StorageLimitExceeded

KB = 1000
EVERYTHING = EvictionPolicy(0.0, 0.0, minimum_age=timedelta(0))


class Clock:
    """
    What time it is, until the test says that it is later.
    """

    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        return self.now

    def advance(self, **units):
        self.now += timedelta(**units)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(open_store, clock):
    return open_store(clock=clock)


@pytest.fixture
def make(registry):
    """
    An image of layers with these seeds; the same seed is the same layer.
    """

    def make(name, *seeds, kilobytes=10):
        builder = ImageBuilder(registry, name)
        for seed in seeds or (name,):
            builder.noise_layer(kilobytes * KB, seed)
        return builder.push("1")

    return make


@pytest.fixture
def pull(store, clock):
    """
    Pulls images one after the other, an hour between them.
    """

    def pull(*images):
        for each in images:
            clock.advance(hours=1)
            store.pull_image(each.reference)
        clock.advance(hours=1)

    return pull


def names(store):
    return [
        tag.rpartition("/")[2].partition(":")[0] for each in store.list_images() for tag in each.repo_tags
    ]


def evicted_names(evicted):
    return [tag.rpartition("/")[2].partition(":")[0] for each in evicted for tag in each.repo_tags]


def distinct_bytes(*images):
    return sum({blob.digest: blob.size for each in images for blob in each.blobs}.values())


# ---------------------------------------------------------------------- who goes


def test_the_least_recently_used_go_first_and_no_more_than_it_takes(store, make, pull):
    images = [make(name) for name in ("a", "b", "c", "d")]
    pull(*images[:3])
    store.set_max_storage(distinct_bytes(*images[:3]) + 100)

    store.pull_image(images[3].reference, evict=True)

    assert names(store) == ["b", "c", "d"]


def test_as_many_go_as_it_takes_in_the_order_of_their_last_use(store, make, pull, clock):
    small = [make(name) for name in ("a", "b", "c", "d")]
    large = make("large", kilobytes=55)
    pull(*small)
    store.pull_image(small[0].reference)  # a use: now it is b that was used least recently
    store.set_max_storage(distinct_bytes(*small))
    events = []

    store.pull_image(large.reference, evict=True, on_progress=events.append)

    assert names(store) == ["a", "large"]
    (told,) = [each.evicted for each in events if each.evicted]
    assert evicted_names(told) == ["b", "c", "d"]
    assert [each.freed_bytes for each in told] == [each.size for each in small[1:]]
    assert {each.reason for each in told} == {"pull"}


def test_images_go_only_when_the_caller_allows_it(store, make, pull, root):
    old, new = make("old"), make("new")
    pull(old)
    store.set_max_storage(old.size)
    before = snapshot(root)

    with pytest.raises(StorageLimitExceeded) as refused:
        store.pull_image(new.reference)

    assert refused.value.reclaimable_bytes == 0
    assert snapshot(root) == before


def test_a_service_that_was_opened_with_a_policy_evicts_unless_told_otherwise(open_store, make, clock):
    store = open_store(clock=clock, evict=EvictionPolicy())
    old, new = make("old"), make("new")
    store.pull_image(old.reference)
    store.set_max_storage(old.size + 10)

    with pytest.raises(StorageLimitExceeded):
        store.pull_image(new.reference, evict=False)
    store.pull_image(new.reference)

    assert names(store) == ["new"]


def test_a_pinned_image_never_goes(store, make, pull):
    pinned, other, new = make("pinned"), make("other"), make("new")
    pull(pinned, other)
    store.pin_image(pinned.reference)
    store.set_max_storage(distinct_bytes(pinned, other))

    store.pull_image(new.reference, evict=True)
    assert names(store) == ["pinned", "new"]

    assert evicted_names(store.collect(EvictionPolicy(0, 0, timedelta(0), timedelta(0))).images) == ["new"]
    assert evicted_names(store.set_max_storage(0, evict=True)) == []
    assert names(store) == ["pinned"]
    store.set_max_storage(1 << 30)


def test_a_held_image_never_goes_whoever_holds_it(store, make, pull, root):
    held, other, new = make("held"), make("other"), make("new")
    pull(held, other)
    store.set_max_storage(distinct_bytes(held, other))
    with Worker(root) as worker:
        worker.call("hold", held.reference)

        store.pull_image(new.reference, evict=True)
        assert names(store) == ["held", "new"]
        assert evicted_names(store.collect(EVERYTHING).images) == ["new"]

        worker.call("release")

    assert evicted_names(store.collect(EVERYTHING).images) == ["held"]


# ---------------------------------------------------------------------- all or nothing


def test_it_all_fits_or_nothing_goes_and_the_error_has_the_numbers(store, make, pull, root, registry):
    pinned, held, old, older = make("pinned"), make("held"), make("old"), make("older")
    large = make("large", kilobytes=55)
    pull(older, old, held, pinned)
    store.pin_image(pinned.reference)
    limit = distinct_bytes(pinned, held, old, older) + 3
    store.set_max_storage(limit)
    with store.hold(held.reference):
        before = snapshot(root)
        registry.requests.clear()

        with pytest.raises(StorageLimitExceeded) as refused:
            store.pull_image(large.reference, evict=True)

        assert snapshot(root) == before
    error = refused.value
    assert error.needed_bytes == large.size
    assert error.available_bytes == 3
    assert (error.max_bytes, error.used_bytes, error.reserved_bytes) == (limit, limit - 3, 0)
    assert error.reclaimable_bytes == old.size + older.size
    assert (error.pinned_bytes, error.held_bytes) == (pinned.size, held.size)
    assert registry.blob_bytes_sent == 0


def test_one_byte_decides(store, make, pull):
    old, pinned, new = make("old"), make("pinned"), make("new")
    pull(old, pinned)
    store.pin_image(pinned.reference)

    store.set_max_storage(pinned.size + new.size - 1)
    with pytest.raises(StorageLimitExceeded):
        store.pull_image(new.reference, evict=True)
    assert names(store) == ["old", "pinned"]

    store.set_max_storage(pinned.size + new.size)
    store.pull_image(new.reference, evict=True)
    assert names(store) == ["pinned", "new"]


def test_a_partial_blob_goes_before_any_image(store, make, pull, registry, root):
    old, new = make("old"), make("new")
    broken = make("broken", kilobytes=200)
    pull(old)
    registry.inject("*/blobs/*", faults.reset())
    registry.inject(f"*/blobs/{broken.layers[0].digest}", faults.truncate(100 * KB), times=1)
    with pytest.raises(RegistryUnavailable):
        store.pull_image(broken.reference)
    registry.heal()
    assert store.usage().reserved_bytes >= 100 * KB - 1
    store.set_max_storage(old.size + new.size)

    store.pull_image(new.reference, evict=True)

    assert names(store) == ["old", "new"]
    assert files_of(root, "ingest", "trash") == {}


# ---------------------------------------------------------------------- what a victim really frees


def test_an_image_that_frees_nothing_by_itself_is_passed_over(store, make, pull):
    """
    All that *twin* has beside its own two documents, others have too.
    """
    lower = make("lower", "base", "x")
    upper = make("upper", "base", "x", "y")
    alone = make("alone")
    new = make("new", kilobytes=5)
    store.pin_image(_pulled(pull, store, upper))
    pull(lower, alone)
    frees = {each.image_id: each.exclusive_bytes for each in store.image_storage()}
    assert frees[lower.image_id] == lower.manifest.size + lower.config.size
    store.set_max_storage(store.used_storage() + new.size - frees[lower.image_id] - 1)

    store.pull_image(new.reference, evict=True)

    assert names(store) == ["upper", "new"]


def _pulled(pull, store, image):
    pull(image)
    return store.image_status(image.reference)


def test_two_names_of_one_image_go_with_it_and_are_told(store, make, pull, registry):
    old, new = make("old"), make("new")
    pull(old)
    store.tag_image(old.reference, f"{registry.host}/second:2")
    store.set_max_storage(old.size)

    events = []
    store.pull_image(new.reference, evict=True, on_progress=events.append)

    (told,) = [each.evicted for each in events if each.evicted]
    assert told[0].repo_tags == tuple(sorted([old.reference, f"{registry.host}/second:2"]))


def test_an_image_that_frees_nothing_is_looked_at_again_when_another_has_gone(store, registry, pull):
    """
    All that *inner* has is named by *outer*, its manifest too, which is a layer there.
    """
    inner = ImageBuilder(registry, "inner").artifact("application/x.a").raw_layer(b"x" * 10 * KB).push("1")
    outer = (
        ImageBuilder(registry, "outer")
        .artifact("application/x.a")
        .raw_layer(b"x" * 10 * KB)
        .raw_layer(inner.manifest.raw)
        .push("1")
    )
    new = ImageBuilder(registry, "new").noise_layer(5 * KB, "new").push("1")
    pull(inner, outer)
    assert [each.exclusive_bytes for each in store.image_storage()] == [0, outer.manifest.size]
    store.set_max_storage(store.used_storage())
    events = []

    store.pull_image(new.reference, evict=True, on_progress=events.append)

    assert names(store) == ["new"]
    (told,) = [each.evicted for each in events if each.evicted]
    assert evicted_names(told) == ["outer", "inner"]


def test_the_image_that_is_being_pulled_does_not_go_for_its_own_sake(store, registry, pull):
    """
    A tag moves to a new manifest of a known config: the image gets one more layer, and others make room.
    """
    first = ImageBuilder(registry, "app").noise_layer(10 * KB, "first").push("1")
    other = ImageBuilder(registry, "other").noise_layer(10 * KB, "other").push("1")
    pull(first, other)
    second = ImageBuilder(registry, "app").noise_layer(10 * KB, "first").annotate(again="yes").push("1")
    assert second.image_id == first.image_id
    store.set_max_storage(store.used_storage() + 1)

    status = store.pull_image(second.reference, policy=PullPolicy.ALWAYS, evict=True)

    assert [each.image_id for each in store.list_images()] == [first.image_id]
    assert second.repo_digest in status.repo_digests


def test_what_a_pull_needs_and_finds_here_is_not_evicted_from_under_it(store, make, pull, registry):
    old, new = make("old", "base", "old"), make("new", "base", "new")
    pull(old)
    registry.requests.clear()
    store.set_max_storage(store.used_storage() + 100)

    store.pull_image(new.reference, evict=True)

    assert names(store) == ["new"]
    base = new.layers[0].digest
    assert registry.count("GET", f"*/blobs/{base}") == 0


def test_blobs_taken_back_from_their_doom_are_not_doomed_again_for_the_same_pull(
    store, make, pull, root, registry
):
    """
    Somebody removed an image and died before its files went; a pull wants one of its blobs, and room for more.
    """
    gone, old, new = make("gone", "base"), make("old"), make("new", "base", "new")
    pull(gone, old)
    with closing(sqlite3.connect(root / "ullage.db")) as shell, shell:
        shell.execute("DELETE FROM images WHERE image_id = ?", (gone.image_id,))
        shell.execute("UPDATE blobs SET state = 'doomed' WHERE referenced = 0")
    registry.requests.clear()
    store.set_max_storage(store.used_storage() + 22 * KB)

    store.pull_image(new.reference, evict=True)

    assert names(store) == ["new"]
    assert registry.count("GET", f"*/blobs/{new.layers[0].digest}") == 0
    assert store.check(digests=True) == []


# ---------------------------------------------------------------------- files


def test_files_are_unlinked_before_a_byte_is_written_in_their_place(store, make, pull, registry, root):
    old, new = make("old"), make("new")
    pull(old)
    store.set_max_storage(old.size)
    there = {}
    registry.inject(
        f"*/blobs/{new.layers[0].digest}",
        lambda hit: there.update(files_of(root, "blobs", "trash")) or hit.reply(),
    )

    store.pull_image(new.reference, evict=True)

    assert there == {}
    assert set(files_of(root, "blobs")) == {f"blobs/sha256/{each.digest.encoded}" for each in new.blobs}


def test_an_eviction_for_a_pull_that_fails_later_is_not_undone(store, make, pull, registry):
    """
    It was needed when the pull was admitted; the room is there for the next attempt.
    """
    old, new = make("old"), make("new")
    pull(old)
    store.set_max_storage(old.size)
    registry.inject(f"*/blobs/{new.layers[0].digest}", faults.wrong_bytes())

    with pytest.raises(ContentError):
        store.pull_image(new.reference, evict=True)

    assert names(store) == []
    assert store.usage().used_bytes == store.usage().reserved_bytes == 0


# ---------------------------------------------------------------------- by policy


def test_below_the_high_watermark_nothing_goes(store, make, pull):
    images = [make(name) for name in ("a", "b")]
    pull(*images)
    used = store.used_storage()
    store.set_max_storage(used * 2)

    reclaimed = store.collect(EvictionPolicy(0.5, 0.1, timedelta(0)))

    assert reclaimed.images == ()


def test_above_the_high_watermark_they_go_down_to_the_low_one(store, make, pull):
    images = [make(name) for name in ("a", "b", "c", "d")]
    pull(*images)
    used = store.used_storage()
    store.set_max_storage(used)

    reclaimed = store.collect(EvictionPolicy(0.9, 0.5, timedelta(0)))

    assert evicted_names(reclaimed.images) == ["a", "b"]
    assert {each.reason for each in reclaimed.images} == {"space"}
    assert reclaimed.blob_bytes == images[0].size + images[1].size
    assert store.used_storage() <= used // 2


def test_what_was_used_within_the_minimum_age_stays(store, make, pull, clock):
    images = [make(name) for name in ("a", "b", "c")]
    pull(*images)  # three, two and one hour ago
    store.set_max_storage(store.used_storage())

    reclaimed = store.collect(EvictionPolicy(0.0, 0.0, minimum_age=timedelta(hours=2)))

    assert evicted_names(reclaimed.images) == ["a", "b"]
    assert names(store) == ["c"]


def test_what_was_not_used_for_the_maximum_age_goes_whatever_is_free(store, make, pull, clock):
    images = [make(name) for name in ("a", "b", "c")]
    pull(*images)
    store.pin_image(images[0].reference)

    reclaimed = store.collect(EvictionPolicy(1.0, 1.0, maximum_age=timedelta(hours=2)))

    assert evicted_names(reclaimed.images) == ["b"]
    assert {each.reason for each in reclaimed.images} == {"age"}


def test_a_dry_run_says_what_the_real_run_then_does(store, make, pull, root, registry):
    images = [make("a", "base", "a"), make("b", "base", "b"), make("c"), make("d")]
    broken = make("broken", kilobytes=200)
    pull(*images)
    registry.inject("*/blobs/*", faults.reset())
    registry.inject(f"*/blobs/{broken.layers[0].digest}", faults.truncate(100 * KB), times=1)
    with pytest.raises(RegistryUnavailable):
        store.pull_image(broken.reference)
    registry.heal()
    store.set_max_storage(store.used_storage())
    policy = EvictionPolicy(0.5, 0.4, timedelta(0), maximum_age=timedelta(hours=4))
    before = snapshot(root)

    said = store.collect(policy, dry_run=True)
    assert snapshot(root) == before
    done = store.collect(policy)

    assert said == done
    assert evicted_names(done.images) == ["a", "b", "c"]
    assert done.partial_count == 1
    assert names(store) == ["d"]
    assert set(files_of(root, "blobs", "ingest", "trash")) == {
        f"blobs/sha256/{each.digest.encoded}" for each in images[3].blobs
    }


def test_collecting_without_a_policy_takes_no_image(store, make, pull):
    pull(make("a"))
    store.set_max_storage(0)

    assert store.collect().images == ()

    assert names(store) == ["a"]
    store.set_max_storage(1 << 30)


# ---------------------------------------------------------------------- the limit lowered


def test_lowering_the_limit_with_eviction_goes_as_far_as_it_can(store, make, pull):
    images = [make(name) for name in ("a", "b", "c")]
    pull(*images)
    store.pin_image(images[1].reference)
    limit = images[1].size + images[2].size

    evicted = store.set_max_storage(limit, evict=True)

    assert evicted_names(evicted) == ["a"]
    assert {each.reason for each in evicted} == {"limit"}
    assert names(store) == ["b", "c"]
    assert store.usage().max_bytes == limit


def test_an_image_that_would_go_for_nothing_stays(open_store, registry, clock):
    """
    All that *inner* has lives on in a pinned image: there is nothing to gain.
    """
    store = open_store(clock=clock)
    inner = ImageBuilder(registry, "inner").artifact("application/x.a").raw_layer(b"x" * 10 * KB).push("1")
    outer = (
        ImageBuilder(registry, "outer")
        .artifact("application/x.a")
        .raw_layer(b"x" * 10 * KB)
        .raw_layer(inner.manifest.raw)
        .push("1")
    )
    for each in (inner, outer):
        store.pull_image(each.reference)
    store.pin_image(outer.reference)
    clock.advance(hours=1)

    assert store.set_max_storage(0, evict=True) == []
    assert store.collect(EVERYTHING).images == ()

    assert names(store) == ["inner", "outer"]
    store.set_max_storage(1 << 30)


# ---------------------------------------------------------------------- the clock


def test_a_use_is_noted_and_survives_a_restart(open_store, make, clock):
    store = open_store(clock=clock)
    image = make("a")
    store.pull_image(image.reference)
    pulled_at = clock.now
    clock.advance(days=3)

    used = store.pull_image(image.reference)
    store.close()

    assert used.last_used_at == clock.now
    again = open_store(clock=clock).image_status(image.reference)
    assert (again.pulled_at, again.last_used_at) == (pulled_at, clock.now)


def test_a_use_within_a_minute_of_the_last_is_not_written(store, make, clock, root):
    image = make("a")
    store.pull_image(image.reference)
    first = clock.now
    clock.advance(seconds=59)
    before = snapshot(root)

    assert store.pull_image(image.reference).last_used_at == first

    assert snapshot(root) == before


_USES = """
import sys
from datetime import UTC, datetime, timedelta
from ullage import ImageService, RegistryClient
now = datetime.now(UTC) + timedelta(days=1)
def clock():
    return now
with ImageService.open(sys.argv[1], clock=clock, registry=RegistryClient(plain_http=True)) as store:
    store.list_images()
    for number in range(20):
        now += timedelta(hours=1)
        sys.stderr.write("USES\\n")
        assert store.pull_image(sys.argv[2]).last_used_at == now
    sys.stderr.write("USED\\n")
    sys.stderr.flush()
"""


@pytest.mark.external
@pytest.mark.skipif(not shutil.which("strace"), reason="apt install strace")
def test_noting_a_use_costs_no_sync(open_store, make, root, tmp_path):
    image = make("a")
    open_store().pull_image(image.reference)
    calls = tmp_path / "calls"

    tracing = ["strace", "-f", "-qq", "-o", calls, "-e", "trace=fsync,fdatasync,sync_file_range,write,msync"]

    subprocess.run(
        [*tracing, sys.executable, "-c", _USES, root, image.reference],
        env=environment(),
        check=True,
        capture_output=True,
    )

    seen = calls.read_text()
    during = seen[seen.index("USES") : seen.index("USED")]
    assert during.count("USES") == 20
    assert "sync" not in during
    assert query(root, "PRAGMA integrity_check") == [("ok",)]
