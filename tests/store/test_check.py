"""
Every kind of damage, made by hand: found, named by its number, and repaired or honestly not.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from contextlib import closing, suppress

import pytest

from support import registry as faults
from support.images import ImageBuilder, push_index
from support.store import check_root, files_of, query, snapshot
from support.worker import Worker, workers
from ullage import ImageService, RegistryClient, SimulatedRegistry, StoreCorrupt, StoreReadOnly
from ullage.locks import LeaseLock
from ullage.platform import Platform

CHURN_SECONDS = float(os.environ.get("ULLAGE_CHURN_SECONDS", "2"))


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").noise_layer(5000, "one").noise_layer(5000, "two").push("1")


@pytest.fixture
def pulled(store, image):
    store.pull_image(image.reference)
    return image


def blob_path(root, blob):
    return root / "blobs" / blob.digest.algorithm / blob.digest.encoded


def forge(root, *statements, without=()):
    """
    What a forger does at the shell, with some of the rules dropped meanwhile.
    """
    with closing(sqlite3.connect(root / "ullage.db", isolation_level=None)) as shell:
        rules = dict(shell.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"))
        shell.execute("BEGIN IMMEDIATE")
        for name in without:
            shell.execute(f"DROP TRIGGER {name}")
        for each in statements:
            shell.execute(each)
        for name in without:
            shell.execute(rules[name])
        shell.execute("COMMIT")


def said(problems):
    return [(each.invariant, each.problem, each.object, each.repaired) for each in problems]


def overwrite(path, content):
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


# ---------------------------------------------------------------------- nothing wrong


def test_a_store_that_is_whole_has_no_problem(store, pulled):
    assert store.check() == store.check(digests=True) == store.check(repair=True) == []


def test_a_check_that_hashed_a_blob_notes_when(store, pulled, root):
    assert query(root, "SELECT count(*) FROM blobs WHERE verified_at IS NOT NULL") == [(0,)]

    store.check(digests=True)

    assert query(root, "SELECT count(*) FROM blobs WHERE verified_at IS NULL") == [(0,)]


# ---------------------------------------------------------------------- rows without their bytes: I1


def _vanish(path, _raw):
    path.unlink()


def _shorten(path, raw):
    overwrite(path, raw[:-1])


def _lengthen(path, raw):
    overwrite(path, raw + b"x")


def _flip(path, raw):
    overwrite(path, bytes([raw[0] ^ 1]) + raw[1:])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (_vanish, "blob row without a file"),
        (_shorten, "blob of {less} bytes, its row says {size}"),
        (_lengthen, "blob of {more} bytes, its row says {size}"),
        (_flip, "blob with other bytes than its digest says"),
    ],
    ids=["missing", "too short", "too long", "other bytes"],
)
@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_a_blob_that_is_not_what_its_row_says_is_found_and_fetched_again(
    harm, problem, which, store, pulled, root
):
    blob = {"manifest": pulled.manifest, "config": pulled.config, "layer": pulled.layers[1]}[which]
    harm(blob_path(root, blob), blob.raw)
    expected = problem.format(size=blob.size, less=blob.size - 1, more=blob.size + 1)

    found = store.check(digests=True)
    assert said(found) == [("I1", expected, blob.digest, False)]
    assert said(store.check(digests=True, repair=True)) == [("I1", expected, blob.digest, True)]

    assert blob_path(root, blob).read_bytes() == blob.raw
    assert store.check(digests=True) == []


def test_an_index_that_is_gone_is_fetched_again(store, registry, root):
    host = str(Platform.of_host())
    (image,) = push_index(
        registry, "app", [ImageBuilder(registry, "app", platform=host).layer({"a": b"a"})], "1"
    )
    store.pull_image(image.reference)
    blob_path(root, image.index).unlink()

    assert said(store.check(repair=True)) == [("I1", "blob row without a file", image.index.digest, True)]
    assert store.check(digests=True) == []


def test_other_bytes_are_found_only_by_those_who_look_at_them(store, pulled, root):
    _flip(blob_path(root, pulled.layers[0]), pulled.layers[0].raw)

    assert store.check() == []
    assert len(store.check(digests=True)) == 1

    assert store.check(digests=True, repair=True)[0].repaired


def test_a_blob_that_nobody_serves_any_more_is_said_to_be_lost(store, pulled, root, registry):
    path = blob_path(root, pulled.layers[0])
    path.unlink()
    registry.inject("*/blobs/*", faults.status(404))

    (problem,) = store.check(repair=True)

    assert (problem.invariant, problem.repaired) == ("I1", False)
    assert "could not be fetched again" in problem.detail
    assert files_of(root, "leases", "ingest", "trash") == {}
    registry.heal()
    assert store.check(repair=True)[0].repaired


def test_a_registry_that_serves_wrong_bytes_repairs_nothing(store, pulled, root, registry):
    path = blob_path(root, pulled.layers[0])
    path.unlink()
    registry.inject("*/blobs/*", faults.wrong_bytes(3))

    (problem,) = store.check(repair=True)

    assert not problem.repaired
    assert not path.exists()
    registry.heal()
    store.check(repair=True)


def test_without_a_registry_a_repair_says_what_to_do(open_store, pulled, root):
    path = blob_path(root, pulled.layers[0])
    saved = path.read_bytes()
    path.unlink()

    (problem,) = open_store(registry=SimulatedRegistry()).check(repair=True)

    assert not problem.repaired
    assert "pull it again" in problem.detail
    path.write_bytes(saved)
    path.chmod(0o444)


def test_a_bad_blob_that_nothing_names_goes_with_its_row(open_store, store, pulled, root):
    """
    Between a removal and its sweep, say, when its process died.
    """
    with closing(sqlite3.connect(root / "ullage.db")) as shell, shell:
        shell.execute("DELETE FROM images")
    blob_path(root, pulled.layers[0]).unlink()

    problems = store.check(repair=True)

    assert said(problems) == [("I1", "blob row without a file", pulled.layers[0].digest, True)]
    assert query(root, "SELECT count(*) FROM blobs WHERE digest = ?", pulled.layers[0].digest) == [(0,)]
    store.collect()


def test_a_directory_in_the_place_of_a_blob_is_a_problem_and_no_crash(store, pulled, root):
    path = blob_path(root, pulled.layers[0])
    raw = path.read_bytes()
    path.unlink()
    path.mkdir()

    (problem,) = store.check(digests=True)

    assert problem.invariant == "I1"
    assert problem.object == pulled.layers[0].digest
    path.rmdir()
    path.write_bytes(raw)
    path.chmod(0o444)


# ---------------------------------------------------------------------- files without a row: I2


@pytest.mark.parametrize(
    "name",
    [
        "blobs/sha256/" + "ab" * 32,
        "blobs/sha512/" + "ab" * 64,
        "blobs/sha256/not-a-digest",
        "ingest/" + "ab" * 32,
        "ingest/.hidden",
    ],
)
def test_a_file_that_no_row_explains_is_garbage_and_goes(name, store, pulled, root):
    (root / name).write_bytes(b"stray")

    assert said(store.check()) == [("I2", "file without a row", name, False)]
    assert (root / name).exists()
    assert said(store.check(repair=True)) == [("I2", "file without a row", name, True)]

    assert not (root / name).exists()
    assert store.check() == []


def test_a_partial_blob_that_is_to_be_resumed_is_explained(store, registry, root):
    image = ImageBuilder(registry, "app").noise_layer(200_000).push("1")
    _break_off(store, registry, image)

    assert store.check(repair=True) == []

    assert len(files_of(root, "ingest")) == 1


def _break_off(store, registry, image):
    registry.inject("*/blobs/*", faults.reset())
    registry.inject(f"*/blobs/{image.layers[0].digest}", faults.truncate(100_000), times=1)
    with pytest.raises(Exception, match="127"):
        store.pull_image(image.reference)
    registry.heal()


# ---------------------------------------------------------------------- partial blobs: I3


@pytest.mark.parametrize("left", [None, 10, 250_000], ids=["gone", "shorter", "longer"])
def test_a_partial_blob_that_is_not_what_its_row_says_is_given_up(left, store, registry, root):
    image = ImageBuilder(registry, "app").noise_layer(200_000).push("1")
    _break_off(store, registry, image)
    path = root / "ingest" / image.layers[0].digest.encoded
    path.unlink()
    if left is not None:
        path.write_bytes(b"x" * left)

    (problem,) = store.check()
    assert (problem.invariant, problem.object) == ("I3", image.layers[0].digest)
    assert store.check(repair=True)[0].repaired

    assert store.check() == []
    assert store.usage().reserved_bytes == 0
    assert files_of(root, "ingest") == {}


def test_opening_gives_up_a_partial_blob_whose_file_is_gone(open_store, store, registry, root):
    """
    Who discards one moves the file aside before the commit, and may die between the two.
    """
    image = ImageBuilder(registry, "app").noise_layer(200_000).push("1")
    _break_off(store, registry, image)
    (root / "ingest" / image.layers[0].digest.encoded).unlink()

    assert open_store().usage().reserved_bytes == 0

    assert store.pull_image(image.reference).size == image.size


# ---------------------------------------------------------------------- rows: I5, I6, I7, I8

FORGERIES = {
    "a counter that drifted": (
        ["UPDATE store SET blob_bytes = blob_bytes + 7, ledger = ledger + 1"],
        (),
        ("I7", "counter blob_bytes"),
    ),
    "every counter at zero": (
        [
            "UPDATE store SET image_count = 0, blob_count = 0, blob_bytes = 0, logical_bytes = 0, ledger = ledger + 1"
        ],
        (),
        ("I7", "counter image_count"),
    ),
    "a size of an image": (
        ["UPDATE images SET size = size + 1"],
        ("images_size",),
        ("I7", "counter size of image 1"),
    ),
    "a blob said to be named by nothing": (
        ["UPDATE blobs SET referenced = 0 WHERE id = 1"],
        ("blobs_referenced",),
        ("I7", "counter referenced of"),
    ),
    "a tag of no image": (
        ["UPDATE repo_tags SET image_id = 99"],
        ("repo_tags_stay_sound",),
        ("I6", "reference without image"),
    ),
    "a digest reference of no image": (
        ["UPDATE repo_digests SET image_id = 99"],
        ("repo_digests_stay_sound",),
        ("I6", "reference without image"),
    ),
    "an ingest of no lease": (
        [
            (
                "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at)"
                f" VALUES ('sha256:{'cd' * 32}', 10, 99, 10, '2026-01-01T00:00:00.000000Z')"
            ),
        ],
        ("ingests_need_a_lease",),
        ("I3", "ingest without its lease"),
    ),
    "a blob kept by no lease": (
        ["INSERT INTO lease_blobs (lease_id, blob_id) VALUES (99, 1)"],
        ("lease_blobs_sound",),
        ("I8", "kept by no lease"),
    ),
    "an image held by no lease": (
        ["INSERT INTO lease_images (lease_id, image_id) VALUES (99, 1)"],
        ("lease_images_sound",),
        ("I8", "held by no lease"),
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_rows_that_contradict_each_other_are_found_and_set_right(forgery, store, pulled, root):
    statements, without, (invariant, problem) = FORGERIES[forgery]
    forge(root, *statements, without=without)

    found = store.check()
    assert any((each.invariant, each.problem[: len(problem)]) == (invariant, problem) for each in found), (
        found
    )
    repaired = store.check(repair=True)
    assert any(each.repaired for each in repaired)
    store.check(repair=True)

    assert store.check(digests=True) == []
    store.collect()
    check_root(root)


def test_what_a_forger_leaves_without_content_is_said_and_not_taken_away(store, pulled, root):
    """
    Its manifest is another's: nobody can tell what the image was. It stays to be seen, and removed by who knows.
    """
    forge(root, "UPDATE manifests SET image_id = 99", without=("manifests_immutable",))
    assert ("I5", "manifest without image") in [(each.invariant, each.problem) for each in store.check()]

    store.check(repair=True)

    assert said(store.check()) == [("I5", "image without content", pulled.image_id, False)]
    store.remove_image(pulled.image_id)
    assert store.check() == []
    assert files_of(root, "blobs") == {}


def test_a_doomed_blob_that_is_in_use_is_found_and_not_swept(open_store, store, pulled, root):
    """
    The bytes are there, and an image names them: the doom is the mistake.
    """
    forge(root, "UPDATE blobs SET state = 'doomed' WHERE id = 1", without=("blobs_in_use",))

    open_store().collect()
    found = store.check()
    assert ("I8", "doomed but used") in [(each.invariant, each.problem) for each in found]
    store.check(repair=True)

    assert store.check(digests=True) == []
    assert set(files_of(root, "blobs")) == {f"blobs/sha256/{each.digest.encoded}" for each in pulled.blobs}


def test_drift_over_the_limit_is_recounted_all_the_same(open_store, store, pulled, root):
    forge(root, "UPDATE store SET blob_bytes = 0, ledger = ledger + 1")
    store.set_max_storage(100)

    store.check(repair=True)

    assert store.used_storage() == pulled.size
    assert store.usage().max_bytes == 100
    assert store.check() == []
    store.set_max_storage(1 << 30)


# ---------------------------------------------------------------------- leases


def test_a_lease_of_the_dead_is_found_and_ended(store, pulled, root):
    with Worker(root) as worker:
        worker.call("hold", pulled.reference)
        assert store.check() == []
        worker.kill()

    (problem,) = store.check()
    assert (problem.invariant, problem.problem) == ("I8", "lease of a dead owner")
    assert len(store.check()) == 1  # looking at it ends nothing
    assert said(store.check(repair=True)) == [("I8", "lease of a dead owner", problem.object, True)]

    assert store.check() == []
    store.remove_image(pulled.reference)


def test_the_lock_of_a_lease_is_not_had_by_way_of_a_file_that_is_gone(root, monkeypatch):
    """
    One has a dead owner's lock, another opens the file; the one ends the lease and removes it, a third makes it anew.
    """
    leases, token = root / "leases", "ab" * 16
    flock = fcntl.flock
    third = []

    def late(descriptor, operation):
        # Between the other's open and its lock.
        monkeypatch.setattr(fcntl, "flock", flock)
        (leases / token).unlink()
        third.append(LeaseLock.take(leases, token))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)

    assert LeaseLock.take(leases, token) is None

    assert third[0].is_held
    assert LeaseLock.take(leases, token) is None
    third[0].drop()
    assert files_of(root, "leases") == {}


# ---------------------------------------------------------------------- looking only


def test_a_store_that_was_opened_to_look_is_checked_and_not_changed(open_store, store, pulled, root):
    store.close()
    raw = blob_path(root, pulled.layers[0]).read_bytes()
    blob_path(root, pulled.layers[0]).unlink()
    (root / "ingest" / ("ab" * 32)).write_bytes(b"stray")
    before = snapshot(root)

    with ImageService.open(root, read_only=True) as looking:
        found = looking.check(digests=True)

    assert [(each.invariant, each.repaired) for each in found] == [("I1", False), ("I2", False)]
    assert snapshot(root) == before
    blob_path(root, pulled.layers[0]).write_bytes(raw)
    blob_path(root, pulled.layers[0]).chmod(0o444)
    (root / "ingest" / ("ab" * 32)).unlink()


def test_a_repair_needs_a_store_that_may_be_changed(open_store, store, pulled, root):
    store.close()

    with ImageService.open(root, read_only=True) as looking, pytest.raises(StoreReadOnly):
        looking.check(repair=True)


# ---------------------------------------------------------------------- a damaged database


@pytest.fixture
def damaged(store, registry, root):
    """
    A store with many rows whose database has a page of garbage in the middle.
    """
    for number in range(40):
        store.register_image(f"registered-{number}", size=number)
    store.close()
    database = root / "ullage.db"
    with closing(sqlite3.connect(database)) as shell:
        shell.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = shell.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'images'").fetchone()
    content = bytearray(database.read_bytes())
    saved = bytes(content)
    content[(page - 1) * 4096 + 8 : page * 4096] = b"\xa5" * 4088
    database.write_bytes(content)
    yield root
    for each in root.glob("ullage.db*"):
        each.unlink()
    database.write_bytes(saved)


def test_a_damaged_database_is_a_problem_or_an_error_of_its_own_and_nothing_is_changed(damaged):
    (damaged / "ingest" / ("ab" * 32)).write_bytes(b"stray, but who can tell")
    client = RegistryClient(plain_http=True)
    try:
        with ImageService.open(damaged, registry=client) as store:
            problems = store.check(digests=True, repair=True)
    except StoreCorrupt:
        problems = None
    finally:
        client.close()

    if problems is not None:
        assert {each.invariant for each in problems} == {"I12"}
        assert not any(each.repaired for each in problems)
    assert files_of(damaged, "ingest") == {f"ingest/{'ab' * 32}": 23}
    (damaged / "ingest" / ("ab" * 32)).unlink()


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path):
    root = tmp_path / "store"
    root.mkdir()
    (root / "ullage.db").write_bytes(b"this is no database, and was never one." * 200)

    with pytest.raises(StoreCorrupt, match="damaged or no database"):
        ImageService.open(root, registry=SimulatedRegistry())

    assert (root / "ullage.db").read_bytes().startswith(b"this is no database")


def test_a_database_that_was_cut_off_is_said_to_be_damaged(store, registry, root, tmp_path):
    for number in range(40):
        store.register_image(f"registered-{number}", size=number)
    store.close()
    other = tmp_path / "other"
    ImageService.open(other, registry=SimulatedRegistry()).close()
    content = (root / "ullage.db").read_bytes()
    (other / "ullage.db").write_bytes(content[: len(content) // 2])

    with suppress(StoreCorrupt), ImageService.open(other, registry=SimulatedRegistry()) as cut_off:
        assert {each.invariant for each in cut_off.check()} == {"I12"}


# ---------------------------------------------------------------------- beside others


def _churn(worker, images, offset, enough, changes, failures):
    number = offset
    try:
        while not enough():
            number += 1
            image = images[number % len(images)]
            worker.call("pull_image", image.reference)
            worker.call("remove_image", images[(number + 2) % len(images)].reference, missing_ok=True)
            if number % 4 == 0:
                worker.call("collect")
            changes.append(number)
    except Exception as error:  # noqa: BLE001 -- told by the caller
        failures.append(error)


def test_a_check_beside_pulls_removals_and_collections_reports_nothing_false(open_store, root, registry):
    """
    And repairs nothing that lives: what was pulled can be read to the last byte afterwards.
    """
    images = [
        ImageBuilder(registry, f"churn-{number}")
        .noise_layer(70_000, f"shared-{number % 3}")
        .noise_layer(20_000, f"own-{number}")
        .push("1")
        for number in range(6)
    ]
    store = open_store(read_timeout_seconds=20)
    until = time.monotonic() + CHURN_SECONDS
    checks = 0
    changes, failures = [], []

    def enough():
        return failures or (time.monotonic() > until and checks >= 5 and len(changes) >= 10)

    with workers(root, 3) as others:
        threads = [
            threading.Thread(target=_churn, args=(each, images, at * 2, enough, changes, failures))
            for at, each in enumerate(others)
        ]
        for each in threads:
            each.start()
        while not enough():
            checks += 1
            found = store.check(digests=checks % 2 == 0, repair=checks % 3 == 0)
            assert found == [], f"check {checks}"
        for each in threads:
            each.join()

    assert failures == []
    assert store.check(digests=True) == []
    for status in store.list_images():
        for layer in store.manifest(status).layers:
            with store.open_blob(layer.digest) as file:
                assert len(file.read()) == layer.size
