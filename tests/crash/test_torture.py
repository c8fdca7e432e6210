"""
The torture, for a few rounds. ``make torture`` goes on for thousands.
"""

from __future__ import annotations

import pytest
from torture import torture


@pytest.mark.timeout(300)
def test_processes_that_are_killed_at_random_leave_a_store_that_is_whole():
    counts, violations = torture(rounds=6, seed=20)

    assert violations == []
    assert counts["rounds"] == 6
    assert counts["kills"] == 24
    assert counts["samples of the limit"] > 50
