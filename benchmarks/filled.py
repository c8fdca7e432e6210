"""
A store with many images and blobs in its database, and none of their files: for what only asks the database.

Filled past the rules, which check each row as it comes and so take a minute for a million: the triggers are taken away
and put back, the counters are counted, and the store's own view of drift says that all of it is right.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from ullage import ImageService

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["BLOBS_EACH", "SHARED", "filled", "name_of"]

#: Blobs of an image: a manifest, a config and ten layers, the first two of which many images share.
BLOBS_EACH = 12
SHARED = 2
#: Images with the same two layers at the bottom.
_GROUP = 40
_SIZE = 3_000_000
_NOW = "2026-01-01T00:00:00.000000Z"
_CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [f"VARIABLE_{number}=a value of some length" for number in range(20)]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{number:064x}" for number in range(10)]},
    }
)


def name_of(number: int) -> str:
    """
    What image *number* is called.
    """
    return f"registry.example/team{number % 50}/app{number}:1"


def _digest(*of: object) -> str:
    return "sha256:" + hashlib.sha256(repr(of).encode()).hexdigest()


def filled(root: Path, images: int) -> Path:
    """
    A new store with *images* images, each of `BLOBS_EACH` blobs.
    """
    ImageService.open(root, max_storage=1 << 60).close()
    with closing(sqlite3.connect(root / "ullage.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        _insert(connection, images)
        connection.execute(
            "UPDATE store SET image_count = (SELECT count(*) FROM images), blob_count = (SELECT count(*) FROM blobs),"
            " blob_bytes = (SELECT sum(size) FROM blobs), logical_bytes = (SELECT sum(size) FROM images)"
        )
        for _, sql in triggers:
            connection.execute(sql)
        connection.execute("COMMIT")
        drift = connection.execute("SELECT * FROM accounting_drift LIMIT 1").fetchall()
        assert not drift, drift
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return root


def _insert(connection: sqlite3.Connection, images: int) -> None:
    groups = -(-images // _GROUP)
    own = BLOBS_EACH - SHARED

    def blobs() -> Iterator[tuple[int, str, int, str]]:
        for number in range(groups * SHARED):
            yield number + 1, _digest("shared", number), _SIZE, _NOW
        for number in range(images * own):
            yield groups * SHARED + number + 1, _digest("own", number), _SIZE, _NOW

    def edges() -> Iterator[tuple[int, int, int, str, str]]:
        for image in range(images):
            first = groups * SHARED + image * own + 1
            shared = (image // _GROUP) * SHARED + 1
            ids = [first, first + 1, *range(shared, shared + SHARED), *range(first + 2, first + own)]
            roles = ["manifest", "config", *["layer"] * (BLOBS_EACH - 2)]
            for position, (blob, role) in enumerate(zip(ids, roles, strict=True)):
                yield image + 1, position, blob, role, f"application/vnd.oci.image.{role}"

    connection.executemany(
        "INSERT INTO images (id, image_id, size, platform, config, spec_image_name, spec_tag, pulled_at, last_used_at)"
        " VALUES (?, ?, ?, 'linux/amd64', ?, ?, '1', ?, ?)",
        (
            (
                each + 1,
                _digest("own", each * own + 1),
                _SIZE * BLOBS_EACH,
                _CONFIG,
                name_of(each).rpartition(":")[0],
                _NOW,
                f"2026-01-01T00:00:00.{each % 1_000_000:06d}Z",
            )
            for each in range(images)
        ),
    )
    connection.executemany(
        "INSERT INTO blobs (id, digest, size, created_at, referenced) VALUES (?, ?, ?, ?, 1)", blobs()
    )
    connection.executemany(
        "INSERT INTO manifests (id, digest, image_id, media_type, complete, created_at)"
        " VALUES (?, ?, ?, 'application/vnd.oci.image.manifest.v1+json', 1, ?)",
        ((each + 1, _digest("own", each * own), each + 1, _NOW) for each in range(images)),
    )
    connection.executemany("INSERT INTO manifest_blobs VALUES (?, ?, ?, ?, ?)", edges())
    connection.executemany(
        "INSERT INTO repo_tags (reference, image_id, manifest_id, digest, platform, updated_at)"
        " VALUES (?, ?, ?, ?, 'linux/amd64', ?)",
        ((name_of(each), each + 1, each + 1, _digest("own", each * own), _NOW) for each in range(images)),
    )
    connection.executemany(
        "INSERT INTO repo_digests (reference, image_id, manifest_id, digest, platform, updated_at)"
        " VALUES (?, ?, ?, ?, 'linux/amd64', ?)",
        (
            (
                f"{name_of(each).rpartition(':')[0]}@{_digest('own', each * own)}",
                each + 1,
                each + 1,
                _digest("own", each * own),
                _NOW,
            )
            for each in range(images)
        ),
    )
