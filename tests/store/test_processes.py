"""
Threads share a service, processes share a root, and either may die at any moment.
"""

from __future__ import annotations

import collections
import gc
import os
import subprocess
import sys
import threading
import warnings

import pytest

from support import registry as faults
from support.images import ImageBuilder, noise
from support.store import files_of, query, snapshot, usage
from support.worker import Worker, environment, run_python, workers
from ullage import (
    ImageNotFound,
    ImageService,
    PullCancelled,
    RegistryClient,
    SimulatedRegistry,
    StoreBusy,
    StoreError,
    StoreReadOnly,
)
from ullage.locks import FileLock


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"etc/a": b"a"}).push("1")


@pytest.fixture
def large(registry):
    return (
        ImageBuilder(registry, "large")
        .raw_layer(noise(300_000, "first"))
        .raw_layer(noise(400_000, "second"))
        .push("1")
    )


def family(registry, count):
    """
    Images that share two layers, each with one of its own.
    """
    return [
        ImageBuilder(registry, f"app{number}")
        .raw_layer(noise(80_000, "base"))
        .raw_layer(noise(120_000, "runtime"))
        .raw_layer(noise(20_000, f"own {number}"))
        .push("1")
        for number in range(count)
    ]


def fetched_more_than_once(registry):
    counted = collections.Counter(
        each.path for each in registry.requests if "/blobs/" in each.path and each.bytes_sent
    )
    return {path: count for path, count in counted.items() if count > 1}


# ---------------------------------------------------------------------- threads


def in_threads(*calls):
    """
    Results or exceptions, in the order of *calls*.
    """
    results = [None] * len(calls)

    def run(number, call):
        try:
            results[number] = call()
        except Exception as error:  # noqa: BLE001 -- the test looks at it
            results[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert not any(each.is_alive() for each in threads)
    return results


def test_threads_that_pull_one_image_pull_it_once(store, image, registry):
    results = in_threads(*[lambda: store.pull_image(image.reference)] * 8)

    assert len({each.id for each in results}) == 1
    assert fetched_more_than_once(registry) == {}
    assert store.used_storage() == image.size


def test_threads_that_pull_images_with_shared_layers_fetch_each_once(store, registry):
    images = family(registry, 6)

    results = in_threads(*(lambda image=image: store.pull_image(image.reference) for image in images))

    assert [each.image_id for each in results] == [each.image_id for each in images]
    assert fetched_more_than_once(registry) == {}
    assert store.used_storage() == sum({b.digest: b.size for i in images for b in i.blobs}.values())


def test_threads_that_pull_remove_and_list_at_once_leave_a_whole_store(store, registry):
    images = family(registry, 4)

    def churn(image):
        for _ in range(6):
            store.pull_image(image.reference)
            for each in store.list_images():
                store.image_status(each.id)
            store.remove_image(image.reference, missing_ok=True)
            store.collect()

    assert in_threads(*(lambda image=image: churn(image) for image in images)) == [None] * 4
    assert store.usage().used_bytes == 0


def test_two_pulls_that_wait_for_each_others_layers_both_end(store, registry):
    """
    Each fetches first what the other needs: what one has is given to the other before it waits itself.
    """
    one, two = noise(50_000, "one"), noise(60_000, "two")
    first = ImageBuilder(registry, "first").raw_layer(one).raw_layer(two).push("1")
    second = ImageBuilder(registry, "second").raw_layer(two).raw_layer(one).push("1")

    results = in_threads(
        lambda: store.pull_image(first.reference), lambda: store.pull_image(second.reference)
    )

    assert [each.image_id for each in results] == [first.image_id, second.image_id]
    assert fetched_more_than_once(registry) == {}


def test_a_waiter_takes_over_what_a_cancelled_pull_had(store, large, registry, root, wait_until):
    layer = large.layers[1]
    stalled = registry.inject(f"*/blobs/{layer.digest}", faults.stall(200_000), times=1)
    cancel = threading.Event()

    def fetch():
        with pytest.raises(PullCancelled):
            store.pull_image(large.reference, cancel=cancel)

    fetcher = threading.Thread(target=fetch)
    fetcher.start()
    stalled.wait_reached()
    path = root / "ingest" / layer.digest.encoded
    wait_until(lambda: path.exists() and path.stat().st_size == 200_000)
    result = []
    waiter = threading.Thread(target=lambda: result.append(store.pull_image(large.reference)))
    waiter.start()
    wait_until(lambda: len(query(root, "SELECT 1 FROM leases")) == 2)

    cancel.set()
    fetcher.join(10)
    waiter.join(10)

    assert result[0].image_id == large.image_id
    asked = [each.range for each in registry.requests if each.path.endswith(layer.digest)]
    assert asked == ["", "bytes=200000-"]


def test_a_removal_during_a_pull_of_the_same_layers_loses_nothing(store, registry, root, wait_until):
    one, two = family(registry, 2)
    store.pull_image(one.reference)
    stalled = registry.inject(f"*/blobs/{two.layers[2].digest}", faults.stall(10))
    result = []
    pull = threading.Thread(target=lambda: result.append(store.pull_image(two.reference)))
    pull.start()
    stalled.wait_reached()

    store.remove_image(one.reference)
    store.collect()
    registry.heal()
    pull.join(10)

    assert result[0].image_id == two.image_id
    assert fetched_more_than_once(registry) == {}
    assert store.used_storage() == two.size


def test_a_thread_that_waits_too_long_for_its_turn_is_told_so(open_store, root):
    store = open_store(registry=SimulatedRegistry(), busy_timeout_seconds=0.2)
    gate = FileLock.try_acquire(root / "gate")

    try:
        results = in_threads(*[lambda: store.pull_image("nginx")] * 3)
    finally:
        gate.release()

    assert [type(each) for each in results] == [StoreBusy] * 3
    assert all(each.waited_seconds >= 0.2 for each in results)
    assert store.pull_image("nginx").id > 0


def test_a_reader_waits_for_no_writer(open_store, root):
    store = open_store(registry=SimulatedRegistry())
    store.pull_image("nginx")
    gate = FileLock.try_acquire(root / "gate")

    try:
        assert store.image_status("nginx") is not None
        assert store.usage().image_count == 1
        assert store.pull_image("nginx").id > 0
    finally:
        gate.release()


# ---------------------------------------------------------------------- processes


def test_processes_that_pull_images_with_shared_layers_fetch_each_once(open_store, registry, root):
    images = family(registry, 4)
    with workers(root, 4) as every:
        for worker, image in zip(every, images, strict=True):
            worker.send("pull_image", image.reference)
        pulled = [worker.answer() for worker in every]

    assert [each["image_id"] for each in pulled] == [each.image_id for each in images]
    assert fetched_more_than_once(registry) == {}
    assert registry.blob_bytes_sent == sum(
        {b.digest: b.size for i in images for b in (i.config, *i.layers)}.values()
    )
    assert open_store().image_count() == 4


def test_processes_that_pull_one_image_pull_it_once(open_store, image, registry, root):
    with workers(root, 3) as every:
        for worker in every:
            worker.send("pull_image", image.reference)
        pulled = {worker.answer()["id"] for worker in every}

    assert len(pulled) == 1
    assert fetched_more_than_once(registry) == {}
    assert open_store().image_count() == 1


def killed_at(root, registry, image, after):
    """
    A process that was killed when so many bytes of the last layer were on disk, and all others were there.
    """
    layer = image.layers[-1]
    stalled = registry.inject(f"*/blobs/{layer.digest}", faults.stall(after), times=1)
    worker = Worker(root)
    worker.ready()
    worker.send("pull_image", image.reference)
    stalled.wait_reached()
    return worker


def wait_for_bytes(wait_until, root, image, after):
    for blob in (image.config, *image.layers[:-1]):
        path = root / "ingest" / blob.digest.encoded
        wait_until(lambda path=path, blob=blob: path.exists() and path.stat().st_size == blob.size)
    path = root / "ingest" / image.layers[-1].digest.encoded
    wait_until(lambda: path.exists() and path.stat().st_size == after)


def test_a_waiter_takes_over_from_a_fetcher_that_was_killed(store, large, registry, root, wait_until):
    """
    One layer is whole and the other half here: the first is not asked for again, the second from the middle.
    """
    worker = killed_at(root, registry, large, 200_000)
    result = []
    waiter = threading.Thread(target=lambda: result.append(store.pull_image(large.reference)))
    with WorkerGone(worker):
        wait_for_bytes(wait_until, root, large, 200_000)
        waiter.start()
        wait_until(lambda: len(query(root, "SELECT 1 FROM leases")) == 2)
        registry.requests.clear()

        worker.kill()
        waiter.join(20)

    assert result[0].image_id == large.image_id
    asked = [
        (each.path.rpartition("/")[2], each.range) for each in registry.requests if "/blobs/" in each.path
    ]
    assert (large.layers[1].digest, "bytes=200000-") in asked
    assert large.layers[0].digest not in [digest for digest, _ in asked]


class WorkerGone:
    """
    The worker and its pipes are gone at the end of the block.
    """

    def __init__(self, worker):
        self.worker = worker

    def __enter__(self):
        return self.worker

    def __exit__(self, *_exception):
        self.worker.kill()
        self.worker.__exit__()


def test_reopening_after_a_kill_keeps_what_arrived_and_gives_back_the_rest(
    large, registry, root, wait_until, open_store
):
    with WorkerGone(killed_at(root, registry, large, 200_000)) as worker:
        wait_for_bytes(wait_until, root, large, 200_000)
        worker.kill()
    assert usage(root)["reserved_bytes"] == large.size

    store = open_store()

    assert query(root, "SELECT * FROM leases") == []
    assert files_of(root, "leases", "trash") == {}
    assert usage(root)["reserved_bytes"] == 500_000
    assert sorted(files_of(root, "ingest").values()) == [200_000, 300_000]
    registry.requests.clear()
    assert store.pull_image(large.reference).size == large.size
    asked = {each.path.rpartition("/")[2]: each.range for each in registry.requests if "/blobs/" in each.path}
    assert asked == {large.config.digest: "", large.layers[1].digest: "bytes=200000-"}


def test_an_open_store_recovers_from_a_kill_when_it_pulls_the_same(store, large, registry, root, wait_until):
    with WorkerGone(killed_at(root, registry, large, 200_000)) as worker:
        wait_for_bytes(wait_until, root, large, 200_000)
        worker.kill()

    assert store.pull_image(large.reference).size == large.size
    assert query(root, "SELECT * FROM leases") == []


def test_collection_ends_what_the_dead_had(store, large, registry, root, wait_until):
    with WorkerGone(killed_at(root, registry, large, 200_000)) as worker:
        wait_for_bytes(wait_until, root, large, 200_000)
        worker.kill()

    freed = store.collect()

    assert (freed.partial_count, freed.partial_bytes) == (2, 500_000)
    assert store.usage().reserved_bytes == 0
    assert files_of(root) == {}


def test_a_kill_is_survived_wherever_it_comes(root, registry, open_store, wait_until):
    """
    Not at chosen points but at many moments of a pull: the store is whole each time, and the image comes in the end.
    """
    images = family(registry, 6)
    for number, image in enumerate(images):
        worker = Worker(root)
        with WorkerGone(worker):
            worker.ready()
            blob = (image.config, *image.layers)[number % 4]
            seen = registry.inject(f"*/blobs/{blob.digest}", lambda hit: hit.reply(), times=1)
            worker.send("pull_image", image.reference)
            if blob.digest not in {each.path.rpartition("/")[2] for each in registry.requests}:
                seen.reached.wait(2)
            worker.kill()
        with open_store() as store:
            assert store.view("problems") == store.view("accounting_drift") == []
            assert query(root, "SELECT * FROM leases") == []
            assert store.pull_image(image.reference).image_id == image.image_id


# ---------------------------------------------------------------------- fork


def forked(code, *arguments):
    return run_python(_FORKING + code, *arguments)


_FORKING = """
import os, sys, threading, traceback
from ullage import ImageService, ImageInUse, RegistryClient, SimulatedRegistry
root, *arguments = sys.argv[1:]

def in_child(call):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def test_a_fork_with_an_open_service_works_in_parent_and_child(root, open_store):
    printed = forked(
        """
with ImageService.open(root, registry=SimulatedRegistry()) as store:
    store.pull_image("before")
    def work():
        assert store.image_status("before")
        store.pull_image("child")
        store.tag_image("child", "tagged-by-child")
    ended = in_child(work)
    store.pull_image("parent")
    assert ended() == 0
    store.pull_image("after")
    print(*(each.spec.image_name for each in store.list_images()))
""",
        root,
    )

    assert sorted(printed.split()) == ["after", "before", "child", "parent"]
    assert open_store().image_count() == 4


def test_a_child_may_close_the_service_and_the_parent_goes_on(root, open_store):
    forked(
        """
with ImageService.open(root, registry=SimulatedRegistry()) as store:
    store.pull_image("before")
    assert in_child(store.close)() == 0
    store.pull_image("after")
    assert len(store.list_images()) == 2
""",
        root,
    )

    assert open_store().image_count() == 2


def test_a_hold_is_the_parents_in_a_fork(root, open_store):
    """
    The child leaves the block and ends, the parent still holds; the parent leaves it, nobody holds.
    """
    forked(
        """
with ImageService.open(root, registry=SimulatedRegistry()) as store:
    store.pull_image("held")
    try:
        with store.hold("held"):
            child = os.fork()
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                try:
                    store.remove_image("held")
                except ImageInUse:
                    pass
                else:
                    raise AssertionError("the child gave up its parent's hold")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    if not child:
        os._exit(0)
    store.remove_image("held")
""",
        root,
    )

    assert open_store().image_count() == 0


def test_a_child_that_lives_on_does_not_keep_its_dead_parents_lease(root, open_store):
    """
    The child waits for the end of its input; the parent is killed in the middle of its hold.
    """
    code = """
with ImageService.open(root, registry=SimulatedRegistry()) as store:
    store.pull_image("held")
    with store.hold("held"):
        if not os.fork():
            os.close(1)
            os.read(int(arguments[0]), 1)
            os._exit(0)
        os.kill(os.getpid(), 9)
"""
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    try:
        with pytest.raises(AssertionError):
            run_with_descriptor(_FORKING + code, reading, root, reading)
        store = open_store()
        store.remove_image("held")
        assert store.image_count() == 0
    finally:
        os.close(writing)
        os.close(reading)


def run_with_descriptor(code, descriptor, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(),
        pass_fds=[descriptor],
        timeout=30,
        check=False,
    )
    assert done.returncode == 0


def test_a_fork_while_a_thread_waits_for_the_gate_keeps_no_lock(root, open_store):
    """
    The child's copy of a descriptor that gets the lock later would hold it for as long as the child lives.
    """
    forked(
        """
from ullage.database import Database
from ullage.locks import FileLock
from pathlib import Path
gate = Path(root) / "gate"
held = FileLock.try_acquire(gate)
got = []
waiter = threading.Thread(target=lambda: got.append(FileLock.acquire(gate, timeout_seconds=10)))
waiter.start()
while not any(t.name.startswith("ullage-wait") for t in threading.enumerate()):
    pass
reading, writing = os.pipe()
in_child_ended = in_child(lambda: (os.close(writing), os.read(reading, 1)))
held.release()
waiter.join()
lock = got[0]
# As if the parent died: its descriptor goes, without a word to the lock.
os.close(lock._descriptor)
lock._descriptor = -1
free = FileLock.acquire(gate, timeout_seconds=2)
os.close(writing)
assert in_child_ended() == 0
assert free is not None, "the child keeps the lock"
free.release()
""",
        root,
    )


def test_a_fork_in_the_middle_of_a_pull_hinders_nobody(root, open_store, registry):
    image = ImageBuilder(registry, "app").raw_layer(noise(50_000)).push("1")
    forked(
        """
children = []
def fork_once(event):
    if not children:
        children.append(in_child(lambda: None))
with ImageService.open(root, registry=RegistryClient(plain_http=True)) as store:
    store.pull_image(arguments[0], on_progress=fork_once)
    assert children[0]() == 0
""",
        root,
        image.reference,
    )

    assert open_store().used_storage() == image.size


def test_a_child_pulls_with_connections_of_its_own(root, open_store, registry):
    images = family(registry, 2)
    forked(
        """
with ImageService.open(root, registry=RegistryClient(plain_http=True)) as store:
    store.pull_image(arguments[0])
    assert in_child(lambda: store.pull_image(arguments[1]))() == 0
    store.remove_image(arguments[0])
    store.pull_image(arguments[0])
""",
        root,
        *(each.reference for each in images),
    )

    assert open_store().image_count() == 2


# ---------------------------------------------------------------------- the life of a service


def test_a_service_is_a_context_manager(root):
    with ImageService.open(root, registry=SimulatedRegistry()) as store:
        store.pull_image("nginx")
    with ImageService.open(root, registry=SimulatedRegistry()) as store:
        assert store.image_count() == 1


def test_closing_twice_is_closing(root):
    store = ImageService.open(root)

    store.close()
    store.close()


def test_a_service_that_is_closed_does_nothing_more(root):
    store = ImageService.open(root, registry=SimulatedRegistry())
    store.pull_image("nginx")
    store.close()

    for verb in (store.list_images, store.usage, lambda: store.pull_image("redis"), store.collect):
        with pytest.raises(StoreError, match="closed"):
            verb()


def test_a_forgotten_service_warns(root):
    store = ImageService.open(root)

    with pytest.warns(ResourceWarning, match="unclosed <ImageService"):
        del store


def test_a_closed_service_does_not_warn(root):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = ImageService.open(root)
        store.close()
        del store
        gc.collect()

    assert [str(each.message) for each in caught if "ImageService" in str(each.message)] == []


def test_a_store_that_was_opened_to_look_sees_everything_and_changes_nothing(open_store, image, root):
    with open_store() as store:
        pulled = store.pull_image(image.reference)
    before = snapshot(root)
    looking = open_store(read_only=True)

    assert looking.list_images() == [pulled]
    assert looking.image_status(image.reference) == pulled
    assert looking.pull_image(image.reference) == pulled
    assert looking.manifest(image.reference).digest == image.manifest.digest
    assert looking.usage().used_bytes == image.size
    for verb in (
        lambda: looking.remove_image(pulled),
        lambda: looking.tag_image(pulled, "mine:1"),
        lambda: looking.untag_image(image.reference),
        lambda: looking.pin_image(pulled),
        lambda: looking.set_max_storage(1),
        lambda: looking.register_image("elsewhere:1", size=1),
        looking.collect,
    ):
        with pytest.raises(StoreReadOnly):
            verb()
    assert snapshot(root) == before


def test_a_store_that_was_opened_to_look_sees_what_others_do(open_store, root):
    looking = open_store(read_only=True)
    with Worker(root) as worker:
        worker.call("register_image", "elsewhere:1", size=10)

        assert looking.image_status("elsewhere:1").size == 10


def test_two_services_of_one_process_share_a_root(open_store, image):
    one, two = open_store(), open_store()

    one.pull_image(image.reference)
    assert two.image_status(image.reference).size == image.size
    two.remove_image(image.reference)

    assert one.list_images() == []
    one.close()
    with pytest.raises(ImageNotFound):
        two.remove_image(image.reference)


def test_a_root_may_have_any_name(tmp_path):
    root = tmp_path / "a root?with=what&is#special%20 'and' \"odd\" é"

    with ImageService.open(root, registry=SimulatedRegistry()) as store:
        store.pull_image("nginx")

    assert (root / "ullage.db").exists()
    assert usage(root)["image_count"] == 1


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ImageService.open("root", registry=SimulatedRegistry()) as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.pull_image("nginx")

    assert usage(tmp_path / "root")["image_count"] == 1


def test_a_client_of_the_hosts_is_closed_with_the_service(root, image):
    client = RegistryClient(plain_http=True)
    ImageService.open(root, registry=client).close()

    with ImageService.open(root, registry=client) as store, pytest.raises(PullCancelled):
        store.pull_image(image.reference)
