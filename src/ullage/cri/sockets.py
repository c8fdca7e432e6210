"""
Where a server listens: a path that is taken over only from the dead, or a socket that systemd hands over.

gRPC binds a path itself, whoever may be serving there, and with the process's umask. So it binds in a directory that
nobody else can enter, and the socket is renamed to its path when it has its mode and answers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ullage.errors import CannotServe

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

__all__ = ["Placed", "claim", "inherited", "path_of"]

#: What a socket's address holds (unix(7)), without the zero at its end.
_MAX_PATH_BYTES: Final = 107
#: The first descriptor that systemd hands over (sd_listen_fds(3)).
_FIRST_DESCRIPTOR: Final = 3


def path_of(address: str) -> Path:
    """
    The path of a socket that is named as kubelet names it, ``unix:///run/ullage.sock``, or as a path.

    Raises:
        CannotServe: no client could name it.
    """
    text = address.removeprefix("unix://").removeprefix("unix:")
    path = Path(os.path.abspath(text))  # noqa: PTH100 -- resolve() would follow the links in it
    if not text or "\0" in text:
        raise CannotServe(f"no path for a socket: {address!r}", address=address)
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise CannotServe(
            f"the path of the socket is too long: {len(os.fsencode(path))} bytes, limit {_MAX_PATH_BYTES}",
            address=address,
        )
    return path


class Placed(NamedTuple):
    """
    A socket at its path: removed by whoever placed it, unless another has taken its place.
    """

    path: Path
    device: int
    inode: int

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                self.path.unlink()


class Claim(NamedTuple):
    """
    The right to place a socket at *path*: bind to ``address`` and start to answer, then `place`.
    """

    path: Path
    address: str
    bound: Path

    def place(self, mode: int) -> Placed:
        self.bound.chmod(mode)
        self.bound.rename(self.path)
        found = self.path.lstat()
        return Placed(self.path, found.st_dev, found.st_ino)


@contextmanager
def claim(path: Path) -> Iterator[Claim]:
    """
    Make sure that nobody serves at *path*, and that nobody begins to inside the block.

    A socket that nobody answers is a dead server's; its place is taken, and it is gone with that.

    Raises:
        CannotServe: somebody serves there, it is no socket, or its directory is not to be had.
    """
    address = str(path)
    try:
        # A lock on the directory leaves no file behind.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CannotServe(
            f"cannot open the directory of the socket {path}: {error.strerror}",
            address=address,
            hint="make it first; in a systemd unit, RuntimeDirectory= does",
        ) from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        _require_free(path)
        try:
            with tempfile.TemporaryDirectory(prefix=".ullage-", dir=path.parent) as private:
                bound = Path(private, "socket")
                inside = os.open(private, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    # A short name for a place whose own may be too long for an address.
                    yield Claim(path, f"unix:/proc/self/fd/{inside}/socket", bound)
                finally:
                    os.close(inside)
        except OSError as error:
            raise CannotServe(f"cannot place the socket {path}: {error.strerror}", address=address) from error
    finally:
        os.close(directory)


def _require_free(path: Path) -> None:
    address = str(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotServe(f"cannot look at {path}: {error.strerror}", address=address) from error
    if not stat.S_ISSOCK(mode):
        raise CannotServe(f"{path} is there, and no socket", address=address)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            return
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            # EAGAIN: a server so busy that its queue is full. EPROTOTYPE: not gRPC, but somebody's.
            raise CannotServe(f"somebody has {path}: {error.strerror or error}", address=address) from error
    raise CannotServe(
        f"somebody serves at {path} already",
        address=address,
        hint="end that server, or choose another path: two servers may share a store",
    )


def inherited(environment: MutableMapping[str, str]) -> socket.socket | None:
    """
    The socket that systemd hands over (socket activation); None when it hands over none. Children get to see neither.

    Raises:
        CannotServe: what it hands over is no listening Unix socket, or several.
    """
    process, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdecimal() or int(count) == 0:
        return None
    if int(count) > 1:
        raise CannotServe(
            f"systemd handed over {count} sockets", address="systemd", hint="one ListenStream= is enough"
        )
    os.set_inheritable(_FIRST_DESCRIPTOR, False)
    listener = socket.socket(fileno=_FIRST_DESCRIPTOR)
    is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM or not is_listening:
        listener.detach()
        raise CannotServe(
            "what systemd handed over is no listening Unix socket",
            address="systemd",
            hint="ListenStream= with a path, and Accept=no",
        )
    return listener
