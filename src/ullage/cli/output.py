"""
Text for people, JSON for programs.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

__all__ = ["Size", "ago", "emit", "emit_json", "human", "plain", "printable", "say", "short", "table"]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?(?:([kKMGTPE])(i?))?[bB]?")
_MOST_BYTES: Final = 1 << 60


def emit(line: str) -> None:
    """
    One line of data.
    """
    print(line)


def say(line: str) -> None:
    """
    One line of talk.
    """
    print(line, file=sys.stderr, flush=True)


def emit_json(value: object, *, indent: int | None = None) -> None:
    """
    One JSON document, in ASCII: right in every encoding, even with half a surrogate pair in a label.
    """
    emit(json.dumps(plain(value), indent=indent))


def plain(value: object) -> Any:  # noqa: ANN401 -- JSON is any of many types
    """
    *value* in JSON's types: dataclasses by the names of their fields, times as ISO 8601 in UTC.
    """
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, str | int | float) or value is None:
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if hasattr(value, "items"):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value]  # type: ignore[attr-defined]


def printable(text: str) -> str:
    """
    *text* from outside on one line, with nothing in it that moves a cursor: the rest is escaped.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """
    Emit columns that are as wide as they must be; those under the heads in *right* end together.
    """
    lines = [heads, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = [
            cell.rjust(width) if head in right else cell.ljust(width)
            for head, cell, width in zip(heads, line, widths, strict=True)
        ]
        emit("   ".join(cells).rstrip())


def human(size: int) -> str:
    """
    A size for people, in decimal units.

    >>> human(999), human(61_234_567), human(999_999)
    ('999 B', '61.2 MB', '1.0 MB')
    """
    if size < 1000:
        return f"{size} B"
    amount, unit = float(size), 0
    # Not 1000: what would be shown as "1000.0 kB" is "1.0 MB".
    while amount >= 999.95 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}"


def short(digest: str) -> str:
    """
    The first twelve digits of a digest: enough to name it in a table or to a command.
    """
    return digest.partition(":")[2][:12]


def ago(moment: datetime, now: datetime) -> str:
    """
    How long since *moment*, in the largest unit that fits.
    """
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, length in (
        ("year", 31_557_600),
        ("month", 2_629_800),
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
    ):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now" if seconds < 10 else f"{seconds} seconds ago"


class Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on only
    """
    A size on the command line: bytes, or a number with a unit.

    K, M, G, T, P, E (and KB, MB …) are powers of 1000; Ki, Mi, Gi … (and KiB, MiB …) are powers of 1024.
    """

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        if isinstance(value, int):
            return value
        from fractions import Fraction  # noqa: PLC0415 -- only whoever sets a limit needs it

        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is no size such as 10GiB, 500M or 1000000", param, ctx)
        number, prefix, binary = match.groups()
        power = 0 if prefix is None else "KMGTPE".index(prefix.upper()) + 1
        size = int(Fraction(number) * (1024 if binary else 1000) ** power)
        if size > _MOST_BYTES:
            self.fail(f"{value} is more than 1 EiB", param, ctx)
        return size
