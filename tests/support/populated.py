"""
A store with one of everything in it, for hostile hands: made by the real service, its live owners really holding
their locks.

    with populated(root, registry) as names:
        names["live"]                # the row id of a live pull's lease
        names["partial"]             # the digest of a partial blob that nobody fetches

What is in it: two images that share a layer, one of them by two manifests, one by an index, and held; an artifact; a
registered image; an image without a name; a pull under way with three ingests (nothing received, some, all) that keeps
one blob of an image and one that no image names; the lease of a dead owner with an ingest; a partial blob; doomed
blobs; garbage. And trees: of two of the images, kept, doomed, garbage, and on their way for the live pull, for the
dead owner and for nobody. Nearly all of the limit is used or reserved.
"""

# ruff: noqa: E501, ISC004 -- SQL reads by its lines, and is put together from pieces

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from support.images import ImageBuilder, noise, push_index
from ullage import ImageService, PullPolicy, RegistryClient
from ullage.digest import digest_of
from ullage.locks import LeaseLock
from ullage.recovery import give_back
from ullage.repository import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from support.registry import FaultRegistry

#: What the limit leaves free.
ROOM_BYTES = 20_000

_ALL, _SOME, _NONE, _KEPT, _PARTIAL, _DEAD = (
    noise(size, f"populated {size}") for size in (3_000, 200_000, 90_000, 4_000, 120_000, 70_000)
)


@contextmanager
def populated(root: Path, registry: FaultRegistry) -> Iterator[dict[str, str]]:
    """
    Makes the store and keeps its owners alive; yields what statements call by name, then brings it to rest.
    """
    with ImageService.open(root, registry=RegistryClient(plain_http=True)) as service:
        layer = _pull_images(service, registry)
        lock = _start_pull(service, layer)
        _leave_partials(service)
        with service.hold(f"{registry.host}/multi:1"):
            _leave_garbage(service, registry)
            _grow_trees(root)
            used = service.usage()
            service.set_max_storage(used.used_bytes + used.reserved_bytes + ROOM_BYTES)
            with closing(sqlite3.connect(root / "ullage.db")) as connection:
                yield _names(connection, lock.token)
        give_back(service._repository, service._files, lock.token, keep=False)
        lock.drop()
        service.collect()
        _fell_trees(root)


def _pull_images(service: ImageService, registry: FaultRegistry) -> str:
    shared = {"etc/base": noise(5_000, "base")}
    app = ImageBuilder(registry, "app").layer(shared).noise_layer(9_000, "app")
    image = app.push("1")
    service.pull_image(image.reference)
    service.tag_image(image.reference, "app:mine")
    app.annotate(again="yes").push("2")
    service.pull_image(f"{registry.host}/app:2")
    multi = ImageBuilder(registry, "multi").layer(shared).noise_layer(3_000, "multi").config(User="1000")
    other = ImageBuilder(registry, "multi", platform="linux/s390x").noise_layer(2_000, "other")
    push_index(registry, "multi", [multi, other], "1")
    service.pull_image(f"{registry.host}/multi:1", platform="linux/amd64")
    ImageBuilder(registry, "art").artifact("text/x").raw_layer(b"a text").push("1")
    service.pull_image(f"{registry.host}/art:1", policy=PullPolicy.ALWAYS)
    service.register_image("elsewhere:1", size=5_000)
    nameless = ImageBuilder(registry, "nameless").noise_layer(1_000, "nameless").push("1")
    service.pull_image(nameless.reference)
    service.untag_image(nameless.reference)
    return image.layers[0].digest


def _start_pull(service: ImageService, layer: str) -> LeaseLock:
    repository, files = service._repository, service._files
    lock = LeaseLock.create(files.leases)
    sizes = {digest_of(raw): len(raw) for raw in (_ALL, _SOME, _NONE, _KEPT)}
    size = next(each.size for each in _blob_sizes(service) if each.digest == layer)
    repository.admit(
        Owner(lock.token, "alive", os.getpid()), "docker.io/library/live:1", {**sizes, layer: size}, files
    )
    received = {_ALL: len(_ALL), _SOME: 150_000, _KEPT: len(_KEPT)}
    for raw, count in received.items():
        with files.ingest(digest_of(raw), len(raw)) as ingest:
            ingest.write(raw[:count])
            if count == len(raw):
                ingest.finish()
    repository.progress(lock.token, {digest_of(raw): count for raw, count in received.items()})
    files.publish([digest_of(_KEPT)])
    repository.publish(lock.token, [digest_of(_KEPT)])
    return lock


def _blob_sizes(service: ImageService) -> list:
    return service._repository.blob_rows(after=0, limit=100)


def _leave_partials(service: ImageService) -> None:
    repository, files = service._repository, service._files
    for raw, count, dies in ((_PARTIAL, 80_000, False), (_DEAD, 66_000, True)):
        lock = LeaseLock.create(files.leases)
        digest = digest_of(raw)
        repository.admit(Owner(lock.token, "dead", 1), "docker.io/library/dead:1", {digest: len(raw)}, files)
        with files.ingest(digest, len(raw)) as ingest:
            ingest.write(raw[:count])
        repository.progress(lock.token, {digest: count})
        if dies:
            lock._lock.release()
        else:
            give_back(repository, files, lock.token, keep=True)
            lock.drop()


def _leave_garbage(service: ImageService, registry: FaultRegistry) -> None:
    image = ImageBuilder(registry, "gone").noise_layer(2_500, "gone").noise_layer(1_500, "gone too").push("1")
    service._repository.remove(service.pull_image(image.reference).id)
    with closing(sqlite3.connect(service._files.root / "ullage.db")) as connection, connection:
        connection.execute(
            "UPDATE blobs SET state = 'ready' WHERE id = (SELECT max(id) FROM blobs WHERE state = 'doomed')"
        )


_TREES = ("tree", "tree_held", "tree_kept", "tree_garbage", "tree_doomed")
_TREE_INGESTS = {"growing": "alive", "arriving": "alive", "lost": "dead", "half": "gone"}


def _chain_id(name: str) -> str:
    return digest_of(f"tree {name}".encode())


def _grow_trees(root: Path) -> None:
    """
    Rows alone, as their owners would write them.
    """
    now = "(SELECT created_at FROM store)"
    script = [
        f"INSERT INTO leases (token, purpose, owner, pid, created_at) VALUES ('{owner:0>32}', 'pull', '{name}', 1, {now})"
        for name, owner in (("trees", "1"), ("gone", "2"))
    ]
    ingest = (
        "INSERT INTO tree_ingests (chain_id, lease_id, reserved_bytes, reserved_inodes, created_at)"
        " SELECT '{0}', id, {1}, 8, created_at FROM leases WHERE owner = '{2}'"
    )
    for number, name in enumerate(_TREES):
        chain_id = _chain_id(name)
        owner = "alive" if name == "tree_kept" else "trees"
        script += [
            ingest.format(chain_id, 20_480, owner),
            f"UPDATE tree_ingests SET state = 'arrived' WHERE chain_id = '{chain_id}'",
            "INSERT INTO trees (chain_id, diff_id, space_bytes, inodes, created_at)"
            f" VALUES ('{chain_id}', '{chain_id}', {4096 * (number + 1)}, {number + 1}, {now})",
        ]
    script += [
        "UPDATE leases SET status = 'complete' WHERE owner = 'trees'",
        *(
            f"INSERT INTO manifest_trees SELECT manifest_id, 0, (SELECT id FROM trees WHERE chain_id = '{_chain_id(name)}')"
            f" FROM repo_tags WHERE reference LIKE '%/{image}:1'"
            for name, image in (("tree", "app"), ("tree_held", "multi"))
        ),
        *(ingest.format(_chain_id(name), 9_000, owner) for name, owner in _TREE_INGESTS.items()),
        "UPDATE leases SET ended_token = token WHERE owner IN ('trees', 'gone')",
        f"UPDATE trees SET state = 'doomed' WHERE chain_id = '{_chain_id('tree_doomed')}'",
    ]
    _execute(root, script)


def _fell_trees(root: Path) -> None:
    """
    They have no directories, so whoever comes to look finds no rows.
    """
    _execute(
        root,
        [
            "UPDATE tree_ingests SET state = 'discarded'",
            "DELETE FROM manifest_trees",
            "UPDATE trees SET state = 'doomed'",
            "UPDATE trees SET state = 'swept'",
        ],
    )


def _execute(root: Path, script: list[str]) -> None:
    with closing(sqlite3.connect(root / "ullage.db")) as connection, connection:
        for sql in script:
            connection.execute(sql)


def _names(connection: sqlite3.Connection, live: str) -> dict[str, str]:
    look_ups: Mapping[str, str] = {
        "live": f"SELECT id FROM leases WHERE token = '{live}'",
        "hold": "SELECT id FROM leases WHERE purpose = 'hold'",
        "dead": "SELECT id FROM leases WHERE owner = 'dead'",
        "nothing": f"SELECT digest FROM ingests WHERE size = {len(_NONE)}",
        "some": f"SELECT digest FROM ingests WHERE size = {len(_SOME)}",
        "all": f"SELECT digest FROM ingests WHERE size = {len(_ALL)}",
        "partial": "SELECT digest FROM ingests WHERE lease_id IS NULL",
        "kept": f"SELECT id FROM blobs WHERE digest = '{digest_of(_KEPT)}'",
        "kept_digest": f"SELECT '{digest_of(_KEPT)}'",
        "leased": "SELECT blob_id FROM lease_blobs JOIN blobs ON id = blob_id WHERE referenced = 1",
        "garbage": "SELECT max(b.id) FROM blobs AS b WHERE state = 'ready' AND referenced = 0",
        "doomed": "SELECT min(id) FROM blobs WHERE state = 'doomed'",
        "held": "SELECT image_id FROM lease_images",
        "held_manifest": "SELECT m.id FROM manifests AS m JOIN lease_images USING (image_id)",
        "index": "SELECT blob_id FROM manifest_blobs WHERE role = 'index'",
        "image": "SELECT image_id FROM repo_tags WHERE reference LIKE '%/app:1'",
        "manifest": "SELECT manifest_id FROM repo_tags WHERE reference LIKE '%/app:1'",
        "tag": "SELECT reference FROM repo_tags WHERE reference LIKE '%/app:1'",
        "registered": "SELECT id FROM images WHERE registered_bytes IS NOT NULL",
        "nameless": "SELECT id FROM images WHERE spec_image_name LIKE '%nameless'",
        "now": "SELECT created_at FROM store",
    }
    names = {name: str(connection.execute(sql).fetchone()[0]) for name, sql in look_ups.items()}
    names |= {
        name: str(
            connection.execute("SELECT id FROM trees WHERE chain_id = ?", (_chain_id(name),)).fetchone()[0]
        )
        for name in _TREES
    }
    names |= {name: _chain_id(name) for name in _TREE_INGESTS}
    return names | {"new": digest_of(b"new"), "newer": digest_of(b"newer"), "token": "0123456789abcdef" * 2}
