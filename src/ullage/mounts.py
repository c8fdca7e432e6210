"""
Mounting overlays: the system calls, and how paths stand in their options.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MountSpec", "mount_overlay", "overlay_options", "unmount"]

_READ_ONLY: Final = 1
_DETACH: Final = 2
#: The kernel reads one page of options, the NUL at its end included.
_MAX_OPTIONS_BYTES: Final = os.sysconf("SC_PAGESIZE") - 1
_PATIENCE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class MountSpec:
    """
    What a host mounts to have an image's files: directories for overlayfs, the topmost first, and further options.

    ``options`` has ``userxattr`` where the image was unpacked without privilege; ``forgiven`` is how much of its layers
    was left out for want of that: owners, device nodes, attributes.
    """

    image_id: str
    lowerdirs: tuple[str, ...]
    options: tuple[str, ...] = ()
    forgiven: int = 0

    def overlay(self, *, upperdir: str | None = None, workdir: str | None = None) -> str:
        """
        The options of the mount as ``mount -t overlay overlay -o …`` takes them, with what is special in paths escaped.

        A kernel reads no more than a page of them, which is some 30 trees; `ImageService.mounted` has no such limit.

        >>> MountSpec("sha256:…", ("/store/b", "/store/a")).overlay(upperdir="/up", workdir="/work")
        'lowerdir=/store/b:/store/a,upperdir=/up,workdir=/work'
        """
        return overlay_options(self.lowerdirs, self.options, upperdir=upperdir, workdir=workdir)


def overlay_options(
    lowerdirs: Sequence[str], options: Sequence[str], *, upperdir: str | None, workdir: str | None
) -> str:
    """
    The options of an overlay as ``mount -o`` takes them, with what is special in paths escaped.

    >>> overlay_options(["/a:b", "/c"], ["userxattr"], upperdir=None, workdir=None)
    'lowerdir=/a\\\\:b:/c,userxattr'
    """
    parts = ["lowerdir=" + ":".join(_escaped(each).replace(":", "\\:") for each in lowerdirs)]
    if upperdir is not None and workdir is not None:
        parts += [f"upperdir={_escaped(upperdir)}", f"workdir={_escaped(workdir)}"]
    return ",".join([*parts, *options])


def mount_overlay(
    target: str,
    lowerdirs: Sequence[str],
    options: Sequence[str],
    *,
    upperdir: str | None = None,
    workdir: str | None = None,
) -> None:
    """
    Mount an overlay, read-only when it has no *upperdir*. *lowerdirs* are from the top down, any number of them: where
    their names do not fit into the page that the kernel reads, they go by descriptors.

    Raises:
        OSError: the kernel does not.
    """
    with ExitStack() as stack:
        text = overlay_options(lowerdirs, options, upperdir=upperdir, workdir=workdir)
        if len(os.fsencode(text)) > _MAX_OPTIONS_BYTES:
            short = []
            for each in lowerdirs:
                descriptor = os.open(each, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                short.append(f"/proc/self/fd/{descriptor}")
            text = overlay_options(short, options, upperdir=upperdir, workdir=workdir)
        if len(os.fsencode(text)) > _MAX_OPTIONS_BYTES:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), target)
        flags = _READ_ONLY if upperdir is None else 0
        _call(
            target,
            "mount",
            ctypes.c_char_p(b"overlay"),
            ctypes.c_char_p(os.fsencode(target)),
            ctypes.c_char_p(b"overlay"),
            ctypes.c_ulong(flags),
            ctypes.c_char_p(os.fsencode(text)),
        )


def unmount(target: str) -> bool:
    """
    Unmount; False when somebody is still there after a second, and sees it until they leave.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            _call(target, "umount2", ctypes.c_char_p(os.fsencode(target)), ctypes.c_int(0))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() > until:
                _call(target, "umount2", ctypes.c_char_p(os.fsencode(target)), ctypes.c_int(_DETACH))
                return False
            time.sleep(_PATIENCE_SECONDS / 20)
        else:
            return True


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,")


def _call(target: str, name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)
