"""
Every exception that this package raises.

    ImageError                                                                 exit 1
        InvalidReference (ValueError)    a name that does not parse               2
        ImageNotFound (LookupError)      no such image in this store              3
        ImageAlreadyExists               the reference denotes another image      4
        ImageInUse                       held by a lease                          5
        InvalidConfiguration             a file of settings that is no use        6
        TargetExists                     what was to be made is there already     7
        InvalidProcess (ValueError)      what a bundle is to run is no use        8
        AuthenticationFailed             credentials missing or refused          11
            AccessDenied                 good credentials, no right to this      18
        RegistryUnavailable              unreachable, overloaded, timed out      13
        SignatureValidationFailed        a policy refuses the image              17
        CannotServe                      no such socket to be had                 9
        PullFailed                       the pull ended without an image         10
            PullCancelled                by the caller, or its deadline passed   19
            StorageLimitExceeded         the bytes do not fit under the limit    14
            DiskFull                     the filesystem has no room              15
            ManifestUnknown              the registry has no such image          12
            NoMatchingPlatform           nothing in the index for this platform  16
            UnsupportedContent           a media type or digest we do not know   25
            ContentError                 the bytes are not what was promised     20
                DigestMismatch                                                   21
                SizeMismatch                                                     22
                InvalidManifest                                                  23
                UnsafeLayer                                                      24
                InvalidArchive                                                   26
        PushFailed                       a registry did not take an image        40
            PushCancelled                by the caller, or its deadline passed   41
        StoreError                       the store itself                        30
            StoreBusy                    the write lock was not free in time     31
            StoreCorrupt                 an invariant does not hold              32
            SchemaTooNew                 written by a later release              33
            UnsuitableFilesystem         no shared memory or locks to rely on    34
            SQLiteTooOld                 no STRICT tables                        35
            StoreReadOnly                opened so, or no right to write         36
            SchemaTooOld                 it has to be upgraded, and may not be   37
            DowngradeLoses               more is there than the old schema holds 38

Each class carries ``code`` (the name of the gRPC status that says the same),
``exit_code`` (what the command line exits with) and, where a person can do
something about it, a ``hint``. Facts are attributes, so that a host does not
have to read the prose. Codes and exit codes are part of the public interface.
"""

from __future__ import annotations

__all__ = [
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
]


class ImageError(Exception):
    """
    The root: catching this catches all that the package raises on purpose.
    """

    code: str = "UNKNOWN"
    exit_code: int = 1
    hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class InvalidReference(ImageError, ValueError):
    """
    A name, a digest or a platform that does not parse.
    """

    code = "INVALID_ARGUMENT"
    exit_code = 2
    hint = "a reference looks like alpine, alpine:3.20, ghcr.io/org/app:1 or name@sha256:<64 hex>"

    def __init__(self, message: str, *, reference: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reference = reference


class ImageNotFound(ImageError, LookupError):
    """
    There is no such image in this store.
    """

    code = "NOT_FOUND"
    exit_code = 3
    hint = "`ullage images` lists what is here"

    def __init__(self, message: str, *, image: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.image = image


class ImageAlreadyExists(ImageError):
    """
    The reference denotes another image, and nobody asked to move it.
    """

    code = "ALREADY_EXISTS"
    exit_code = 4

    def __init__(self, message: str, *, reference: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reference = reference


class ImageInUse(ImageError):
    """
    Somebody holds the image: *holders* says who, since when.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 5
    hint = "select * from held; in the sqlite3 shell shows who holds what"

    def __init__(
        self, message: str, *, image: str, holders: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.image = image
        self.holders = holders


class InvalidConfiguration(ImageError):
    """
    A file of settings that cannot be read or obeyed: a hosts.toml, a config.json, a certificate.

    ``path`` is that file; ``line`` is where in it, None where nobody can say.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 6
    hint = "put the file right, or take it away"

    def __init__(self, message: str, *, path: str, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.line = line


class TargetExists(ImageError):
    """
    What was to be made at ``path`` is there already, and was left as it is.
    """

    code = "ALREADY_EXISTS"
    exit_code = 7
    hint = "name a directory that is not there, or an empty one"

    def __init__(self, message: str, *, path: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class InvalidProcess(ImageError, ValueError):
    """
    What a bundle is to run, or as whom, cannot be run: ``field`` says what of it, as the runtime's config names it.
    """

    code = "INVALID_ARGUMENT"
    exit_code = 8

    def __init__(self, message: str, *, field: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class _RegistryAnswer(ImageError):
    """
    What an error that came from a registry carries.

    ``url`` has no credentials and no query in it; ``registry_errors`` are the
    registry's own (code, message) pairs as the distribution specification
    defines them, bounded in number and length. ``retry_after_seconds`` is what
    it asked us to wait, where it did.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        status: int | None = None,
        registry_errors: tuple[tuple[str, str], ...] = (),
        retry_after_seconds: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.url = url
        self.status = status
        self.registry_errors = registry_errors
        self.retry_after_seconds = retry_after_seconds


class AuthenticationFailed(_RegistryAnswer):
    """
    Credentials were missing or refused.
    """

    code = "UNAUTHENTICATED"
    exit_code = 11
    hint = "log in with `ullage login`, or pass --creds; a registry may also answer so for an image that does not exist"


class AccessDenied(AuthenticationFailed):
    """
    The credentials are good, but give no right to this image.
    """

    code = "PERMISSION_DENIED"
    exit_code = 18


class RegistryUnavailable(_RegistryAnswer):
    """
    The registry could not be reached, is overloaded, or took too long.
    """

    code = "UNKNOWN"
    exit_code = 13
    hint = "is the registry up, and is the name of its host right?"


class SignatureValidationFailed(ImageError):
    """
    A policy refuses the image.

    This package has no policy of its own: it is for a host's registry client that looks at signatures, and the CRI
    server says it in the words that kubelet knows.
    """

    code = "UNKNOWN"
    exit_code = 17


class CannotServe(ImageError):
    """
    The socket or the port to serve on cannot be had, or what serving needs is not installed.

    ``address`` is what was asked for.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 9

    def __init__(self, message: str, *, address: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.address = address


class PullFailed(ImageError):
    """
    The pull ended without an image.
    """

    code = "UNKNOWN"
    exit_code = 10


class PullCancelled(PullFailed):
    """
    The caller cancelled the pull, or its deadline passed.

    What had arrived of large blobs stays, charged and resumable: the next
    pull goes on from there.
    """

    code = "CANCELLED"
    exit_code = 19


class StorageLimitExceeded(PullFailed):
    """
    What is wanted does not fit under the storage limit; nothing of it stays.

    ``needed_bytes`` is what the image lacks, ``available_bytes`` what is free
    under ``max_bytes``, ``reserved_bytes`` what pulls in flight hold, and
    ``reclaimable_bytes`` what collection (and eviction, where it was allowed)
    would free at once. Images of ``pinned_bytes`` and ``held_bytes`` cannot go.

    Where it is inodes that do not fit (the limit has one for each 4 KiB), ``needed_inodes`` says how many the tree
    has, and ``available_inodes`` how many others leave; else ``needed_inodes`` is 0.
    """

    code = "RESOURCE_EXHAUSTED"
    exit_code = 14
    hint = "make room with `ullage rm` and `ullage gc`, or raise the limit with `ullage quota --max SIZE`"

    def __init__(  # noqa: PLR0913 -- each of them is a fact that somebody acts on
        self,
        *,
        needed_bytes: int,
        available_bytes: int,
        max_bytes: int,
        used_bytes: int,
        reserved_bytes: int,
        reclaimable_bytes: int = 0,
        pinned_bytes: int = 0,
        held_bytes: int = 0,
        needed_inodes: int = 0,
        available_inodes: int = 0,
        hint: str | None = None,
    ) -> None:
        needed = (
            f"needed {needed_inodes} inodes, available {available_inodes}"
            if needed_inodes
            else f"needed {needed_bytes} bytes, available {available_bytes}"
        )
        super().__init__(
            f"storage limit exceeded: {needed} (limit {max_bytes}, used {used_bytes}, reserved {reserved_bytes}, "
            f"reclaimable {reclaimable_bytes}, pinned {pinned_bytes}, held {held_bytes})",
            hint=hint,
        )
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        self.max_bytes = max_bytes
        self.used_bytes = used_bytes
        self.reserved_bytes = reserved_bytes
        self.reclaimable_bytes = reclaimable_bytes
        self.pinned_bytes = pinned_bytes
        self.held_bytes = held_bytes
        self.needed_inodes = needed_inodes
        self.available_inodes = available_inodes


class DiskFull(PullFailed):
    """
    The filesystem has no room (ENOSPC, EDQUOT), whatever the limit says.

    ``needed_bytes`` and ``available_bytes`` are there where somebody counted before trying.
    """

    code = "RESOURCE_EXHAUSTED"
    exit_code = 15
    hint = "free space on the filesystem: `ullage rm`, then `ullage gc`"

    def __init__(
        self,
        message: str,
        *,
        needed_bytes: int | None = None,
        available_bytes: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class ManifestUnknown(PullFailed):
    """
    The registry is there, and has no such image.
    """

    code = "NOT_FOUND"
    exit_code = 12
    hint = "check the spelling of the repo and the tag"

    def __init__(
        self,
        message: str,
        *,
        reference: str,
        url: str | None = None,
        status: int | None = None,
        registry_errors: tuple[tuple[str, str], ...] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reference = reference
        self.url = url
        self.status = status
        self.registry_errors = registry_errors


class NoMatchingPlatform(PullFailed):
    """
    The index has nothing for the platform; ``available`` is what it has.
    """

    code = "NOT_FOUND"
    exit_code = 16
    hint = "choose one with --platform OS/ARCH"

    def __init__(
        self, message: str, *, platform: str, available: tuple[str, ...], hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.platform = platform
        self.available = available


class UnsupportedContent(PullFailed):
    """
    A media type, a schema or a digest algorithm that we do not know.
    """

    code = "UNIMPLEMENTED"
    exit_code = 25

    def __init__(self, message: str, *, media_type: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.media_type = media_type


class ContentError(PullFailed):
    """
    The bytes are not what was promised; none of them were kept.
    """

    code = "DATA_LOSS"
    exit_code = 20
    hint = "the registry or something on the way serves wrong bytes; try again or ask its owner"


class DigestMismatch(ContentError):
    """
    The bytes have another digest.
    """

    exit_code = 21

    def __init__(self, message: str, *, expected: str, actual: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class SizeMismatch(ContentError):
    """
    There are more or fewer bytes than the descriptor says.

    ``actual_bytes`` is where we stopped reading when there were too many.
    """

    exit_code = 22

    def __init__(
        self, message: str, *, expected_bytes: int, actual_bytes: int, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.expected_bytes = expected_bytes
        self.actual_bytes = actual_bytes


class InvalidManifest(ContentError):
    """
    A manifest, an index or a config that is no such document.
    """

    exit_code = 23


class UnsafeLayer(ContentError):
    """
    A layer that cannot be unpacked, or not safely; nothing outside its directory was touched.

    ``entry`` is the name in the tar at which we stopped, printable whatever its bytes; None where the stream itself
    is no tar.
    """

    exit_code = 24
    hint = "the image is broken or hostile: ask who built it"

    def __init__(self, message: str, *, entry: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


class InvalidArchive(ContentError):
    """
    No image layout and no archive, or one that contradicts itself; ``path`` is where it is.
    """

    exit_code = 26
    hint = "an OCI layout, an OCI archive or what `docker save` writes is what can be read"

    def __init__(self, message: str, *, path: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class PushFailed(_RegistryAnswer):
    """
    A registry did not take an image.

    What it has taken stays there, as blobs that nothing names: it forgets them in its own time, and the next push finds
    them.
    """

    code = "UNKNOWN"
    exit_code = 40
    hint = "what the registry says in parentheses is its own word: its owner knows what it means"


class PushCancelled(PushFailed):
    """
    The caller cancelled the push, or its deadline passed.
    """

    code = "CANCELLED"
    exit_code = 41
    hint = "what arrived of it is found by the next push"


class StoreError(ImageError):
    """
    The store itself cannot do it.
    """

    code = "INTERNAL"
    exit_code = 30


class StoreBusy(StoreError):
    """
    Another writer held the lock for longer than we may wait.
    """

    code = "UNAVAILABLE"
    exit_code = 31
    hint = "another process is writing to this store; try again, or wait longer"

    def __init__(self, message: str, *, waited_seconds: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.waited_seconds = waited_seconds


class StoreCorrupt(StoreError):
    """
    An invariant does not hold, or the file is no database of ours.
    """

    code = "DATA_LOSS"
    exit_code = 32


class SchemaTooNew(StoreError):
    """
    A later release wrote this store.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 33
    hint = "open it with the release that wrote it, or a later one"

    def __init__(self, message: str, *, revision: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.revision = revision


class SchemaTooOld(StoreError):
    """
    The store is at an earlier revision than this release works with, and may not be upgraded here and now.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 37
    hint = "`ullage db upgrade` brings it to this release; earlier ones may not write to it after that"

    def __init__(self, message: str, *, revision: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.revision = revision


class DowngradeLoses(StoreError):
    """
    There is more in the store than its earlier schema has a place for: ``losses`` says what; nothing was changed.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 38
    hint = "--yes gives it up"

    def __init__(self, message: str, *, losses: tuple[object, ...], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.losses = losses


class UnsuitableFilesystem(StoreError):
    """
    The filesystem has no shared memory or no locks to rely on.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 34
    hint = "put the root on a local filesystem"


class SQLiteTooOld(StoreError):
    """
    This Python's SQLite knows no STRICT tables.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 35
    hint = "SQLite 3.37 or later is needed; a newer Python brings one"


class StoreReadOnly(StoreError):
    """
    The store was opened read-only, or we have no right to write to it.
    """

    code = "FAILED_PRECONDITION"
    exit_code = 36
    hint = "open it without read_only, as a user who may write to the root, where it is not mounted read-only"
