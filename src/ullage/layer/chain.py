"""
Chain ids: the digest of a stack of layers, and not of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ullage.digest import Digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["chain_id", "chain_ids"]


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """
    The chain id of each layer with all those below it. (Image specification 1.1, config.md, "Layer ChainID")

    >>> first, second = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)
    >>> chain_ids([first, second])[0] == first
    True
    >>> chain_ids([first, second])[1] == digest_of(f"{first} {second}".encode())
    True
    """
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def chain_id(diff_ids: Iterable[Digest]) -> Digest:
    """
    The chain id of the whole stack, the lowest layer first. There has to be one.
    """
    return chain_ids(diff_ids)[-1]
