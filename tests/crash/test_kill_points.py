"""
Death at the 1st, 2nd, … n-th call, and an error from each: the store that is left is whole, and the thing can be done.

Every scene of `support.scenes` is played until it completes by itself, so a call that is new is covered by itself. By
default a process dies before each call that changes something (all that other processes could see), and every kind of
call fails once; ``ULLAGE_TORTURE=1`` takes every call, and every error.
"""

from __future__ import annotations

import os
import shutil

import pytest

from support import audit
from support.flows import FLOWS, broken_promises, open_store
from support.killpoints import CHANGES
from support.scenes import SCENES, undisturbed

EVERY_POINT = bool(os.environ.get("ULLAGE_TORTURE"))


def recovered(workshop, scene, root, child, expected):
    """
    Open what *child* left, look at it, and do again what it was about.
    """
    lowered = {"limit_was_lowered": scene.limit_was_lowered}
    is_damaged = scene.flow == "repair"
    if not is_damaged:
        assert audit.of_wreck(root, **lowered) == []
    with open_store(root, **scene.options(workshop)) as store:
        if is_damaged:
            assert not [*(root / "trash").iterdir(), *(root / "leases").iterdir()]
        else:
            assert store.check(digests=True) == []
        assert broken_promises(store, child.said) == []
        if not is_damaged:
            assert audit.at_rest(root, **lowered) == []
        FLOWS[scene.flow](store, lambda *_: None, **workshop.arguments(scene))
        assert store.check(digests=True) == []
        store.collect()
    assert audit.at_rest(root, **lowered) == []
    assert audit.summary(root) == expected


@pytest.mark.parametrize("name", SCENES)
def test_death_at_any_call_leaves_a_store_that_is_whole(name, workshop):
    scene = SCENES[name]
    kinds = None if EVERY_POINT else CHANGES
    _, expected = undisturbed(workshop, scene)
    at = 0
    while True:
        at += 1
        root = workshop.copy(workshop.prepared(scene))
        child = workshop.spawn(scene, root, action="die", at=at, kinds=kinds)
        child.wait()
        assert not child.heard("untyped")
        assert not child.heard("overfilled")
        if child.completed:
            break

        try:
            recovered(workshop, scene, root, child, expected)
        except BaseException as error:
            error.add_note(
                f"{name}: died at call {at}: {_call(workshop, scene, kinds, at)}; it said {child.said}"
            )
            raise
        shutil.rmtree(root)
    assert at > 1, "nothing was wrapped"


def _call(workshop, scene, kinds, at):
    child = workshop.spawn(scene, workshop.copy(workshop.prepared(scene)), kinds=kinds)
    child.wait()
    return child.heard("trace")[0][0][at - 1]


def test_a_call_is_seen_whatever_it_does(workshop):
    """
    The harness itself: it sees files, directories, locks and statements, in the order in which they are made.
    """
    calls, _ = undisturbed(workshop, SCENES["the first pull"])

    seen = {call.kind for call in calls}
    assert {"create", "write", "chmod", "fdatasync", "rename", "fsync", "unlink", "lock"} <= seen
    assert {"begin", "select", "statement", "commit"} <= seen
    made, _ = undisturbed(workshop, SCENES["a store is made"])
    assert {"mkdir", "fallocate", "checkpoint", "pragma", "connect"} <= {call.kind for call in made}
