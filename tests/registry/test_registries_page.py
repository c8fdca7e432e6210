"""
docs/registries.md says which test shows what: those tests exist, and the numbers there are the code's.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from ullage.manifest import MAX_DOCUMENT_BYTES
from ullage.registry import RegistryClient

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/registries.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_[a-z0-9_]+)`", PAGE)))


@pytest.fixture(scope="module")
def written():
    """
    The names of all tests there are.
    """
    return {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name, written):
    assert name in written


def test_the_tables_are_there():
    assert len(NAMED) > 70
    assert all(
        f"## {title}" in PAGE for title in ("Credentials", "Tokens", "Hosts and mirrors", "Trying again")
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("attempts", "5 (`attempts`)"),
        ("retry_seconds", "60 s after the first (`retry_seconds`)"),
        ("backoff_seconds", "0.25 s (`backoff_seconds`)"),
        ("connect_timeout_seconds", "10 s for all addresses of a name together (`connect_timeout_seconds`)"),
        ("read_timeout_seconds", "30 s (`read_timeout_seconds`)"),
        ("min_bytes_per_second", "1024 bytes/s (`min_bytes_per_second`)"),
    ],
)
def test_the_numbers_of_the_page_are_the_defaults(option, said):
    default = inspect.signature(RegistryClient).parameters[option].default

    assert said in PAGE
    assert said.startswith(f"{default:g}")


def test_the_limit_of_documents_is_the_pages():
    assert MAX_DOCUMENT_BYTES == 4 << 20
