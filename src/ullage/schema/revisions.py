"""
The revisions of the schema that this release knows.
"""

from __future__ import annotations

from typing import Final

__all__ = ["HEAD_REVISION", "LEVEL", "REVISIONS"]

#: In order.
REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005")
#: The one that it writes.
HEAD_REVISION: Final = REVISIONS[-1]
#: Its ordinal, which is ``user_version`` of the store: what releases compare that do not know each other's revisions.
LEVEL: Final = len(REVISIONS)
