"""
What a doctor sees of a machine and a store: each thing that is not as it should be, with a hint.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing

import pytest

from support import registry as faults
from support.images import ImageBuilder
from support.store import query, snapshot
from ullage import ImageService, SimulatedRegistry
from ullage.filesystem import mount_of


@pytest.fixture
def store(open_store):
    return open_store(registry=SimulatedRegistry())


def findings(store, subject):
    return [each for each in store.doctor() if each.subject == subject]


def finding(store, subject):
    (found,) = findings(store, subject)
    return found


def shell(root, *statements):
    with closing(sqlite3.connect(root / "ullage.db")) as connection, connection:
        for each in statements:
            connection.execute(each)


# ---------------------------------------------------------------------- the store


def test_a_healthy_store_fails_in_nothing(store, root):
    store.pull_image("nginx")
    before = snapshot(root)

    levels = {each.subject: each.level for each in store.doctor()}

    assert "fail" not in levels.values()
    assert {levels[subject] for subject in ("journal", "schema", "accounting", "leftovers", "headroom")} == {
        "ok"
    }
    assert {"sqlite", "filesystem", "limit", "sqlalchemy", "alembic", "urllib3"} <= levels.keys()
    assert snapshot(root) == before


def test_whatever_is_not_as_it_should_be_has_a_hint(store, root):
    shell(root, "DROP TRIGGER store_limit", "UPDATE store SET blob_bytes = 5, ledger = ledger + 1")

    wrong = [each for each in store.doctor() if each.level == "fail"]

    assert {each.subject for each in wrong} >= {"schema", "accounting"}
    assert all(each.hint for each in wrong)
    store.check(repair=True)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["DROP TRIGGER blobs_in_use"], "blobs_in_use is missing"),
        (["DROP INDEX ix_blobs_unreferenced"], "ix_blobs_unreferenced is missing"),
        (["DROP VIEW held"], "held is missing"),
        (["CREATE TABLE notes (text TEXT)"], "notes is unknown"),
        (
            [
                "DROP INDEX ix_images_last_used_at",
                "CREATE INDEX ix_images_last_used_at ON images (pulled_at)",
            ],
            "ix_images_last_used_at is different",
        ),
    ],
)
def test_a_schema_that_somebody_changed_is_found(statements, said, store, root):
    shell(root, *statements)

    found = finding(store, "schema")

    assert found.level == "fail"
    assert said in found.text


def test_many_changes_are_told_briefly(store, root):
    triggers = [name for (name,) in query(root, "SELECT name FROM sqlite_schema WHERE type = 'trigger'")]
    saved = [sql for (sql,) in query(root, "SELECT sql FROM sqlite_schema WHERE type = 'trigger'")]
    shell(root, *(f"DROP TRIGGER {name}" for name in triggers))

    text = finding(store, "schema").text

    assert text.count("is missing") == 5
    assert text.endswith("…")
    shell(root, *saved)


def test_counters_that_drifted_are_a_failure_that_names_them(store, root):
    store.pull_image("nginx")
    shell(root, "UPDATE store SET image_count = 7, ledger = ledger + 1")

    found = finding(store, "accounting")

    assert (found.level, found.text) == ("fail", "image_count says 7, is 1")
    assert "check --repair" in found.hint
    store.check(repair=True)
    assert finding(store, "accounting").level == "ok"


def test_what_waits_to_be_removed_is_told(open_store, registry, root):
    store = open_store()
    image = ImageBuilder(registry, "app").noise_layer(1000).push("1")
    store.pull_image(image.reference)
    shell(root, "DELETE FROM images", "UPDATE blobs SET state = 'doomed'")
    (root / "trash" / "left").write_bytes(b"x")

    found = finding(store, "leftovers")

    assert (found.level, found.text) == ("warn", "3 doomed blobs and 1 files in trash/ wait")
    assert "ullage gc" in found.hint
    store.collect()
    assert finding(store, "leftovers").level == "ok"


def test_resumable_bytes_are_told_and_are_no_fault(open_store, registry):
    store = open_store()
    image = ImageBuilder(registry, "app").noise_layer(200_000).push("1")
    registry.inject("*/blobs/*", faults.reset())
    registry.inject(f"*/blobs/{image.layers[0].digest}", faults.truncate(100_000), times=1)
    with pytest.raises(Exception, match="127"):
        store.pull_image(image.reference)

    found = finding(store, "leftovers")

    assert found.level == "ok"
    assert f"{store.usage().reserved_bytes} bytes" in found.text


@pytest.mark.parametrize(
    ("limit", "level", "said"),
    [
        (1 << 59, "warn", "cannot be reached"),
        (100 << 20, "ok", "limit 104857600"),
        (1000, "warn", "over the limit"),
    ],
)
def test_a_limit_that_cannot_hold_is_told(limit, level, said, store, open_store):
    store.pull_image("nginx")
    store.set_max_storage(limit)

    found = finding(store, "limit")

    assert (found.level, said in found.text) == (level, True), found
    store.set_max_storage(1 << 40)


def test_a_floor_that_the_disk_is_below_is_told(store):
    store.set_min_free(1 << 59)

    assert finding(store, "limit").level == "warn"

    store.set_min_free(0)


def test_headroom_that_is_not_there_is_told(store, root):
    (root / "headroom").unlink()

    assert finding(store, "headroom").level == "warn"

    store.collect()
    assert finding(store, "headroom").level == "ok"


def test_what_cannot_even_be_asked_is_a_finding_and_no_exception(store, root):
    (view,) = query(root, "SELECT sql FROM sqlite_schema WHERE name = 'accounting_drift'")[0]
    shell(root, "DROP VIEW accounting_drift")

    found = store.doctor()

    assert ("accounting", "fail") in [(each.subject, each.level) for each in found]
    shell(root, view)


def test_a_store_that_was_opened_to_look_is_examined(store, root):
    store.close()

    with ImageService.open(root, read_only=True) as looking:
        assert "fail" not in {each.level for each in looking.doctor()}


# ---------------------------------------------------------------------- which filesystem

MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
40 22 0:35 / /srv/nfs rw,relatime shared:20 master:3 - nfs4 server:/export rw,vers=4.2
41 40 0:36 / /srv/nfs/local rw - xfs /dev/vdb rw
42 22 0:37 / /mnt/with\\040blank rw - 9p host rw,trans=virtio
43 22 0:38 / /mnt/share rw - virtiofs share rw
44 22 0:39 / /merged rw,relatime - overlay overlay rw,lowerdir=/a:/b
45 22 0:40 / /mnt/f\xc3\xbcr rw - cifs //server/share rw
46 22 0:41 / /mnt/back\\134slash rw - ceph mon:/ rw
47 22 0:42 / /mnt/odd\x0cname rw - fuse.sshfs user@host:/ rw
48 22 0:43 / /twice rw - ext4 /dev/vdc rw
49 48 0:44 / /twice rw - tmpfs tmpfs rw
50 22 0:45 - /dash rw - btrfs /dev/vdd rw
a line that is none
""".encode("latin-1")


@pytest.mark.parametrize(
    ("path", "point", "kind", "remote"),
    [
        ("/var/lib/ullage", "/", "ext4", False),
        ("/srv/nfs/store", "/srv/nfs", "nfs4", True),
        ("/srv/nfs", "/srv/nfs", "nfs4", True),
        ("/srv/nfs-no", "/", "ext4", False),
        ("/srv/nfs/local/store", "/srv/nfs/local", "xfs", False),
        ("/mnt/with blank/store", "/mnt/with blank", "9p", True),
        ("/mnt/share/a/b", "/mnt/share", "virtiofs", True),
        ("/merged/store", "/merged", "overlay", False),
        ("/mnt/für/store", "/mnt/für", "cifs", True),
        ("/mnt/back\\slash/store", "/mnt/back\\slash", "ceph", True),
        ("/mnt/odd\x0cname/store", "/mnt/odd\x0cname", "fuse.sshfs", True),
        ("/twice/store", "/twice", "tmpfs", False),
        ("/dash/store", "/dash", "btrfs", False),
    ],
)
def test_the_mount_of_a_path_is_the_innermost_and_the_last(path, point, kind, remote, tmp_path):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(MOUNTINFO)

    mount = mount_of(path, mountinfo=mountinfo)

    assert (mount.point, mount.kind, mount.is_remote) == (point, kind, remote)


def test_where_the_system_does_not_tell_there_is_no_mount(tmp_path):
    assert mount_of(tmp_path, mountinfo=tmp_path / "absent") is None


def test_the_mount_of_this_machines_root_is_known():
    assert mount_of("/").point == "/"


def test_the_schema_is_compared_where_nothing_else_can_be_written(store, tmp_path, monkeypatch):
    """
    A full disk has no room for temporary files, either.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "is not there"))

    assert {each.subject: each.level for each in store.doctor()}["schema"] == "ok"
