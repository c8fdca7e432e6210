"""
The tables and views as SQLAlchemy metadata, for the queries of the repository layer.

What a store is made of is in ``migrations/``; ``migrations/head.sql`` is its text, with the triggers and views that
hold the rules, and `script` reads it. No query is here.
"""

from __future__ import annotations

from typing import Final

from ullage.schema.tables import (
    access,
    acting,
    blob_sources,
    blobs,
    history,
    images,
    ingests,
    lease_blobs,
    lease_images,
    lease_trees,
    leases,
    manifest_blobs,
    manifest_trees,
    manifests,
    metadata,
    repo_digests,
    repo_tags,
    store,
    tree_ingests,
    trees,
)
from ullage.schema.views import (
    accounting_drift,
    held,
    history_listing,
    image_listing,
    image_sources,
    image_storage,
    in_flight,
    problems,
    reclaimable,
    space_by_image,
    storage_summary,
    storage_usage,
)

__all__ = [
    "HEAD_REVISION",
    "LEVEL",
    "REVISIONS",
    "access",
    "accounting_drift",
    "acting",
    "blob_sources",
    "blobs",
    "held",
    "history",
    "history_listing",
    "image_listing",
    "image_sources",
    "image_storage",
    "images",
    "in_flight",
    "ingests",
    "lease_blobs",
    "lease_images",
    "lease_trees",
    "leases",
    "manifest_blobs",
    "manifest_trees",
    "manifests",
    "metadata",
    "problems",
    "reclaimable",
    "repo_digests",
    "repo_tags",
    "space_by_image",
    "storage_summary",
    "storage_usage",
    "store",
    "tree_ingests",
    "trees",
]

#: The revisions that this release knows, in order.
REVISIONS: Final = ("0001", "0002", "0003", "0004")
#: The one that it writes.
HEAD_REVISION: Final = REVISIONS[-1]
#: Its ordinal, which is ``user_version`` of the store: what releases compare that do not know each other's revisions.
LEVEL: Final = len(REVISIONS)
