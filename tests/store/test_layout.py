"""
The store is an OCI layout: its ``index.json`` follows the database, and is never in its way.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from support.archives import Layout, built
from support.images import ImageBuilder, push_index
from support.store import query
from support.worker import environment
from ullage import ImageService, StoreReadOnly
from ullage import layout as layout_module
from ullage.digest import digest_of
from ullage.locks import FileLock
from ullage.repository import Lookups

NAME = "org.opencontainers.image.ref.name"


def index_of(root):
    return json.loads((root / "index.json").read_bytes())


def names_of(root):
    return {each["annotations"].get(NAME) for each in index_of(root)["manifests"]}


@pytest.fixture
def image(tmp_path):
    return built("app", {"etc/a": b"a"}, 500)


@pytest.fixture
def source(tmp_path, image):
    return Layout(tmp_path / "source").add(image, "app:1").write()


def test_a_new_store_is_a_layout_when_it_is_closed(tmp_path):
    ImageService.open(tmp_path / "new").close()

    assert json.loads((tmp_path / "new" / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = index_of(tmp_path / "new")
    assert (index["schemaVersion"], index["manifests"]) == (2, [])
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"


def test_closing_writes_what_was_changed(root, open_store, source, image):
    with open_store() as store:
        store.import_images(source)

    tag, digest = index_of(root)["manifests"]
    assert tag == {
        "mediaType": image.manifest.media_type,
        "digest": image.manifest.digest,
        "size": image.manifest.size,
        "annotations": {
            NAME: "docker.io/library/app:1",
            "io.containerd.image.name": "docker.io/library/app:1",
            "ullage.image": image.image_id,
        },
    }
    assert digest["annotations"][NAME] == f"docker.io/library/app@{image.manifest.digest}"
    assert digest["digest"] == image.manifest.digest
    assert not list(root.glob("*.new"))


def test_every_change_of_a_name_is_in_the_next_index(root, open_store, source, image):
    """
    Each of these is seen as a change, and nothing else is.
    """
    with open_store() as store:
        store.import_images(source)

    def after(change):
        before = (root / "index.json").stat().st_ino, names_of(root)
        with open_store() as store:
            change(store)
        now = (root / "index.json").stat().st_ino, names_of(root)
        return now[0] != before[0], now[1] - before[1], before[1] - now[1]

    app, digest = "docker.io/library/app:1", f"docker.io/library/app@{image.manifest.digest}"
    other = "docker.io/library/other:2"
    assert after(lambda store: store.set_max_storage(10**9)) == (False, set(), set())
    assert after(lambda store: store.image_status("app:1")) == (False, set(), set())
    assert after(lambda store: store.tag_image("app:1", "other:2")) == (True, {other}, set())
    assert after(lambda store: store.pin_image("app:1")) == (True, set(), set())
    assert {each["annotations"].get("ullage.pinned") for each in index_of(root)["manifests"]} == {"true"}
    assert after(lambda store: store.unpin_image("app:1")) == (True, set(), set())
    assert after(lambda store: store.untag_image("app:1")) == (True, set(), {app})
    assert after(lambda store: store.untag_image(digest)) == (True, set(), {digest})
    # The last name goes, and the image stays: so does its descriptor.
    assert after(lambda store: store.untag_image("other:2")) == (True, {None}, {other})
    assert after(lambda store: store.register_image("elsewhere", size=1))[1:] == (set(), set())
    assert after(lambda store: store.remove_image(image.image_id)) == (True, set(), {None})
    assert index_of(root)["manifests"] == []


def test_a_tag_that_moves_is_seen(root, open_store, source, tmp_path):
    other = built("app", 900)
    with open_store() as store:
        store.import_images(source)
    with open_store() as store:
        store.import_images(Layout(tmp_path / "second").add(other, "app:1").write())

    assert {
        each["digest"]
        for each in index_of(root)["manifests"]
        if each["annotations"].get(NAME) == "docker.io/library/app:1"
    } == {other.manifest.digest}


def test_what_a_salvage_needs_of_an_index_is_there(root, open_store, registry):
    """
    The descriptor is that of the manifest, which is here in full; the index that a name was resolved to stands beside.
    """
    host, arm = (
        ImageBuilder(registry, "app", platform=each).layer({"a": each.encode()})
        for each in ("linux/amd64", "linux/arm64")
    )
    one, two = push_index(registry, "app", [host, arm], "1")
    with open_store() as store:
        store.pull_image(one.reference, platform="linux/arm64")

    for entry in index_of(root)["manifests"]:
        assert entry["digest"] == two.manifest.digest
        annotations = entry["annotations"]
        assert annotations["ullage.resolved"] == two.index.digest
        assert annotations["ullage.platform"] == "linux/arm64"
        assert annotations["ullage.indexes"] == two.index.digest
    assert names_of(root) == {two.reference, two.repo_digest}


def told_by(root):
    """
    What the index says of names: (reference, manifest, what it was resolved to, platform, pinned).
    """
    return {
        (
            each["annotations"][NAME],
            each["digest"],
            each["annotations"].get("ullage.resolved", each["digest"]),
            each["annotations"].get("ullage.platform"),
            each["annotations"].get("ullage.pinned") == "true",
        )
        for each in index_of(root)["manifests"]
        if NAME in each["annotations"]
    }


def known_to(root):
    """
    What the rows say of them.
    """
    names = " UNION ALL ".join(
        f"SELECT reference, manifest_id, digest, platform FROM {table}"
        for table in ("repo_tags", "repo_digests")
    )
    rows = query(
        root,
        "SELECT r.reference, m.digest, r.digest, r.platform, i.pinned"
        f" FROM ({names}) AS r JOIN manifests AS m ON m.id = r.manifest_id JOIN images AS i ON i.id = m.image_id",
    )
    return {(*rest, bool(pinned)) for *rest, pinned in rows}


def test_with_the_blobs_it_says_all_that_the_rows_say_of_names(root, open_store, registry, source):
    host, arm = (
        ImageBuilder(registry, "app", platform=each).layer({"a": each.encode()})
        for each in ("linux/amd64", "linux/arm64")
    )
    one, _ = push_index(registry, "app", [host, arm], "1")
    with open_store() as store:
        store.pull_image(one.reference, platform="all")
        store.pull_image(one.reference, platform="linux/arm64")
        store.import_images(source)
        store.tag_image("app:1", "other:2")
        store.pin_image("app:1")

    assert len(told_by(root)) >= 6
    assert told_by(root) == known_to(root)


def test_processes_that_change_a_store_at_once_leave_an_index_that_is_right(root, open_store, source):
    with open_store() as store:
        store.import_images(source)
    code = (
        "import sys\n"
        "from ullage import ImageService\n"
        "for number in range(4):\n"
        "    with ImageService.open(sys.argv[1]) as store:\n"
        "        store.tag_image('app:1', f'p{sys.argv[2]}:{number}')\n"
        "        if number: store.untag_image(f'p{sys.argv[2]}:{number - 1}')\n"
    )
    several = [
        subprocess.Popen([sys.executable, "-c", code, root, str(each)], env=environment())
        for each in range(4)
    ]
    assert [each.wait(60) for each in several] == [0] * 4

    assert told_by(root) == known_to(root)
    assert len(told_by(root)) == 2 + 4


def test_a_service_that_goes_on_writes_it_a_second_later_and_once(
    root, open_store, source, monkeypatch, wait_until
):
    monkeypatch.setattr(layout_module, "_DELAY_SECONDS", 0.2)
    ImageService.open(root).close()
    written = []
    with open_store() as store:
        replace = store._index._replace
        monkeypatch.setattr(
            store._index,
            "_replace",
            lambda name, *rest, **options: (written.append(name), replace(name, *rest, **options)),
        )
        store.import_images(source)
        for number in range(20):
            store.tag_image("app:1", f"app:{number + 2}")
        wait_until(lambda: "docker.io/library/app:21" in names_of(root))
        first = written.count("index.json")
        store.tag_image("app:1", "app:last")
        wait_until(lambda: "docker.io/library/app:last" in names_of(root))

    # The changes take less than a delay or a few, on a machine that is busy; there are 22 of them.
    assert 1 <= first <= 8
    assert written.count("index.json") >= first + 1


def test_whoever_opens_a_store_next_makes_right_what_the_dead_left_behind(root, source, tmp_path):
    """
    A service that is killed before it was written; somebody typed in the shell; somebody took the file away.
    """
    code = (
        "import os, sys\n"
        "from ullage import ImageService\n"
        "store = ImageService.open(sys.argv[1])\n"
        "store.import_images(sys.argv[2])\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, root, source], env=environment(), check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert names_of(root) == set()

    with ImageService.open(root, read_only=True):
        pass
    assert names_of(root) == set(), "who only looks writes nothing"
    ImageService.open(root).close()
    assert "docker.io/library/app:1" in names_of(root)

    typed(root, "UPDATE repo_tags SET reference = 'docker.io/library/typed:1'")
    with ImageService.open(root) as store:
        # A name that changes in its place makes no difference that is looked for: one has to ask.
        assert store.write_index() is True
        assert store.write_index() is False
    assert "docker.io/library/typed:1" in names_of(root)
    (root / "index.json").unlink()
    ImageService.open(root).close()
    assert "docker.io/library/typed:1" in names_of(root)


def typed(root, statement):
    """
    As somebody at the sqlite3 shell does it.
    """
    with closing(sqlite3.connect(root / "ullage.db")) as shell:
        shell.execute(statement)
        shell.commit()


def test_opening_looks_at_no_names_when_nothing_was_changed(root, open_store, source, monkeypatch):
    """
    Whatever was found to be right is remembered: at the end of a change, by whoever looked, by whoever asked.
    """
    asked = []
    states = Lookups.layout_state

    def layout_state(repository):
        asked.append(1)
        return states(repository)

    def opened():
        asked.clear()
        open_store().close()
        return bool(asked)

    with open_store() as store:
        store.import_images(source)
    monkeypatch.setattr(Lookups, "layout_state", layout_state)

    assert not opened()
    typed(root, "UPDATE store SET ledger = ledger + 1")  # no name
    assert (opened(), opened()) == (True, False)
    (root / "index.lock").write_bytes(b"")
    assert (opened(), opened()) == (True, False)
    with open_store() as store:
        store.untag_image("app:1")
        store.pin_image(store.list_images()[0])
        assert store.write_index() is True
    assert not opened()
    (root / "index.json").write_text("{}")
    assert (opened(), opened()) == (True, False)
    assert "docker.io/library/app:1" not in names_of(root)


_TYPED_TAG = (
    "INSERT INTO repo_tags (reference, image_id, manifest_id, digest, updated_at) SELECT"
    " 'docker.io/library/typed:1', image_id, manifest_id, digest, updated_at FROM repo_tags"
)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM repo_tags",
        "UPDATE repo_tags SET reference = 'docker.io/library/typed:1'",
        _TYPED_TAG,
        "DELETE FROM images",
    ],
)
def test_what_is_typed_in_the_shell_changes_the_mark(statement, root, open_store, source):
    with open_store() as store:
        store.import_images(source)
        before = store._repository.layout_mark()
        typed(root, statement)

        assert store._repository.layout_mark() != before


def test_a_file_that_cannot_be_written_fails_nobody(root, open_store, source, caplog):
    """
    Behind is harmless. Asked for by itself, it is an error like any other.
    """
    (root / "index.json").unlink(missing_ok=True)
    (root / "index.json").mkdir()
    with open_store() as store:
        store.import_images(source)
        with pytest.raises(Exception, match=r"index\.json"):
            store.write_index()
    assert "index.json stays as it is" in caplog.text
    (root / "index.json").rmdir()
    for path in root.glob("*.new"):
        path.unlink()


def test_another_process_that_is_stuck_in_it_is_waited_for_but_a_moment(root, open_store, source):
    with open_store() as store:
        store.import_images(source)
        lock = FileLock.try_acquire(root / "index.lock")
    assert names_of(root) == set()
    lock.release()

    ImageService.open(root).close()

    assert "docker.io/library/app:1" in names_of(root)


def test_who_only_looks_has_nothing_to_write(root, open_store):
    with open_store(read_only=True) as store, pytest.raises(StoreReadOnly):
        store.write_index()


def test_a_forked_child_writes_its_own_changes_and_not_its_parents(root, open_store, source, wait_until):
    with open_store() as store:
        store.import_images(source)
        child = os.fork()
        if child == 0:
            try:
                store.close()
                os._exit(0 if names_of(root) == set() else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        wait_until(lambda: "docker.io/library/app:1" in names_of(root))


def test_a_fork_is_not_beside_a_thread_of_ours(open_store, source):
    """
    Python warns of that, and the host that forks knows of no thread. What is to be written is not forgotten by it.
    """

    def threads():
        return [each.name for each in threading.enumerate() if each.name == "ullage-index"]

    with open_store() as store:
        store.import_images(source)
        assert threads() == ["ullage-index"]
        layout_module._before_fork()
        assert threads() == []
        layout_module._after_fork_in_parent()
        assert threads() == ["ullage-index"]
    assert threads() == []


def test_a_reader_sees_a_whole_index_at_any_time(root, open_store, source, monkeypatch):
    """
    Of one moment, with blobs that are there, as long as nothing is removed.
    """
    monkeypatch.setattr(layout_module, "_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(layout_module, "_SHARE", 0)
    seen, ended = [], threading.Event()

    def read():
        while not ended.is_set():
            entries = index_of(root)["manifests"]
            for each in entries:
                raw = (root / "blobs" / each["digest"].replace(":", "/")).read_bytes()
                assert digest_of(raw) == each["digest"]
            seen.append(len(entries))

    with open_store() as store:
        store.import_images(source)
        store.write_index()
        thread = threading.Thread(target=read)
        thread.start()
        for number in range(30):
            store.tag_image("app:1", f"app:{number + 2}")
        ended.set()
        thread.join()

    assert seen
    assert seen == sorted(seen)


def test_a_store_comes_into_another_by_its_layout(root, open_store, source, image, tmp_path):
    with open_store() as store:
        store.import_images(source)

    with open_store(tmp_path / "other") as other:
        (found,) = other.import_images(root)

        assert found.repo_tags == ("docker.io/library/app:1",)
        assert found.repo_digests == (f"docker.io/library/app@{image.manifest.digest}",)
