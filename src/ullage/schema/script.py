"""
The schema as the script that makes it: ``migrations/head.sql``, which is what all revisions come to.

``make schema`` writes it, of a database that the revisions made one after the other, and tests compare the two.
"""

from __future__ import annotations

import pkgutil
import sqlite3

__all__ = ["statements"]


def statements() -> tuple[tuple[str, ...], str]:
    """
    What makes the schema with its marks, and what makes the store row, of ``uuid``, ``created_at`` and ``max_bytes``.
    """
    script = pkgutil.get_data("ullage.migrations", "head.sql")
    assert script is not None, "it lies beside the revisions"
    found, pending = [], ""
    for line in script.decode().splitlines(keepends=True):
        pending += line
        # Triggers have semicolons within: where one ends is for SQLite to say.
        if line.endswith(";\n") and sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    assert not pending, "it ends with a whole statement"
    *schema, row = found
    return tuple(schema), row
