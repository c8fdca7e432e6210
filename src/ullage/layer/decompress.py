"""
From a layer's blob to its tar stream: gzip, zstd or as it is, a bounded piece at a time.

What a blob is compressed with is read from its first bytes, never taken from its media type: registries hold many
layers whose two disagree, and every engine unpacks those by their bytes. Where readers of damaged or padded streams
differ, this one does what containerd and moby do:

    gzip    several members in a row are one stream; what follows the last one and starts no further member (zeros,
            a signature, rubbish) is ignored, and still counts for the digest of the blob
    zstd    several frames in a row are one stream, skippable frames are skipped wherever they stand; anything else
            after a frame is refused
    both    a stream that stops early or whose checksum is wrong is refused

Neither can make us hold more than a window and one piece, whatever they claim.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ullage.errors import ContentError, UnsupportedContent

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

try:  # not on every machine: see pyproject.toml
    from isal import igzip_lib, isal_zlib

    _decompressobj: Callable[[int], Any] = isal_zlib.decompressobj
    _DAMAGED: tuple[type[Exception], ...] = (
        zlib.error,
        zstd.ZstdError,
        cast("type[Exception]", igzip_lib.IsalError),
    )
except ImportError:  # pragma: no cover -- machines that are neither x86_64 nor aarch64
    _decompressobj = zlib.decompressobj
    _DAMAGED = (zlib.error, zstd.ZstdError)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[int], bytes]

__all__ = ["PIECE_BYTES", "decompressed"]

#: How much is given on at a time. A thread that hands on a piece takes the interpreter from the one that makes files:
#: with pieces of a quarter of it, 60,000 small files took a tenth longer.
PIECE_BYTES: Final = 1 << 20
#: How much of what is compressed is read at a time. What a call leaves of it is copied.
_INPUT_BYTES: Final = 256 << 10
#: What the first read of a member takes: in a blob of many small members (eStargz has one for each file) the rest of
#: a piece is copied once for each.
_FIRST_BYTES: Final = 4 << 10
#: Members or frames of one blob: they cost us time and the sender as few as nine bytes.
_MAX_MEMBERS: Final = 1 << 21

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f: RFC 8878, 3.1.2
#: What other tools write and the image specification does not know.
_FOREIGN: Final = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_MAGIC_BYTES: Final = 6


class _Member(Protocol):
    """
    A gzip member or a zstd frame being decompressed.
    """

    @property
    def eof(self) -> bool: ...

    @property
    def hungry(self) -> bool:
        """
        Another call without further input would give nothing.
        """

    @property
    def unused_bytes(self) -> int:
        """
        How much of the last input is not ours. Told at the end.
        """

    def decompress(self, data: bytes) -> bytes: ...


def decompressed(read: Read) -> Iterator[bytes]:
    """
    The tar stream inside what *read* gives, in pieces of at most `PIECE_BYTES`.

    *read* is called until it gives no more, trailing bytes included.

    Raises:
        UnsupportedContent: it is compressed with something that is no layer's compression.
        ContentError: it is damaged or stops early.
    """
    head = b""
    while len(head) < _MAGIC_BYTES and (data := read(_INPUT_BYTES)):
        head += data
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise UnsupportedContent(
                f"unsupported compression of a layer: {name}", hint="layers are gzip, zstd or not compressed"
            )
    if head.startswith(_GZIP):
        return _members(_Input(read, head), _GzipMember, is_gzip_member, "gzip")
    if is_zstd_frame(head):
        return _members(_Input(read, head), _ZstdFrame, is_zstd_frame, "zstd")
    return _as_it_is(read, head)


def is_gzip_member(head: bytes) -> bool:
    return head.startswith(_GZIP)


def is_zstd_frame(head: bytes) -> bool:
    return head.startswith(_ZSTD) or (head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F)


def _as_it_is(read: Read, head: bytes) -> Iterator[bytes]:
    while head:
        yield head
        head = read(PIECE_BYTES)


class _Input:
    """
    What is still to be decompressed: pieces of any size, and a look at the next few bytes.
    """

    def __init__(self, read: Read, head: bytes) -> None:
        self._read = read
        self._data = head
        self._at = 0

    def take(self, limit: int) -> bytes:
        """
        Up to *limit* bytes; none at the end.
        """
        if self._at >= len(self._data):
            self._data, self._at = self._read(_INPUT_BYTES), 0
        piece = self._data[self._at : self._at + limit]
        self._at += len(piece)
        return piece

    def give_back(self, count: int) -> None:
        """
        The last *count* bytes taken were not wanted. They are of the present piece.
        """
        self._at -= count

    def peek(self, count: int) -> bytes:
        """
        The next *count* bytes; fewer at the end.
        """
        while len(self._data) - self._at < count and (more := self._read(_INPUT_BYTES)):
            self._data, self._at = self._data[self._at :] + more, 0
        return self._data[self._at : self._at + count]


def _members(
    source: _Input, member: Callable[[], _Member], starts: Callable[[bytes], bool], name: str
) -> Iterator[bytes]:
    for _ in range(_MAX_MEMBERS):
        yield from _one_member(source, member(), name)
        head = source.peek(4)
        if not head:
            return
        if not starts(head):
            if name != "gzip":
                raise ContentError(
                    f"the layer does not decompress: after a {name} frame comes something else"
                )
            while source.take(_INPUT_BYTES):
                pass
            return
    raise ContentError(f"the layer does not decompress: more than {_MAX_MEMBERS} {name} members")


def _one_member(source: _Input, member: _Member, name: str) -> Iterator[bytes]:
    limit = _FIRST_BYTES
    while not member.eof:
        data = b""
        if member.hungry:
            data = source.take(limit)
            limit = min(limit * 4, _INPUT_BYTES)
            if not data:
                raise ContentError(f"the layer does not decompress: the {name} stream stops early")
        try:
            piece = member.decompress(data)
        except _DAMAGED as error:
            raise ContentError(f"the layer does not decompress: {name}: {error}") from error
        if piece:
            yield piece
    source.give_back(member.unused_bytes)


class _GzipMember:
    """
    One gzip member, with the checksum in its trailer.
    """

    def __init__(self) -> None:
        self._inflate = _decompressobj(31)
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._inflate.eof)

    @property
    def hungry(self) -> bool:
        return not self._full

    @property
    def unused_bytes(self) -> int:
        return len(self._inflate.unused_data)

    def decompress(self, data: bytes) -> bytes:
        piece = bytes(self._inflate.decompress(self._inflate.unconsumed_tail or data, PIECE_BYTES))
        # A full piece says nothing about what is left inside, whether or not there is a tail.
        self._full = len(piece) == PIECE_BYTES or bool(self._inflate.unconsumed_tail)
        return piece


class _ZstdFrame:
    """
    One zstd frame. Frames with a window above 128 MiB are refused by the library: that is what bounds our memory.
    """

    def __init__(self) -> None:
        self._frame = zstd.ZstdDecompressor()

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def hungry(self) -> bool:
        return self._frame.needs_input

    @property
    def unused_bytes(self) -> int:
        return len(self._frame.unused_data)

    def decompress(self, data: bytes) -> bytes:
        return self._frame.decompress(data, PIECE_BYTES)
