"""
A tar that is the same each time: fixed modes, owners and times, and nothing of this machine.

Headers are ustar's. A name that those have no room for stands in an extended header of POSIX; a size in the bits that
GNU tar uses, so that a header can be written over when the size is known.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["TarWriter", "Writable"]

_BLOCK: Final = 512
_NAME_BYTES: Final = 100
_MAX_OCTAL: Final = 8**11
_FILE, _DIRECTORY, _EXTENDED = b"0", b"5", b"x"
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")


class Writable(Protocol):
    """
    What bytes are written to, all of them or an exception.
    """

    def write(self, data: bytes | memoryview, /) -> object: ...


class TarWriter:
    """
    Writes entries one after the other. Names are ASCII, of this package's own making.
    """

    def __init__(self, out: Writable) -> None:
        self._out = out

    def directory(self, name: str) -> None:
        self._out.write(_entry(f"{name}/", 0, _DIRECTORY, mode=0o755))

    def file(self, name: str, size: int, pieces: Iterable[bytes | memoryview]) -> None:
        """
        A file of *size* bytes, which *pieces* are in all.
        """
        self._out.write(_entry(name, size, _FILE, mode=0o644))
        written = 0
        for piece in pieces:
            self._out.write(piece)
            written += len(piece)
        assert written == size, "whoever gives the pieces counts them"
        self.pad(size)

    def header(self, name: str, size: int) -> bytes:
        """
        What stands before a file of *size* bytes: of one length, whatever the size.
        """
        return _entry(name, size, _FILE, mode=0o644)

    def pad(self, size: int) -> None:
        """
        What follows a file of *size* bytes.
        """
        self._out.write(bytes(-size % _BLOCK))

    def finish(self) -> None:
        """
        The end of the archive: two blocks of zeros.
        """
        self._out.write(bytes(2 * _BLOCK))


def _entry(name: str, size: int, kind: bytes, *, mode: int) -> bytes:
    extended = b""
    if len(name) > _NAME_BYTES:
        record = _record("path", name)
        extended = (
            _header("@PaxHeader", len(record), _EXTENDED, mode=0o644) + record + bytes(-len(record) % _BLOCK)
        )
    return extended + _header(name[:_NAME_BYTES], size, kind, mode=mode)


def _header(name: str, size: int, kind: bytes, *, mode: int) -> bytes:
    length = b"%011o\0" % size if size < _MAX_OCTAL else b"\x80" + size.to_bytes(11, "big")

    def packed(checksum: bytes) -> bytes:
        return _HEADER.pack(
            name.encode("ascii"), b"%07o\0" % mode, b"0000000\0", b"0000000\0", length, b"00000000000\0",
            checksum, kind, b"", b"ustar\00000", b"", b"", b"0000000\0", b"0000000\0", b"",
        )  # fmt: skip

    return packed(b"%06o\0 " % sum(packed(b" " * 8)))


def _record(key: str, value: str) -> bytes:
    """
    ``length key=value``, the length that of all of it.
    """
    rest = f" {key}={value}\n"
    length = len(rest)
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return f"{length}{rest}".encode("ascii")
