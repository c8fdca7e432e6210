"""
What a caller may choose about applying a layer, and what it is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

from ullage.errors import UnsafeLayer

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from ullage.digest import Digest
    from ullage.layer.account import Large

__all__ = ["ApplyOptions", "Budget", "IdRange", "LayerResult", "Limits", "Ownership", "Unlimited", "map_id"]

#: How much may be used before the budget is asked again; for one that says anything.
_WITHOUT_END: Final = 2**63 - 1

Ownership = Literal["keep", "xattr", "forgive"]


class Budget(Protocol):
    """
    Who pays for what a layer occupies: asked before it is written, not after.
    """

    def reserve(self, space_bytes: int, inodes: int) -> tuple[int, int]:
        """
        The tree is about to occupy so much in all: blocks of files and directories, and inodes.

        Returns:
            Up to how much of both it may grow without asking again, at least what was asked for.

        Raises:
            ImageError: it may not; the layer is given up. (`StorageLimitExceeded`, as a rule.)
        """


class Unlimited:
    """
    The budget of a directory that nobody charges for.
    """

    def reserve(self, space_bytes: int, inodes: int) -> tuple[int, int]:
        del space_bytes, inodes
        return _WITHOUT_END, _WITHOUT_END


@dataclass(frozen=True, slots=True)
class IdRange:
    """
    A line of ``/proc/PID/uid_map``: *size* ids from *container* on are those from *host* on.
    """

    container: int
    host: int
    size: int


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What no honest layer reaches. Blocks and inodes are the budget's business; these are for what occupies nothing.

    The largest images known have about a million entries in a layer.
    """

    max_entries: int = 4_000_000
    #: Headers, extended headers and what follows the end of the archive.
    max_overhead_bytes: int = 4 << 30
    #: A sparse file with its holes. Every other engine writes the holes out, and so do many who copy the tree.
    max_sparse_bytes: int = 32 << 30
    #: Of a name, and of where links in it lead: PATH_MAX less the path of a root.
    max_path_bytes: int = 4000
    max_xattrs_bytes: int = 256 << 10


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """
    How a layer becomes a directory.

    Attributes:
        ownership: "keep" gives every file to the ids in the layer (mapped), and takes privilege. "xattr" leaves the
            files to whoever runs this and notes the ids in ``user.rootlesscontainers``, which umoci, PRoot and
            runROOTLESS read; what cannot carry such a note (links, fifos) is forgiven. "forgive" notes nothing.
        forgive_devices: device nodes that we may not make are left out and counted, instead of a refusal.
        forgive_xattrs: the same for attributes that we may not set (capabilities, ``trusted.``).
        user_xattrs: overlay marks are ``user.overlay.`` attributes, for mounts with ``userxattr``.
    """

    ownership: Ownership = "keep"
    forgive_devices: bool = False
    forgive_xattrs: bool = False
    user_xattrs: bool = False
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def rootless(cls, ownership: Ownership = "xattr") -> ApplyOptions:
        """
        For a process without privilege: ownership in a note, devices and privileged attributes left out.
        """
        return cls(ownership=ownership, forgive_devices=True, forgive_xattrs=True, user_xattrs=True)


@dataclass(frozen=True, slots=True)
class LayerResult:
    """
    What applying a layer did.

    ``space_bytes`` and ``inodes`` are what the tree grew by: blocks of files and directories, once for each inode.
    ``large`` are those of its files, by inode, that may take more or less once they are on disk (`grown_since`).
    ``forgiven`` counts what was left out, by what it was: "device", "ownership", "xattr security.capability" …
    """

    diff_id: Digest
    entries: int
    uncompressed_bytes: int
    compressed_bytes: int
    space_bytes: int
    inodes: int
    large: Mapping[int, Large]
    forgiven: Counter[str]


def map_id(number: int, ranges: tuple[IdRange, ...], entry: str) -> int:
    """
    The id on this host of an id in a layer.

    Raises:
        UnsafeLayer: the map has nothing for it.
    """
    number &= 0xFFFFFFFF  # all four engines let the kernel cut it down to this
    if not ranges:
        return number
    for each in ranges:
        if 0 <= number - each.container < each.size:
            return each.host + number - each.container
    raise UnsafeLayer(
        f"unsafe layer: {entry}: no id is mapped for {number}",
        entry=entry,
        hint="give the user more subordinate ids (/etc/subuid, /etc/subgid), or unpack rootless",
    )
