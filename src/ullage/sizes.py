"""
Sizes as people write them: shown in decimal units, read in decimal and binary ones.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

__all__ = ["MAX_BYTES", "human", "parse"]

#: No size that anybody may ask for is larger: 1 EiB.
MAX_BYTES: Final = 1 << 60

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?(?:([kKMGTPE])(i?))?[bB]?")


def human(size: int) -> str:
    """
    A size for people, in decimal units.

    >>> human(999), human(61_234_567), human(999_999)
    ('999 B', '61.2 MB', '1.0 MB')
    """
    amount, unit = float(size), 0
    # Not 1000: what would be shown as "1000.0 kB" is "1.0 MB".
    while amount >= (999.95 if unit else 1000) and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{size} B"


def parse(text: str) -> int:
    """
    Bytes, from a plain number or one with a unit.

    K, M, G, T, P, E (and KB, MB …) are powers of 1000; Ki, Mi, Gi … (and KiB, MiB …) are powers of 1024.

    >>> parse("500M"), parse("1.5GiB"), parse("42")
    (500000000, 1610612736, 42)

    Raises:
        ValueError: it is no size, or more than 1 EiB. The message says which.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size such as 10GiB, 500M or 1000000")
    number, prefix, binary = match.groups()
    power = 0 if prefix is None else "KMGTPE".index(prefix.upper()) + 1
    # Fractions: 0.1GB is 100000000 bytes, not one less.
    size = int(Fraction(number) * (1024 if binary else 1000) ** power)
    if size > MAX_BYTES:
        raise ValueError(f"{text} is more than 1 EiB")
    return size
