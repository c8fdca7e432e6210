"""
The refusal of an entry, before anybody knows its name.
"""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):
    """
    An entry is no header, or may not be applied. Stays in this package: it leaves as `UnsafeLayer`, with the name.
    """
