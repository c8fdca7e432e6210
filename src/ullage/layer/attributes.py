"""
Owner, mode, extended attributes and times of what was made.

The order matters. Giving a file to somebody clears its setuid bits and its capabilities, and so does writing to it; a
mode changes an ACL and an ACL a mode; every change moves the times. So: data, owner, attributes, mode, ACLs, times.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from typing import TYPE_CHECKING, Final

from ullage.layer.options import map_id
from ullage.layer.refused import Refused, printable
from ullage.layer.tar import Entry, Kind

if TYPE_CHECKING:
    from ullage.layer.options import ApplyOptions

__all__ = [
    "NOTE",
    "Attributes",
    "as_if_alone",
    "give_default_acl",
    "is_overlay_mark",
    "ownership_note",
    "path_at",
    "take_default_acl",
]

#: Where the ids of a file are noted when it cannot have them. https://rootlesscontaine.rs
NOTE: Final = b"user.rootlesscontainers"
#: Marks of overlayfs: whoever sets them from a layer decides what of lower layers shows.
_OVERLAY: Final = (b"trusted.overlay.", b"user.overlay.")
#: Labels of the machine that built the layer. They mean nothing here, and the runtime sets its own.
_DROPPED: Final = (b"security.selinux", b"system.nfs4_acl")
_ACL: Final = b"system.posix_acl_"
_DEFAULT_ACL: Final = b"system.posix_acl_default"
_UNSUPPORTED: Final = (errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_RIGHT: Final = (errno.EPERM, errno.EACCES)
#: The filesystem's own limits: ext4 says that there is no space when an inode's attributes do not fit a block.
_TOO_LARGE: Final = (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL)
_PERMISSIONS: Final = 0o7777


def is_overlay_mark(name: bytes) -> bool:
    return name.startswith(_OVERLAY)


def path_at(descriptor: int, name: bytes) -> bytes:
    """
    A path for the calls that take no directory descriptor. Only *name* is looked up, and not followed by those calls.
    """
    return b"/proc/self/fd/%d/%s" % (descriptor, name)


def take_default_acl(directory: int) -> bytes | None:
    """
    Take the ACL away that a directory hands on to what is made in it; what it was, if there was any.

    A layer says what its entries have, and nothing else is to come to them from where they are made.
    """
    path = path_at(directory, b".")
    try:
        acl = os.getxattr(path, _DEFAULT_ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, *_UNSUPPORTED):
            return None
        raise
    os.removexattr(path, _DEFAULT_ACL)
    return acl


def give_default_acl(path: bytes, acl: bytes) -> None:
    os.setxattr(path, _DEFAULT_ACL, acl, follow_symlinks=False)


def as_if_alone(directory: int) -> None:
    """
    Take away what an empty directory was handed by the one above it, and would hand on.
    """
    if take_default_acl(directory) is not None:
        path = path_at(directory, b".")
        for name in os.listxattr(path):
            if name.encode().startswith(_ACL):
                os.removexattr(path, name)


def _is_full(error: OSError, target: int | bytes) -> bool:
    """
    Whether there was no space for an attribute because there is none at all.
    """
    if error.errno != errno.ENOSPC:
        return False
    # Of the directory, where there is a name: what that is may be a link.
    return not os.statvfs(target if isinstance(target, int) else os.path.dirname(target)).f_bavail  # noqa: PTH120 -- bytes


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def ownership_note(uid: int, gid: int) -> bytes:
    """
    The two ids as the protocol buffer message of rootlesscontainers; nothing for root's.
    """
    note = b"\x08" + _varint(uid) if uid else b""
    return note + b"\x10" + _varint(gid) if gid else note


class Attributes:
    """
    Sets attributes the way that the options say, and counts what had to be left out.
    """

    def __init__(self, options: ApplyOptions) -> None:
        self._options = options
        self._keeps = options.ownership == "keep"
        self._maps = bool(options.uid_map or options.gid_map)
        self._is_plain = self._keeps and not self._maps
        self._max_xattrs_bytes = options.limits.max_xattrs_bytes
        self.forgiven: Counter[str] = Counter()
        #: The mode to make a file with: its own where nothing needs the right to write later.
        self.makes_final = self._keeps

    # ------------------------------------------------------------------ what an entry asks for

    def owner(self, entry: Entry) -> tuple[int, int]:
        if not self._maps:
            return entry.uid & 0xFFFFFFFF, entry.gid & 0xFFFFFFFF
        name = printable(entry.name)
        options = self._options
        return map_id(entry.uid, options.uid_map, name), map_id(entry.gid, options.gid_map, name)

    def xattrs(self, entry: Entry) -> list[tuple[bytes, bytes]]:
        """
        The attributes to set, ACLs last, the note of ownership among them.
        """
        wanted = entry.xattrs or {}
        if sum(len(name) + len(value) for name, value in wanted.items()) > self._max_xattrs_bytes:
            raise Refused("too many extended attributes")
        found = [
            (name, value)
            for name, value in wanted.items()
            if name not in _DROPPED and name != NOTE and not name.startswith(_OVERLAY)
        ]
        if self._options.ownership == "xattr":
            note = ownership_note(*self.owner(entry))
            if note and entry.kind in (Kind.FILE, Kind.DIRECTORY):
                found.append((NOTE, note))
            elif note:
                self.forgiven["ownership"] += 1
        return found

    # ------------------------------------------------------------------ files, by descriptor

    def finish_file(self, descriptor: int, entry: Entry, status: os.stat_result) -> bool:
        """
        All of it, for a file that was just written and is open; True when attributes may have changed its size.
        """
        if (  # most files: made with the mode that they are to have, by whom they are to belong to
            self._is_plain
            and not entry.xattrs
            and status.st_mode & _PERMISSIONS == entry.mode & _PERMISSIONS
            and status.st_uid == entry.uid
            and status.st_gid == entry.gid
        ):
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
            return False
        uid, gid = self.owner(entry) if self._maps else (entry.uid & 0xFFFFFFFF, entry.gid & 0xFFFFFFFF)
        mode = entry.mode & _PERMISSIONS
        changed = False
        if self._keeps:
            if status.st_uid != uid or status.st_gid != gid:
                os.fchown(descriptor, uid, gid)
                changed = True
        elif uid or gid:
            self._count_ownership()
        acls = []
        if entry.xattrs or self._options.ownership == "xattr":
            acls = self._set_xattrs(descriptor, self.xattrs(entry))
        if changed or status.st_mode & _PERMISSIONS != mode:
            os.fchmod(descriptor, mode)
        if acls:
            self._set_xattrs(descriptor, acls, acls=True)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        return bool(entry.xattrs)

    # ------------------------------------------------------------------ everything else, by name

    def finish_name(self, descriptor: int, name: bytes, entry: Entry, status: os.stat_result) -> None:
        """
        All of it, for what *name* in the directory *descriptor* is; *status* is of it, a link is not followed.
        """
        uid, gid = self.owner(entry)
        changed = False
        if self._keeps:
            if status.st_uid != uid or status.st_gid != gid:
                os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
                changed = True
        elif uid or gid:
            self._count_ownership()
        is_link = stat.S_ISLNK(status.st_mode)
        acls = []
        # Of a link nothing is noted, and that is counted.
        if entry.xattrs or self._options.ownership == "xattr":
            acls = self._set_xattrs(path_at(descriptor, name), self.xattrs(entry))
        mode = entry.mode & _PERMISSIONS
        if not is_link and (changed or status.st_mode & _PERMISSIONS != mode):
            os.chmod(name, mode, dir_fd=descriptor)
        if acls:
            self._set_xattrs(path_at(descriptor, name), acls, acls=True)
        if status.st_mtime_ns != entry.mtime_ns or changed or not is_link:
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=descriptor, follow_symlinks=False)

    def clear_xattrs(self, path: bytes) -> None:
        """
        What a directory has from a lower layer goes when a higher one describes it anew.
        """
        try:
            present = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return
            raise
        for name in present:
            if not name.startswith(("security.selinux", "trusted.overlay.", "user.overlay.")):
                try:
                    os.removexattr(path, name, follow_symlinks=False)
                except OSError as error:
                    # On xfs an ACL has two names, and goes with the first.
                    if error.errno != errno.ENODATA:
                        raise

    def _count_ownership(self) -> None:
        if self._options.ownership == "forgive":
            self.forgiven["ownership"] += 1

    def _set_xattrs(
        self, target: int | bytes, pairs: list[tuple[bytes, bytes]], *, acls: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """
        Set what is no ACL (or what is one), and give back the rest.
        """
        later = []
        for name, value in pairs:
            if name.startswith(_ACL) != acls:
                later.append((name, value))
                continue
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                self._forgive(error, name, target)
        return later

    def _forgive(self, error: OSError, name: bytes, target: int | bytes) -> None:
        """
        Attributes that this filesystem does not have are left out, as every engine does, and so are ``user.`` ones of
        what is no file and no directory: the kernel has no place for those.
        """
        shown = printable(name)
        if (
            error.errno in _UNSUPPORTED
            or (error.errno == errno.EPERM and name.startswith(b"user."))
            or (error.errno in _NO_RIGHT and self._options.forgive_xattrs)
        ):
            self.forgiven[f"xattr {shown}"] += 1
            return
        if error.errno in _TOO_LARGE and not _is_full(error, target):
            raise Refused(f"the filesystem does not take its attribute {shown}") from error
        raise error
