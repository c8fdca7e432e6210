"""
``docs/migrations.md`` runs, and has all that it should.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.keepsake import unpacked
from support.worker import environment
from ullage.schema import LEVEL, REVISIONS

PROJECT = Path(__file__).parent.parent.parent
PAGE = (PROJECT / "docs" / "migrations.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(LEVEL == 1, reason="there is one revision")
def test_each_block_does_what_it_says(tmp_path):
    """
    In one directory, in the order of the page; the host's program on a store of its own.
    """
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    shell = bare | {"ULLAGE_ROOT": str(unpacked("0001", tmp_path / "root"))}
    shell["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    unpacked("0001", tmp_path / "store")
    for kind, text in BLOCKS:
        if kind == "python":
            done = subprocess.run(
                [sys.executable, "-c", text],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert done.stdout.startswith("an upgrade from 0001 is due\nbackup 0\n")
            assert "done" in done.stdout
            continue
        assert kind == "console"
        for typed, seen in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            done = subprocess.run(
                ["bash", "-c", typed],
                cwd=tmp_path,
                env=shell,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert without_numbers(done.stdout) == without_numbers(seen), typed


def without_numbers(text):
    """
    The page is of the release that it was written for; later ones have more revisions.
    """
    return re.sub(r"\b\d{4}\b( \d{4}\b)*", "REVISION", text)


def test_it_says_of_each_revision_what_a_downgrade_loses():
    losing = {
        path.name.partition("_")[0]
        for path in (PROJECT / "migrations" / "versions").glob("0*.py")
        if re.search(r"^losses = \(\n", path.read_text(), re.MULTILINE)
    }

    assert set(re.findall(r"^\| (\d{4}) \| \w", PAGE, re.MULTILINE)) == losing


def test_the_newest_revision_that_it_speaks_of_is_one_that_there_is():
    assert set(re.findall(r"`(\d{4})`", PAGE)) <= set(REVISIONS)
