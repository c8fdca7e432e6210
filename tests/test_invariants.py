"""
docs/invariants.md: each invariant has tests that exist, and each rule of the schema is in it.
"""

from __future__ import annotations

import ast
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.oracle import constraints_of, triggers_of

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "docs" / "invariants.md").read_text()
SECTIONS = dict(re.findall(r"^## I(\d+)\. [^\n]+\n(.*?)(?=^## )", TEXT, flags=re.MULTILINE | re.DOTALL))
NUMBERS = range(1, 13)


def _tests_in(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("number", NUMBERS)
def test_an_invariant_names_tests_that_exist(number):
    named = re.findall(r"^- `(tests/[\w/]+\.py)::(test_\w+)`$", SECTIONS[str(number)], flags=re.MULTILINE)

    assert named, "an invariant that nothing proves is a wish"
    missing = [f"{path}::{test}" for path, test in named if test not in _tests_in(REPOSITORY / path)]
    assert missing == []


def test_there_are_twelve_of_them():
    assert sorted(map(int, SECTIONS)) == list(NUMBERS)


@pytest.fixture
def schema(root):
    with closing(sqlite3.connect(root / "ullage.db")) as connection:
        yield connection


def test_every_trigger_of_the_schema_is_named(schema):
    words = set(re.findall(r"`(\w+)`", TEXT))

    assert set(triggers_of(schema)) - words == set()


def test_every_rule_that_is_named_is_in_the_schema(schema):
    """
    A trigger that was renamed is not looked for in vain.
    """
    tables = "|".join(
        name for (name,) in schema.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    )
    rules = {*triggers_of(schema), *constraints_of(schema)}
    columns = {
        column
        for table in tables.split("|")
        for (_, column, *_) in schema.execute(f"PRAGMA table_info({table})")
    }
    views = {name for (name,) in schema.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")}
    named = (
        set(re.findall(rf"`((?:ck|fk|uq|pk|{tables})_\w+)`", TEXT)) - set(tables.split("|")) - columns - views
    )

    assert named - rules == set()


def test_every_invariant_that_the_store_reports_has_its_section(schema):
    (text,) = schema.execute("SELECT sql FROM sqlite_schema WHERE name = 'problems'").fetchone()

    reported = set(re.findall(r"'I(\d+)'", text))

    assert reported
    assert reported <= set(SECTIONS)
