"""
The views, as tables that nobody writes to.
"""

from __future__ import annotations

from sqlalchemy import Column, Integer, Table, Text

from ullage.schema.tables import metadata

__all__ = [
    "accounting_drift",
    "held",
    "history_listing",
    "image_listing",
    "image_sources",
    "image_storage",
    "in_flight",
    "problems",
    "reclaimable",
    "space_by_image",
    "storage_summary",
    "storage_usage",
]


def _view(name: str, *columns: str) -> Table:
    integers = {"id", "size", "bytes", "pinned", "uid", "percent", "pid", "counter", "actual"}
    return Table(
        name,
        metadata,
        *(
            Column(
                column,
                Integer if column in integers or column.endswith(("_bytes", "_count", "_inodes")) else Text,
            )
            for column in columns
        ),
        info={"is_view": True},
    )


storage_usage = _view(
    "storage_usage",
    "max_bytes",
    "used_bytes",
    "reserved_bytes",
    "available_bytes",
    "image_count",
    "blob_count",
    "blob_bytes",
    "tree_count",
    "tree_bytes",
    "tree_inodes",
    "registered_bytes",
    "doomed_bytes",
    "logical_bytes",
)
image_listing = _view(
    "image_listing",
    "id",
    "repo_tags",
    "image",
    "human_size",
    "platform",
    "pinned",
    "pulled",
    "last_used",
    "size",
    "pulled_at",
    "last_used_at",
    "image_id",
    "repo_digests",
    "uid",
    "username",
)
image_storage = _view(
    "image_storage", "id", "image_id", "size", "tree_bytes", "shared_bytes", "exclusive_bytes"
)
reclaimable = Table(
    "reclaimable",
    metadata,
    Column("kind", Text),
    Column("digest", Text),
    Column("human_size", Text),
    Column("bytes", Integer),
    Column("since", Text),
    info={"is_view": True},
)
in_flight = _view(
    "in_flight",
    "reference",
    "status",
    "kind",
    "percent",
    "received",
    "human_size",
    "started",
    "digest",
    "received_bytes",
    "size",
    "reserved_bytes",
    "owner",
    "pid",
    "since",
)
held = _view("held", "id", "repo_tags", "holder", "started", "image_id", "owner", "pid", "since")
space_by_image = _view(
    "space_by_image",
    "id",
    "repo_tags",
    "takes",
    "shared",
    "frees",
    "last_used",
    "pinned",
    "size",
    "tree_bytes",
    "shared_bytes",
    "exclusive_bytes",
    "image_id",
)
storage_summary = _view("storage_summary", "name", "human_size", "bytes", "what")
history_listing = _view(
    "history_listing",
    "id",
    "time",
    "event",
    "reference",
    "image",
    "before",
    "received",
    "hosts",
    "freed",
    "who",
    "detail",
)
image_sources = _view(
    "image_sources", "id", "repo_tags", "host", "blob_count", "human_size", "bytes", "image_id"
)
accounting_drift = _view("accounting_drift", "name", "counter", "actual")
problems = _view("problems", "invariant", "problem", "object", "detail")
