"""
Reading: beside writers, by who may not write, and from a file that was taken away.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from support.images import ImageBuilder
from support.store import query
from support.worker import run_python
from ullage import ImageService, SimulatedRegistry, StoreError, StoreReadOnly
from ullage.moment import MAX_COPY_BYTES
from ullage.releases import snapshot

needs_shell = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="apt install sqlite3")


@contextmanager
def shell(root):
    """
    The real shell, with somebody typing.
    """
    process = subprocess.Popen(
        ["sqlite3", "-readonly", root / "ullage.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )

    def ask(line):
        process.stdin.write(f"{line}\n.print done\n")
        answers = []
        while (answer := process.stdout.readline().strip()) != "done":
            answers.append(answer)
        return answers

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


@needs_shell
def test_a_forgotten_transaction_in_the_shell_blocks_nobody_and_sees_its_moment(store, root, registry):
    store.pull_image(ImageBuilder(registry, "before").noise_layer(100).push("1").reference)
    with shell(root) as ask:
        ask("BEGIN;")
        assert ask("SELECT count(*) FROM images;") == ["1"]

        for number in range(80):  # more than from one checkpoint to the next
            store.register_image(f"app{number}:1", size=1)
        store.pull_image(ImageBuilder(registry, "after").noise_layer(100, "after").push("1").reference)
        store.remove_image("app0:1")

        assert ask("SELECT count(*) FROM images;") == ["1"]
        ask("COMMIT;")
        assert ask("SELECT count(*) FROM images;") == ["81"]


def test_a_wal_that_grew_is_a_finding_of_the_doctor(store, root):
    store.register_image("app:1", size=1)
    before = [each for each in store.doctor() if each.subject == "journal"]

    os.truncate(
        root / "ullage.db-wal", 65 << 20
    )  # what a reader in the way would make of it; its end is ignored

    found = [each for each in store.doctor() if each.subject == "journal"]
    assert [each.level for each in before] == ["ok"]
    assert [each.level for each in found] == ["ok", "warn"]
    assert "68.2 MB" in found[1].text
    assert found[1].hint
    assert store.image_count() == 1


# ---------------------------------------------------------------------- without the right to write

# What runs is loaded before the rights go: the interpreter may be where nobody else may look.
_PRELUDE = """
import json, os, resource, sys, threading, time
from pathlib import Path
from ullage import ImageError, ImageService, SimulatedRegistry
from ullage.cli import main
from ullage.releases import snapshot
root = Path(sys.argv[1])
with ImageService.open(sys.argv[2], registry=SimulatedRegistry()) as warm:
    warm.pull_image("warm"); warm.history(); warm.view("problems"); warm.doctor(); warm.check()
snapshot(Path(sys.argv[2]), Path(sys.argv[2], "warm.db"), replace=True)
ImageService.open(sys.argv[2], read_only=True).close()
assert main(["--root", sys.argv[2], "check"]) == 0
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert not os.access(root, os.W_OK)
"""


@pytest.fixture
def public(tmp_path):
    """
    A store that everybody may read and nobody but its owner may write to. Root may always, so root becomes nobody.
    """
    folder = Path(tempfile.mkdtemp(prefix="ullage-public-"))
    folder.chmod(0o755)
    root = folder / "store"
    ImageService.open(root, registry=SimulatedRegistry()).close()
    yield root
    root.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def shared():
    """
    A directory that everybody may write to.
    """
    with tempfile.TemporaryDirectory(prefix="ullage-shared-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def as_nobody(root, tmp_path, code):
    mode = root.stat().st_mode
    if os.geteuid() != 0:
        root.chmod(0o555)
    try:
        return run_python(_PRELUDE + code, root, tmp_path / "warm").split("\n")
    finally:
        root.chmod(mode)


_LOOK = """
with ImageService.open(root, read_only=True) as images:
    print([each.repo_tags for each in images.list_images()], images.usage().image_count, len(images.history()))
    levels = [each.level for each in images.doctor() if each.subject in ("journal", "accounting")]
    print(levels, images.view("problems"))
    try:
        images.pull_image("more")
    except ImageError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("is_open", [False, True], ids=["nobody has it open", "somebody has it open"])
def test_who_may_only_read_a_store_can_look_into_it(is_open, public, tmp_path):
    with ImageService.open(public, registry=SimulatedRegistry()) as store:
        store.pull_image("nginx")
        if is_open:
            store.pull_image("alpine")
            said = as_nobody(public, tmp_path, _LOOK)
    if not is_open:
        said = as_nobody(public, tmp_path, _LOOK)

    tags = [("docker.io/library/nginx:latest",), ("docker.io/library/alpine:latest",)][: 1 + is_open]
    assert said[:3] == [f"{tags} {len(tags)} {len(tags)}", "['ok', 'ok'] []", "StoreReadOnly"]


def test_who_looks_for_long_sees_what_others_do_meanwhile(public, shared, tmp_path, wait_until):
    """
    From memory while nobody has the store open, and from the store itself when somebody has.
    """
    code = f"""
with ImageService.open(root, read_only=True) as images:
    print(images.image_count())
    Path({str(shared / "ready")!r}).touch()
    until = time.monotonic() + 20
    while images.image_count() < 2 and time.monotonic() < until:
        time.sleep(0.01)
    print(images.image_count())
"""

    def write():
        wait_until((shared / "ready").exists, seconds=25)
        for name in ("one", "two"):
            with ImageService.open(public, registry=SimulatedRegistry()) as store:
                store.pull_image(name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        said = as_nobody(public, tmp_path, code)
    finally:
        writer.join()

    assert said[:2] == ["0", "2"]


def test_readers_in_one_process_share_one_copy_of_a_moment(public, tmp_path):
    """
    However many connections read, and whichever services they are of, memory has the database once.
    """
    size = 40_000_000
    with closing(sqlite3.connect(public / "ullage.db")) as connection:
        connection.execute("CREATE TABLE padding (bytes BLOB)")
        connection.execute("INSERT INTO padding VALUES (randomblob(?))", (size,))
        connection.commit()
    code = """
def look():
    with ImageService.open(root, read_only=True) as images:
        with images._database.read(), images._database.read(), images._database.read():
            barrier.wait()
            seen.append(images.image_count())
            barrier.wait()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

barrier, seen, before = threading.Barrier(8), [], peak()
threads = [threading.Thread(target=look) for _ in range(8)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(seen, peak() - before)
with ImageService.open(root, read_only=True) as images:
    print(images.image_count())
"""

    said = as_nobody(public, tmp_path, code)

    seen, grown = said[0].rsplit(" ", 1)
    assert (seen, said[1]) == (str([0] * 8), "0")
    assert int(grown) < 3 * size


def test_a_database_that_is_too_large_for_memory_is_refused_with_its_size(public, tmp_path):
    os.truncate(public / "ullage.db", MAX_COPY_BYTES + 1)  # sparse: it takes nothing
    code = """
try:
    ImageService.open(root, read_only=True)
except ImageError as error:
    print(type(error).__name__, error.message, error.hint)
"""

    said = as_nobody(public, tmp_path, code)

    assert said[0].startswith("StoreReadOnly ")
    assert f"{MAX_COPY_BYTES + 1} bytes are too many" in said[0]
    assert "ullage db snapshot" in said[0]


def test_a_reader_beside_a_store_that_comes_and_goes_sees_whole_moments(public, tmp_path):
    code = """
started, seen = time.monotonic(), set()
while time.monotonic() < started + (1.0 if len(seen) > 1 else 30.0):
    try:
        with ImageService.open(root, read_only=True) as images:
            assert images.view("problems") == images.view("accounting_drift") == []
            usage = images.usage()
            assert usage.image_count * 5 == usage.registered_bytes, usage
            seen.add(usage.image_count)
    except ImageError as error:
        assert type(error).__name__ in ("StoreReadOnly", "StoreBusy"), error
print(len(seen))
"""
    over = threading.Event()

    def write():
        number = 0
        while not over.is_set():
            with ImageService.open(public) as store:
                store.register_image(f"app{number}:1", size=5)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        said = as_nobody(public, tmp_path, code)
    finally:
        over.set()
        writer.join()

    assert int(said[0]) > 1


_HIDDEN = ["blobs/sha256", "ingest", "trees/ingest"]
_CHECK = """
with ImageService.open(root, read_only=True) as images:
    for each in images.check(digests=True):
        print(each.invariant, each.object, each.detail, each.unseen)
print("done")
"""


def test_a_check_says_what_it_may_not_look_at(public, registry, tmp_path):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
    with ImageService.open(public) as store:
        store.pull_image(image.reference)

        assert as_nobody(public, tmp_path, _CHECK)[0] == "done", "there are no trees to be wrong"
        store.make_trees(image.reference)
        # A group that shares a store gets in, and no further than its owner lets it.
        (public / "trees").chmod(0o755)
        hidden = [*(public / "trees/sha256").iterdir(), *(public / each for each in _HIDDEN)]
        for each in hidden:
            each.chmod(0o700)
        said = as_nobody(public, tmp_path, _CHECK)

        assert store.check(digests=True) == []

    denied = "Permission denied True"
    assert said[: len(_HIDDEN) + 3] == [
        f"I1 blobs 3 of them: {denied}",
        f"I1 trees 1 of them: {denied}",
        *(f"I2 {each} {denied}" for each in _HIDDEN),
        "done",
    ]


def test_a_check_of_what_may_not_all_be_looked_at_has_an_exit_code_of_its_own(public, registry, tmp_path):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
    with ImageService.open(public, unpack=True) as store:
        store.pull_image(image.reference)
    code = """
sys.stderr = sys.stdout
print(main(["--root", str(root), "check"]))
"""

    said = as_nobody(public, tmp_path, code)

    assert said[:3] == [
        "I1: cannot be looked at: trees (Permission denied)",
        "no problems; not all of it could be looked at: its owner, or root, may",
        "36",
    ]

    next((public / "blobs/sha256").iterdir()).unlink()

    assert as_nobody(public, tmp_path, code)[3] == "32"


def test_who_may_not_look_is_told_what_to_do(public, tmp_path):
    """
    A journal that somebody died on, and no shared memory to read it by: only who may write can.
    """
    with ImageService.open(public, registry=SimulatedRegistry()) as store:
        store.pull_image("nginx")
        copy = public.with_name("copy")
        shutil.copytree(public, copy)
    (copy / "ullage.db-shm").unlink()
    code = """
try:
    ImageService.open(root, read_only=True)
except ImageError as error:
    print(type(error).__name__, error.hint)
"""

    said = as_nobody(copy, tmp_path, code)

    assert said[0].startswith("StoreReadOnly ")
    assert "ullage db snapshot" in said[0]
    assert not (copy / "ullage.db-shm").exists()
    with ImageService.open(copy, read_only=True) as store:
        assert store.image_count() == 1


# ---------------------------------------------------------------------- a file to take away


def _counts(path, uri="?immutable=1"):
    with closing(sqlite3.connect(f"file:{path}{uri}", uri=True)) as connection:
        tables = ("images", "blobs", "history")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


def test_a_snapshot_is_one_file_of_one_moment(store, root, registry, tmp_path):
    store.pull_image(ImageBuilder(registry, "app").noise_layer(100).push("1").reference)

    size = snapshot(root, tmp_path / "images.db")

    assert [path.name for path in tmp_path.glob("*images.db*")] == ["images.db"]
    assert (tmp_path / "images.db").stat().st_size == size
    assert _counts(tmp_path / "images.db") == _counts(tmp_path / "images.db", "") == [1, 3, 1]
    assert query(root, "SELECT count(*) FROM images") == [(1,)]
    with closing(sqlite3.connect(tmp_path / "images.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_snapshot_replaces_nothing_unasked(store, root, tmp_path):
    target = tmp_path / "images.db"
    target.write_text("mine")

    with pytest.raises(StoreError, match="already") as raised:
        snapshot(root, target)

    assert "--force" in raised.value.hint
    assert target.read_text() == "mine"
    snapshot(root, target, replace=True)
    assert _counts(target) == [0, 0, 0]


def test_a_snapshot_does_not_take_the_place_of_a_database_in_use(store, root, tmp_path):
    for target, match in (
        (root / "ullage.db", "the store itself"),
        (tmp_path, "directory"),
        (tmp_path / "other.db", "in use"),
    ):
        (tmp_path / "other.db-wal").touch()
        with pytest.raises(StoreError, match=match):
            snapshot(root, target, replace=True)
    with pytest.raises(StoreReadOnly if os.geteuid() else StoreError):
        snapshot(root, tmp_path / "no" / "such" / "directory")


def test_who_may_only_read_takes_a_snapshot(public, shared, tmp_path):
    with ImageService.open(public, registry=SimulatedRegistry()) as store:
        store.pull_image("nginx")

    as_nobody(public, tmp_path, f"snapshot(root, Path({str(shared / 'images.db')!r}))")

    assert _counts(shared / "images.db") == [1, 0, 1]


def test_many_threads_that_may_only_read_see_what_others_do_meanwhile(public, shared, tmp_path, wait_until):
    code = f"""
def look(number):
    until = time.monotonic() + 20
    while images.image_count() < 5 and time.monotonic() < until:
        pass
    seen[number] = images.image_count()

seen = {{}}
with ImageService.open(root, read_only=True) as images:
    threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    Path({str(shared / "ready")!r}).touch()
    for each in threads:
        each.join()
    print(sorted(seen.values()), images.image_count())
"""

    def write():
        wait_until((shared / "ready").exists, seconds=25)
        for number in range(5):
            with ImageService.open(public) as store:
                store.register_image(f"app{number}:1", size=1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        said = as_nobody(public, tmp_path, code)
    finally:
        writer.join()

    assert said[0] == "[5, 5, 5, 5] 5"
