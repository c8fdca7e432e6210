"""
The verbs that make directories of images: a root filesystem, and a bundle that a runtime starts.
"""

from __future__ import annotations

import json
import os
import pwd
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ullage.accounts import Account, resolve_account, subordinate_ids
from ullage.errors import InvalidManifest, StoreCorrupt, UnsupportedContent
from ullage.image_config import parse_config
from ullage.layer import (
    ApplyOptions,
    LayerBlob,
    fresh_directory,
    made_directory_in,
    read_inside,
    require_free,
    translated,
    unpack_into,
    write_new,
)
from ullage.model import Unpacked
from ullage.runtime_config import BundleOptions, IdMapping, Process, process_of, runtime_config
from ullage.service.changing import Changing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.manifest import Manifest
    from ullage.model import ImageStatus
    from ullage.service.handle import ImageLike

__all__ = ["Unpacking"]

#: Of a file with users or groups. Those of images have some hundred lines.
_MAX_ACCOUNTS_BYTES: Final = 8 << 20
#: Fewer ids than this in the map of a user namespace, and layers hold some that it lacks.
_ENOUGH_IDS: Final = 65_536


class Unpacking(Changing):
    """
    The part of `ImageService` that makes directories of images.
    """

    def unpack(
        self,
        image: ImageLike,
        directory: str | os.PathLike[str],
        *,
        rootless: bool | None = None,
        durable: bool = False,
    ) -> Unpacked:
        """
        Make *directory* the root filesystem of an image. It is there whole, or not at all, however this ends.

        It is filled beside its place and renamed at the end; what an earlier run that was killed left there goes
        first. Nobody can remove the image meanwhile. What is then written to *directory* never reaches the store.

        Args:
            directory: one that is not there, or an empty one.
            rootless: leave all files to whoever runs this, and note their owners in ``user.rootlesscontainers``
                where the filesystem has such attributes; leave out device nodes and what else takes privilege,
                counted in the result. By default only where we have no right to give files away.
            durable: it is on disk when this returns, and survives a power failure.

        Raises:
            ImageNotFound: there is no such image, or the host keeps its content elsewhere.
            TargetExists: *directory* is there, and not empty.
            UnsafeLayer: a layer that cannot be unpacked, or only outside of *directory*.
            UnsupportedContent: it has no layers of files.
            ContentError: a layer is not what its digest says.
            DiskFull, StoreError: the filesystem or the store could not do it.
        """
        target = Path(directory).absolute()
        require_free(target)
        with self._layers_of(image) as (status, layers):
            how = _Rootless.chosen(rootless)
            with fresh_directory(target, durable=durable) as root:
                return how.unpacked(status, layers, root, target)

    def bundle(
        self,
        image: ImageLike,
        directory: str | os.PathLike[str],
        *,
        options: BundleOptions | None = None,
        rootless: bool | None = None,
        durable: bool = False,
    ) -> Unpacked:
        """
        Make *directory* a bundle that an OCI runtime starts: ``rootfs`` as `unpack` makes it, and ``config.json``.

        The config is what the image's says (image specification, conversion.md) with what *options* want otherwise.
        Names of users are looked up in the image's own ``/etc/passwd`` and ``/etc/group``. A rootless bundle has a
        user namespace, in which root is whoever runs this; other ids are those of ``/etc/subuid`` and
        ``/etc/subgid``. Only its owner may enter the directory.

        Raises:
            InvalidProcess: there is nothing to run, or nobody to run it as; nothing was made.
            The same as `unpack`.
        """
        options = options or BundleOptions()
        target = Path(directory).absolute()
        require_free(target)
        with self._layers_of(image) as (status, layers):
            config = self.config(status)
            process = process_of(config, options)
            how = _Rootless.chosen(rootless)
            with fresh_directory(target, durable=durable) as bundle:
                with made_directory_in(bundle, "rootfs") as root:
                    unpacked = how.unpacked(status, layers, root, target)
                    account = _account(process, root)
                document = runtime_config(
                    config,
                    process=process,
                    account=account,
                    options=options,
                    hostname=status.image_id.partition(":")[2][:12],
                    mappings=_mappings() if how.is_rootless else None,
                )
                with translated(os.fsencode(target), blames_entry=False):
                    write_new(bundle, "config.json", json.dumps(document, indent=2).encode() + b"\n")
                    os.fchmod(bundle, 0o700)
                return unpacked

    @contextmanager
    def _layers_of(self, image: ImageLike) -> Iterator[tuple[ImageStatus, list[LayerBlob]]]:
        """
        The layers of an image that is held while the block runs: those of the manifest that it was named by.
        """
        with self.hold(image) as status:
            manifest = self.manifest(image)
            if manifest.config.digest != status.image_id:
                manifest = self.manifest(status)  # the reference moved to another image in between
            text = self._repository.config_of(status.id)
            if text is None:
                raise UnsupportedContent(f"image {status.image_id} is no file system: it has no image config")
            yield status, self._blobs(manifest, text)

    def _blobs(self, manifest: Manifest, config: str) -> list[LayerBlob]:
        diff_ids = parse_config(config.encode()).diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise InvalidManifest(
                f"the manifest has {len(manifest.layers)} layers, and the config {len(diff_ids)}",
                hint="the image is broken: ask who built it",
            )
        blobs = []
        for descriptor, diff_id in zip(manifest.layers, diff_ids, strict=True):
            if not self._files.is_here(descriptor.digest, descriptor.size):
                raise StoreCorrupt(
                    f"blob {descriptor.digest} has a row and no file of its size",
                    hint="`ullage check --repair` fetches it again",
                )
            blobs.append(LayerBlob(self._files.blob_path(descriptor.digest), diff_id))
        return blobs


class _Rootless:
    """
    Whether files are given to their owners, or left to whoever unpacks.
    """

    def __init__(self, *, is_rootless: bool) -> None:
        self.is_rootless = is_rootless
        self._options = ApplyOptions.rootless() if is_rootless else ApplyOptions()

    @classmethod
    def chosen(cls, asked: bool | None) -> _Rootless:  # noqa: FBT001 -- None is the third answer
        return cls(is_rootless=not _may_give_away() if asked is None else asked)

    def unpacked(self, status: ImageStatus, layers: list[LayerBlob], root: int, target: Path) -> Unpacked:
        results = unpack_into(layers, root, options=self._options)
        forgiven: Counter[str] = Counter()
        for each in results:
            forgiven += each.forgiven
        return Unpacked(
            image_id=status.image_id,
            directory=str(target),
            rootless=self.is_rootless,
            layers=len(results),
            entries=sum(each.entries for each in results),
            space_bytes=sum(each.space_bytes for each in results),
            inodes=sum(each.inodes for each in results),
            forgiven=MappingProxyType(dict(sorted(forgiven.items()))),
        )


def _may_give_away() -> bool:
    """
    Whether we are root, and not one of a user namespace that has hardly any ids.
    """
    if os.geteuid():
        return False
    try:
        maps = [Path("/proc/self", name).read_text().split() for name in ("uid_map", "gid_map")]
    except OSError:
        return True  # no such file: no such namespaces
    return all(sum(map(int, each[2::3])) >= _ENOUGH_IDS for each in maps)


def _account(process: Process, root: int) -> Account:
    files = {}
    for name in ("passwd", "group"):
        path = b"etc/" + name.encode()
        with translated(path, blames_entry=False):
            files[name] = read_inside(root, path, max_bytes=_MAX_ACCOUNTS_BYTES) or b""
    return resolve_account(process.user, **files)


def _mappings() -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
    """
    Root inside is who we are; the ids after it are our subordinate ones.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    return _mapping(Path("/etc/subuid"), name, uid, uid), _mapping(Path("/etc/subgid"), name, uid, gid)


def _mapping(path: Path, name: str, uid: int, own: int) -> tuple[IdMapping, ...]:
    try:
        text = path.read_bytes()
    except OSError:
        text = b""  # nobody has any
    ranges = [IdMapping(0, own, 1)]
    for first, count in subordinate_ids(text, name=name, number=uid):
        ranges.append(IdMapping(ranges[-1].container_id + ranges[-1].size, first, count))
    return tuple(ranges)
