"""
docs/registries.md says which test shows what: those tests exist, and the numbers there are the code's. So do the pages
on serving and pushing.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from ullage.manifest import MAX_DOCUMENT_BYTES
from ullage.registry import RegistryClient
from ullage.registry.answers import TRANSIENT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/registries.md").read_text()
PAGES = [PAGE, *((ROOT / "docs" / name).read_text() for name in ("serving.md", "pushing.md"))]
NAMED = sorted({name for page in PAGES for name in re.findall(r"`(test_[a-z0-9_]+)`", page)})


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


#: What a user of docker, podman or containerd takes for granted, and what a hostile registry does.
ROWS = {
    "mode of authentication": (
        "none", "Basic", "Bearer, anonymous", "Bearer, for a password", "Bearer, for a password by POST",
        "Bearer, for a refresh token", "Bearer, brought along", "`auth` in base64", "several challenges",
        "a challenge on the resource alone", "a token that ends", "one token for parallel layers",
        "another host's credentials", "a redirect to another host", "a mirror", "a foreign realm",
        "docker's and podman's files", "credential helpers", "login and logout", "certificates of clients",
        "an authority of one's own", "any certificate", "plain HTTP", "a proxy", "a SOCKS proxy", "secrets",
    ),
    "fault": (
        "408, 429, 500, 502, 503, 504", "`Retry-After`", "no end of failures", "a reset", "silence, a drip",
        "a body that breaks off", "no Range", "a mirror that fails", "a mirror that lies", "all hosts fail",
        "a redirect loop", "a redirect to a file, to nowhere", "a redirect to this machine",
        "an endless body, headers, chunks", "an index of 10,000 entries", "a gzip bomb",
        "a layer that the registry may not distribute", "no referrers API",
    ),
    "form of content": (
        "Docker schema 2, manifest lists", "Docker schema 1", "indexes within indexes",
        "every platform of an index", "artifacts", "`subject`, referrers", "sha512",
        "gzip (several members, too), zstd (skippable frames, too), plain tar",
    ),
}  # fmt: skip


@pytest.mark.parametrize("table", ROWS)
def test_each_row_that_is_asked_for_is_there_and_names_a_test(table):
    head = f"| {table} | test |"
    rows = {}
    for line in PAGE.partition(head)[2].splitlines()[2:]:
        if not line.startswith("| "):
            break
        first, _, rest = line.removeprefix("| ").partition(" | ")
        assert "`test_" in rest, first
        rows[first] = rest

    assert set(ROWS[table]) <= set(rows)


def test_the_statuses_that_are_asked_again_are_those_of_the_table():
    assert f"| {', '.join(map(str, sorted(TRANSIENT)))} |" in PAGE


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
