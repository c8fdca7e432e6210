"""
What a host receives and hands in: frozen values with nothing behind them.

The names are those of the Kubernetes CRI ImageService in Python's spelling;
sizes are bytes and times are timezone-aware UTC.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ullage.reference import ImageSpec

__all__ = [
    "DEFAULT_MAX_STORAGE",
    "AuthConfig",
    "Evicted",
    "EvictionPolicy",
    "Finding",
    "ImageStatus",
    "ImageStorage",
    "Loss",
    "PlannedBlob",
    "Problem",
    "ProgressCallback",
    "PullPlan",
    "PullPolicy",
    "PullProgress",
    "PullStatus",
    "Reclaimed",
    "RevisionNote",
    "StorageUsage",
    "StoreRevision",
    "Unpacked",
    "UpgradeCallback",
    "UpgradeProgress",
]

#: The storage limit of a store that is created without one, in bytes: 10 GiB.
DEFAULT_MAX_STORAGE: Final = 10 * 1024**3


class PullPolicy(enum.Enum):
    """
    When a pull asks the registry (Kubernetes' ``imagePullPolicy``).
    """

    IF_NOT_PRESENT = "if-not-present"
    ALWAYS = "always"
    NEVER = "never"


class PullStatus(enum.Enum):
    """
    How far a pull is.
    """

    PENDING = "pending"
    DOWNLOADING = "downloading"
    EXTRACTING = "extracting"
    COMPLETE = "complete"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (PullStatus.COMPLETE, PullStatus.FAILED)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """
    One step of a pull, as handed to ``on_progress``.

    ``done_bytes`` of ``total_bytes`` counts what this pull needs and did not find here; ``present_bytes`` is what it
    found, ``received_bytes`` what came over the network just now. ``blob`` names the blob that moved, with its own
    ``blob_done_bytes`` of ``blob_total_bytes``; it is None in events that are about the pull as a whole. ``evicted``
    are the images that had to go for it, in one event of their own.
    """

    reference: str
    status: PullStatus
    done_bytes: int = 0
    total_bytes: int = 0
    present_bytes: int = 0
    received_bytes: int = 0
    blob: str | None = None
    blob_done_bytes: int = 0
    blob_total_bytes: int = 0
    evicted: tuple[Evicted, ...] = ()


ProgressCallback = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """
    Credentials for one pull (CRI ``AuthConfig``). No field is ever printed.

    ``auth`` is base64 of ``username:password``; ``identity_token`` is an OAuth2
    refresh token; ``registry_token`` is sent as the bearer token as it is. When
    ``server_address`` names another host than the image's registry, the
    credentials are withheld.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    server_address: str = ""
    auth: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """
    One image in the store.

    ``id`` is the row's integer and is never reused; ``image_id`` is CRI's
    ``Image.id``, the digest of the config (of the manifest where the config is
    no image config). ``size`` is the bytes of the distinct blobs that the image
    names: index, manifest, config and layers as they came over the wire.
    ``repo_tags`` and ``repo_digests`` are normalised references in sorted order.
    ``spec`` is what the first pull was asked for, as typed. ``uid`` and
    ``username`` come from the config's ``User`` and exclude each other.
    """

    id: int
    image_id: str
    size: int
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    spec: ImageSpec
    pulled_at: datetime
    last_used_at: datetime
    pinned: bool = False
    uid: int | None = None
    username: str = ""
    platform: str | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)


@dataclass(frozen=True, slots=True)
class StorageUsage:
    """
    The row of the view ``storage_usage``: where the bytes are.

    ``used_bytes`` is blobs, trees and registered bytes; ``reserved_bytes`` is
    what pulls in flight and resumable partial blobs hold beside it; trees take
    ``tree_inodes`` of the filesystem as well;
    ``doomed_bytes`` is on disk, about to be unlinked, and counts in neither;
    ``logical_bytes`` is what the images would take without sharing.
    """

    max_bytes: int
    used_bytes: int
    reserved_bytes: int
    available_bytes: int
    image_count: int
    blob_count: int
    blob_bytes: int
    tree_count: int
    tree_bytes: int
    tree_inodes: int
    registered_bytes: int
    doomed_bytes: int
    logical_bytes: int


@dataclass(frozen=True, slots=True)
class ImageStorage:
    """
    The row of the view ``image_storage``: what one image takes.

    ``size`` is that of its blobs, ``tree_bytes`` what it takes unpacked. Of
    both, ``exclusive_bytes`` is what removing it frees, ``shared_bytes`` what
    other images (or leases) keep.
    """

    id: int
    image_id: str
    size: int
    tree_bytes: int
    shared_bytes: int
    exclusive_bytes: int


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """
    When images go by themselves, as kubelet's image garbage collection means it.

    Above ``high_watermark`` of the storage limit the least recently used go until ``low_watermark`` is reached,
    none of them used within ``minimum_age``. Those unused for ``maximum_age`` go whatever is free. That is for
    collection; a pull that may evict takes the room that it needs, whatever the watermarks and ages.
    """

    high_watermark: float = 0.85
    low_watermark: float = 0.80
    minimum_age: timedelta = timedelta(minutes=2)
    maximum_age: timedelta | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low_watermark <= self.high_watermark <= 1:
            raise ValueError("watermarks: 0 <= low <= high <= 1 does not hold")
        if self.minimum_age < timedelta(0) or (self.maximum_age or timedelta(0)) < timedelta(0):
            raise ValueError("an age is negative")


@dataclass(frozen=True, slots=True)
class Evicted:
    """
    An image that an eviction took away: what it alone had was freed. ``reason`` is age, space, limit or pull.
    """

    image_id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size: int
    freed_bytes: int
    last_used_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """
    What a collection freed, or would free: files and trees that are gone and the bytes they took, and the images
    evicted.
    """

    blob_count: int = 0
    blob_bytes: int = 0
    tree_count: int = 0
    tree_bytes: int = 0
    partial_count: int = 0
    partial_bytes: int = 0
    images: tuple[Evicted, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """
    A broken invariant, by its number in docs/invariants.md. ``object`` is a digest, a reference, a path below the root.

    ``repaired``: the check that found it mended it. ``unseen``: whoever checks may not look; it may hold, or not.
    """

    invariant: str
    problem: str
    object: str
    detail: str = ""
    repaired: bool = False
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One line of a doctor's report. ``level`` is ok, warn or fail.
    """

    subject: str
    level: str
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class PlannedBlob:
    """
    One blob of a pull that was only planned. ``state`` is present, fetch, or awaited (somebody fetches it now).
    """

    digest: str
    size: int
    state: str


@dataclass(frozen=True, slots=True)
class PullPlan:
    """
    What a pull would do: ``digest`` is what the reference resolves to now.

    ``fetch_bytes`` is what would come over the network, ``present_bytes`` what is here. When it does not fit,
    ``refusal`` says why, with the numbers; when images would have to go for it, they are in ``evicted``.
    """

    reference: str
    digest: str
    platform: str | None
    blobs: tuple[PlannedBlob, ...]
    fetch_bytes: int
    present_bytes: int
    awaited_bytes: int
    fits: bool
    refusal: str | None = None
    evicted: tuple[Evicted, ...] = ()


@dataclass(frozen=True, slots=True)
class Unpacked:
    """
    A root filesystem that was made of an image, in ``directory``.

    ``space_bytes`` and ``inodes`` are what it occupies; ``shared_bytes`` of its files share their blocks with the
    store's trees, where the filesystem can do that. ``rootless`` says that its files belong to whoever made it;
    ``forgiven`` counts what was left out then, by what it was: "device", "ownership" (owners that could not even be
    noted), "xattr security.capability" …
    """

    image_id: str
    directory: str
    rootless: bool
    layers: int
    entries: int
    space_bytes: int
    inodes: int
    shared_bytes: int = 0
    forgiven: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)


@dataclass(frozen=True, slots=True)
class Loss:
    """
    What a downgrade would lose: what it is, how many of it, and the bytes that they take on disk beside the database.
    """

    what: str
    count: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class UpgradeProgress:
    """
    How far an upgrade of the schema is, as handed to ``on_upgrade``.

    ``stage`` is backup, schema, or done. ``revision`` is the last that was applied.
    ``written_bytes`` is what was written so far, of the backup or of the new schema; ``total_bytes`` is what the
    backup will have, and 0 where nobody knows.
    """

    stage: str
    from_revision: str
    to_revision: str
    revision: str
    written_bytes: int = 0
    total_bytes: int = 0
    elapsed_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreRevision:
    """
    At which revision a store is. ``level`` is its ordinal; releases from ``min_reader`` on may read the store, from
    ``min_writer`` on write to it. ``head`` is the newest revision that this release knows.
    """

    revision: str
    head: str
    level: int
    min_reader: int
    min_writer: int
    pending: tuple[str, ...]
    may_read: bool
    may_write: bool
    backups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RevisionNote:
    """
    A revision of the schema, in a line: ``applied`` to the store, and whether the store is at it.
    """

    revision: str
    what: str
    applied: bool
    current: bool


UpgradeCallback = Callable[[UpgradeProgress], None]


@dataclass(frozen=True, slots=True)
class Referrer:
    """
    An artifact that refers to an image (its ``subject``): a signature, a list of parts, a proof of origin.

    This is what its registry says of it. ``reference`` is what to pull; ``image_id`` is the image that it is here,
    None when it is not here.
    """

    reference: str
    digest: str
    media_type: str
    artifact_type: str
    size: int
    subject: str
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    image_id: str | None = None
