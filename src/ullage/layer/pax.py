"""
PAX extended headers: records, times, and the three ways in which GNU tar writes maps of sparse files.

What is valid is what Go's archive/tar takes for valid, because that is what every engine reads layers with: a record
that it refuses makes the layer one that nobody else unpacks. POSIX.1-2008, pax, "pax Header Block"; GNU tar manual,
"Storing Sparse Files".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ullage.layer.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "XATTR_PREFIX",
    "Extents",
    "parse_integer",
    "parse_records",
    "parse_time",
    "sparse_map",
    "sparse_version",
]

#: What holds data in a sparse file: offset and length, in order.
Extents = list[tuple[int, int]]

XATTR_PREFIX: Final = b"SCHILY.xattr."
_MAX_INTEGER: Final = 2**63 - 1
_INTEGER = re.compile(rb"[+-]?[0-9]{1,40}")
_TIME = re.compile(rb"([+-]?[0-9]{1,40})(?:\.([0-9]*))?")
_NEWLINE: Final = 0x0A
#: Of these a NUL in the value is refused; elsewhere values are bytes.
_STRINGS: Final = (b"path", b"linkpath", b"uname", b"gname")
_OFFSET: Final = b"GNU.sparse.offset"
_LENGTH: Final = b"GNU.sparse.numbytes"
_MAP: Final = b"GNU.sparse.map"
#: Of a map that stands before the data (format 1.0); the others are bounded by the header that they stand in.
_MAX_MAP_BYTES: Final = 1 << 20
_BLOCK: Final = 512


def parse_records(data: bytes) -> dict[bytes, bytes]:
    """
    The records of one extended header; of equal keys the last stands.

    The pairs of GNU sparse format 0.0, one key over and over, come out as one map as format 0.1 writes it.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(data):
        # length SP key=value LF, the length that of all of it
        space = data.find(b" ", at, at + 42)
        length = data[at:space]
        end = at + (int(length) if length.isdigit() else parse_integer(length))
        equals = data.find(b"=", space + 1, end - 1)
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        if space < 0 or end - at < 5 or end > len(data) or data[end - 1] != _NEWLINE:
            raise Refused("a PAX record of a wrong length")
        if equals <= space + 1 or b"\0" in (value if key in _STRINGS else key):
            raise Refused("a PAX record that is none")
        at = end
        if key in (_OFFSET, _LENGTH):
            if key != (_LENGTH if len(sparse) % 2 else _OFFSET) or b"," in value:
                raise Refused("its sparse map is out of order")
            sparse.append(value)
        else:
            records[key] = value
    if sparse:
        records[_MAP] = b",".join(sparse)
    return records


def parse_integer(text: bytes) -> int:
    """
    A decimal integer of 64 bits.
    """
    if not _INTEGER.fullmatch(text):
        raise Refused("a PAX number that is none")
    number = int(text)
    if not -_MAX_INTEGER <= number <= _MAX_INTEGER:
        raise Refused("a PAX number that is too large")
    return number


def parse_time(text: bytes) -> int:
    """
    A time in nanoseconds. Digits after the ninth are dropped; a negative time goes down with its fraction.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise Refused("a PAX time that is none")
    seconds = int(match[1])
    if not -_MAX_INTEGER <= seconds <= _MAX_INTEGER:
        raise Refused("a PAX number that is too large")
    fraction = match[2]
    if not fraction:
        return seconds * 1_000_000_000
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    return seconds * 1_000_000_000 + (-nanoseconds if text.startswith(b"-") else nanoseconds)


def sparse_version(records: dict[bytes, bytes]) -> str | None:
    """
    Where the map of the file is: "header" (0.0, 0.1), "data" (1.0), or None for a file that is not sparse.
    """
    version = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
    if version in ((b"0", b"0"), (b"0", b"1")):
        return "header"
    if version == (b"1", b"0"):
        return "data"
    if version != (b"", b""):
        return None  # a later version: such a file is taken as it lies there
    return "header" if records.get(_MAP) else None


def sparse_map(
    version: str, records: dict[bytes, bytes], size: int, take: Callable[[int], bytes]
) -> tuple[Extents, int]:
    """
    The map of a sparse file of *size* bytes, and how many bytes of its data the map itself took.
    """
    if version == "data":
        numbers, taken = _map_in_data(take)
    else:
        numbers, taken = _map_in_header(records), 0
    extents = list(zip(numbers[::2], numbers[1::2], strict=True))
    at = 0
    for offset, length in extents:
        if offset < at or length < 0 or offset + length > size:
            raise Refused("its sparse map does not fit the file")
        at = offset + length
    return extents, taken


def _map_in_header(records: dict[bytes, bytes]) -> list[int]:
    count = parse_integer(records.get(b"GNU.sparse.numblocks", b""))
    text = records.get(_MAP, b"")
    numbers = [parse_integer(number) for number in text.split(b",")] if text else []
    if count < 0 or len(numbers) != 2 * count:
        raise Refused("its sparse map is not as long as it says")
    return numbers


def _map_in_data(take: Callable[[int], bytes]) -> tuple[list[int], int]:
    """
    Format 1.0: a count, then offsets and lengths, one to a line, padded to whole blocks.
    """
    blocks: list[bytes] = []
    lines = found = 0
    while not found or found < lines:
        block = take(_BLOCK)
        blocks.append(block)
        if len(block) < _BLOCK or len(blocks) * _BLOCK > _MAX_MAP_BYTES:
            raise Refused("its sparse map has no end")
        found += block.count(b"\n")
        if found and not lines:
            count = parse_integer(b"".join(blocks).partition(b"\n")[0])
            if not 0 <= count <= _MAX_MAP_BYTES:
                raise Refused("its sparse map is too long")
            lines = 1 + 2 * count
    text = b"".join(blocks)
    return [parse_integer(line) for line in text.split(b"\n", lines)[1:lines]], len(text)
