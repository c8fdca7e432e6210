"""
docs/compatibility.md: what was promised is still there.
"""

from __future__ import annotations

import json

import pytest

from support.promised import PROMISED, missing, offered


@pytest.fixture(scope="module")
def now():
    return offered()


@pytest.mark.parametrize("kind", ["python", "views", "commands", "exit codes"])
def test_nothing_that_was_promised_is_gone_or_another(kind, now):
    promised = json.loads(PROMISED.read_text())[kind]

    assert promised
    assert missing(promised, now[kind]) == []


def test_what_is_missing_is_noticed():
    promised = {"a": ["x", "y"], "b": 1, "c": {"d": []}}

    assert missing(promised, promised) == []
    assert missing(promised, promised | {"more": []}) == []
    assert missing(promised, {"a": ["y"], "b": 2}) == ["/a/x", "/b: 1 is 2", "/c"]
