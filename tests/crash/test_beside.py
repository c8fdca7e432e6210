"""
One process stops before each of its calls, and another does something meanwhile: neither is the worse for it.

A flow is stopped wherever it does not have the gate, which is wherever others can be at work. Recoveries, collections
and checks are made at every step of one run; removals and pulls at one step of each of many.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.flows import open_store
from support.rehearsal import OUTSIDE, beside, step_by_step, undisturbed, wait_for_each_other
from support.scenes import SCENES
from ullage import ImageInUse

LIVE = (
    "the first pull",
    "the first pull of large blobs",
    "a pull that shares layers",
    "a pull that goes on with a partial blob",
    "a pull that takes doomed blobs back",
    "a pull that evicts",
    "a removal",
    "a hold",
    "a limit that evicts",
)


def recover(root):
    open_store(root).close()


def collect(root):
    with open_store(root) as store:
        store.collect()


def check(root):
    with open_store(root) as store:
        assert store.check(digests=True) == []


@pytest.mark.parametrize("other", [recover, collect, check], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", LIVE)
def test_somebody_at_work_is_left_alone_by_a(other, name, workshop):
    assert step_by_step(workshop, SCENES[name], other) > 1


@pytest.mark.parametrize("name", ["a hold", "a pull that shares layers"])
def test_a_recovery_at_any_moment_takes_no_lease(name, workshop):
    """
    The moment between the making of a lease's file and its lock is among them.
    """
    assert beside(workshop, SCENES[name], recover) > 5


def test_a_lease_is_not_made_of_a_file_that_a_recovery_made_anew(workshop):
    """
    One recovery removes the file before its owner has locked it, another makes and locks it again: two files of one
    name, and the owner's lock is on the one that is gone.
    """
    theirs = []

    def other(root):
        for descriptor in theirs:
            os.close(descriptor)
        theirs.clear()
        hidden = list((root / "leases").glob(".*"))
        if hidden and not tricked:
            tricked.extend(hidden)
            hidden[0].unlink()
            theirs.append(os.open(hidden[0], os.O_RDWR | os.O_CREAT, 0o600))
            fcntl.flock(theirs[0], fcntl.LOCK_EX)
        elif not hidden:
            recover(root)

    tricked = []
    step_by_step(workshop, SCENES["the first pull"], other, kinds=OUTSIDE)

    assert tricked


def test_a_pull_keeps_the_layers_that_it_found_here(workshop):
    """
    The image that they came with is removed and collected at any moment of it.
    """

    def remove(root):
        with open_store(root) as store:
            store.remove_image(workshop.small.reference)
            store.collect()

    assert beside(workshop, SCENES["a pull that shares layers"], remove) > 10


def test_a_held_image_is_not_removed(workshop):
    def remove(root):
        with open_store(root) as store, contextlib.suppress(ImageInUse):
            store.remove_image(workshop.small.reference)

    assert beside(workshop, SCENES["a hold"], remove, may_raise={"ImageNotFound"}) > 5


@pytest.mark.parametrize("name", ["a removal", "a collection"])
def test_an_image_can_be_pulled_while_its_blobs_are_on_their_way_out(name, workshop):
    def pull(root):
        with open_store(root) as store:
            store.pull_image(workshop.small.reference)
            assert store.check(digests=True) == []

    assert beside(workshop, SCENES[name], pull) > 3


def test_a_check_reports_no_partial_blob_that_is_just_being_given_up(workshop):
    """
    Its file is moved aside before its row goes, in one transaction: the check waits for the end of that.
    """
    scene = SCENES["a pull that takes the room of a partial blob"]
    root = workshop.copy(workshop.prepared(scene))
    calls, _ = undisturbed(workshop, scene)
    moved = next(at for at, call in enumerate(calls, 1) if re.match(r"ingest/\w+ -> trash/", call.what))
    with open_store(root) as store, ThreadPoolExecutor(1) as executor:
        child = workshop.spawn(scene, root, action="stop", at=moved + 1)
        assert child.wait() == "stopped"
        check = executor.submit(store.check)
        gate = (root / "gate").stat().st_ino
        while not check.done() and not re.search(rf"-> FLOCK .*:{gate} ", Path("/proc/locks").read_text()):
            pass  # until it is done, or waits for the gate

        child.go_on()

        child.wait()
        assert check.result() == []


def test_a_pull_that_waits_lets_others_have_what_it_has(workshop):
    wait_for_each_other(workshop)
