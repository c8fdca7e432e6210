"""
`ImageRepository`: every query of a store.
"""

from __future__ import annotations

from ullage.repository.access import Access
from ullage.repository.eviction import Eviction
from ullage.repository.failures import Failures
from ullage.repository.images import Images
from ullage.repository.inspection import Inspection
from ullage.repository.leases import Leases
from ullage.repository.lookups import Lookups
from ullage.repository.pulls import Pulls
from ullage.repository.restoring import Restoring
from ullage.repository.serving import Serving
from ullage.repository.stacks import Stacks
from ullage.repository.storage import Storage
from ullage.repository.tree_inspection import TreeInspection
from ullage.repository.trees import Trees

__all__ = ["ImageRepository"]


class ImageRepository(
    Lookups,
    Images,
    Pulls,
    Stacks,
    Trees,
    Leases,
    Eviction,
    Inspection,
    TreeInspection,
    Serving,
    Storage,
    Access,
    Failures,
    Restoring,
):
    """
    The rows of one store.
    """
