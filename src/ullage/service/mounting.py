"""
The verbs about trees: unpacking an image's layers into the store, and mounting them.
"""

from __future__ import annotations

import errno
import logging
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullage.errors import (
    ImageNotFound,
    PullCancelled,
    StoreError,
    StoreReadOnly,
    UnsupportedContent,
)
from ullage.filesystem import mount_of
from ullage.service.changing import Changing
from ullage.service.handle import key_of, shown

if TYPE_CHECKING:
    import os
    import threading
    from collections.abc import Iterator

    from ullage.model import ImageStatus, ProgressCallback
    from ullage.mounts import MountSpec
    from ullage.service.handle import ImageLike
    from ullage.unpacker import UnpackingJob

__all__ = ["Mounting"]

_log = logging.getLogger(__name__)


class Mounting(Changing):
    """
    The part of `ImageService` that is about trees.
    """

    def make_trees(
        self,
        image: ImageLike,
        *,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_progress: ProgressCallback | None = None,
        evict: bool | None = None,
    ) -> ImageStatus:
        """
        Unpack an image that is here: each layer into a directory of the store, which all images that stack on it share.

        What is there is not made again. Trees are charged to the storage limit by the blocks that they occupy, while
        they grow; when this returns they are on disk. When it raises, nothing of those that it made is left. The image
        may be removed meanwhile; its trees go with it, or with the last image that stacks on them.

        As root, files have the owners that their layers say; without privilege they belong to whoever unpacks, and
        their owners are noted in ``user.rootlesscontainers``, or forgiven.

        Args:
            timeout: seconds for all of it.
            cancel: set it, from any thread, to end it.
            on_progress: called in this thread, with `PullStatus.EXTRACTING` and a layer that was read on.
            evict: whether other images may go to make room; as the service was opened by default.

        Raises:
            ImageNotFound: there is no such image, or it was removed meanwhile.
            UnsupportedContent: it is an artifact, or registered: it has no layers of files.
            StorageLimitExceeded, DiskFull: the trees do not fit.
            UnsafeLayer, ContentError: a layer cannot be unpacked, or is another than the config says.
            PullCancelled: the time is up, or *cancel* was set.
        """
        self._database.require_writable()
        key = key_of(image)
        if self._lookups.lacks_trees(key) is False:
            return self._get(image)
        from ullage.telling import Telling
        from ullage.unpacker import make_trees

        telling = Telling(shown(image), on_progress)
        deadline = None if timeout is None else time.monotonic() + timeout

        def check() -> None:
            if cancel is not None and cancel.is_set():
                raise PullCancelled(f"the unpacking of {shown(image)} was cancelled")
            if deadline is not None and time.monotonic() > deadline:
                raise PullCancelled(f"the unpacking of {shown(image)} did not end before its deadline")

        def tell(job: UnpackingJob) -> None:
            check()
            telling.of_unpacking(job.progress(), job.evicted)

        with self._failing_on_record("unpack", image_id=self._get(image).image_id):
            return make_trees(
                self._repository,
                self._files,
                key,
                check=check,
                patience=self._database.patience,
                evict=self._policy is not None if evict is None else evict,
                on_tick=tell,
            )

    def mount_spec(self, image: ImageLike) -> MountSpec:
        """
        What a host mounts to have an image's files: its trees, for overlayfs, the topmost first.

        They stay while somebody holds the image (see `hold`); without a hold they may go at any time. Nobody may write
        to them: the host adds a directory of its own on top.

        Raises:
            ImageNotFound: there is no such image, or it is not unpacked.
            UnsupportedContent: it is an artifact, or registered, or has no layers.
        """
        from ullage.charge import layers_of
        from ullage.mounts import MountSpec

        stack = self._lookups.stack_of(key_of(image))
        if stack.config is None or not stack.layers:
            raise UnsupportedContent(f"image {stack.image.image_id} has no layers of files to mount")
        chain = [layer.chain_id for layer in layers_of(stack.layers, stack.config)]
        if [chain_id for chain_id, _, _ in stack.trees] != chain:
            raise ImageNotFound(
                f"image {stack.image.image_id} is not unpacked",
                image=stack.image.image_id,
                hint="`ullage pull --unpack` makes what is missing",
            )
        kinds = {rootless for _, rootless, _ in stack.trees}
        if len(kinds) > 1:
            raise StoreError(
                f"image {stack.image.image_id} was unpacked partly as root and partly not, and cannot be mounted",
                hint="remove it, and unpack all of it as one or the other",
            )
        trees = self._files.trees
        lowerdirs = [str(trees.tree_path(chain_id)) for chain_id in reversed(chain)]
        if len(lowerdirs) == 1:
            lowerdirs.append(str(trees.none))
        return MountSpec(
            image_id=stack.image.image_id,
            lowerdirs=tuple(lowerdirs),
            options=("userxattr",) if kinds == {True} else (),
            forgiven=sum(forgiven for _, _, forgiven in stack.trees),
        )

    @contextmanager
    def mounted(
        self,
        image: ImageLike,
        target: str | os.PathLike[str],
        *,
        upperdir: str | os.PathLike[str] | None = None,
        workdir: str | os.PathLike[str] | None = None,
    ) -> Iterator[Path]:
        """
        Mount an unpacked image on the directory *target* while a block runs, and hold it as long.

        Read-only without *upperdir*; with it, what is written goes there. It needs *workdir* then, an empty directory
        on the same filesystem. Takes root, or a user namespace with a mount namespace (``unshare -Urm``).

        Raises:
            ImageNotFound: there is no such image, or it is not unpacked.
            StoreError: the kernel did not mount it; `StoreReadOnly` for want of privilege.
            ValueError: one of *upperdir* and *workdir* without the other.
        """
        from ullage.mounts import mount_overlay, unmount

        if (upperdir is None) != (workdir is None):
            raise ValueError("upperdir and workdir go together")
        path = Path(target).absolute()
        upper, work = (None if each is None else str(Path(each).absolute()) for each in (upperdir, workdir))
        with self.hold(image) as status:
            # By the name that it was held by: that says which of several manifests it was resolved to.
            spec = self.mount_spec(image)
            if spec.image_id != status.image_id:
                spec = self.mount_spec(status)  # the reference moved to another image in between
            try:
                mount_overlay(str(path), spec.lowerdirs, spec.options, upperdir=upper, workdir=work)
            except OSError as error:
                raise _refused(error, path, self.root, upper) from error
            try:
                yield path
            finally:
                if not unmount(str(path)):
                    _log.warning("%s was in use when it was unmounted", path)

    def _have_trees(
        self,
        image: ImageLike,
        *,
        unpack: bool | None = None,
        deadline: float | None,
        **how: Any,  # noqa: ANN401
    ) -> None:
        """
        Make the trees of a pulled image, if asked, where they are missing: it was here before, or nobody wanted them.

        Raises:
            UnsupportedContent: it has nothing to unpack, and to *unpack* was asked of it.
            What `make_trees` raises, which takes *how*.
        """
        if not (self._unpack if unpack is None else unpack):
            return
        lacks = self._lookups.lacks_trees(key_of(image))
        if lacks or (lacks is None and unpack):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self.make_trees(image, timeout=left, **how)


def _refused(error: OSError, target: Path, root: Path, upper: str | None) -> StoreError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return StoreReadOnly(
            f"no right to mount on {target}: {error.strerror}",
            hint="mounting takes root, or a user namespace: `unshare --user --map-root-user --mount`",
        )
    hint = "`dmesg` may say more"
    for what, where in (("the store", root), ("the upperdir", upper and Path(upper))):
        if where and error.errno == errno.EINVAL and (found := mount_of(where)) and found.kind == "overlay":
            hint = f"{what} is on overlayfs, as in a container, where the kernel may not take it: have it on a volume"
    return StoreError(f"cannot mount on {target}: {error.strerror}", hint=hint)
