"""
The storage limit: what is refused, what is admitted, and what gives way, to the byte.
"""

from __future__ import annotations

import threading

import pytest

from support import registry as faults
from support.images import ImageBuilder, noise
from support.store import files_of, snapshot, usage
from support.worker import Refused, Worker, workers
from ullage import (
    ImageService,
    PullCancelled,
    SimulatedRegistry,
    StorageLimitExceeded,
    UnsupportedContent,
)


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"etc/a": b"a"}).layer({"etc/b": b"b"}).push("1")


@pytest.fixture
def other(registry):
    return ImageBuilder(registry, "other").layer({"etc/other": b"other"}).push("1")


def test_an_image_that_exactly_fits_is_admitted(store, image):
    store.set_max_storage(image.size)

    store.pull_image(image.reference)

    assert store.used_storage() == image.size
    assert store.available_storage() == 0


def test_an_image_that_lacks_one_byte_is_refused_with_the_numbers(store, image, other, root, registry):
    store.pull_image(other.reference)
    store.set_max_storage(other.size + image.size - 1)
    before = snapshot(root)
    registry.requests.clear()

    with pytest.raises(StorageLimitExceeded) as raised:
        store.pull_image(image.reference)

    error = raised.value
    assert (error.needed_bytes, error.available_bytes) == (image.size, image.size - 1)
    assert (error.max_bytes, error.used_bytes) == (other.size + image.size - 1, other.size)
    assert (error.reserved_bytes, error.reclaimable_bytes) == (0, 0)
    assert str(error).startswith("storage limit exceeded")
    assert registry.count("GET", "*/blobs/*") == 0
    assert snapshot(root) == before


def test_what_is_here_already_is_not_charged_again(store, registry):
    base = {"base": b"base" * 500}
    one = ImageBuilder(registry, "one").layer(base).push("1")
    two = ImageBuilder(registry, "two").layer(base).layer({"two": b"2"}).push("1")
    lacks = two.size - two.layers[0].size
    store.pull_image(one.reference)
    store.set_max_storage(one.size + lacks - 1)

    with pytest.raises(StorageLimitExceeded) as raised:
        store.pull_image(two.reference)
    assert raised.value.needed_bytes == lacks
    store.set_max_storage(one.size + lacks)
    store.pull_image(two.reference)

    assert store.available_storage() == 0


def test_another_tag_of_an_image_that_is_here_fits_under_any_limit(store, registry):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1", "2")
    store.pull_image(image.reference)
    store.set_max_storage(image.size)

    assert len(store.pull_image(f"{image.name}:2").repo_tags) == 2


def test_a_limit_of_nothing_admits_nothing(store, image):
    store.set_max_storage(0)

    with pytest.raises(StorageLimitExceeded):
        store.pull_image(image.reference)


def test_the_limit_is_the_stores_and_survives_it(open_store, image):
    open_store(max_storage=image.size - 1).close()

    again = open_store()

    assert again.usage().max_bytes == image.size - 1
    with pytest.raises(StorageLimitExceeded):
        again.pull_image(image.reference)


def test_a_new_store_gets_the_limit_that_it_is_opened_with(tmp_path):
    with ImageService.open(tmp_path / "new", max_storage=12345) as store:
        assert store.usage().max_bytes == 12345


# ---------------------------------------------------------------------- two pulls and room for one


def outcome(worker):
    """
    The image id, or the name of the exception.
    """
    try:
        return worker.answer()["image_id"]
    except Refused as refused:
        return refused.kind


def test_of_two_processes_with_room_for_one_image_exactly_one_wins(open_store, registry, root):
    """
    Again and again, each time with two new images of one size, both processes at work at once.
    """
    rounds = [
        [
            ImageBuilder(registry, f"app{number}").raw_layer(noise(4000, f"{number}{side}")).push(side)
            for side in "ab"
        ]
        for number in range(15)
    ]
    wins = []
    with workers(root, 2) as pair, open_store() as store:
        for images in rounds:
            assert images[0].size == images[1].size
            store.set_max_storage(images[0].size + images[0].manifest.size)
            for worker, image in zip(pair, images, strict=True):
                worker.send("pull_image", image.reference)
            outcomes = [outcome(worker) for worker in pair]

            (here,) = store.list_images()
            winner = here.image_id
            assert sorted(outcomes) == sorted(["StorageLimitExceeded", winner])
            assert store.used_storage() == images[0].size
            assert store.usage().reserved_bytes == 0
            store.remove_image(here)
            wins.append(outcomes.index(winner))

    assert len(wins) == len(rounds)


def test_of_many_threads_with_room_for_two_images_exactly_two_win(store, registry):
    images = [
        ImageBuilder(registry, f"app{number}").raw_layer(noise(4000, str(number))).push("1")
        for number in range(6)
    ]
    size = images[0].size
    assert {each.size for each in images} == {size}
    store.set_max_storage(2 * size + size // 2)
    won, lost = [], []

    def pull(image):
        try:
            won.append(store.pull_image(image.reference).image_id)
        except StorageLimitExceeded:
            lost.append(image)

    threads = [threading.Thread(target=pull, args=(each,)) for each in images]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert (len(won), len(lost)) == (2, 4)
    assert store.used_storage() == 2 * size


# ---------------------------------------------------------------------- reservations


@pytest.fixture
def stalled(store, registry, image):
    """
    A pull of ``image`` in another thread that stalls in its last layer, until ``finish`` is called.
    """
    fault = registry.inject(f"*/blobs/{image.layers[-1].digest}", faults.stall(10))
    result = []
    cancel = threading.Event()

    def pull():
        try:
            result.append(store.pull_image(image.reference, cancel=cancel))
        except Exception as error:  # noqa: BLE001 -- the test looks at it
            result.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    fault.wait_reached()

    class Stalled:
        def finish(self):
            registry.heal()
            thread.join(10)
            return result[0]

        def cancel(self):
            cancel.set()
            thread.join(10)
            return result[0]

    pull = Stalled()
    yield pull
    pull.finish()


def test_a_reservation_is_seen_by_other_processes_while_a_pull_stalls(stalled, image, root):
    with Worker(root) as worker:
        seen = worker.call("usage")

    assert seen["used_bytes"] + seen["reserved_bytes"] == image.size
    assert seen["reserved_bytes"] >= image.layers[-1].size
    assert stalled.finish().size == image.size


def test_a_reservation_holds_room_against_another_process(stalled, image, other, root, store):
    store.set_max_storage(image.size + other.size - 1)

    with Worker(root) as worker, pytest.raises(Refused) as raised:
        worker.call("pull_image", other.reference)

    assert raised.value.kind == "StorageLimitExceeded"
    assert raised.value.facts["reserved_bytes"] == image.size
    assert raised.value.facts["available_bytes"] == other.size - 1
    assert stalled.finish().size == image.size


def test_a_reservation_goes_with_a_pull_that_is_cancelled(stalled, image, other, store):
    store.set_max_storage(image.size)
    with pytest.raises(StorageLimitExceeded):
        store.pull_image(other.reference)

    assert isinstance(stalled.cancel(), PullCancelled)

    assert store.usage().reserved_bytes == 0
    store.pull_image(other.reference)


def test_a_reservation_of_a_dead_process_gives_way(open_store, image, other, registry, root):
    store = open_store(max_storage=max(image.size, other.size))
    fault = registry.inject(f"*/blobs/{image.layers[-1].digest}", faults.stall(10))
    with Worker(root) as worker:
        worker.send("pull_image", image.reference)
        fault.wait_reached()
        with pytest.raises(StorageLimitExceeded):
            store.pull_image(other.reference)
        worker.kill()

    assert store.pull_image(other.reference).size == other.size


def test_a_limit_that_is_lowered_below_use_fails_no_pull_that_was_admitted(
    stalled, image, other, store, open_store
):
    open_store.limit_was_lowered = True
    store.set_max_storage(1)

    assert stalled.finish().size == image.size

    assert store.used_storage() == image.size
    assert store.available_storage() == 0
    with pytest.raises(StorageLimitExceeded) as raised:
        store.pull_image(other.reference)
    assert (raised.value.available_bytes, raised.value.max_bytes) == (0, 1)
    assert store.image_count() == 1


# ---------------------------------------------------------------------- partial blobs give way


@pytest.fixture
def partial(store, registry, root, wait_until):
    """
    200,000 bytes of a layer of 400,000: charged, resumable, and nobody's.
    """
    image = ImageBuilder(registry, "large").raw_layer(noise(400_000)).push("1")
    layer = image.layers[0]
    registry.inject(f"*/blobs/{layer.digest}", faults.stall(200_000))
    cancel = threading.Event()
    path = root / "ingest" / layer.digest.encoded

    def when_they_are_here():
        wait_until(lambda: path.exists() and path.stat().st_size == 200_000)
        cancel.set()

    thread = threading.Thread(target=when_they_are_here)
    thread.start()
    with pytest.raises(PullCancelled):
        store.pull_image(image.reference, cancel=cancel)
    thread.join()
    registry.heal()
    registry.requests.clear()
    assert usage(root)["reserved_bytes"] == 200_000
    return image


def test_partial_blobs_stay_while_there_is_room(partial, image, store):
    store.set_max_storage(200_000 + image.size)

    store.pull_image(image.reference)

    assert store.usage().reserved_bytes == 200_000
    assert store.available_storage() == 0


def test_partial_blobs_give_way_when_room_is_needed(partial, image, store, root):
    store.set_max_storage(200_000 + image.size - 1)

    store.pull_image(image.reference)

    assert store.usage().reserved_bytes == 0
    assert files_of(root, "ingest", "trash") == {}


def test_a_registered_image_that_is_refused_all_the_same_costs_no_partial_blob(partial, store, root):
    store.set_max_storage(200_000)
    before = snapshot(root)

    with pytest.raises(StorageLimitExceeded) as raised:
        store.register_image("huge:1", size=200_001)

    assert raised.value.needed_bytes == 200_001
    assert snapshot(root) == before


def test_a_pull_that_is_refused_all_the_same_loses_no_partial_blob(partial, store, registry, root):
    """
    What is given up for nothing would be a file that a row still speaks of.
    """
    huge = ImageBuilder(registry, "huge").raw_layer(noise(300_000, "huge")).push("1")
    store.set_max_storage(250_000)
    before = snapshot(root)

    with pytest.raises(StorageLimitExceeded) as raised:
        store.pull_image(huge.reference)

    assert snapshot(root) == before
    error = raised.value
    assert error.needed_bytes == huge.size
    assert error.available_bytes + error.reclaimable_bytes == 250_000
    registry.requests.clear()
    store.set_max_storage(ImageService.DEFAULT_MAX_STORAGE)
    store.pull_image(partial.reference)
    asked = [each.range for each in registry.requests if each.path.endswith(partial.layers[0].digest)]
    assert asked == ["bytes=200000-"]


def test_resuming_a_partial_blob_needs_room_for_the_rest_alone(partial, store):
    store.set_max_storage(partial.size)

    assert store.pull_image(partial.reference).size == partial.size


def test_a_partial_blob_is_not_given_up_for_its_own_image(partial, store, registry):
    store.set_max_storage(partial.size - 1)

    with pytest.raises(StorageLimitExceeded) as raised:
        store.pull_image(partial.reference)

    assert raised.value.needed_bytes == partial.size - 200_000
    assert raised.value.available_bytes == partial.size - 1 - 200_000
    assert store.usage().reserved_bytes == 200_000


def test_partial_blobs_give_way_to_a_registered_image(partial, store, root):
    store.set_max_storage(250_000)

    store.register_image("elsewhere:1", size=100_000)

    assert store.usage().reserved_bytes == 0
    assert files_of(root, "ingest", "trash") == {}


# ---------------------------------------------------------------------- registered images


def test_a_registered_image_is_charged_and_has_no_file(store, root):
    status = store.register_image("elsewhere:1", size=1000, platform="linux/x86_64")

    assert (status.size, status.platform) == (1000, "linux/amd64")
    assert status.repo_tags == ("docker.io/library/elsewhere:1",)
    assert store.usage().registered_bytes == store.used_storage() == 1000
    assert files_of(root) == {}
    store.remove_image(status)
    assert store.used_storage() == 0


def test_a_registered_image_exactly_fits_or_not_at_all(store):
    store.set_max_storage(1000)

    with pytest.raises(StorageLimitExceeded) as raised:
        store.register_image("elsewhere:1", size=1001)
    assert (raised.value.needed_bytes, raised.value.available_bytes) == (1001, 1000)
    store.register_image("elsewhere:1", size=1000)

    assert store.available_storage() == 0


def test_a_known_reference_is_registered_once(store):
    first = store.register_image("elsewhere:1", size=1000)

    assert store.register_image("elsewhere:1", size=2000) == first
    assert store.used_storage() == 1000


def test_one_digest_under_two_names_is_one_registered_image(store):
    digest = "sha256:" + "d" * 64

    first = store.register_image("elsewhere:1", size=1000, digest=digest)
    second = store.register_image("elsewhere:2", size=1000, digest=digest)

    assert first.id == second.id
    assert len(second.repo_tags) == 2
    assert second.repo_digests == (f"docker.io/library/elsewhere@{digest}",)
    assert store.used_storage() == 1000


def test_registered_images_leave_less_for_pulls(store, image):
    store.register_image("elsewhere:1", size=1000)
    store.set_max_storage(1000 + image.size - 1)

    with pytest.raises(StorageLimitExceeded):
        store.pull_image(image.reference)


@pytest.mark.parametrize("size", [-1, 2**50 + 1, 2**64])
def test_an_absurd_size_is_a_mistake_of_the_program(size, store):
    with pytest.raises(ValueError, match="size"):
        store.register_image("elsewhere:1", size=size)


def test_sha384_names_no_registered_image(store):
    sha384 = "sha384:" + "0" * 96

    with pytest.raises(UnsupportedContent):
        store.register_image("elsewhere:1", size=1, digest=sha384)
    with pytest.raises(UnsupportedContent):
        store.register_image(f"elsewhere@{sha384}", size=1)


def test_two_processes_register_with_room_for_one(open_store, root):
    with workers(root, 2) as pair, open_store(registry=SimulatedRegistry(), max_storage=1500) as store:
        for number in range(20):
            for side, worker in zip("ab", pair, strict=True):
                worker.send("register_image", f"app{number}:{side}", size=1000)
            outcomes = [outcome(worker) for worker in pair]

            (here,) = store.list_images()
            assert sorted(outcomes) == sorted(["StorageLimitExceeded", here.image_id])
            store.remove_image(here)
