"""
Is this store whole? Asked from outside, with one connection and no line of the package: every violation in words.

`of_wreck` looks at what a killed process left, before anybody recovers it: what must hold at any instant.
`at_rest` looks at a store that was recovered and that nobody works on.
"""

from __future__ import annotations

import hashlib
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

from support.store import occupied

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["at_rest", "of_wreck", "summary"]


def of_wreck(root: Path, *, limit_was_lowered: bool = False, by_death: bool = True) -> list[str]:
    """
    What no death may leave, whenever it comes; nor an error, which unlike a death may take the file of a lease that
    could not be ended.
    """
    if not (root / "ullage.db").exists():
        return []
    with closing(sqlite3.connect(root / "ullage.db", timeout=10.0)) as connection:
        if connection.execute("PRAGMA application_id").fetchone() == (0,):
            return []  # died while it made the store
        found = _rows(connection, limit_was_lowered=limit_was_lowered)
        found += _blobs(connection, root)
        found += _trees(connection, root)
        begun = _encoded(connection, "SELECT chain_id FROM tree_ingests")
        grown = _encoded(connection, "SELECT chain_id FROM trees")
        announced = _encoded(connection, "SELECT digest FROM ingests")
        kept = _encoded(connection, "SELECT digest FROM blobs")
        tokens = {token for (token,) in connection.execute("SELECT token FROM leases")}
    found += [
        f"I2: file without a row: blobs/{name}"
        for name in _names(root, "blobs/sha256", "blobs/sha512")
        if name not in announced | kept
    ]
    found += [
        f"I2: file without a row: ingest/{name}" for name in _names(root, "ingest") if name not in announced
    ]
    found += [
        f"I2: directory without a row: trees/{name}"
        for name in _names(root, "trees/sha256", "trees/sha512", "trees/ingest")
        if name not in begun | grown
    ]
    if by_death:
        found += [
            f"I8: lease without its file: {each}" for each in tokens if not (root / "leases" / each).exists()
        ]
    return found


def at_rest(root: Path, *, limit_was_lowered: bool = False) -> list[str]:
    """
    What a store that nobody works on must be, to the byte.
    """
    with closing(sqlite3.connect(root / "ullage.db", timeout=10.0)) as connection:
        found = _rows(connection, limit_was_lowered=limit_was_lowered)
        found += _blobs(connection, root)
        found += _trees(connection, root)
        grown = _encoded(connection, "SELECT chain_id FROM trees")
        found += [f"half a tree is left: {row}" for row in connection.execute("SELECT * FROM tree_ingests")]
        found += [
            f"a doomed tree is left: {row}"
            for row in connection.execute("SELECT * FROM trees WHERE state <> 'ready'")
        ]
        kept = _encoded(connection, "SELECT digest FROM blobs")
        partials = {
            digest.partition(":")[2]: received
            for digest, received in connection.execute("SELECT digest, received_bytes FROM ingests")
        }
        found += [f"I8: a lease is left: {row}" for row in connection.execute("SELECT * FROM leases")]
        found += [
            f"a doomed blob is left: {row}"
            for row in connection.execute("SELECT * FROM blobs WHERE state <> 'ready'")
        ]
        found += [
            f"I3: an ingest is left: {row}"
            for row in connection.execute("SELECT * FROM ingests WHERE lease_id IS NOT NULL")
        ]
    found += [
        f"I2: file without a row: blobs/{name}"
        for name in _names(root, "blobs/sha256", "blobs/sha512")
        if name not in kept
    ]
    here = {name: (root / "ingest" / name).stat().st_size for name in _names(root, "ingest")}
    found += [f"I2: file without a row: ingest/{name}" for name in here.keys() - partials.keys()]
    found += [
        f"I3: partial blob of another size: {name}: {here.get(name)} bytes, its row says {received}"
        for name, received in partials.items()
        if here.get(name) != received
    ]
    found += [
        f"a file is left: {folder}/{name}" for folder in ("trash", "leases") for name in _names(root, folder)
    ]
    found += [
        f"I2: directory without a row: trees/{name}"
        for name in _names(root, "trees/sha256", "trees/sha512")
        if name not in grown
    ]
    found += [
        f"a directory is left: {folder}/{name}"
        for folder in ("trees/ingest", "trees/trash")
        for name in _names(root, folder)
    ]
    headroom = root / "headroom"
    if headroom.exists() and not headroom.stat().st_size:
        found.append("headroom with no room in it")
    return found


def summary(root: Path) -> dict[str, Any]:
    """
    What a host can tell two stores apart by; no ids and no times.
    """
    with closing(sqlite3.connect(root / "ullage.db", timeout=10.0)) as connection:

        def rows(sql: str) -> list[Any]:
            return sorted(connection.execute(sql).fetchall())

        return {
            "images": rows("SELECT image_id, size, pinned, registered_bytes FROM images"),
            "tags": rows(
                "SELECT t.reference, i.image_id FROM repo_tags AS t JOIN images AS i ON i.id = t.image_id"
            ),
            "digests": rows(
                "SELECT d.reference, i.image_id FROM repo_digests AS d JOIN images AS i ON i.id = d.image_id"
            ),
            "blobs": rows("SELECT digest, size, state, referenced FROM blobs"),
            "trees": rows("SELECT chain_id, space_bytes, inodes, state, referenced FROM trees"),
            "stacks": rows("SELECT count(*) FROM manifest_trees GROUP BY manifest_id"),
            "partials": rows("SELECT digest, size, received_bytes FROM ingests"),
            "usage": rows(
                "SELECT max_bytes, used_bytes, reserved_bytes, image_count, doomed_bytes FROM storage_usage"
            ),
        }


def _rows(connection: sqlite3.Connection, *, limit_was_lowered: bool) -> list[str]:
    lines = [line for (line,) in connection.execute("PRAGMA integrity_check")]
    found = [] if lines == ["ok"] else [f"integrity: {line}" for line in lines]
    found += [f"dangling: {row}" for row in connection.execute("PRAGMA foreign_key_check")]
    found += [f"drift: {row}" for row in connection.execute("SELECT * FROM accounting_drift")]
    found += [f"problem: {row}" for row in connection.execute("SELECT * FROM problems")]
    charged, limit = connection.execute(
        "SELECT used_bytes + reserved_bytes, max_bytes FROM storage_usage"
    ).fetchone()
    if charged > limit and not limit_was_lowered:
        found.append(f"I7: {charged} bytes are charged, the limit is {limit}")
    return found


def _blobs(connection: sqlite3.Connection, root: Path) -> list[str]:
    found = []
    for digest, size in connection.execute("SELECT digest, size FROM blobs WHERE state = 'ready'"):
        algorithm, _, encoded = digest.partition(":")
        path = root / "blobs" / algorithm / encoded
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            found.append(f"I1: row without a file: {digest}")
            continue
        if len(data) != size or hashlib.new(algorithm, data).hexdigest() != encoded:
            found.append(f"I1: file with other bytes: {digest}")
        if stat.S_IMODE(path.stat().st_mode) != 0o444:
            found.append(f"blob that can be written to: {digest}")
    return found


def _trees(connection: sqlite3.Connection, root: Path) -> list[str]:
    found = []
    for chain_id, space_bytes, inodes in connection.execute(
        "SELECT chain_id, space_bytes, inodes FROM trees WHERE state = 'ready'"
    ):
        algorithm, _, encoded = chain_id.partition(":")
        path = root / "trees" / algorithm / encoded
        if not path.is_dir():
            found.append(f"I1: row without a directory: {chain_id}")
        elif occupied(path) != (space_bytes, inodes):
            found.append(
                f"I7: a tree takes {occupied(path)}, its row says {(space_bytes, inodes)}: {chain_id}"
            )
    return found


def _encoded(connection: sqlite3.Connection, sql: str) -> set[str]:
    return {digest.partition(":")[2] for (digest,) in connection.execute(sql)}


def _names(root: Path, *folders: str) -> list[str]:
    return [path.name for folder in folders if (root / folder).is_dir() for path in (root / folder).iterdir()]
