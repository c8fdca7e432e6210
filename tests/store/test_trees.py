"""
Trees: each layer unpacked once, charged while it grows, whole or not there, and gone with the last that names it.

Every store is checked to the byte when its test is over: trees on disk are those of the rows, as du counts them.
"""

from __future__ import annotations

import gzip
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from support import layers as entries
from support.images import ImageBuilder, gzip_of, noise
from support.registry import stall
from support.store import occupied, query, snapshot, trees_of, usage
from support.worker import Worker, workers
from ullage import (
    DigestMismatch,
    EvictionPolicy,
    ImageInUse,
    ImageNotFound,
    InvalidManifest,
    PullCancelled,
    PullPolicy,
    PullStatus,
    SimulatedRegistry,
    StorageLimitExceeded,
    UnsafeLayer,
    UnsupportedContent,
)
from ullage.digest import digest_of

#: What a person may do: an image that nobody holds loses its trees.
FORGET_TREES = "DELETE FROM manifest_trees"
BASE = {"etc/base": b"base\n", "usr/bin/tool": noise(20_000, "tool")}


def tar_layer(builder, *tar_entries):
    """
    A layer of entries that `support.layers` makes byte by byte.
    """
    tar = entries.tar(*tar_entries)
    return builder.raw_layer(gzip_of(tar), diff_id=digest_of(tar))


def typed(root, *script):
    """
    What a person types at the shell.
    """
    with closing(sqlite3.connect(root / "ullage.db", timeout=10.0)) as connection, connection:
        for sql in script:
            connection.execute(sql)


def stacked(root):
    """
    How many trees each manifest stacks on.
    """
    return query(root, "SELECT count(*) FROM manifest_trees GROUP BY manifest_id ORDER BY manifest_id")


@pytest.fixture
def base(registry):
    return ImageBuilder(registry, "base").layer(BASE).push("1")


@pytest.fixture
def app(registry):
    return ImageBuilder(registry, "app").layer(BASE).layer({"srv/app": noise(9_000, "app")}).push("1")


# ---------------------------------------------------------------------- making them


def test_a_pull_that_unpacks_has_each_layer_as_a_tree(store, root, app):
    steps = []

    pulled = store.pull_image(app.reference, unpack=True, on_progress=steps.append)

    lower, upper = (Path(each) for each in store.mount_spec(pulled).lowerdirs[::-1])
    assert (lower / "usr/bin/tool").read_bytes() == BASE["usr/bin/tool"]
    assert (upper / "srv/app").read_bytes() == noise(9_000, "app")
    assert not (upper / "usr").exists()
    assert lower.name == app.diff_ids[0].partition(":")[2], "the chain id of the lowest layer is its diff id"
    assert stacked(root) == [(2,)]
    said = [step.status for step in steps]
    assert (
        said.index(PullStatus.DOWNLOADING)
        < said.index(PullStatus.EXTRACTING)
        < said.index(PullStatus.COMPLETE)
    )
    figures = store.usage()
    assert (figures.tree_count, figures.used_bytes) == (2, figures.blob_bytes + figures.tree_bytes)
    assert store.image_storage(pulled)[0].exclusive_bytes == figures.used_bytes


def test_images_that_stack_on_one_layer_share_its_tree(store, root, base, app):
    store.pull_image(base.reference, unpack=True)
    store.pull_image(app.reference, unpack=True)

    frees = {each.image_id: each.exclusive_bytes for each in store.image_storage()}
    before = store.usage()
    assert before.tree_count == 2
    store.remove_image(app.reference)
    assert before.used_bytes - store.usage().used_bytes == frees[app.image_id]
    assert list(trees_of(root)) == list(base.diff_ids)
    store.remove_image(base.reference)

    assert trees_of(root) == {}
    assert store.usage().used_bytes == 0


def test_a_layer_on_top_of_another_is_another_tree(store, root, registry):
    one = ImageBuilder(registry, "one").layer({"a": b"a"}).layer({"b": b"b"}).push("1")
    two = ImageBuilder(registry, "two").layer({"c": b"c"}).layer({"b": b"b"}).push("1")

    store.pull_image(one.reference, unpack=True)
    store.pull_image(two.reference, unpack=True)

    assert store.usage().tree_count == 4


def test_a_known_reference_gets_its_trees_without_a_request(store, registry, app):
    store.pull_image(app.reference)
    asked = registry.count()

    for policy in (PullPolicy.IF_NOT_PRESENT, PullPolicy.NEVER):
        store.pull_image(app.reference, policy=policy, unpack=True)

    assert registry.count() == asked
    assert store.usage().tree_count == 2


def test_what_was_asked_anew_and_is_here_gets_its_trees(store, app):
    store.pull_image(app.reference)

    store.pull_image(app.reference, policy=PullPolicy.ALWAYS, unpack=True)

    assert store.usage().tree_count == 2


def test_a_service_may_unpack_whatever_it_pulls(open_store, root, registry, app):
    artifact = ImageBuilder(registry, "art").artifact("text/x").raw_layer(b"a text").push("1")
    store = open_store(unpack=True)

    store.pull_image(app.reference)
    store.pull_image(artifact.reference)
    store.pull_image(ImageBuilder(registry, "plain").layer({"x": b"x"}).push("1").reference, unpack=False)

    assert store.usage().tree_count == 2


def test_what_has_no_layers_of_files_is_not_unpacked(open_store, root, registry):
    artifact = ImageBuilder(registry, "art").artifact("text/x").raw_layer(b"a text").push("1")
    store = open_store()
    before = snapshot(root)

    with pytest.raises(UnsupportedContent):
        store.pull_image(artifact.reference, unpack=True)
    assert snapshot(root) == before
    store.pull_image(artifact.reference)
    store.register_image("elsewhere:1", size=10)
    for image in (artifact.reference, "elsewhere:1"):
        for verb in (store.make_trees, store.mount_spec):
            with pytest.raises(UnsupportedContent):
                verb(image)
    with pytest.raises(UnsupportedContent):
        open_store(registry=SimulatedRegistry()).pull_image("nginx", unpack=True)


def test_an_image_without_layers_has_no_trees(store, registry):
    empty = ImageBuilder(registry, "scratch").push("1")

    store.pull_image(empty.reference, unpack=True)

    assert store.usage().tree_count == 0
    with pytest.raises(UnsupportedContent):
        store.mount_spec(empty.reference)


def test_an_image_that_is_not_unpacked_is_not_mounted(store, app):
    store.pull_image(app.reference)

    with pytest.raises(ImageNotFound, match="not unpacked") as raised:
        store.mount_spec(app.reference)

    assert "--unpack" in raised.value.hint


def test_a_layer_is_unpacked_while_later_ones_are_fetched(store, root, registry, app, wait_until):
    fault = registry.inject(f"*/blobs/{app.layers[1].digest}", stall(after=2_000))
    pull = threading.Thread(target=store.pull_image, args=(app.reference,), kwargs={"unpack": True})
    pull.start()

    tree = root / "trees" / "ingest" / app.diff_ids[0].partition(":")[2]
    wait_until((tree / "usr/bin/tool").exists)
    reserved = wait_until(
        lambda: query(root, "SELECT reserved_bytes FROM tree_ingests WHERE state = 'filled'")
    )
    assert reserved == [(occupied(tree)[0],)], "what it does not take was given back"
    assert {row["kind"] for row in store.view("in_flight")} == {"blob", "tree"}
    fault.release()
    pull.join()

    assert store.usage().tree_count == 2


def test_a_manifest_that_pairs_a_known_config_with_other_layers_makes_no_tree(store, root, registry, app):
    """
    Two manifests with one config are one image. A tree is what the config says, whoever's layers come with it.
    """
    other = ImageBuilder(registry, "other").layer(BASE).layer({"srv/app": b"evil"}).push()
    forged = ImageBuilder(registry, "forged").layer(BASE).layer({"srv/app": noise(9_000, "app")})
    forged.manifest_fields(layers=[each.descriptor for each in other.layers]).push("1")
    reference = f"{registry.host}/forged:1"
    before = snapshot(root)

    with pytest.raises(DigestMismatch):
        store.pull_image(reference, unpack=True)
    assert snapshot(root) == before
    store.pull_image(app.reference)
    store.pull_image(reference)
    with pytest.raises(DigestMismatch):
        store.make_trees(reference)
    store.make_trees(app.reference)
    store.make_trees(reference)

    assert store.mount_spec(reference) == store.mount_spec(app.reference)
    assert (Path(store.mount_spec(reference).lowerdirs[0]) / "srv/app").read_bytes() == noise(9_000, "app")


def test_a_config_that_names_fewer_layers_is_refused(store, root, registry):
    builder = ImageBuilder(registry, "short").layer({"a": b"a"}).layer({"b": b"b"})
    builder._diff_ids.pop()
    before = snapshot(root)

    with pytest.raises(InvalidManifest, match="2 layers, and the config 1"):
        store.pull_image(builder.push("1").reference, unpack=True)

    assert snapshot(root) == before


def test_a_layer_that_reaches_outside_leaves_nothing(store, root, registry):
    builder = ImageBuilder(registry, "evil").layer(BASE)
    bad = tar_layer(builder, entries.entry(b"x", b"S", b"old sparse")).push("1")
    before = snapshot(root)

    with pytest.raises(UnsafeLayer):
        store.pull_image(bad.reference, unpack=True)

    assert snapshot(root) == before
    store.pull_image(bad.reference)
    before = snapshot(root)
    with pytest.raises(UnsafeLayer):
        store.make_trees(bad.reference)
    after = snapshot(root)
    assert (after.usage, after.files) == (before.usage, before.files)
    assert trees_of(root) == {}


def test_what_lies_in_the_way_is_moved_aside(store, root, app):
    for place in ("ingest", "sha256"):
        stray = root / "trees" / place / app.diff_ids[0].partition(":")[2]
        stray.mkdir()
        (stray / "stray").write_text("what nobody knows of")

    store.pull_image(app.reference, unpack=True)
    store.collect()

    assert not any("stray" in str(path) for path in (root / "trees").rglob("*"))


# ---------------------------------------------------------------------- the limit


def test_trees_that_exactly_fit_are_made_and_a_byte_less_is_refused(store, root, app):
    if not root.stat().st_blocks:
        pytest.skip("directories occupy nothing on this filesystem, and a block of each is asked for ahead")
    pulled = store.pull_image(app.reference)
    store.make_trees(pulled)
    needed = store.usage()
    typed(root, FORGET_TREES)
    store.collect()

    store.set_max_storage(needed.used_bytes - 1)
    with pytest.raises(StorageLimitExceeded) as raised:
        store.make_trees(pulled)
    assert 0 < raised.value.needed_bytes <= needed.tree_bytes
    assert (trees_of(root), store.usage().used_bytes) == ({}, needed.blob_bytes)
    store.set_max_storage(needed.used_bytes)
    store.make_trees(pulled)

    assert (store.usage().used_bytes, store.usage().available_bytes) == (needed.used_bytes, 0)


def test_a_bomb_of_bytes_stops_at_the_limit_and_leaves_nothing(open_store, root, registry):
    tar = entries.tar(*(entries.entry(b"zeros%d" % number, data=bytes(1 << 20)) for number in range(12)))
    bomb = ImageBuilder(registry, "bomb").raw_layer(gzip.compress(tar), diff_id=digest_of(tar)).push("1")
    store = open_store(max_storage=4 << 20)
    before = snapshot(root)

    with pytest.raises(StorageLimitExceeded, match=r"^storage limit exceeded") as raised:
        store.pull_image(bomb.reference, unpack=True)

    assert raised.value.max_bytes == 4 << 20
    assert raised.value.needed_inodes == 0
    assert snapshot(root) == before


def test_a_bomb_of_inodes_stops_as_well(open_store, root, registry):
    """
    Empty files take no block: only as many as the limit has blocks may there be.
    """
    tar = entries.tar(*(entries.entry(b"empty%d" % number) for number in range(1_500)))
    bomb = ImageBuilder(registry, "bomb").raw_layer(gzip.compress(tar), diff_id=digest_of(tar)).push("1")
    store = open_store(max_storage=4 << 20)
    before = snapshot(root)

    with pytest.raises(
        StorageLimitExceeded, match=r"^storage limit exceeded: needed 1[01].. inodes"
    ) as raised:
        store.pull_image(bomb.reference, unpack=True)

    assert raised.value.needed_inodes > raised.value.available_inodes > 1_000
    assert snapshot(root) == before
    store.set_max_storage(8 << 20)
    store.pull_image(bomb.reference, unpack=True)
    assert store.usage().tree_inodes == 1_501


def test_images_give_way_to_trees_where_they_may(open_store, root, registry, app, base):
    old = ImageBuilder(registry, "old").noise_layer(300_000, "old").push("1")
    store = open_store(evict=EvictionPolicy())
    store.pull_image(old.reference, unpack=True)
    pulled = store.pull_image(app.reference)
    store.set_max_storage(store.usage().used_bytes + 4096)
    steps = []

    with pytest.raises(StorageLimitExceeded) as raised:
        store.make_trees(pulled, evict=False)
    assert raised.value.reclaimable_bytes == 0
    store.make_trees(pulled, on_progress=steps.append)

    assert [each.image_id for step in steps for each in step.evicted] in ([old.image_id], [])
    assert [each.image_id for each in store.list_images()] == [app.image_id]
    assert set(trees_of(root)) == {row for (row,) in query(root, "SELECT chain_id FROM trees")}


def test_an_image_is_not_evicted_for_its_own_trees(open_store, registry):
    large = ImageBuilder(registry, "large").noise_layer(300_000, "large").push("1")
    store = open_store(evict=EvictionPolicy())
    pulled = store.pull_image(large.reference)
    store.set_max_storage(store.usage().used_bytes + 4096)

    with pytest.raises(StorageLimitExceeded):
        store.make_trees(pulled)

    assert store.image_status(large.reference) is not None


# ---------------------------------------------------------------------- several at once


def test_of_two_processes_that_unpack_one_image_one_makes_each_tree(registry, root, app):
    with workers(root, 2) as every:
        for each in every:
            each.send("pull_image", app.reference, unpack=True)
        assert {each.answer()["image_id"] for each in every} == {app.image_id}

    assert query(root, "SELECT seq FROM sqlite_sequence WHERE name = 'tree_ingests'") == [(2,)]
    assert usage(root)["tree_count"] == 2


def test_threads_that_pull_images_with_shared_layers_wait_for_each_other(store, root, registry):
    shared = {"lib": noise(50_000, "lib")}
    images = [
        ImageBuilder(registry, f"app{number}")
        .layer(BASE)
        .layer(shared)
        .noise_layer(5_000, str(number))
        .push("1")
        for number in range(4)
    ]
    failures = []

    def pull(image):
        try:
            store.pull_image(image.reference, unpack=True)
        except Exception as error:  # noqa: BLE001 -- told below
            failures.append(error)

    threads = [threading.Thread(target=pull, args=(image,)) for image in images]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert failures == []
    assert stacked(root) == [(3,)] * 4
    assert query(root, "SELECT seq FROM sqlite_sequence WHERE name = 'tree_ingests'") == [(6,)]


def test_what_a_dead_process_half_made_is_removed_and_made_again(registry, root, open_store, app, wait_until):
    fault = registry.inject(f"*/blobs/{app.layers[1].digest}", stall(after=2_000))
    tree = root / "trees" / "ingest" / app.diff_ids[0].partition(":")[2]
    with Worker(root) as worker:
        worker.send("pull_image", app.reference, unpack=True)
        wait_until((tree / "usr/bin/tool").exists)
        worker.kill()
    fault.release()
    assert len(query(root, "SELECT 1 FROM tree_ingests")) == 2

    store = open_store()

    assert query(root, "SELECT 1 FROM tree_ingests") == []
    assert not tree.exists()
    assert store.usage().reserved_bytes == 0
    store.pull_image(app.reference, unpack=True)


def test_who_waits_for_a_tree_of_a_dead_process_makes_it(registry, root, store, app, wait_until):
    fault = registry.inject(f"*/blobs/{app.layers[1].digest}", stall(after=2_000))
    tree = root / "trees" / "ingest" / app.diff_ids[0].partition(":")[2]
    with Worker(root) as worker:
        worker.send("pull_image", app.reference, unpack=True)
        wait_until((tree / "usr/bin/tool").exists)
        pull = threading.Thread(target=store.pull_image, args=(app.reference,), kwargs={"unpack": True})
        pull.start()
        wait_until(lambda: len(query(root, "SELECT 1 FROM leases")) == 2)
        worker.kill()
        fault.release()
        pull.join()

    assert store.usage().tree_count == 2


def test_an_image_may_be_removed_while_it_is_unpacked(store, root, registry):
    large = ImageBuilder(registry, "large").layer(BASE).noise_layer(30_000_000, "large").push("1")
    pulled = store.pull_image(large.reference)
    removed = []

    def remove(_step):
        if not removed:
            removed.append(store.remove_image(pulled))

    with pytest.raises(ImageNotFound, match="removed while it was unpacked"):
        store.make_trees(pulled, on_progress=remove)

    assert trees_of(root) == {}
    assert store.usage().used_bytes == 0


@pytest.mark.parametrize("how", ["cancel", "callback", "timeout"])
def test_an_unpacking_that_is_ended_leaves_nothing(how, store, root, registry):
    large = ImageBuilder(registry, "large").layer(BASE).noise_layer(30_000_000, "large").push("1")
    pulled = store.pull_image(large.reference)
    before, cancel = snapshot(root), threading.Event()

    def end(_step):
        if how == "callback":
            raise KeyboardInterrupt
        cancel.set()

    expected = KeyboardInterrupt if how == "callback" else PullCancelled
    with pytest.raises(expected):
        store.make_trees(
            pulled,
            on_progress=end,
            cancel=cancel if how == "cancel" else None,
            timeout=0 if how == "timeout" else None,
        )

    after = snapshot(root)
    assert (after.usage, after.files, trees_of(root)) == (before.usage, before.files, {})


def test_a_pull_that_is_cancelled_while_it_unpacks_leaves_no_tree(store, root, registry, app, wait_until):
    fault = registry.inject(f"*/blobs/{app.layers[1].digest}", stall(after=2_000))
    cancel, raised = threading.Event(), []

    def pull():
        with pytest.raises(PullCancelled) as error:
            store.pull_image(app.reference, unpack=True, cancel=cancel)
        raised.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    wait_until(lambda: query(root, "SELECT 1 FROM tree_ingests WHERE state = 'filled'"))
    cancel.set()
    thread.join()
    fault.release()

    assert len(raised) == 1
    assert query(root, "SELECT 1 FROM tree_ingests") == []


# ---------------------------------------------------------------------- out again


def test_a_tree_that_was_forgotten_by_hand_is_collected_and_made_again(store, root, app):
    store.pull_image(app.reference, unpack=True)
    tree_bytes = store.usage().tree_bytes
    typed(root, FORGET_TREES)

    assert store.collect(dry_run=True).tree_bytes == tree_bytes
    freed = store.collect()

    assert (freed.tree_count, freed.tree_bytes, freed.blob_count) == (2, tree_bytes, 0)
    assert trees_of(root) == {}
    store.make_trees(app.reference)


def test_a_doomed_tree_that_nobody_has_swept_yet_is_made_anew(store, root, app):
    store.pull_image(app.reference, unpack=True)
    typed(root, FORGET_TREES, "UPDATE trees SET state = 'doomed'")

    store.make_trees(app.reference)

    assert store.usage().doomed_bytes == 0


def test_one_of_several_trees_that_is_missing_is_made_below_the_others(store, root, app):
    store.pull_image(app.reference, unpack=True)
    typed(root, f"{FORGET_TREES} WHERE position = 0")
    store.collect()
    assert store.usage().tree_count == 1

    store.make_trees(app.reference)

    assert stacked(root) == [(2,)]


def test_a_hold_keeps_the_trees_of_an_image(store, root, app):
    store.pull_image(app.reference, unpack=True)

    with store.hold(app.reference):
        with pytest.raises(sqlite3.IntegrityError, match="an image that is held keeps its trees"):
            typed(root, FORGET_TREES)
        with pytest.raises(ImageInUse):
            store.remove_image(app.reference)


# ---------------------------------------------------------------------- checks


def test_a_check_finds_trees_that_are_not_what_their_rows_say(store, root, app, base):
    store.pull_image(app.reference, unpack=True)
    upper, lower = (Path(each) for each in store.mount_spec(app.reference).lowerdirs)
    assert store.check() == []
    shutil.rmtree(upper)
    (lower / "grown").write_bytes(bytes(10_000))
    (root / "trees" / "ingest" / ("a" * 64)).mkdir()
    (root / "trees" / "sha256" / "no digest").write_text("stray")

    found = {(each.invariant, each.problem) for each in store.check()}
    with store.hold(app.reference):
        held = [each for each in store.check(repair=True) if each.invariant != "I2"]
    repaired = store.check(repair=True)

    assert found == {
        ("I1", "tree row without a directory"),
        ("I7", "tree of another size"),
        ("I2", "directory without a row"),
    }
    assert [each.repaired for each in held] == [False, False]
    assert len(repaired) == 2
    assert all(each.repaired for each in repaired)
    assert store.check() == []
    assert trees_of(root) == {}
    store.pull_image(app.reference, unpack=True)


def test_a_repair_recounts_trees(store, root, app):
    store.pull_image(app.reference, unpack=True)
    right = store.usage()
    typed(root, "UPDATE store SET tree_bytes = 1, tree_inodes = 2, reserved_inodes = 3, ledger = ledger + 1")
    typed(root, "DROP TRIGGER trees_referenced", "UPDATE trees SET referenced = 0")

    store.check(repair=True)

    assert store.usage() == right
    assert query(root, "SELECT DISTINCT referenced FROM trees") == [(1,)]
