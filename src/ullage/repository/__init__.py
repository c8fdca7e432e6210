"""
The repository layer: every query of a store, and the rules' own transactions.

`ImageRepository` knows rows and nothing of files or registries. Its methods say which transaction they are; there are
two kinds, one read or one write, and a method is exactly one of them. What needs no bytes from outside (a known
reference, a new tag of an image that is here, a registered image) is checked, deduplicated, admitted and recorded in
one; a pull of bytes has two, `admit` and `complete`.
"""

from __future__ import annotations

from ullage.repository.access import Access
from ullage.repository.acting import owner_name
from ullage.repository.admission import Claims
from ullage.repository.eviction import Eviction
from ullage.repository.history import History, Origin
from ullage.repository.images import Images
from ullage.repository.inspection import Inspection
from ullage.repository.layout import Layout
from ullage.repository.leases import Leases, Owner
from ullage.repository.lookup import ImageKey
from ullage.repository.pulls import Pulls
from ullage.repository.records import Edge, Naming, NewImage
from ullage.repository.restoring import RestoredName, Restoring
from ullage.repository.serving import Referrer, ServedContent, Serving
from ullage.repository.stacks import Stack, Stacks
from ullage.repository.storage import Storage
from ullage.repository.tree_inspection import TreeInspection, TreeRow
from ullage.repository.trees import NewTree, TreeClaims, Trees

__all__ = [
    "Claims",
    "Edge",
    "ImageKey",
    "ImageRepository",
    "Naming",
    "NewImage",
    "NewTree",
    "Origin",
    "Owner",
    "Referrer",
    "RestoredName",
    "ServedContent",
    "Stack",
    "TreeClaims",
    "TreeRow",
    "owner_name",
]


class ImageRepository(
    Images,
    Pulls,
    Stacks,
    Trees,
    Leases,
    Eviction,
    Inspection,
    TreeInspection,
    Layout,
    Serving,
    Storage,
    History,
    Access,
    Restoring,
):
    """
    The rows of one store.
    """
