"""
Death at the 1st, 2nd, … n-th call of each flow: the store that is left is whole, and the thing can be done.

Every scene of `support.scenes` is played until it completes by itself, so a call that is new is covered by itself. By
default a process dies before every third call that changes something (all that other processes could see), or in the
middle of a write; ``ULLAGE_TORTURE=1`` takes every call.
"""

from __future__ import annotations

import os

import pytest

from support.killpoints import CHANGES
from support.rehearsal import die_everywhere, undisturbed
from support.scenes import SCENES

EVERY_POINT = bool(os.environ.get("ULLAGE_TORTURE"))


@pytest.mark.parametrize("name", SCENES)
def test_death_at_any_call_leaves_a_store_that_is_whole(name, workshop, record_property):
    scene = SCENES[name]
    deaths = die_everywhere(
        workshop, scene, kinds=None if EVERY_POINT else CHANGES, every=1 if EVERY_POINT else 3 * scene.thin
    )

    assert deaths > 0, "nothing was wrapped"
    record_property("deaths", deaths)


def test_a_call_is_seen_whatever_it_does(workshop):
    """
    The harness itself: it sees files, directories, locks and statements.
    """
    calls, _ = undisturbed(workshop, SCENES["the first pull"])

    seen = {call.kind for call in calls}
    assert {"create", "write", "chmod", "fdatasync", "rename", "fsync", "unlink", "lock"} <= seen
    assert {"begin", "select", "statement", "commit"} <= seen
    made, _ = undisturbed(workshop, SCENES["a store is made"])
    assert {"mkdir", "fallocate", "checkpoint", "pragma", "connect"} <= {call.kind for call in made}
