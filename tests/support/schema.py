"""
What a store at head is made of, as text that is read and reviewed: ``tests/migration/schema.sql``.

After a change of the schema, write it anew, and review the difference:

    PYTHONPATH=tests python -m support.schema
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from support.store import query

GOLDEN = Path(__file__).parent.parent / "migration" / "schema.sql"

_HEADER = """\
-- A store at head, as sqlite_schema has it. Not written by hand: see tests/support/schema.py.

PRAGMA application_id = {application_id}; -- 'ullg'
PRAGMA user_version = {user_version};
"""


def schema_of(root: Path) -> str:
    """
    Every statement of the schema, tables and indexes first, then triggers, then views, each kind in its order.

    Alembic's own table is left out: it is laid out one way by Alembic and another by its script.
    """
    rows = query(
        root,
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*' AND name <> 'alembic_version'"
        " ORDER BY CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 WHEN 'trigger' THEN 3 ELSE 4 END, rowid",
    )
    header = _HEADER.format(
        application_id=query(root, "PRAGMA application_id")[0][0],
        user_version=query(root, "PRAGMA user_version")[0][0],
    )
    return "\n".join([header, *(f"{sql};\n" for (sql,) in rows)])


def main() -> None:
    from ullage import ImageService  # noqa: PLC0415 -- of the command alone

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        ImageService.open(root).close()
        GOLDEN.write_text(schema_of(root))
    print(f"wrote {GOLDEN}")


if __name__ == "__main__":
    main()
