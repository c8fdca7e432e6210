"""
Numbers in the fields of a tar header: octal digits, or two's complement where they would not fit.
"""

from __future__ import annotations

from typing import Final

from ullage.layer.refused import Refused

__all__ = ["number", "octal", "octal_digits"]

_OCTAL: Final = b"01234567"
_MAX_INTEGER: Final = 2**63 - 1


def octal_digits(digits: bytes) -> int | None:
    """
    Numeric fields as nearly every writer fills them, side by side; None where they hold anything but digits.
    """
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:  # an 8 or a 9
        return None


def number(field: bytes) -> int:
    """
    A numeric field: octal digits between blanks and NULs, or two's complement where the first bit is set.
    """
    return _binary(field) if field[0] & 0x80 else octal(field)


def octal(field: bytes) -> int:
    text = field.strip(b" \0")
    if not text:
        return 0
    text = text.partition(b"\0")[0]
    if text.translate(None, _OCTAL) or len(text) > 21:
        raise Refused("a number that is none")
    return int(text, 8)


def _binary(field: bytes) -> int:
    value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
    sign = 1 << (len(field) * 8 - 2)
    if value & sign:
        value -= sign << 1
    if not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
        raise Refused("a number that is too large")
    return value
