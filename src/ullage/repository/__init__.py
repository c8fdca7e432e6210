"""
The repository layer: every query of a store, and the rules" own transactions.

`ImageRepository` knows rows and nothing of files or registries. Its methods say which transaction they are; there are
two kinds, one read or one write, and a method is exactly one of them. What needs no bytes from outside (a known
reference, a new tag of an image that is here, a registered image) is checked, deduplicated, admitted and recorded in
one; a pull of bytes has two, `admit` and `complete`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ullage.exports import names_of

if TYPE_CHECKING:
    from ullage.repository.acting import owner_name as owner_name
    from ullage.repository.admission import Claims as Claims
    from ullage.repository.history import Origin as Origin
    from ullage.repository.holding import Owner as Owner
    from ullage.repository.lookup import ImageKey as ImageKey
    from ullage.repository.lookups import Lookups as Lookups
    from ullage.repository.records import Edge as Edge
    from ullage.repository.records import Naming as Naming
    from ullage.repository.records import NewImage as NewImage
    from ullage.repository.repository import ImageRepository as ImageRepository
    from ullage.repository.restoring import RestoredName as RestoredName
    from ullage.repository.serving import Referrer as Referrer
    from ullage.repository.serving import ServedContent as ServedContent
    from ullage.repository.standing import Stack as Stack
    from ullage.repository.tree_inspection import TreeRow as TreeRow
    from ullage.repository.trees import NewTree as NewTree
    from ullage.repository.trees import TreeClaims as TreeClaims

__all__, __getattr__ = names_of(
    __name__,
    {
        "acting": ("owner_name",),
        "admission": ("Claims",),
        "history": ("Origin",),
        "holding": ("Owner",),
        "lookup": ("ImageKey",),
        "lookups": ("Lookups",),
        "records": ("Edge", "Naming", "NewImage"),
        "repository": ("ImageRepository",),
        "restoring": ("RestoredName",),
        "serving": ("Referrer", "ServedContent"),
        "standing": ("Stack",),
        "tree_inspection": ("TreeRow",),
        "trees": ("NewTree", "TreeClaims"),
    },
)
