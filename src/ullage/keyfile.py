"""
A secret in a file that only its owner reads: made once, however many make it at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING, Final

from ullage.errors import InvalidConfiguration

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KEY_BYTES", "read_key", "read_or_make_key"]

KEY_BYTES: Final = 32
#: What open(2) says of O_TMPFILE where there is no such thing.
_NO_NAMELESS_FILES: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


def read_key(path: Path) -> bytes | None:
    """
    The secret; None when there is no such file.

    Raises:
        InvalidConfiguration: it cannot be read, or is no such secret.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidConfiguration(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    if len(key) != KEY_BYTES:
        raise InvalidConfiguration(
            f"{path} is no key: {len(key)} bytes, and a key has {KEY_BYTES}",
            path=str(path),
            hint="take it away: another one is made, and what was recorded with it is verified anew",
        )
    return key


def read_or_make_key(path: Path) -> bytes:
    """
    The secret, on disk when this returns.

    Raises:
        InvalidConfiguration: it cannot be read or written, or is no such secret.
    """
    while (key := read_key(path)) is None:
        try:
            _make(path)
        except OSError as error:
            raise InvalidConfiguration(f"cannot write {path}: {error.strerror}", path=str(path)) from error
    return key


def _make(path: Path) -> None:
    """
    Whole or not at all, and nobody's place is taken: whoever links first has made it.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            # Without a name until it is linked: whoever is killed meanwhile leaves nothing.
            descriptor = os.open(path.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_NAMELESS_FILES:
                raise
            _make_beside(path)
        else:
            try:
                _fill(descriptor)
                with contextlib.suppress(FileExistsError):
                    # With a directory's descriptor Python calls linkat(2), which can follow the link that this is.
                    os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=directory)
            finally:
                os.close(descriptor)
        os.fsync(directory)
    finally:
        os.close(directory)


def _make_beside(path: Path) -> None:
    """
    The same where the filesystem has no files without a name.
    """
    beside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _fill(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(beside)
    finally:
        beside.unlink()


def _fill(descriptor: int) -> None:
    os.write(descriptor, secrets.token_bytes(KEY_BYTES))
    os.fsync(descriptor)
