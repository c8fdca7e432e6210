"""
A small store with something of everything in it, kept in ``tests/migration/stores`` for each revision that landed.

    PYTHONPATH=tests python -m support.keepsake

writes that of the newest revision, made by the code as it is, and those of revisions before it that never had a release
of their own, by taking it back. One that is there already is never written again, for the release that made it is gone.
To see what was kept, unpack it (`unpacked`).

The same code makes the same store: names, tokens, ids and times are given here. Whoever adds a table adds rows of it
to `_populate`, before the revision lands.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from support.images import ImageBuilder, noise, push_index
from support.worker import environment
from ullage import ImageService, PullFailed, PullPolicy, RegistryClient, migrate
from ullage.database import Database
from ullage.demo.registry import LoopbackRegistry
from ullage.digest import digest_of
from ullage.locks import FileLock
from ullage.repository import Owner
from ullage.schema import HEAD_REVISION, REVISIONS
from ullage.schema.script import statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage import Digest

__all__ = ["STORES", "kept", "make", "unpacked"]

PROJECT = Path(__file__).parent.parent.parent
STORES = PROJECT / "tests" / "migration" / "stores"

#: What is packed. The gate and the headroom are made again by whoever opens the store.
_KEPT = ("ullage.db", "blobs", "ingest", "trash", "leases", "trees")
_HOST = "registry.example"
_EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
_NOW = _EPOCH.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
_UUID = "5704e5ee-0000-4000-8000-00000000{revision}"

#: They compress: what is worth resuming is more than a fixture should take.
_HALF, _WHOLE, _RESTING = (bytes([number]) * size for number, size in ((1, 150_000), (2, 3_000), (3, 5_000)))
_NOTHING, _PUBLISHED = noise(2_000, "nothing"), noise(700, "published")


class _Clock:
    """
    What time it is: as late as the last who asked said.
    """

    def __init__(self) -> None:
        self._seconds = 0

    def later(self, **by: float) -> None:
        self._seconds += int(timedelta(**by).total_seconds())

    def __call__(self) -> datetime:
        return _EPOCH + timedelta(seconds=self._seconds)


def kept() -> dict[str, Path]:
    """
    The stores that are kept, by revision, oldest first.
    """
    return {path.name.partition(".")[0]: path for path in sorted(STORES.glob("*.tar.xz"))}


def unpacked(revision: str, root: Path) -> Path:
    """
    The store of *revision* as its release left it: somebody died on it, and nobody recovered it.
    """
    with tarfile.open(kept()[revision]) as archive:
        archive.extraction_filter = lambda member, _path: (
            member
        )  # our own: modes as they are, 0444 among them
        archive.extractall(root)
    return root


def make(root: Path) -> None:
    """
    The store at the newest revision, in *root*, as it is kept.
    """
    with tempfile.TemporaryDirectory(prefix="ullage-keepsake-") as name, LoopbackRegistry() as registry:
        work = Path(name) / "store"
        hosts = Path(name) / "hosts" / _HOST
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'server = "{registry.url}"\n')
        _lay_out(work)
        client = RegistryClient(hosts_dir=hosts.parent, credentials=False)
        clock = _Clock()
        with (
            ImageService.open(work, registry=client, min_free=1000, clock=clock) as service,
            _populate(service, registry, clock),
        ):
            _say_the_same_of_what_happened(work)
            root.mkdir()
            for each in _KEPT[1:]:
                if (work / each).is_dir():
                    shutil.copytree(work / each, root / each, symlinks=True)
            # Without a WAL, and with the same bytes each time. Never a copy of a database that is open.
            with closing(sqlite3.connect(work / "ullage.db")) as connection:
                connection.execute("VACUUM INTO ?", [str(root / "ullage.db")])


def _lay_out(root: Path) -> None:
    """
    Tables made by Alembic, and a row of ours: so the store has an identity that is the same each time.
    """
    root.mkdir()
    subprocess.run(
        [sys.executable, "-m", "alembic", "-x", f"root={root}", "upgrade", "head"],
        cwd=PROJECT,
        env=environment(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    with closing(sqlite3.connect(root / "ullage.db")) as connection, connection:
        _, row = statements()
        own = {"uuid": _UUID.format(revision=HEAD_REVISION), "created_at": _NOW, "max_bytes": 1 << 30}
        connection.execute(row, own)


@contextmanager
def _populate(service: ImageService, registry: LoopbackRegistry, clock: _Clock) -> Iterator[None]:
    """
    Rows of every table, and of every kind that a rule tells apart. At the end three owners live, and die with us.
    """
    layer = _pull_images(service, registry, clock)
    clock.later(hours=1)
    _leave_a_partial(service)
    _leave_garbage(service, registry)
    lock = _admitted(service, 1, {layer: _size(service, layer)} | _sizes(_HALF, _WHOLE, _NOTHING, _PUBLISHED))
    _receive(service, lock.path.name, {_HALF: 100_000, _WHOLE: len(_WHOLE), _PUBLISHED: len(_PUBLISHED)})
    service._files.publish([digest_of(_PUBLISHED)])
    service._repository.publish(lock.path.name, [digest_of(_PUBLISHED)])
    holder = FileLock.try_acquire(service._files.leases / _token(2))
    assert holder is not None
    service._repository.hold(_owner(2), f"{_HOST}/multi:1")
    _grow_trees(service)
    used = service.usage()
    service.set_max_storage(used.used_bytes + used.reserved_bytes + 20_000)
    yield
    lock.release()
    holder.release()


def _pull_images(service: ImageService, registry: LoopbackRegistry, clock: _Clock) -> Digest:
    shared = {"etc/base": noise(3_000, "base")}
    app = ImageBuilder(registry, "app").layer(shared).noise_layer(2_000, "app")
    image = app.config(Env=["A=1", "LANG=C.UTF-8"], Labels={"role": "web"}).annotate(why="kept").push("1")
    service.pull_image(f"{_HOST}/app:1")
    service.tag_image(f"{_HOST}/app:1", "app:mine")
    service.pin_image("app:mine")
    clock.later(days=1)
    app.annotate(again="yes").push("2")  # another manifest of the same config, and so the same image
    service.pull_image(f"{_HOST}/app:2")
    multi = ImageBuilder(registry, "multi").layer(shared).noise_layer(1_500, "multi").config(User="1000:1000")
    other = ImageBuilder(registry, "multi", platform="linux/arm/v7").noise_layer(900, "other")
    push_index(registry, "multi", [multi, other], "1", "arm")
    service.pull_image(f"{_HOST}/multi:1", platform="linux/amd64")
    service.pull_image(f"{_HOST}/multi:arm", platform="linux/arm/v7")
    clock.later(days=1)
    ImageBuilder(registry, "docker", docker=True).layer(shared).config(User="www").push("old")
    service.pull_image(f"{_HOST}/docker:old")
    ImageBuilder(registry, "long", algorithm="sha512").noise_layer(400, "long").push("1")
    service.pull_image(f"{_HOST}/long:1")
    ImageBuilder(registry, "art").artifact("text/x").raw_layer(b"a text").push("1")
    service.pull_image(f"{_HOST}/art:1", policy=PullPolicy.ALWAYS)
    by_digest = ImageBuilder(registry, "exact").noise_layer(300, "exact").push("1")
    service.pull_image(f"{_HOST}/exact@{by_digest.digest}")
    ImageBuilder(registry, "nameless").noise_layer(200, "nameless").push("1")
    service.untag_image(service.pull_image(f"{_HOST}/nameless:1").repo_tags[0])
    with suppress(PullFailed):
        service.pull_image(f"{_HOST}/nothing:1")
    service.register_image("elsewhere:1", size=5_000)
    service.register_image(
        "elsewhere:2", size=7_000, digest=digest_of(b"elsewhere"), platform="linux/arm64/v8"
    )
    return image.layers[0].digest


def _leave_a_partial(service: ImageService) -> None:
    """
    What nobody fetches any more, and a later pull can go on with.
    """
    lock = _admitted(service, 3, _sizes(_RESTING))
    _receive(service, lock.path.name, {_RESTING: 4_000})
    service._repository.end(lock.path.name, {digest_of(_RESTING): 4_000})
    lock.path.unlink()
    lock.release()


def _leave_garbage(service: ImageService, registry: LoopbackRegistry) -> None:
    """
    Two blobs that nothing names, and one of them doomed.
    """
    ImageBuilder(registry, "gone").noise_layer(500, "gone").push("1")
    service._repository.remove(service.pull_image(f"{_HOST}/gone:1").id)
    with closing(sqlite3.connect(service._files.root / "ullage.db")) as connection, connection:
        connection.execute(
            "UPDATE blobs SET state = 'ready' WHERE id = (SELECT max(id) FROM blobs WHERE state = 'doomed')"
        )


def _grow_trees(service: ImageService) -> None:
    """
    Rows of trees, without their directories: what one takes is for the filesystem to say, and each says another number.
    """
    ready, doomed, growing = (digest_of(f"tree {name}".encode()) for name in ("ready", "doomed", "growing"))
    ingest = (
        "INSERT INTO tree_ingests (chain_id, lease_id, reserved_bytes, reserved_inodes, created_at)"
        f" SELECT ?, id, 8192, 2, '{_NOW}' FROM leases WHERE token = '{_token(1)}'"
    )
    tree = (
        "INSERT INTO trees (chain_id, diff_id, space_bytes, inodes, created_at)"
        f" VALUES (?1, ?1, 4096, 1, '{_NOW}')"
    )
    with closing(sqlite3.connect(service._files.root / "ullage.db")) as connection, connection:
        for chain_id in (ready, doomed):
            connection.execute(ingest, [chain_id])
            connection.execute("UPDATE tree_ingests SET state = 'arrived' WHERE chain_id = ?", [chain_id])
            connection.execute(tree, [chain_id])
        connection.execute(f"UPDATE leases SET status = 'complete' WHERE token = '{_token(1)}'")
        connection.execute(
            "INSERT INTO manifest_trees SELECT manifest_id, 0, (SELECT id FROM trees WHERE chain_id = ?) FROM repo_tags"
            f" WHERE reference = '{_HOST}/app:1'",
            [ready],
        )
        connection.execute(f"UPDATE leases SET status = 'downloading' WHERE token = '{_token(1)}'")
        connection.execute(ingest, [growing])


def _say_the_same_of_what_happened(root: Path) -> None:
    """
    By whom, when and from where is this machine's: it is put as if it had been another.
    """
    with closing(sqlite3.connect(root / "ullage.db")) as connection, connection:
        connection.execute("UPDATE blob_sources SET host = ?", [_HOST])
        names = [name for _, name, *_ in connection.execute("PRAGMA table_info(history)")]
        rows = connection.execute(f"SELECT {', '.join(names)} FROM history ORDER BY id").fetchall()
        connection.execute("DELETE FROM history")
        for number, row in enumerate(rows, 1):
            known = dict(zip(names, row, strict=True))
            known |= {"id": number, "at": _NOW}
            if known["owner"] is not None:
                known |= {"owner": _owner(1).name, "pid": _owner(1).pid}
            if known["hosts"] is not None:
                known["hosts"] = _HOST
            marks = ", ".join("?" * len(names))
            connection.execute(f"INSERT INTO history VALUES ({marks})", [known[name] for name in names])
        connection.execute("DELETE FROM access")
        connection.execute(
            "INSERT INTO access (image_id, repo, credential, verified_at)"
            f" SELECT image_id, '{_HOST}/app', '{'5' * 64}', '{_NOW}' FROM repo_tags WHERE reference = '{_HOST}/app:1'"
        )


def _admitted(service: ImageService, number: int, wanted: dict[Digest, int]) -> FileLock:
    lock = FileLock.try_acquire(service._files.leases / _token(number))
    assert lock is not None
    service._repository.admit(_owner(number), f"{_HOST}/dead:{number}", wanted, service._files)
    return lock


def _receive(service: ImageService, token: str, received: dict[bytes, int]) -> None:
    for raw, count in received.items():
        with service._files.ingest(digest_of(raw), len(raw)) as ingest:
            ingest.write(raw[:count])
            if count == len(raw):
                ingest.finish()
    service._repository.progress(token, {digest_of(raw): count for raw, count in received.items()})


def _sizes(*contents: bytes) -> dict[Digest, int]:
    return {digest_of(raw): len(raw) for raw in contents}


def _size(service: ImageService, digest: Digest) -> int:
    return service._files.blob_path(digest).stat().st_size


def _token(number: int) -> str:
    return f"{number:032x}"


def _owner(number: int) -> Owner:
    return Owner(_token(number), "a-host a-program", 4000 + number)


def _pack(root: Path, archive: Path) -> None:
    """
    The same bytes for the same store, whoever packs it.
    """
    with tarfile.open(archive, "w:xz", preset=9) as target:
        for path in sorted(each for each in root.rglob("*") if each.is_file() or not any(each.iterdir())):
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.mode = path.stat().st_mode & 0o777
            entry.mtime = int(_EPOCH.timestamp())
            if path.is_dir():
                entry.type = tarfile.DIRTYPE
                target.addfile(entry)
            else:
                content = path.read_bytes()
                entry.size = len(content)
                target.addfile(entry, io.BytesIO(content))


def _take_back(root: Path, revision: str) -> None:
    """
    What *revision* has a place for, as one file again.
    """
    whole, database = root / "whole.db", Database(root / "ullage.db", gate=root / "gate")
    try:
        migrate.downgrade(database, revision, accept_losses=True)
    finally:
        database.close()
    with closing(sqlite3.connect(root / "ullage.db")) as connection:
        connection.execute("VACUUM INTO ?", [str(whole)])
    for path in (*root.glob("ullage.db*"), root / "gate"):
        path.unlink()
    whole.rename(root / "ullage.db")


def main() -> None:
    missing = [revision for revision in REVISIONS if revision not in kept()]
    if not missing:
        sys.exit("all of them are kept already: what a release made is never made again")
    STORES.mkdir(exist_ok=True)
    for revision in missing:
        archive = STORES / f"{revision}.tar.xz"
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "store"
            make(root)
            if revision != HEAD_REVISION:
                _take_back(root, revision)
            _pack(root, archive)
        print(f"wrote {archive}, {archive.stat().st_size} bytes")


if __name__ == "__main__":
    main()
