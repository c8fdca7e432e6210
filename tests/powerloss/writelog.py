"""
What dm-log-writes recorded, and the disks that a power cut could have left.

A log is read in order. What stands before a flush was on the disk when that flush ended; what was written after the
last flush may or may not have got there, each write by itself. The format is that of Linux,
``drivers/md/dm-log-writes.c``, version 1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@dataclass(frozen=True)
class Write:
    """
    One entry of the log. ``data`` is what was written at byte ``offset``, and empty for a flush or a mark.
    """

    flags: int
    offset: int
    data: bytes
    mark: str = ""

    @property
    def is_flush(self) -> bool:
        return bool(self.flags & _FLUSH)

    @property
    def is_forced(self) -> bool:
        """
        Written through: on the disk when it ended, whatever is flushed.
        """
        return bool(self.flags & _FUA)


def read_log(path: Path) -> Iterator[Write]:
    with path.open("rb") as file:
        magic, version, count, sector_bytes = _SUPER.unpack(file.read(_SUPER.size))
        assert (magic, version) == (_MAGIC, 1), "no log of dm-log-writes"
        file.seek(sector_bytes)
        for _ in range(count):
            header = file.read(sector_bytes)
            sector, sectors, flags, length = _ENTRY.unpack_from(header)
            if flags & _MARK:
                text = header[_ENTRY.size : _ENTRY.size + length].split(b"\0")[0]
                yield Write(flags, 0, b"", text.decode())
                continue
            size = sectors * sector_bytes
            data = b"\0" * size if flags & _DISCARD else file.read(size)
            yield Write(flags, sector * sector_bytes, data)
