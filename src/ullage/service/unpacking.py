"""
The verbs that make directories of images: a root filesystem, and a bundle that a runtime starts.
"""

from __future__ import annotations

import json
import os
import pwd
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ullage import layer
from ullage.errors import (
    ContentError,
    ImageNotFound,
    StoreCorrupt,
    StoreError,
    StoreReadOnly,
    UnsafeLayer,
    UnsupportedContent,
)
from ullage.model import Unpacked
from ullage.service.changing import Changing
from ullage.service.handle import key_of, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.accounts import Account
    from ullage.blobs import BlobFiles
    from ullage.charge import Layer
    from ullage.layer import Budget
    from ullage.repository import Stack
    from ullage.runtime_config import BundleOptions, IdMapping, Process
    from ullage.service.handle import ImageLike

__all__ = ["Unpacking"]

#: Of a file with users or groups. Those of images have some hundred lines.
_MAX_ACCOUNTS_BYTES: Final = 8 << 20
#: The bytes were verified when they came: they were damaged here, or the config never said the truth about them.
_DAMAGED: Final = "`ullage check --digests --repair` mends a damaged blob; else ask who built the image"
#: Each of them takes a descriptor. Deeper stacks are unpacked from their layers.
_MAX_OPEN_TREES: Final = 500
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

        It is made of the image's trees where the store has them (`make_trees`): files share their blocks with the
        store where the filesystem can, until one side is written to, and are copied where not. Else it is made of the
        layers, each verified while it is read.

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
        with (
            self._source(image, rootless=rootless, target=target) as source,
            layer.fresh_directory(target, durable=durable) as (root, budget),
        ):
            return source.fill(root, budget)

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
        from ullage.runtime_config import BundleOptions, process_of, runtime_config

        options = options or BundleOptions()
        target = Path(directory).absolute()
        with self._source(image, rootless=rootless, target=target) as source:
            config = self.config(source.status)
            process = process_of(config, options)
            with layer.fresh_directory(target, durable=durable) as (bundle, budget):
                with layer.made_directory_in(bundle, "rootfs") as root:
                    unpacked = source.fill(root, budget)
                    account = _account(process, root)
                document = runtime_config(
                    config,
                    process=process,
                    account=account,
                    options=options,
                    hostname=source.status.image_id.partition(":")[2][:12],
                    mappings=_mappings() if source.is_rootless else None,
                )
                with layer.translated(os.fsencode(target), blames_entry=False):
                    layer.write_new(bundle, "config.json", json.dumps(document, indent=2).encode() + b"\n")
                    os.fchmod(bundle, 0o700)
                return unpacked

    @contextmanager
    def _source(self, image: ImageLike, *, rootless: bool | None, target: Path) -> Iterator[_Source]:
        """
        What an image is unpacked from, held while the block runs: the manifest that it was named by.

        Raises:
            TargetExists, StoreError: *target* is no place for it.
        """
        from ullage.charge import layers_of

        if target.resolve().is_relative_to(self._files.root.resolve()):
            raise StoreError(f"{target} is in the store", hint="name a directory outside of it")
        layer.require_free(target)
        with self.hold(image) as status:
            stack = self._lookups.stack_of(key_of(image))
            if stack.image.id != status.id:
                stack = self._lookups.stack_of(status.id)  # the reference moved to another image in between
            if stack.manifest_digest is None:
                raise ImageNotFound(
                    f"the content of image {shown(image)} is not kept here", image=str(key_of(image))
                )
            if stack.config is None:
                raise UnsupportedContent(f"image {status.image_id} is no file system: it has no image config")
            layers = layers_of(stack.layers, stack.config)
            is_rootless = not _may_give_away() if rootless is None else rootless
            yield _Source(stack, layers, self._files, is_rootless=is_rootless, target=target)


class _Source:
    """
    An image that is held, and how its files come into a directory.
    """

    def __init__(
        self, stack: Stack, layers: tuple[Layer, ...], files: BlobFiles, *, is_rootless: bool, target: Path
    ) -> None:
        self.status = stack.image
        self.is_rootless = is_rootless
        self._layers = layers
        self._files = files
        self._target = target
        self._trees = stack.trees

    def fill(self, root: int, budget: Budget) -> Unpacked:
        """
        Make the empty directory *root* what the image's layers say.
        """
        if self._has_trees():
            try:
                return self._composed(root, budget)
            except StoreReadOnly:
                if not os.geteuid():
                    raise
                # Files and directories of mode 0 are closed to their owner too, once their trees are whole.
                layer.empty_directory(root)
        return self._unpacked(root, budget)

    def _has_trees(self) -> bool:
        """
        The store has all of it unpacked, in the way that was asked for, with nothing left out.
        """
        return (
            0 < len(self._layers) <= _MAX_OPEN_TREES
            and [chain_id for chain_id, _, _ in self._trees] == [each.chain_id for each in self._layers]
            and all(rootless == self.is_rootless and not forgiven for _, rootless, forgiven in self._trees)
        )

    def _composed(self, root: int, budget: Budget) -> Unpacked:
        with ExitStack() as stack:
            trees = [stack.enter_context(self._files.trees.open(each.chain_id)) for each in self._layers]
            result = layer.compose(trees, root, budget=budget)
        return self._told(
            entries=result.entries,
            space_bytes=result.space_bytes,
            shared_bytes=result.shared_bytes,
            inodes=result.inodes,
        )

    def _unpacked(self, root: int, budget: Budget) -> Unpacked:
        blobs = []
        for each in self._layers:
            if not self._files.is_here(each.digest, each.size):
                raise StoreCorrupt(
                    f"blob {each.digest} has a row and no file of its size",
                    hint="`ullage check --repair` fetches it again",
                )
            blobs.append(layer.LayerBlob(self._files.blob_path(each.digest), each.diff_id))
        options = layer.ApplyOptions.rootless() if self.is_rootless else layer.ApplyOptions()
        try:
            results = layer.unpack_into(blobs, root, options=options, budget=budget)
        except ContentError as error:
            if not isinstance(error, UnsafeLayer):
                error.hint = _DAMAGED
            raise
        forgiven: Counter[str] = Counter()
        for result in results:
            forgiven += result.forgiven
        return self._told(
            entries=sum(each.entries for each in results),
            space_bytes=sum(each.space_bytes for each in results),
            inodes=sum(each.inodes for each in results),
            forgiven=MappingProxyType(dict(sorted(forgiven.items()))),
        )

    def _told(self, **figures: Any) -> Unpacked:  # noqa: ANN401 -- fields of Unpacked
        return Unpacked(
            image_id=self.status.image_id,
            directory=str(self._target),
            rootless=self.is_rootless,
            layers=len(self._layers),
            **figures,
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
    from ullage.accounts import resolve_account

    files = {}
    for name in ("passwd", "group"):
        path = b"etc/" + name.encode()
        with layer.translated(path, blames_entry=False):
            files[name] = layer.read_inside(root, path, max_bytes=_MAX_ACCOUNTS_BYTES) or b""
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
    from ullage.accounts import subordinate_ids
    from ullage.runtime_config import IdMapping

    try:
        text = path.read_bytes()
    except OSError:
        text = b""  # nobody has any
    ranges = [IdMapping(0, own, 1)]
    for first, count in subordinate_ids(text, name=name, number=uid):
        ranges.append(IdMapping(ranges[-1].container_id + ranges[-1].size, first, count))
    return tuple(ranges)
