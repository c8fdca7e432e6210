"""
The tables, with their columns, keys and indexes.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = [
    "access",
    "acting",
    "blob_sources",
    "blobs",
    "history",
    "images",
    "ingests",
    "lease_blobs",
    "lease_images",
    "lease_trees",
    "leases",
    "manifest_blobs",
    "manifest_trees",
    "manifests",
    "metadata",
    "repo_digests",
    "repo_tags",
    "store",
    "tree_ingests",
    "trees",
]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(
    name: str, *items: Column[int] | Column[str] | PrimaryKeyConstraint | UniqueConstraint | Index
) -> Table:
    return Table(name, metadata, *items, sqlite_strict=True)


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _integer(name: str, default: int | None = None) -> Column[int]:
    return Column(
        name, Integer, nullable=False, server_default=None if default is None else text(str(default))
    )


def _text(name: str, default: str | None = None) -> Column[str]:
    return Column(
        name, Text, nullable=False, server_default=None if default is None else text(f"'{default}'")
    )


def _maybe_text(name: str) -> Column[str]:
    return Column(name, Text, nullable=True)


def _to(name: str, target: Table, *, nullable: bool = False) -> Column[int]:
    return Column(name, Integer, ForeignKey(target.c.id), nullable=nullable)


store = _table(
    "store",
    Column("one", Integer, primary_key=True, server_default=text("1")),
    _text("uuid"),
    _text("created_at"),
    _integer("min_reader", 1),
    _integer("min_writer", 1),
    _integer("max_bytes"),
    _integer("min_free_bytes", 0),
    _integer("image_count", 0),
    _integer("blob_count", 0),
    _integer("blob_bytes", 0),
    _integer("registered_bytes", 0),
    _integer("reserved_bytes", 0),
    _integer("doomed_bytes", 0),
    _integer("logical_bytes", 0),
    _integer("ledger", 0),
    _integer("tree_count", 0),
    _integer("tree_bytes", 0),
    _integer("tree_inodes", 0),
    _integer("reserved_inodes", 0),
)

images = _table(
    "images",
    _id(),
    _text("image_id"),
    _integer("size", 0),
    Column("registered_bytes", Integer),
    _maybe_text("platform"),
    Column("uid", Integer),
    _text("username", ""),
    _maybe_text("config"),
    _text("spec_image_name"),
    _text("spec_tag", ""),
    _text("spec_digest", ""),
    _integer("pinned", 0),
    _text("pulled_at"),
    _text("last_used_at"),
    UniqueConstraint("image_id"),
)
Index("ix_images_last_used_at", images.c.last_used_at, sqlite_where=images.c.pinned == text("0"))

manifests = _table(
    "manifests",
    _id(),
    _text("digest"),
    _to("image_id", images),
    _text("media_type"),
    _maybe_text("artifact_type"),
    _maybe_text("subject"),
    _maybe_text("annotations"),
    _integer("complete", 0),
    _text("created_at"),
    UniqueConstraint("digest"),
    Index(None, "image_id"),
)

blobs = _table(
    "blobs",
    _id(),
    _text("digest"),
    _integer("size"),
    _text("state", "ready"),
    _integer("referenced", 0),
    _text("created_at"),
    _maybe_text("verified_at"),
    UniqueConstraint("digest"),
)
Index("ix_blobs_unreferenced", blobs.c.created_at, sqlite_where=blobs.c.referenced == text("0"))
Index("ix_blobs_doomed", blobs.c.id, sqlite_where=blobs.c.state == text("'doomed'"))

manifest_blobs = Table(
    "manifest_blobs",
    metadata,
    _to("manifest_id", manifests),
    _integer("position"),
    _to("blob_id", blobs),
    _text("role"),
    _text("media_type"),
    PrimaryKeyConstraint("manifest_id", "position"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index("ix_manifest_blobs_blob_id", manifest_blobs.c.blob_id, manifest_blobs.c.manifest_id)

repo_tags = _table(
    "repo_tags",
    _id(),
    _text("reference"),
    _to("image_id", images),
    _to("manifest_id", manifests, nullable=True),
    _maybe_text("digest"),
    _maybe_text("platform"),
    _text("updated_at"),
    UniqueConstraint("reference"),
    Index(None, "image_id"),
    Index(None, "manifest_id"),
)

repo_digests = _table(
    "repo_digests",
    _id(),
    _text("reference"),
    _to("image_id", images),
    _to("manifest_id", manifests, nullable=True),
    _text("digest"),
    _maybe_text("platform"),
    _text("updated_at"),
    UniqueConstraint("reference"),
    Index(None, "image_id"),
    Index(None, "manifest_id"),
)

leases = _table(
    "leases",
    _id(),
    _text("token"),
    _text("purpose"),
    _maybe_text("reference"),
    _text("status", "pending"),
    _text("owner"),
    _integer("pid"),
    _text("created_at"),
    _maybe_text("ended_token"),
    UniqueConstraint("token"),
)

lease_blobs = Table(
    "lease_blobs",
    metadata,
    _to("lease_id", leases),
    _to("blob_id", blobs),
    PrimaryKeyConstraint("lease_id", "blob_id"),
    Index(None, "blob_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

lease_images = Table(
    "lease_images",
    metadata,
    _to("lease_id", leases),
    _to("image_id", images),
    PrimaryKeyConstraint("lease_id", "image_id"),
    Index(None, "image_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

ingests = _table(
    "ingests",
    _id(),
    _text("digest"),
    _integer("size"),
    _to("lease_id", leases, nullable=True),
    _integer("reserved_bytes"),
    _integer("received_bytes", 0),
    _text("state", "partial"),
    _text("created_at"),
    UniqueConstraint("digest"),
    Index(None, "lease_id"),
)

trees = _table(
    "trees",
    _id(),
    _text("chain_id"),
    _text("diff_id"),
    _integer("space_bytes"),
    _integer("inodes"),
    _integer("rootless", 0),
    _integer("forgiven", 0),
    _text("state", "ready"),
    _integer("referenced", 0),
    _text("created_at"),
    UniqueConstraint("chain_id"),
)
Index("ix_trees_unreferenced", trees.c.created_at, sqlite_where=trees.c.referenced == text("0"))
Index("ix_trees_doomed", trees.c.id, sqlite_where=trees.c.state == text("'doomed'"))

manifest_trees = Table(
    "manifest_trees",
    metadata,
    _to("manifest_id", manifests),
    _integer("position"),
    _to("tree_id", trees),
    PrimaryKeyConstraint("manifest_id", "position"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index("ix_manifest_trees_tree_id", manifest_trees.c.tree_id, manifest_trees.c.manifest_id)

lease_trees = Table(
    "lease_trees",
    metadata,
    _to("lease_id", leases),
    _to("tree_id", trees),
    PrimaryKeyConstraint("lease_id", "tree_id"),
    Index(None, "tree_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

tree_ingests = _table(
    "tree_ingests",
    _id(),
    _text("chain_id"),
    _to("lease_id", leases, nullable=True),
    _integer("reserved_bytes", 0),
    _integer("reserved_inodes", 0),
    _text("state", "partial"),
    _text("created_at"),
    UniqueConstraint("chain_id"),
    Index(None, "lease_id"),
)

history = _table(
    "history",
    _id(),
    _text("at"),
    _text("event"),
    _maybe_text("reference"),
    _maybe_text("image_id"),
    _maybe_text("previous_image_id"),
    Column("received_bytes", Integer),
    Column("freed_bytes", Integer),
    _maybe_text("hosts"),
    _maybe_text("owner"),
    Column("pid", Integer),
    _maybe_text("detail"),
)

acting = _table(
    "acting",
    Column("one", Integer, primary_key=True, server_default=text("1")),
    _text("at"),
    _maybe_text("event"),
    _maybe_text("reference"),
    _maybe_text("detail"),
    _text("owner"),
    _integer("pid"),
)

blob_sources = _table(
    "blob_sources",
    Column("blob_id", Integer, ForeignKey(blobs.c.id), primary_key=True),
    _text("host"),
)

access = Table(
    "access",
    metadata,
    _to("image_id", images),
    _text("repo"),
    _text("credential"),
    _text("verified_at"),
    PrimaryKeyConstraint("image_id", "repo", "credential"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
