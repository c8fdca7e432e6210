"""
Copying a file, a link or a device from one tree of ours into another, with all that belongs to it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from ullage.layer.attributes import is_overlay_mark, path_at
from ullage.layer.syscalls import clone_file

__all__ = ["Copier", "read_xattrs", "set_attributes"]

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES: Final = 1 << 20
#: Below this, reading and writing costs less than asking the filesystem to share.
_CANNOT_CLONE: Final = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ETXTBSY, errno.EPERM)
_CANNOT_COPY: Final = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_UNSUPPORTED: Final = (errno.ENOTSUP, errno.EOPNOTSUPP)
#: The name of its own under which xfs shows root an ACL once more.
_SHOWN_TWICE: Final = {
    "trusted.SGI_ACL_FILE": "system.posix_acl_access",
    "trusted.SGI_ACL_DEFAULT": "system.posix_acl_default",
}


def read_xattrs(path: bytes | int) -> dict[bytes, bytes]:
    """
    Extended attributes, without the marks of overlayfs. *path* is not followed.
    """
    follow = isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return {}
        raise
    return {
        each: os.getxattr(path, each, follow_symlinks=follow)
        for each in (os.fsencode(name) for name in names if _SHOWN_TWICE.get(name) not in names)
        if not is_overlay_mark(each)
    }


def set_attributes(descriptor: int, name: bytes, status: os.stat_result, xattrs: dict[bytes, bytes]) -> None:
    """
    Owner, attributes, mode and times, in the order that keeps all of them.
    """
    present = os.lstat(name, dir_fd=descriptor)
    if (present.st_uid, present.st_gid) != (status.st_uid, status.st_gid):
        os.chown(name, status.st_uid, status.st_gid, dir_fd=descriptor, follow_symlinks=False)
    is_link = stat.S_ISLNK(status.st_mode)
    acls = {each: value for each, value in xattrs.items() if each.startswith(b"system.posix_acl_")}
    for each, value in xattrs.items():
        if each not in acls:
            os.setxattr(path_at(descriptor, name), each, value, follow_symlinks=False)
    if not is_link:
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=descriptor)
    for each, value in acls.items():
        os.setxattr(path_at(descriptor, name), each, value, follow_symlinks=False)
    times = (status.st_mtime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=descriptor, follow_symlinks=False)


class Copier:
    """
    Copies; remembers whether these two filesystems can share blocks, so as to ask only once.
    """

    def __init__(self) -> None:
        self._clones = True
        self._copies_in_kernel = True
        #: Bytes that were copied, and bytes that are shared instead.
        self.copied_bytes = 0
        self.shared_bytes = 0

    def copy(self, source: int, name: bytes, status: os.stat_result, target: int, new_name: bytes) -> None:
        """
        Copy what *name* in the directory *source* is, and is no directory, to *new_name* in *target*.
        """
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self._copy_file(source, name, status, target, new_name)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), new_name, dir_fd=target)
        elif kind == stat.S_IFIFO:
            os.mkfifo(new_name, 0o600, dir_fd=target)
        else:
            os.mknod(new_name, kind | 0o600, status.st_rdev, dir_fd=target)
        set_attributes(target, new_name, status, read_xattrs(path_at(source, name)))

    def _copy_file(
        self, source: int, name: bytes, status: os.stat_result, target: int, new_name: bytes
    ) -> None:
        mode = stat.S_IMODE(status.st_mode)
        reading = os.open(name, _READ, dir_fd=source)
        try:
            writing = os.open(new_name, _NEW, mode & 0o777, dir_fd=target)
            try:
                if status.st_size:
                    self._copy_data(reading, writing, status)
                made = os.fstat(writing)
                changed = (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid)
                if changed:
                    os.fchown(writing, status.st_uid, status.st_gid)
                xattrs = read_xattrs(reading)
                acls = {
                    each: xattrs.pop(each) for each in list(xattrs) if each.startswith(b"system.posix_acl_")
                }
                for each, value in xattrs.items():
                    os.setxattr(writing, each, value)
                if changed or stat.S_IMODE(made.st_mode) != mode:
                    os.fchmod(writing, mode)
                for each, value in acls.items():
                    os.setxattr(writing, each, value)
                os.utime(writing, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(writing)
        finally:
            os.close(reading)

    def _copy_data(self, reading: int, writing: int, status: os.stat_result) -> None:
        if self._clones:
            try:
                clone_file(reading, writing)
            except OSError as error:
                if error.errno not in _CANNOT_CLONE:
                    raise
                self._clones = False
            else:
                self.shared_bytes += status.st_size
                return
        self.copied_bytes += status.st_size
        if status.st_blocks * 512 >= status.st_size:
            self._copy_range(reading, writing, 0, status.st_size)
            return
        self._copy_sparse(reading, writing, status.st_size)

    def _copy_sparse(self, reading: int, writing: int, size: int) -> None:
        end = 0
        while end < size:
            try:
                start = os.lseek(reading, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole up to the end
            end = os.lseek(reading, start, os.SEEK_HOLE)
            self._copy_range(reading, writing, start, end)
        os.ftruncate(writing, size)

    def _copy_range(self, reading: int, writing: int, at: int, end: int) -> None:
        if self._copies_in_kernel and end - at > _CHUNK_BYTES:
            try:
                while at < end:
                    count = os.copy_file_range(reading, writing, min(end - at, 1 << 30), at, at)
                    if not count:
                        break
                    at += count
            except OSError as error:
                if error.errno not in _CANNOT_COPY:
                    raise
                self._copies_in_kernel = False
        while at < end:
            data = os.pread(reading, min(end - at, _CHUNK_BYTES), at)
            if not data:
                return
            at += os.pwrite(writing, data, at)
