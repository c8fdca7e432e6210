"""
The power goes at every moment that can matter, and no row outlives its bytes.

`make powerloss`; see README.md in this folder.
"""

from __future__ import annotations

import os

import pytest
from machine import record, what_is_missing
from replay import replay

pytestmark = [pytest.mark.powerloss, pytest.mark.timeout(1800)]

LENGTH = os.environ.get("ULLAGE_POWERLOSS", "short")


@pytest.fixture(autouse=True)
def _machine():
    missing = what_is_missing()
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def test_no_row_outlives_its_bytes_and_nothing_reported_as_done_is_lost(tmp_path, capsys):
    recording = record(tmp_path / "recording", length=LENGTH)

    report = replay(recording)

    with capsys.disabled():
        print(f"\n{LENGTH} workload: {report}")
    assert report.violations == []
    assert report.flushes > 50
    assert report.torn > 20
    assert report.trees > 500


@pytest.mark.parametrize(
    ("mutant", "symptom"),
    [
        ("normal", "not what was reported"),
        ("unsynced", "I1"),
        ("unsynced trees", "I4 tree"),
        ("row before tree", "I1 tree row"),
    ],
    ids=[
        "commits without a sync lose what was reported",
        "blobs without a sync are outlived by their rows",
        "trees without a sync have their names and not their files",
        "trees without their names are outlived by their rows",
    ],
)
def test_a_protocol_that_is_weaker_is_caught(mutant, symptom, tmp_path, capsys):
    """
    What the replay has to notice for the test above to mean anything.
    """
    recording = record(tmp_path / "recording", length="short", mutant=mutant)

    report = replay(recording, until=symptom)

    with capsys.disabled():
        print(f"\nmutant {mutant}: {report}, the last at {report.violations[-1][:150]}")
    assert symptom in report.violations[-1]
