"""
Filesystems of a test's own, in a file or in memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

#: How each is made, and the fewest MiB that it can be.
_MAKERS = {
    "ext4": (["mkfs.ext4", "-q", "-F", "-m", "0"], 1),
    "xfs": (["mkfs.xfs", "-q", "-m", "reflink=1"], 300),
    "btrfs": (["mkfs.btrfs", "-q"], 128),
}


def may_mount(kind: str) -> bool:
    """
    Whether we may mount one, and have what makes it.
    """
    if os.geteuid():
        return False
    if kind == "tmpfs":
        return True
    return Path("/dev/loop-control").exists() and shutil.which(_MAKERS[kind][0][0]) is not None


@contextlib.contextmanager
def mounted_volume(kind, folder, *, mib, inodes=None, options=""):
    """
    The point below *folder* where a fresh filesystem is mounted while the block runs.
    """
    point = folder / "volume"
    point.mkdir(exist_ok=True)
    if kind == "tmpfs":
        limits = f"size={mib}m" + (f",nr_inodes={inodes}" if inodes else "")
        mount = ["mount", "-t", "tmpfs", "-o", limits, "tmpfs", point]
    else:
        command, least = _MAKERS[kind]
        image = folder / "volume.img"
        with image.open("wb") as file:
            file.truncate(max(mib, least) << 20)
        count = ["-N", str(inodes)] if inodes else []
        subprocess.run([*command, *count, image], check=True, capture_output=True)
        mount = ["mount", "-o", f"loop,{options}".rstrip(","), image, point]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
