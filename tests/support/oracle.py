"""
Who judges a store that somebody typed at: an oracle that recomputes the truth in Python from the base tables, and
remembers what must not change. With it, copies of a database to type at, and the schema without one of its rules.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = dict[str, Any]

TABLES = (
    "store",
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
    "history",
    "acting",
    "blob_sources",
    "access",
)
NUMBERED = (
    "images",
    "manifests",
    "blobs",
    "repo_tags",
    "repo_digests",
    "leases",
    "ingests",
    "trees",
    "tree_ingests",
    "history",
)


def copy_of(
    source: sqlite3.Connection, *, foreign_keys: bool = False, recursive: bool = False
) -> sqlite3.Connection:
    """
    A copy in memory, as a shell would have it: no transaction open, no rule of ours about transactions.
    """
    copy = sqlite3.connect(":memory:", isolation_level=None)
    source.backup(copy)
    copy.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
    copy.execute(f"PRAGMA recursive_triggers = {int(recursive)}")
    return copy


def triggers_of(connection: sqlite3.Connection) -> list[str]:
    return [
        name
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name"
        )
    ]


def table_of(connection: sqlite3.Connection, trigger: str) -> str:
    (table,) = connection.execute("SELECT tbl_name FROM sqlite_schema WHERE name = ?", (trigger,)).fetchone()
    return str(table)


def constraints_of(connection: sqlite3.Connection) -> list[str]:
    """
    The names of all constraints of our tables, as the schema's text has them.
    """
    texts = connection.execute(
        "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name <> 'alembic_version'"
    )
    return sorted(name for (text,) in texts if text for name in re.findall(r"CONSTRAINT (\w+)", text))


def weakened(connection: sqlite3.Connection, rule: str) -> None:
    """
    Take one rule out of the schema: drop a trigger, or make a CHECK true, a key and a UNIQUE silent.
    """
    if rule in triggers_of(connection):
        connection.execute(f"DROP TRIGGER {rule}")
        return
    kind = rule.partition("_")[0]
    if kind != "ck":
        # An index cannot be wished away: the rule is shown by the statement that it refuses, and by its name there.
        raise ValueError(rule)
    connection.execute("PRAGMA writable_schema = ON")
    changed = connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, 'CONSTRAINT ' || ?1 || ' CHECK (',"
        " 'CONSTRAINT ' || ?1 || ' CHECK (1 OR ') WHERE sql LIKE '%CONSTRAINT ' || ?1 || ' CHECK (%'",
        (rule,),
    ).rowcount
    assert changed == 1, rule
    connection.execute("PRAGMA writable_schema = RESET")


# ---------------------------------------------------------------------- the truth


def rows_of(connection: sqlite3.Connection) -> dict[str, list[Row]]:
    """
    All rows of all base tables.
    """
    found = {}
    for table in TABLES:
        cursor = connection.execute(f"SELECT * FROM {table}")
        columns = [column[0] for column in cursor.description]
        found[table] = [dict(zip(columns, row, strict=True)) for row in cursor]
    return found


@dataclass
class Oracle:
    """
    What is true of a store whatever was typed at it. `complaints` after each statement; `capture` after the owner's.
    """

    total: int = 0
    identity: tuple[Any, ...] = ()
    blobs: dict[int, Row] = field(default_factory=dict)
    ingests: dict[int, Row] = field(default_factory=dict)
    inodes: int = 0
    trees: dict[int, Row] = field(default_factory=dict)
    stacks: set[tuple[int, int]] = field(default_factory=set)
    kept_trees: set[tuple[int, int]] = field(default_factory=set)
    tree_ingests: dict[int, Row] = field(default_factory=dict)
    leases: dict[int, Row] = field(default_factory=dict)
    kept: set[tuple[int, int]] = field(default_factory=set)
    held: set[tuple[int, int]] = field(default_factory=set)

    def capture(self, connection: sqlite3.Connection) -> None:
        rows = rows_of(connection)
        self.total = _total(rows["store"][0])
        self.identity = _identity(rows["store"][0])
        self.blobs = {row["id"]: row for row in rows["blobs"]}
        self.ingests = {row["id"]: row for row in rows["ingests"]}
        self.leases = {row["id"]: row for row in rows["leases"]}
        self.kept = {(row["lease_id"], row["blob_id"]) for row in rows["lease_blobs"]}
        self.held = {(row["lease_id"], row["image_id"]) for row in rows["lease_images"]}
        self.inodes = _inodes(rows["store"][0])
        self.trees = {row["id"]: row for row in rows["trees"]}
        self.stacks = _stacks_of_the_held(rows)
        self.kept_trees = {(row["lease_id"], row["tree_id"]) for row in rows["lease_trees"]}
        self.tree_ingests = {row["id"]: row for row in rows["tree_ingests"]}

    def complaints(self, connection: sqlite3.Connection, *, restored: bool = False) -> list[str]:
        """
        What is wrong now; nothing, if all is well. *restored*: a rollback brought back what was judged before.
        """
        rows = rows_of(connection)
        if len(rows["store"]) != 1:
            return [f"{len(rows['store'])} rows in store"]
        wrong = [
            *self._counters(rows),
            *_references(rows),
            *self._protected(rows),
            *_tree_references(rows),
            *self._protected_trees(rows),
            *self._limit(rows["store"][0], restored=restored),
            *(f"{name} of {row}" for name, row in _numbers(rows)),
        ]
        for view in ("accounting_drift", "problems"):
            wrong += [f"{view}: {row}" for row in connection.execute(f"SELECT * FROM {view}")]
        return wrong

    @staticmethod
    def _counters(rows: dict[str, list[Row]]) -> Iterator[str]:
        ready = [row["size"] for row in rows["blobs"] if row["state"] == "ready"]
        trees = [row for row in rows["trees"] if row["state"] == "ready"]
        truth = {
            "image_count": len(rows["images"]),
            "blob_count": len(ready),
            "blob_bytes": sum(ready),
            "registered_bytes": sum(row["registered_bytes"] or 0 for row in rows["images"]),
            "tree_count": len(trees),
            "tree_bytes": sum(row["space_bytes"] for row in trees),
            "tree_inodes": sum(row["inodes"] for row in trees),
            "reserved_bytes": sum(row["reserved_bytes"] for row in (*rows["ingests"], *rows["tree_ingests"])),
            "reserved_inodes": sum(row["reserved_inodes"] for row in rows["tree_ingests"]),
            "doomed_bytes": sum(row["size"] for row in rows["blobs"] if row["state"] == "doomed")
            + sum(row["space_bytes"] for row in rows["trees"] if row["state"] == "doomed"),
            "logical_bytes": sum(row["size"] for row in rows["images"]),
        }
        for name, value in truth.items():
            if rows["store"][0][name] != value:
                yield f"{name} is {rows['store'][0][name]}, should be {value}"
        sizes = {row["id"]: row["size"] for row in rows["blobs"]}
        content = defaultdict(set)
        image_of = {row["id"]: row["image_id"] for row in rows["manifests"] if row["complete"]}
        for edge in rows["manifest_blobs"]:
            content[image_of.get(edge["manifest_id"])].add(edge["blob_id"])
        for image in rows["images"]:
            size = (image["registered_bytes"] or 0) + sum(sizes.get(blob, 0) for blob in content[image["id"]])
            if image["size"] != size:
                yield f"size of image {image['id']} is {image['size']}, should be {size}"

    def _protected(self, rows: dict[str, list[Row]]) -> Iterator[str]:
        if _identity(rows["store"][0]) != self.identity:
            yield "this is another store"
        blobs = {row["id"]: row for row in rows["blobs"]}
        for row in self.blobs.values():
            if not _same(row, blobs.get(row["id"]), "digest", "size"):
                yield f"blob {row['id']} went, and its file did not"
        for row in rows["blobs"]:
            if row["id"] not in self.blobs:
                yield f"blob {row['id']} came, and its file did not"
        leases = {row["id"]: row for row in rows["leases"]}
        for row in self.leases.values():
            if not _same(row, leases.get(row["id"]), *(column for column in row if column != "status")):
                yield f"lease {row['id']} is not what it was: {leases.get(row['id'])}"
        yield from self._protected_ingests({row["id"]: row for row in rows["ingests"]})
        kept = {(row["lease_id"], row["blob_id"]) for row in rows["lease_blobs"]}
        held = {(row["lease_id"], row["image_id"]) for row in rows["lease_images"]}
        yield from (f"no longer kept: {pair}" for pair in self.kept - kept)
        yield from (f"no longer held: {pair}" for pair in self.held - held)
        yield from (
            f"kept and not ready: {blob}" for _, blob in kept if blobs.get(blob, {}).get("state") != "ready"
        )
        images = {row["id"] for row in rows["images"]}
        yield from (f"held and gone: {image}" for _, image in held if image not in images)
        yield from (f"kept by nobody: {pair}" for pair in (*kept, *held) if pair[0] not in leases)

    def _protected_ingests(self, now: dict[int, Row]) -> Iterator[str]:
        for row in self.ingests.values():
            same = ["digest", "size", "state"]
            found = now.get(row["id"])
            if row["lease_id"] is not None:
                same += ["lease_id", "reserved_bytes"]
            elif found is not None and found["lease_id"] is None:
                same += ["reserved_bytes", "received_bytes"]
            if not _same(row, found, *same):
                yield f"ingest {row['id']} was {row}, is {found}"
        for row in now.values():
            if row["lease_id"] is not None and row["reserved_bytes"] != row["size"]:
                yield f"ingest {row['id']} reserves too little"

    def _protected_trees(self, rows: dict[str, list[Row]]) -> Iterator[str]:
        """
        Trees go and come with their directories, and what is being made stays its owner's.
        """
        trees = {row["id"]: row for row in rows["trees"]}
        for row in self.trees.values():
            if not _same(
                row,
                trees.get(row["id"]),
                *(each for each in row if each not in ("state", "referenced", "created_at")),
            ):
                yield f"tree {row['id']} went, and its directory did not"
        yield from (
            f"tree {each} came, and its directory did not" for each in trees.keys() - self.trees.keys()
        )
        kept = {(row["lease_id"], row["tree_id"]) for row in rows["lease_trees"]}
        yield from (f"tree no longer kept: {pair}" for pair in self.kept_trees - kept)
        yield from (
            f"tree kept and not ready: {tree}"
            for _, tree in kept
            if trees.get(tree, {}).get("state") != "ready"
        )
        leases = {row["id"] for row in rows["leases"]}
        yield from (f"tree kept by nobody: {pair}" for pair in kept if pair[0] not in leases)
        yield from (f"a held image lost a tree: {pair}" for pair in self.stacks - _stacks_of_the_held(rows))
        ingests = {row["id"]: row for row in rows["tree_ingests"]}
        for row in self.tree_ingests.values():
            found = ingests.get(row["id"])
            shrunk = found is not None and any(
                found[each] < row[each] for each in ("reserved_bytes", "reserved_inodes")
            )
            if shrunk or not _same(row, found, "chain_id", "lease_id"):
                yield f"ingest of a tree {row['id']} was {row}, is {found}"

    def _limit(self, store: Row, *, restored: bool) -> Iterator[str]:
        before, self.total = self.total, _total(store)
        if not restored and self.total > before and self.total > store["max_bytes"]:
            yield f"grew from {before} to {self.total} over the limit of {store['max_bytes']}"
        before, self.inodes = self.inodes, _inodes(store)
        if not restored and self.inodes > before and self.inodes > store["max_bytes"] // 4096:
            yield f"grew from {before} to {self.inodes} inodes under a limit of {store['max_bytes']}"


def _identity(store: Row) -> tuple[Any, ...]:
    return tuple(store[column] for column in ("one", "uuid", "created_at"))


def _total(store: Row) -> int:
    return store["blob_bytes"] + store["tree_bytes"] + store["registered_bytes"] + store["reserved_bytes"]


def _inodes(store: Row) -> int:
    return store["tree_inodes"] + store["reserved_inodes"]


def _stacks_of_the_held(rows: dict[str, list[Row]]) -> set[tuple[int, int]]:
    held = {row["image_id"] for row in rows["lease_images"]}
    manifests = {row["id"] for row in rows["manifests"] if row["image_id"] in held}
    return {
        (row["manifest_id"], row["tree_id"])
        for row in rows["manifest_trees"]
        if row["manifest_id"] in manifests
    }


def _same(before: Row, after: Row | None, *columns: str) -> bool:
    return after is not None and all(before[column] == after[column] for column in columns)


def _references(rows: dict[str, list[Row]]) -> Iterator[str]:
    ready = {row["id"] for row in rows["blobs"] if row["state"] == "ready"}
    digests = {row["id"]: row["digest"] for row in rows["blobs"]}
    images = {row["id"]: row for row in rows["images"]}
    manifests = {row["id"]: row for row in rows["manifests"]}
    named = {row["blob_id"] for row in rows["manifest_blobs"]}
    ways = {(row["id"], row["digest"]) for row in rows["manifests"]}
    ways |= {
        (e["manifest_id"], digests.get(e["blob_id"])) for e in rows["manifest_blobs"] if e["role"] == "index"
    }
    for edge in rows["manifest_blobs"]:
        if edge["blob_id"] not in ready or edge["manifest_id"] not in manifests:
            yield f"an edge leads nowhere: {edge}"
    for row in rows["manifests"]:
        if row["image_id"] not in images or not row["complete"]:
            yield f"half a manifest: {row}"
    yield from (
        f"referenced is wrong: {row}" for row in rows["blobs"] if row["referenced"] != (row["id"] in named)
    )
    made = {row["image_id"] for row in rows["manifests"]}
    for row in images.values():
        if row["registered_bytes"] is None and row["id"] not in made:
            yield f"an image without content: {row}"
    for row in (*rows["repo_tags"], *rows["repo_digests"]):
        manifest = manifests.get(row["manifest_id"])
        if row["manifest_id"] is None:
            sound = images.get(row["image_id"], {}).get("registered_bytes") is not None
        else:
            sound = manifest is not None and manifest["image_id"] == row["image_id"]
            sound = sound and (row["manifest_id"], row["digest"]) in ways
        if not sound:
            yield f"a reference leads astray: {row}"
    here = set(digests.values())
    yield from (f"both here and on its way: {row}" for row in rows["ingests"] if row["digest"] in here)
    owners = {row["id"] for row in rows["leases"]}
    yield from (
        f"owned by nobody: {row}" for row in rows["ingests"] if row["lease_id"] not in {None, *owners}
    )


def _tree_references(rows: dict[str, list[Row]]) -> Iterator[str]:
    ready = {row["id"] for row in rows["trees"] if row["state"] == "ready"}
    manifests = {row["id"] for row in rows["manifests"]}
    named = {row["tree_id"] for row in rows["manifest_trees"]}
    for edge in rows["manifest_trees"]:
        if edge["tree_id"] not in ready or edge["manifest_id"] not in manifests:
            yield f"an edge leads to no tree: {edge}"
    yield from (
        f"referenced is wrong: {row}" for row in rows["trees"] if row["referenced"] != (row["id"] in named)
    )
    here = {row["chain_id"] for row in rows["trees"]}
    yield from (f"both here and on its way: {row}" for row in rows["tree_ingests"] if row["chain_id"] in here)
    owners = {row["id"] for row in rows["leases"]}
    yield from (
        f"owned by nobody: {row}" for row in rows["tree_ingests"] if row["lease_id"] not in {None, *owners}
    )


def _numbers(rows: dict[str, list[Row]]) -> Iterator[tuple[str, Row]]:
    for table in NUMBERED:
        for row in rows[table]:
            if not 0 < row["id"] < 1 << 40:
                yield f"the id in {table} leaves no next one", row
