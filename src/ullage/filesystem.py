"""
Which filesystem a path is on, and whether a store can live there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ullage.errors import UnsuitableFilesystem

__all__ = ["SUITABLE", "Mount", "is_read_only", "mount_of", "require_suitable"]

#: Local filesystems with coherent shared memory and locks, tried with SQLite's WAL by many.
SUITABLE: Final = frozenset(
    {"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "ramfs", "xfs", "zfs", "bcachefs"}
)

# Shared memory is not coherent between hosts, or locks are lost: a WAL is corrupted there, sooner or later.
_REMOTE: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "virtiofs",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "ocfs2",
        "gfs2",
        "orangefs",
        "vboxsf",
        "prl_fs",
        "vmhgfs",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.rclone",
        "fuse.glusterfs",
        "fuse.gcsfuse",
        "fuse.vmhgfs-fuse",
        "fuse.osxfs",
        "fuse.grpcfuse",
    }
)


#: How the kernel writes a blank, a tab, a newline and a backslash in a path.
_OCTAL: Final = re.compile(rb"\\([0-3][0-7]{2})")


@dataclass(frozen=True, slots=True)
class Mount:
    """
    A line of ``/proc/self/mountinfo``: where, of which kind, and whether nobody at all can write to it.

    A directory that is mounted read-only of a filesystem that is not may change all the same: that is another thing.
    """

    point: str
    kind: str
    never_written: bool = False

    @property
    def is_remote(self) -> bool:
        return self.kind in _REMOTE


def mount_of(path: Path, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> Mount | None:
    """
    The mount that *path* is on; None where the system does not tell.
    """
    try:
        # Bytes, and newlines alone: names of mount points may hold whatever else is a line break elsewhere.
        lines = mountinfo.read_bytes().split(b"\n")
    except OSError:
        return None
    target = os.path.realpath(path)
    best: Mount | None = None
    for line in lines:
        # proc(5): id, parent, device, root, mount point, options, optional fields, "-", kind, source, …
        fields = line.split(b" ")
        if b"-" not in fields[6:-1]:
            continue
        after = fields[fields.index(b"-", 6) + 1 :]
        kind = os.fsdecode(after[0])
        never_written = b"ro" in after[-1].split(b",")
        point = os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), fields[4]))
        if target != point and not target.startswith(point.rstrip("/") + "/"):
            continue
        # Of equals the later one is mounted over the earlier.
        if best is None or len(point) >= len(best.point):
            best = Mount(point, kind, never_written)
    return best


def is_read_only(path: Path) -> bool:
    """
    Whether nothing can be written to what *path* is on, the way that it is mounted there.
    """
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def require_suitable(path: Path) -> None:
    """
    Raises:
        UnsuitableFilesystem: *path* is on a network filesystem or a share of a virtual machine's host.
    """
    mount = mount_of(path)
    if mount is not None and mount.is_remote:
        raise UnsuitableFilesystem(
            f"{path} is on {mount.kind} ({mount.point}): SQLite has no shared memory and no locks to rely on there"
        )
