"""
The container-image store that cannot overfill its disk and cannot lie about it.

The names below are the public interface; each is loaded when it is first used, so that importing the package costs
next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ullage.copying import copy_image
    from ullage.delivery import Pushed, PushProgress
    from ullage.digest import Digest
    from ullage.errors import (
        AccessDenied,
        AuthenticationFailed,
        CannotServe,
        ContentError,
        DigestMismatch,
        DiskFull,
        DowngradeLoses,
        ImageAlreadyExists,
        ImageError,
        ImageInUse,
        ImageNotFound,
        InvalidArchive,
        InvalidConfiguration,
        InvalidManifest,
        InvalidProcess,
        InvalidReference,
        ManifestUnknown,
        NoMatchingPlatform,
        PullCancelled,
        PullFailed,
        PushCancelled,
        PushFailed,
        RegistryUnavailable,
        SchemaTooNew,
        SchemaTooOld,
        SignatureValidationFailed,
        SizeMismatch,
        SQLiteTooOld,
        StorageLimitExceeded,
        StoreBusy,
        StoreCorrupt,
        StoreError,
        StoreReadOnly,
        TargetExists,
        UnsafeLayer,
        UnsuitableFilesystem,
        UnsupportedContent,
    )
    from ullage.events import HistoryEntry
    from ullage.locks import LockWaits
    from ullage.manifest import Descriptor, Manifest
    from ullage.model import (
        AuthConfig,
        Evicted,
        EvictionPolicy,
        Finding,
        ImageStatus,
        ImageStorage,
        Loss,
        PlannedBlob,
        Problem,
        PullPlan,
        PullPolicy,
        PullProgress,
        PullStatus,
        Reclaimed,
        Referrer,
        StorageUsage,
        Unpacked,
        UpgradeProgress,
    )
    from ullage.mounts import MountSpec
    from ullage.platform import Platform
    from ullage.reference import ImageSpec, Reference
    from ullage.registry import RegistryClient
    from ullage.runtime_config import BundleOptions
    from ullage.server import ImageServer
    from ullage.service import ImageService
    from ullage.simulated import SimulatedRegistry

__version__ = "0.1.0"

_HOMES = {
    "copying": ("copy_image",),
    "delivery": ("PushProgress", "Pushed"),
    "digest": ("Digest",),
    "errors": (
        "AccessDenied",
        "AuthenticationFailed",
        "CannotServe",
        "ContentError",
        "DigestMismatch",
        "DiskFull",
        "DowngradeLoses",
        "ImageAlreadyExists",
        "ImageError",
        "ImageInUse",
        "ImageNotFound",
        "InvalidArchive",
        "InvalidConfiguration",
        "InvalidManifest",
        "InvalidProcess",
        "InvalidReference",
        "ManifestUnknown",
        "NoMatchingPlatform",
        "PullCancelled",
        "PullFailed",
        "PushCancelled",
        "PushFailed",
        "RegistryUnavailable",
        "SQLiteTooOld",
        "SchemaTooNew",
        "SchemaTooOld",
        "SignatureValidationFailed",
        "SizeMismatch",
        "StorageLimitExceeded",
        "StoreBusy",
        "StoreCorrupt",
        "StoreError",
        "StoreReadOnly",
        "TargetExists",
        "UnsafeLayer",
        "UnsuitableFilesystem",
        "UnsupportedContent",
    ),
    "locks": ("LockWaits",),
    "events": ("HistoryEntry",),
    "manifest": ("Descriptor", "Manifest"),
    "model": (
        "AuthConfig",
        "Evicted",
        "EvictionPolicy",
        "Finding",
        "ImageStatus",
        "ImageStorage",
        "Loss",
        "PlannedBlob",
        "Problem",
        "PullPlan",
        "PullPolicy",
        "PullProgress",
        "PullStatus",
        "Reclaimed",
        "Referrer",
        "StorageUsage",
        "Unpacked",
        "UpgradeProgress",
    ),
    "mounts": ("MountSpec",),
    "platform": ("Platform",),
    "reference": ("ImageSpec", "Reference"),
    "registry": ("RegistryClient",),
    "runtime_config": ("BundleOptions",),
    "server": ("ImageServer",),
    "service": ("ImageService",),
    "simulated": ("SimulatedRegistry",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604 -- the names above, in one place
    *sorted(_HOME_OF),
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
