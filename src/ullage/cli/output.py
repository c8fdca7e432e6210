"""
Text for people, JSON for programs.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

__all__ = ["ago", "emit", "emit_json", "plain", "printable", "say", "short", "table"]


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
