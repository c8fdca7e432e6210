"""
What a store looks like from outside: its rows and its files, read without a line of the package's own.
"""

from __future__ import annotations

import hashlib
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

#: Files up to this size are hashed by `check_root`.
_SMALL_BYTES = 1 << 20

TABLES = (
    "images",
    "manifests",
    "blobs",
    "manifest_blobs",
    "repo_tags",
    "repo_digests",
    "leases",
    "lease_blobs",
    "lease_images",
    "ingests",
    "trees",
    "manifest_trees",
    "lease_trees",
    "tree_ingests",
    "acting",
    "blob_sources",
    "access",
)


class Snapshot(NamedTuple):
    """
    Every row and every file of a store: two that are equal say that nothing was left behind.
    """

    rows: dict[str, list[tuple[Any, ...]]]
    usage: dict[str, int]
    files: dict[str, int]


def query(root: Path, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """
    What the shell would say.
    """
    with closing(sqlite3.connect(root / "ullage.db", timeout=10.0)) as connection:
        return connection.execute(sql, parameters).fetchall()


def usage(root: Path) -> dict[str, int]:
    with closing(sqlite3.connect(root / "ullage.db", timeout=10.0)) as connection:
        connection.row_factory = sqlite3.Row
        return dict(connection.execute("SELECT * FROM storage_usage").fetchone())


def files_of(root: Path, *folders: str) -> dict[str, int]:
    """
    Sizes of the files under *folders* by their path below the root.
    """
    return {
        str(path.relative_to(root)): path.stat().st_size
        for folder in folders or ("blobs", "ingest", "trash", "leases")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


def snapshot(root: Path) -> Snapshot:
    rows = {table: sorted(query(root, f"SELECT * FROM {table}"), key=repr) for table in TABLES}
    return Snapshot(rows, usage(root), files_of(root))


def occupied(directory: Path) -> tuple[int, int]:
    """
    What du says of a tree: bytes of blocks and inodes, each inode once, that of the directory among them.
    """
    seen = {}
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values()), len(seen)


def trees_of(root: Path) -> dict[str, tuple[int, int]]:
    """
    What each tree takes on disk, by its chain id.
    """
    return {
        f"{path.parent.name}:{path.name}": occupied(path)
        for algorithm in ("sha256", "sha512")
        for path in (root / "trees" / algorithm).glob("*")
    }


def check_trees(root: Path) -> None:
    """
    Assert that the trees of a store at rest are those of its rows, to the block and to the inode.
    """
    rows = query(root, "SELECT chain_id, space_bytes, inodes FROM trees")
    trees = trees_of(root)
    assert trees == {chain_id: (space_bytes, inodes) for chain_id, space_bytes, inodes in rows}
    assert usage(root)["tree_bytes"] == sum(space_bytes for space_bytes, _ in trees.values())
    assert usage(root)["tree_inodes"] == sum(inodes for _, inodes in trees.values())
    assert query(root, "SELECT * FROM tree_ingests") == []
    for folder in ("ingest", "trash"):
        assert list((root / "trees" / folder).glob("*")) == []


def check_root(root: Path, *, limit_was_lowered: bool = False) -> None:
    """
    Assert that a store at rest is whole: the invariants that can be seen from outside, to the byte.
    """
    assert query(root, "SELECT * FROM accounting_drift") == []
    assert query(root, "SELECT * FROM problems") == []
    assert query(root, "PRAGMA integrity_check") == [("ok",)]
    assert query(root, "PRAGMA foreign_key_check") == []

    blobs = {
        f"blobs/{digest.replace(':', '/')}": size
        for digest, size in query(root, "SELECT digest, size FROM blobs")
    }
    assert files_of(root, "blobs") == blobs
    assert usage(root)["blob_bytes"] == sum(blobs.values())
    assert usage(root)["doomed_bytes"] == 0
    for name, size in blobs.items():
        algorithm, encoded = name.split("/")[1:]
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o444
        if size <= _SMALL_BYTES:
            assert hashlib.new(algorithm, (root / name).read_bytes()).hexdigest() == encoded

    partials = query(root, "SELECT digest, received_bytes FROM ingests WHERE lease_id IS NULL")
    assert files_of(root, "ingest") == {
        f"ingest/{digest.partition(':')[2]}": size for digest, size in partials
    }
    check_trees(root)
    assert query(root, "SELECT * FROM leases") == []
    assert files_of(root, "trash", "leases") == {}
    if not limit_was_lowered:
        figures = usage(root)
        assert figures["used_bytes"] + figures["reserved_bytes"] <= figures["max_bytes"]
