"""
A database that is damaged or gone, made anew of what is under ``blobs/``; and nothing changed where that fails.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from support.images import ImageBuilder, noise, push_index
from support.store import check_root, files_of, query
from ullage import ImageService, RegistryClient, StoreBusy, StoreCorrupt, StoreError
from ullage.salvage import salvage


def open_at(root, **options):
    return ImageService.open(root, registry=RegistryClient(plain_http=True), **options)


def facts_of(root):
    """
    What should come back: images with their names and content.
    """
    with open_at(root) as store:
        return {
            each.image_id: (
                each.repo_tags,
                each.repo_digests,
                each.size,
                each.pinned,
                each.platform,
                sorted(layer.digest for layer in store.manifest(each).layers),
            )
            for each in store.list_images()
        }


@pytest.fixture
def full(root, registry):
    """
    A store with what there is: shared layers, two tags of one image, an index, an artifact, one without a name, a pin.
    """
    with open_at(root, max_storage=50_000_000, min_free=1000) as store:
        base = {"base": noise(9_000, "base")}
        app = ImageBuilder(registry, "app").layer(base).noise_layer(3_000, "app").push("1")
        store.pull_image(app.reference)
        store.tag_image(app.reference, "mine:1")
        builders = [
            ImageBuilder(registry, "multi", platform=each).layer(base).noise_layer(500, each)
            for each in ("linux/amd64", "linux/s390x")
        ]
        index, _ = push_index(registry, "multi", builders, "1")
        store.pull_image(index.reference, platform="linux/amd64")
        store.pin_image(index.reference)
        art = ImageBuilder(registry, "art").artifact("text/x").raw_layer(b"a text").push("1")
        store.pull_image(art.reference)
        nameless = ImageBuilder(registry, "nameless").noise_layer(700, "nameless").push("1")
        store.pull_image(nameless.reference)
        store.untag_image(nameless.reference)
        store.untag_image(nameless.repo_digest)
    return root


def damage(path, at, length=4096):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(os.urandom(length))


DAMAGE = {
    "its header": lambda path: damage(path, 0, 100),
    "its schema": lambda path: damage(path, 100),
    "its second page": lambda path: damage(path, 4096, 4096 * 3),
    "the middle": lambda path: damage(path, path.stat().st_size // 2 // 4096 * 4096, 4096 * 8),
    "all but the header": lambda path: damage(path, 4096, path.stat().st_size - 4096),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "truncated within a page": lambda path: os.truncate(path, 10_000),
    "no length": lambda path: os.truncate(path, 0),
    "a few bytes": lambda path: os.truncate(path, 77),
    "another file": lambda path: path.write_bytes(b"no database at all" * 1000),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_images_come_back_with_their_names(how, full):
    before, content = facts_of(full), files_of(full, "blobs")
    DAMAGE[how](full / "ullage.db")
    damaged = (full / "ullage.db").read_bytes() if how != "gone" else None

    said = salvage(full)

    assert facts_of(full) == before
    assert {each.image_id for each in said.images} == set(before)
    assert said.lost == ()
    assert (said.unused_count, said.unused_bytes) == (0, 0)
    assert said.names_from == "index.json"
    assert files_of(full, "blobs") == content, "no blob was touched"
    assert (said.moved_aside is None) == (how == "gone")
    if said.moved_aside:
        assert Path(said.moved_aside).read_bytes() == damaged
    assert [path.name for path in full.glob("ullage.db.salvage*")] == []
    check_root(full)
    assert {event for (event,) in query(full, "SELECT event FROM history")} == {"salvaged"}
    assert query(full, "SELECT * FROM access") == [], "nobody knows whose credentials they came with"


def test_the_limit_comes_back_where_it_can_still_be_read(full):
    with closing(sqlite3.connect(full / "ullage.db")) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'images'").fetchall()
    damage(full / "ullage.db", (page - 1) * 4096)

    said = salvage(full)

    assert said.max_bytes == 50_000_000
    assert query(full, "SELECT max_bytes, min_free_bytes FROM store") == [(50_000_000, 1000)]


def test_a_limit_below_what_is_here_is_what_is_here(full):
    with open_at(full) as store:
        used = store.usage().used_bytes
        store.set_max_storage(10)

    said = salvage(full, force=True)

    assert said.max_bytes == used
    check_root(full)


def test_without_an_index_images_come_back_by_their_ids(full):
    before = facts_of(full)
    (full / "index.json").unlink()
    (full / "ullage.db").unlink()

    said = salvage(full)

    assert said.names_from is None
    assert {each.image_id for each in said.images} == set(before)
    after = facts_of(full)
    assert [after[each][2:3] + after[each][4:] for each in before] == [
        before[each][2:3] + before[each][4:] for each in before
    ]
    assert {(tags, digests) for tags, digests, *_ in after.values()} == {((), ())}
    with open_at(full) as store:
        store.tag_image(said.images[0].image_id, "found:1")
        assert store.image_status("found:1").image_id == said.images[0].image_id
    check_root(full)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"manifests": 5}', b'{"manifests": [5, {}, {"digest": "x"}]}']
)
def test_an_index_that_makes_no_sense_is_as_good_as_none(content, full):
    (full / "index.json").write_bytes(content)
    (full / "ullage.db").unlink()

    said = salvage(full)

    assert len(said.images) == 4
    check_root(full)


def test_what_is_not_whole_does_not_come_back_and_is_said(full, registry):
    with open_at(full) as store:
        status = store.image_status("mine:1")
        layer = store.manifest("mine:1").layers[1].digest
    path = full / "blobs" / layer.replace(":", "/")
    path.chmod(0o644)
    path.write_bytes(noise(path.stat().st_size, "bad"))
    (full / "ullage.db").unlink()

    said = salvage(full)

    assert len(said.images) == 3
    assert status.image_id not in {each.image_id for each in said.images}
    reasons = dict(said.lost)
    assert any(f"{layer} has other bytes" in reason for reason in reasons.values())
    assert "docker.io/library/mine:1" in reasons
    assert said.unused_count == 3, "its manifest, its config, and the bad layer; the other one is shared"
    with open_at(full) as store:
        assert [each.problem for each in store.check()] == ["file without a row"] * 3
        store.check(repair=True)
        store.pull_image(f"{registry.host}/app:1")
        assert store.image_status(status.image_id) is not None
    check_root(full)


def test_garbage_and_partial_blobs_are_left_to_the_check(full):
    (full / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"garbage")
    (full / "blobs" / "sha256" / "no digest").write_bytes(b"a stranger's")
    (full / "ingest" / ("1" * 64)).write_bytes(b"partial")
    (full / "ullage.db").unlink()

    said = salvage(full)

    assert (said.unused_count, said.unused_bytes) == (1, 7)
    with open_at(full) as store:
        store.check(repair=True)
    check_root(full)


def test_a_second_manifest_of_one_image_comes_back_too(root, registry):
    builder = ImageBuilder(registry, "app").noise_layer(500)
    builder.push("1")
    builder.annotate(again="yes").push("2")
    with open_at(root) as store:
        for tag in "12":
            store.pull_image(f"{registry.host}/app:{tag}")
    before = facts_of(root)
    (root / "ullage.db").unlink()

    salvage(root)

    assert facts_of(root) == before
    assert query(root, "SELECT count(*) FROM manifests") == [(2,)]
    check_root(root)


# ---------------------------------------------------------------------- what is refused, and what fails


def everything(root):
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_sound_database_is_left_alone_unasked(full):
    before = everything(full)

    with pytest.raises(StoreError, match="not damaged") as raised:
        salvage(full)

    assert "--force" in raised.value.hint
    assert everything(full) == before
    known = facts_of(full)
    salvage(full, force=True)
    assert facts_of(full) == known


def test_where_there_are_no_blobs_there_is_nothing_to_salvage(tmp_path):
    (tmp_path / "ullage.db").write_bytes(b"x" * 5000)

    with pytest.raises(StoreError, match="no store"):
        salvage(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["ullage.db"]


def test_a_store_that_somebody_holds_an_image_of_is_not_salvaged(full):
    with open_at(full) as store, store.hold("mine:1"), pytest.raises(StoreBusy):
        salvage(full, force=True)
    check_root(full)


_FAILS = """
import sys
from pathlib import Path
import ullage.salvage
from ullage import ImageError
wanted, left = sys.argv[2], [int(sys.argv[3])]
def fails(event, arguments):
    if event == wanted and sys.argv[1] in str(arguments[0]):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(5, "Input/output error", str(arguments[0]))
sys.addaudithook(fails)
try:
    ullage.salvage.salvage(Path(sys.argv[1]))
    print("done")
except (ImageError, OSError):
    print("failed")
"""


@pytest.mark.parametrize(
    ("event", "at"),
    [
        ("open", 2),
        ("open", 12),
        ("sqlite3.connect", 1),
        ("sqlite3.connect", 3),
        ("os.rename", 1),
        ("os.rename", 2),
    ],
)
def test_a_salvage_that_fails_changes_nothing_and_the_next_one_does_it(event, at, full):
    damage(full / "ullage.db", 0, 100)
    before = everything(full)

    done = subprocess.run(
        [sys.executable, "-c", _FAILS, full, event, str(at)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.strip()) == (0, "failed"), done.stderr
    assert everything(full) == before
    assert len(salvage(full).images) == 4
    check_root(full)


def test_who_meets_a_damaged_database_is_told_of_the_salvage(full):
    damage(full / "ullage.db", 0, 100)

    with pytest.raises(StoreCorrupt) as raised:
        open_at(full)

    assert "ullage db salvage" in raised.value.hint
