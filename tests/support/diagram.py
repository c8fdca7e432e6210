"""
The entity diagram of docs/sqlite.md, drawn from the metadata.

After a change of the tables, draw it anew:

    PYTHONPATH=tests python -m support.diagram
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ullage.schema import metadata

if TYPE_CHECKING:
    from sqlalchemy import Table

PAGE = Path(__file__).parent.parent.parent / "docs" / "sqlite.md"
_BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def drawn() -> str:
    """
    The diagram in Mermaid's language: every table with its columns, and what points at what.
    """
    tables = [table for table in metadata.sorted_tables if not table.info.get("is_view")]
    lines = ["erDiagram"]
    for table in tables:
        for column in table.columns:
            for key in column.foreign_keys:
                many = "|o" if column.primary_key and len(table.primary_key) == 1 else "}o"
                one = "o|" if column.nullable else "||"
                lines.append(f"    {table.name} {many}--{one} {key.column.table.name} : {column.name}")
    for table in tables:
        lines += [f"    {table.name} {{", *_columns(table), "    }"]
    return "\n".join(lines) + "\n"


def _columns(table: Table) -> list[str]:
    unique = {
        column.name
        for constraint in table.constraints
        if type(constraint).__name__ == "UniqueConstraint"
        for column in constraint.columns
    }
    lines = []
    for column in table.columns:
        keys = [
            *(["PK"] if column.primary_key else []),
            *(["FK"] if column.foreign_keys else []),
            *(["UK"] if column.name in unique else []),
        ]
        kind = str(column.type).lower()
        lines.append(f"        {kind} {column.name} {', '.join(keys)}".rstrip())
    return lines


def in_the_page() -> str:
    """
    The diagram that the page has now.
    """
    (found,) = _BLOCK.findall(PAGE.read_text())
    return str(found)


if __name__ == "__main__":
    PAGE.write_text(_BLOCK.sub(lambda _: f"```mermaid\n{drawn()}```", PAGE.read_text()))
    print(f"drew {PAGE}")
