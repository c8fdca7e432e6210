"""
The tables and views as SQLAlchemy metadata, for the queries of the repository layer.

What a store is made of is in ``migrations/``; ``migrations/head.sql`` is its text, with the triggers and views that
hold the rules, and `script` reads it. No query is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ullage.exports import names_of

if TYPE_CHECKING:
    from ullage.schema.revisions import HEAD_REVISION as HEAD_REVISION
    from ullage.schema.revisions import LEVEL as LEVEL
    from ullage.schema.revisions import REVISIONS as REVISIONS
    from ullage.schema.tables import access as access
    from ullage.schema.tables import acting as acting
    from ullage.schema.tables import blob_sources as blob_sources
    from ullage.schema.tables import blobs as blobs
    from ullage.schema.tables import history as history
    from ullage.schema.tables import images as images
    from ullage.schema.tables import ingests as ingests
    from ullage.schema.tables import lease_blobs as lease_blobs
    from ullage.schema.tables import lease_images as lease_images
    from ullage.schema.tables import lease_trees as lease_trees
    from ullage.schema.tables import leases as leases
    from ullage.schema.tables import manifest_blobs as manifest_blobs
    from ullage.schema.tables import manifest_trees as manifest_trees
    from ullage.schema.tables import manifests as manifests
    from ullage.schema.tables import metadata as metadata
    from ullage.schema.tables import repo_digests as repo_digests
    from ullage.schema.tables import repo_tags as repo_tags
    from ullage.schema.tables import store as store
    from ullage.schema.tables import tree_ingests as tree_ingests
    from ullage.schema.tables import trees as trees
    from ullage.schema.views import accounting_drift as accounting_drift
    from ullage.schema.views import held as held
    from ullage.schema.views import history_listing as history_listing
    from ullage.schema.views import image_listing as image_listing
    from ullage.schema.views import image_sources as image_sources
    from ullage.schema.views import image_storage as image_storage
    from ullage.schema.views import in_flight as in_flight
    from ullage.schema.views import problems as problems
    from ullage.schema.views import reclaimable as reclaimable
    from ullage.schema.views import space_by_image as space_by_image
    from ullage.schema.views import storage_summary as storage_summary
    from ullage.schema.views import storage_usage as storage_usage

__all__, __getattr__ = names_of(
    __name__,
    {
        "revisions": ("HEAD_REVISION", "LEVEL", "REVISIONS"),
        "tables": (
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
        ),
        "views": (
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
        ),
    },
)
