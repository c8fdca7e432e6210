"""
What happened is on record: when, by whom, what came from where. In the transaction in which it happened, whoever did
it, and no longer than it must be.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from support.archives import Layout, built
from support.images import ImageBuilder, noise, push_index
from support.registry import FaultRegistry, reset, status, truncate
from support.store import query
from ullage import (
    AuthConfig,
    AuthenticationFailed,
    ContentError,
    EvictionPolicy,
    ImageError,
    ImageNotFound,
    InvalidReference,
    ManifestUnknown,
    PullCancelled,
    PullPolicy,
    RegistryClient,
    RegistryUnavailable,
    SimulatedRegistry,
    StorageLimitExceeded,
    StoreReadOnly,
)
from ullage.digest import digest_of
from ullage.locks import FileLock

EVENTS = "SELECT event FROM history ORDER BY id"


def events(root):
    return [event for (event,) in query(root, EVENTS)]


def app(registry, tag="1", *, seed="", size=1000):
    return ImageBuilder(registry, "app").noise_layer(size, seed).push(tag)


@pytest.fixture
def image(registry):
    return app(registry)


# ---------------------------------------------------------------------- what is on record


def test_a_pull_is_on_record_with_its_bytes_and_the_host_that_they_came_from(store, registry, image):
    before = datetime.now(UTC)

    status = store.pull_image(image.reference)

    (entry,) = store.history()
    assert (entry.event, entry.reference, entry.image_id) == ("pulled", image.reference, status.image_id)
    assert entry.received_bytes == sum(blob.size for blob in image.blobs)
    assert entry.hosts == (registry.host,)
    assert entry.pid == os.getpid()
    assert entry.owner.startswith(socket.gethostname())
    assert before <= entry.at <= datetime.now(UTC)
    assert entry.previous_image_id is entry.freed_bytes is entry.detail is None


def test_a_pull_of_a_known_name_writes_nothing(store, root, image):
    store.pull_image(image.reference)

    store.pull_image(image.reference)
    store.pull_image(image.reference, policy=PullPolicy.ALWAYS)

    assert events(root) == ["pulled"]


def test_a_pull_that_shares_layers_received_only_the_rest(store, registry):
    first = ImageBuilder(registry, "app").noise_layer(50_000).push("1")
    second = ImageBuilder(registry, "app").noise_layer(50_000).noise_layer(700, "more").push("2")
    store.pull_image(first.reference)

    store.pull_image(second.reference)

    shared = {blob.digest for blob in first.blobs}
    came = sum(blob.size for blob in second.blobs if blob.digest not in shared)
    assert store.history(limit=1)[0].received_bytes == came


def test_a_pull_that_goes_on_received_only_what_it_received(store, registry):
    image = ImageBuilder(registry, "app").noise_layer(400_000).push("1")
    (layer,) = image.layers
    registry.inject(f"*/blobs/{layer.digest}", reset(), times=100)
    registry.inject(f"*/blobs/{layer.digest}", truncate(after=300_000), times=1)
    with pytest.raises(RegistryUnavailable):
        store.pull_image(image.reference)
    registry.heal()
    ((here,),) = query(store._files.root, "SELECT received_bytes FROM ingests")

    store.pull_image(image.reference)

    entry, failed = store.history()
    assert (failed.event, failed.received_bytes) == ("failed", None)
    assert entry.received_bytes == image.size - here
    assert here >= 300_000


def test_what_is_imported_came_over_no_network(store, registry, tmp_path):
    image = ImageBuilder(registry, "app").noise_layer(1000).push("1")
    layout = tmp_path / "layout"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    for blob in image.blobs:
        (layout / "blobs" / "sha256" / blob.digest.encoded).write_bytes(blob.raw)
    named = image.manifest.descriptor | {"annotations": {"org.opencontainers.image.ref.name": "mine:1"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    store.import_images(layout)

    (entry,) = store.history()
    assert (entry.event, entry.reference) == ("imported", "docker.io/library/mine:1")
    assert entry.received_bytes is None
    assert entry.hosts == ()
    assert store.sources("mine:1") == {}


def test_every_platform_of_an_index_has_its_line(store, registry):
    builders = [
        ImageBuilder(registry, "multi", platform=each).noise_layer(100, each)
        for each in ("linux/amd64", "linux/s390x")
    ]
    images = push_index(registry, "multi", builders, "1")

    store.pull_image(images[0].reference, platform="all")

    asked, beside = store.history()
    assert {asked.image_id, beside.image_id} == {image.image_id for image in images}
    assert asked.reference == images[0].reference
    assert asked.received_bytes == store.usage().used_bytes
    assert beside.received_bytes is None
    assert beside.detail == f"with {images[0].reference}"


def test_another_tag_of_what_is_here_is_a_pull_of_its_manifest_alone(store, registry):
    image = ImageBuilder(registry, "app").noise_layer(1000).push("1", "2")
    store.pull_image(f"{registry.host}/app:1")

    store.pull_image(f"{registry.host}/app:2")

    entry = store.history(limit=1)[0]
    assert (entry.event, entry.received_bytes) == ("pulled", image.manifest.size)
    assert entry.reference == f"{registry.host}/app:2"


def test_a_tag_that_moved_says_where_it_was(store, registry, image):
    first = store.pull_image(image.reference)
    app(registry, seed="new")

    second = store.pull_image(image.reference, policy=PullPolicy.ALWAYS)

    pulled, moved, before = store.history(image.reference)
    assert (moved.event, moved.image_id, moved.previous_image_id) == (
        "moved",
        second.image_id,
        first.image_id,
    )
    assert (pulled.event, pulled.image_id) == ("pulled", second.image_id)
    assert (before.event, before.image_id) == ("pulled", first.image_id)
    assert pulled.at == moved.at


def test_what_is_done_to_names_and_images_is_on_record(store, root, image):
    status = store.pull_image(image.reference)
    store.tag_image(image.reference, "mine:1")
    store.tag_image(image.reference, "mine:1")  # it has it
    store.untag_image("mine:1")
    store.register_image("elsewhere:1", size=10)
    store.tag_image("elsewhere:1", "mine:2")
    store.tag_image(image.reference, "mine:2", move=True)
    store.remove_image(status)

    assert events(root) == ["pulled", "tagged", "untagged", "registered", "tagged", "moved", "removed"]
    removed = store.history(limit=1)[0]
    assert removed.reference.split(" ") == [image.reference, "docker.io/library/mine:2"]
    assert removed.freed_bytes == image.size
    assert {entry.pid for entry in store.history()} == {os.getpid()}
    assert query(root, "SELECT * FROM acting") == []


def test_a_simulated_pull_is_registered_once(open_store, root):
    store = open_store(registry=SimulatedRegistry())

    store.pull_image("nginx")
    store.pull_image("nginx")

    (entry,) = store.history()
    assert (entry.event, entry.reference) == ("registered", "docker.io/library/nginx:latest")


def test_an_eviction_says_why(store, registry):
    old, new = app(registry, "1", seed="old", size=30_000), app(registry, "2", seed="new", size=30_000)
    store.set_max_storage(old.size + 10_000)
    store.pull_image(old.reference)

    store.pull_image(new.reference, evict=True)
    store.collect(EvictionPolicy(maximum_age=timedelta(0), minimum_age=timedelta(0)))

    aged, pulled, evicted, _ = store.history()
    assert (evicted.event, evicted.detail, evicted.reference) == ("evicted", "pull", old.reference)
    assert evicted.freed_bytes == old.size
    assert (aged.event, aged.detail, aged.reference) == ("evicted", "age", new.reference)
    assert (pulled.event, pulled.reference) == ("pulled", new.reference)


def test_an_image_that_is_unpacked_into_trees_is_on_record_once(store, image):
    status = store.pull_image(image.reference)
    store.make_trees(image.reference)
    store.make_trees(image.reference)  # they are there

    unpacked, _ = store.history()
    assert (unpacked.event, unpacked.image_id, unpacked.pid) == ("unpacked", status.image_id, os.getpid())
    assert unpacked.owner.startswith(socket.gethostname())


def test_what_is_refused_or_only_rehearsed_leaves_no_line(store, root, image):
    store.set_max_storage(10)
    with pytest.raises(StorageLimitExceeded):
        store.register_image("elsewhere:1", size=11)
    with pytest.raises(ImageNotFound):
        store.untag_image("nothing:1")
    store.plan_pull(image.reference, evict=True)
    store.collect(EvictionPolicy(), dry_run=True)

    assert events(root) == []
    assert query(root, "SELECT * FROM acting") == []


def test_a_repair_says_what_was_fetched_again_and_from_where(store, root, registry, image):
    store.pull_image(image.reference)
    path = store._files.blob_path(image.layers[0].digest)
    path.chmod(0o644)
    path.write_bytes(noise(path.stat().st_size, "bad"))

    assert all(problem.repaired for problem in store.check(digests=True, repair=True))

    entry = store.history(limit=1)[0]
    assert (entry.event, entry.detail) == ("repaired", f"blob {image.layers[0].digest}")
    assert (entry.received_bytes, entry.hosts) == (image.layers[0].size, (registry.host,))


def test_a_repair_of_rows_is_on_record(store, root):
    query_ledger = "UPDATE store SET reserved_bytes = 7, ledger = ledger + 1"
    _typed(root, query_ledger)

    store.check(repair=True)

    assert [(each.event, each.detail) for each in store.history()] == [("repaired", "rows and counters")]


# ---------------------------------------------------------------------- by whom


def _typed(root, sql):
    """
    At the real shell, where there is one.
    """
    if shutil.which("sqlite3") is None:
        import sqlite3  # noqa: PLC0415 -- the next best thing
        from contextlib import closing  # noqa: PLC0415

        with closing(sqlite3.connect(root / "ullage.db", isolation_level=None)) as connection:
            connection.executescript(sql)
        return
    subprocess.run(["sqlite3", "-bail", root / "ullage.db", sql], check=True, capture_output=True)


def test_what_somebody_does_at_the_shell_is_on_record_as_that(store, root, image):
    store.pull_image(image.reference)

    _typed(root, "DELETE FROM images")

    removed, pulled = store.history()
    assert (removed.event, removed.owner, removed.pid) == ("removed", None, None)
    assert datetime.now(UTC) - removed.at < timedelta(minutes=1)
    assert pulled.owner is not None
    who = query(root, "SELECT who FROM history_listing WHERE event = 'removed'")
    assert who == [("sqlite3 shell",)]
    store.collect()


def test_a_row_that_somebody_left_in_acting_is_no_obstacle_and_does_not_stay(store, root, image):
    store.pull_image(image.reference)
    _typed(
        root,
        "INSERT INTO acting (at, event, owner, pid) VALUES ('2026-01-01T00:00:00.000000Z', 'pulled', 'him', 1)",
    )

    store.tag_image(image.reference, "mine:1")

    assert store.history(limit=1)[0].pid == os.getpid()
    assert store.history(limit=1)[0].event == "tagged"
    assert query(root, "SELECT * FROM acting") == []


# ---------------------------------------------------------------------- how it is asked


def test_history_of_a_name_is_that_of_the_name_and_of_what_it_denotes(store, registry, image):
    store.pull_image(image.reference)
    other = app(registry, "2", seed="other")
    store.pull_image(other.reference)
    store.tag_image(image.reference, "mine:1")

    assert [each.event for each in store.history("mine:1")] == ["tagged", "pulled"]
    assert [each.event for each in store.history(other.reference)] == ["pulled"]
    assert store.history("never:1") == []


def test_history_of_an_image_that_is_gone_is_found_by_the_beginning_of_its_id(store, image):
    status = store.pull_image(image.reference)
    store.remove_image(status)

    assert [each.event for each in store.history(status.image_id)] == ["removed", "pulled"]
    assert [each.event for each in store.history(status.image_id[7:19])] == ["removed", "pulled"]
    assert [each.event for each in store.history(image.reference)] == ["removed", "pulled"]
    with pytest.raises(ImageNotFound):
        store.history(status.id)


def test_history_by_time_and_number(open_store, image):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    store = open_store(registry=SimulatedRegistry(), clock=lambda: now)
    store.register_image("a:1", size=1)
    now += timedelta(hours=1)
    store.register_image("b:1", size=1)

    assert [each.reference for each in store.history()] == ["docker.io/library/b:1", "docker.io/library/a:1"]
    assert [each.at for each in store.history(since=now)] == [now]
    assert store.history(limit=0) == []
    assert len(store.history(limit=1)) == 1
    with pytest.raises(ValueError, match="limit"):
        store.history(limit=-1)
    with pytest.raises(InvalidReference):
        store.history("NO NAME")


def test_history_is_read_by_those_who_only_look(open_store, image):
    open_store().pull_image(image.reference)

    assert [each.event for each in open_store(read_only=True).history()] == ["pulled"]


# ---------------------------------------------------------------------- how long it is kept


def test_what_is_older_than_a_year_goes_as_new_lines_come(open_store, root):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    store = open_store(registry=SimulatedRegistry(), clock=lambda: now)
    for number in range(6):
        store.register_image(f"app{number}:1", size=1)
    now += timedelta(days=366)

    for number in range(3):
        store.tag_image("app1:1", f"tag{number}:1")

    assert len(store.history()) == 3, "two old ones went with each new one"
    assert {each.event for each in store.history()} == {"tagged"}


# ---------------------------------------------------------------------- where blobs came from


def test_each_blob_says_which_host_it_came_from(store, registry, image):
    with FaultRegistry() as second:
        other = ImageBuilder(second, "app").noise_layer(1000).noise_layer(500, "theirs").push("1")
        store.pull_image(image.reference)

        store.pull_image(other.reference)

    sources = store.sources(other.reference)
    shared = {blob.digest for blob in image.blobs} & {blob.digest for blob in other.blobs}
    assert shared
    assert sources == {
        blob.digest: registry.host if blob.digest in shared else second.host for blob in other.blobs
    }
    assert set(store.sources(image.reference).values()) == {registry.host}
    with pytest.raises(ImageNotFound):
        store.sources("nothing:1")
    rows = query(store._files.root, "SELECT host, bytes FROM image_sources WHERE id = 2")
    assert sum(size for _, size in rows) == other.size
    assert {host for host, _ in rows} == {registry.host, second.host}


def test_what_came_from_a_mirror_says_so(open_store, registry, tmp_path):
    with FaultRegistry() as mirror:
        image = ImageBuilder(registry, "app").noise_layer(1000).push("1")
        ImageBuilder(mirror, "app").noise_layer(1000).push("1")
        folder = tmp_path / "hosts" / registry.host
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(
            f'server = "http://{registry.host}"\n[host."http://{mirror.host}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        store = open_store(registry=RegistryClient(hosts_dir=tmp_path / "hosts", plain_http=True))

        store.pull_image(image.reference)

    assert set(store.sources(image.reference).values()) == {mirror.host}
    assert store.history()[0].hosts == (mirror.host,)
    assert store.history()[0].reference == image.reference


def test_indexes_have_their_source_too_and_a_registered_image_has_none(store, registry):
    builders = [
        ImageBuilder(registry, "multi", platform=each).noise_layer(100, each)
        for each in ("linux/amd64", "linux/s390x")
    ]
    image, _ = push_index(registry, "multi", builders, "1")
    store.pull_image(image.reference, platform="linux/amd64")
    store.register_image("elsewhere:1", size=1)

    assert set(store.sources(image.reference)) == {blob.digest for blob in image.blobs}
    assert store.sources("elsewhere:1") == {}


# ---------------------------------------------------------------------- what failed


def failures(store):
    return [
        (each.reference, each.detail.rpartition(": ")[0].split(": ")[:2])
        for each in store.history()
        if each.event == "failed"
    ]


def test_a_pull_that_failed_is_on_record_with_why_and_by_whom(store, registry, image):
    before = datetime.now(UTC)
    registry.inject("*/blobs/*", status(404, "BLOB_UNKNOWN"))

    with pytest.raises(ContentError) as raised:
        store.pull_image(image.reference)

    (entry,) = store.history()
    assert (entry.event, entry.reference, entry.image_id) == ("failed", image.reference, None)
    assert entry.detail == f"pull: ContentError: {raised.value.message}"
    assert entry.pid == os.getpid()
    assert entry.owner.startswith(socket.gethostname())
    assert before <= entry.at <= datetime.now(UTC)
    assert store.history("app:1") == []
    assert store.history(image.reference) == [entry]


def test_each_way_to_fail_is_told_by_its_name(store, open_store, registry, image, tmp_path):
    cancel = threading.Event()
    cancel.set()
    denied = f"{registry.host}/denied:1"
    registry.inject("/v2/denied/*", status(403, "DENIED"))

    for error, pull in (
        (PullCancelled, lambda: store.pull_image(image.reference, cancel=cancel)),
        (ManifestUnknown, lambda: store.pull_image(f"{registry.host}/app:none")),
        (AuthenticationFailed, lambda: store.pull_image(denied)),
        (StorageLimitExceeded, lambda: open_store(max_storage=1000).pull_image(image.reference)),
    ):
        with pytest.raises(error):
            pull()

    assert failures(store)[::-1] == [
        (image.reference, ["pull", "PullCancelled"]),
        (f"{registry.host}/app:none", ["pull", "ManifestUnknown"]),
        (denied, ["pull", "AccessDenied"]),
        (image.reference, ["pull", "StorageLimitExceeded"]),
    ]


def test_an_unpacking_and_an_import_that_failed_are_on_record(store, registry, tmp_path):
    wrong = ImageBuilder(registry, "app").raw_layer(b"no tar", diff_id=digest_of(b"other")).push("1")
    status = store.pull_image(wrong.reference)
    layout = Layout(tmp_path / "layout").add(built("broken", {"a": b"a"}, 300), "broken:1").write()
    for path in (tmp_path / "layout/blobs/sha256").iterdir():
        path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ImageError):
        store.make_trees(wrong.reference)
    with pytest.raises(ImageError):
        store.import_images(layout)

    found = [each for each in store.history() if each.event == "failed"]
    assert [each.detail.partition(":")[0] for each in found] == ["import", "unpack"]
    assert found[0].reference == "docker.io/library/broken:1"
    assert found[1].image_id == status.image_id
    assert found[1] in store.history(wrong.reference)


def test_who_asks_over_and_over_leaves_one_line_an_hour(open_store, registry, image):
    hours = iter([0, 0.5, 0.9, 1.1, 1.2])
    now = datetime.now(UTC)
    clock = [now]
    store = open_store(clock=lambda: clock[0])
    registry.inject("*", status(404))

    for each in hours:
        clock[0] = now + timedelta(hours=each)
        with pytest.raises(ManifestUnknown):
            store.pull_image(image.reference)
    registry.inject("*", status(403))
    with pytest.raises(AuthenticationFailed):
        store.pull_image(image.reference)

    assert [kind for _, (_, kind) in failures(store)] == [
        "AccessDenied",
        "ManifestUnknown",
        "ManifestUnknown",
    ]


def test_what_says_nothing_of_an_image_is_on_no_record(open_store, store, root, registry, image):
    """
    And a failure is the same when it cannot be recorded, at once.
    """
    with pytest.raises(ImageNotFound):
        store.pull_image(image.reference, policy=PullPolicy.NEVER)
    with pytest.raises(InvalidReference):
        store.pull_image("UPPER")
    with open_store(read_only=True) as reader, pytest.raises(StoreReadOnly):
        reader.pull_image(image.reference)
    assert store.history() == []

    registry.inject("*", status(404))
    gate = FileLock.acquire(root / "gate", timeout_seconds=5)
    started = time.monotonic()
    with pytest.raises(ManifestUnknown):
        store.pull_image(image.reference)
    assert time.monotonic() - started < 5
    gate.release()
    assert store.history() == []


def test_a_secret_is_not_in_the_record_of_a_failure(store, root):
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as registry:
        image = app(registry)
        with pytest.raises(AuthenticationFailed):
            store.pull_image(
                image.reference, auth=AuthConfig("alice", "looking-glass", server_address=registry.host)
            )

    ((kept,),) = query(root, "SELECT detail FROM history")
    assert kept.startswith("pull: AuthenticationFailed: ")
    assert "looking-glass" not in kept
