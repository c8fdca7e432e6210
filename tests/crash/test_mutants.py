"""
Mistakes in the protocol, one at a time: each is caught by the very assertion that is there for it.

What catches nothing proves nothing: the assertions are those of `test_kill_points`, `test_beside` and `test_order`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import audit
from support.flows import open_store
from support.mutants import MUTANTS
from support.protocol import out_of_order
from support.rehearsal import beside, die_everywhere, step_by_step, undisturbed, wait_for_each_other
from support.scenes import SCENES

BROKEN_PROMISE = "it did not get what it was promised"


def test_every_mutant_has_its_test():
    text = Path(__file__).read_text()

    assert [name for name in MUTANTS if f'"{name}"' not in text] == []


# ---------------------------------------------------------------------- by a death


@pytest.mark.parametrize("mutant", ["file before row", "moved before doomed"])
def test_a_file_that_goes_before_its_row_is_caught(mutant, workshop):
    with pytest.raises(AssertionError, match="I1: row without a file"):
        die_everywhere(workshop, SCENES["a removal"], kinds={"commit"}, mutants=[mutant])


# ---------------------------------------------------------------------- by what a recovery leaves


@pytest.mark.parametrize(
    ("mutant", "left"),
    [
        ("row without its file", "I2: file without a row: ingest/"),
        ("published files forgotten", "I2: file without a row: blobs/"),
    ],
)
def test_a_recovery_that_leaves_files_is_caught(mutant, left, workshop):
    scene = SCENES["a recovery"]
    root = workshop.copy(workshop.prepared(scene))

    child = workshop.spawn(scene, root, mutants=[mutant])
    child.wait()

    assert child.completed
    assert [each for each in audit.at_rest(root) if each.startswith(left)]


@pytest.mark.parametrize("mutants", [[], ["torn partials kept"]])
def test_a_recovery_that_leaves_rows_of_partial_blobs_without_their_files_is_caught(mutants, workshop):
    """
    A pull died when it had moved a partial blob aside to take its room, and not yet said so.
    """
    scene = SCENES["a pull that takes the room of a partial blob"]
    calls, _ = undisturbed(workshop, scene)
    moved = next(at for at, call in enumerate(calls, 1) if re.match(r"ingest/\w+ -> trash/", call.what))
    root = workshop.copy(workshop.prepared(scene))
    dead = workshop.spawn(scene, root, action="die", at=moved + 1)
    dead.wait()
    assert not dead.completed

    child = workshop.nursery.spawn("nothing", root, mutants=mutants)
    child.wait()

    assert child.completed
    torn = [each for each in audit.at_rest(root) if each.startswith("I3: partial blob of another size")]
    assert bool(torn) == bool(mutants)


@pytest.mark.parametrize("mutants", [[], ["half trees left"]])
def test_a_recovery_that_leaves_half_a_tree_is_caught(mutants, workshop):
    """
    A pull died when its tree was filled, and not yet in place.
    """
    root = workshop.copy(workshop.prepared(SCENES["a pull that unpacks"]))
    dead = workshop.spawn(SCENES["a pull that unpacks"], root, action="die", at=1, kinds={"syncfs"})
    dead.wait()
    assert not dead.completed
    assert audit.of_wreck(root) == []

    child = workshop.nursery.spawn("nothing", root, mutants=mutants)
    child.wait()

    left = [each for each in audit.at_rest(root) if each.startswith("a directory is left: trees/ingest")]
    assert bool(left) == bool(mutants)


# ---------------------------------------------------------------------- by somebody beside


def test_a_lease_that_is_seen_before_it_is_locked_is_caught(workshop):
    with pytest.raises(AssertionError, match=BROKEN_PROMISE):
        step_by_step(
            workshop,
            SCENES["the first pull"],
            lambda root: open_store(root).close(),
            mutants=["lease seen before locked"],
        )


def test_a_lease_that_is_taken_from_the_living_is_caught(workshop):
    def recover_recklessly(root):
        child = workshop.nursery.spawn("nothing", root, mutants=["lease taken without its lock"])
        child.wait()

    with pytest.raises(AssertionError, match=BROKEN_PROMISE):
        beside(workshop, SCENES["the first pull"], recover_recklessly)


def test_a_lease_that_is_not_told_by_its_token_is_caught(workshop):
    def hold(root):
        store = open_store(root)
        held = store.hold(workshop.small.reference)
        held.__enter__()

        def let_go():
            held.__exit__(None, None, None)
            store.close()

        return let_go

    scene = SCENES["a pull that shares layers"]
    assert beside(workshop, scene, hold, kinds={"list"}) > 0
    with pytest.raises(AssertionError, match=BROKEN_PROMISE):
        beside(workshop, scene, hold, kinds={"list"}, mutants=["lease not told by its token"])


def test_blobs_that_are_found_here_and_not_leased_are_caught(workshop):
    def remove(root):
        with open_store(root) as store:
            store.remove_image(workshop.small.reference)
            store.collect()

    with pytest.raises(AssertionError, match=BROKEN_PROMISE):
        beside(
            workshop,
            SCENES["a pull that shares layers"],
            remove,
            mutants=["present blobs without a lease"],
        )


def test_a_pull_that_waits_and_keeps_what_it_has_to_itself_is_caught(workshop):
    with pytest.raises(AssertionError, match="it waits for one that waits"):
        wait_for_each_other(workshop, mutants=["nothing published before waiting"], patience_seconds=1.5)


# ---------------------------------------------------------------------- by the order of calls


@pytest.mark.parametrize(
    ("mutant", "scene", "words"),
    [
        ("no sync of files", "the first pull", "I4: ingest/.* is renamed to blobs/.* before it is synced"),
        ("no sync of files", "a repair", "I4: leases/.* is renamed to blobs/.* before it is synced"),
        ("no sync of directories", "the first pull", "I4: rows come before their directory is synced"),
        ("no sync of directories", "a removal", "I3: a row ends before the move of its file is synced"),
        ("no sync of directories", "a collection", "I3: a row ends before the move of its file is synced"),
        ("moved before doomed", "a removal", "I3: .* is moved aside before its doom is durable"),
        (
            "unlinked before the row ends",
            "a removal",
            "I3: .* is unlinked before the end of its row is durable",
        ),
        ("lease seen before locked", "the first pull", "a lease is visible before it is locked"),
        ("no sync of trees", "a pull that unpacks", "I4: trees/ingest/.* before it is synced"),
        (
            "no sync of the directories of trees",
            "a pull that unpacks",
            "I4: rows of trees come before their directory is synced",
        ),
        (
            "no sync of the directories of trees",
            "a removal of what is unpacked",
            "I3: a row ends before the move of its directory is synced",
        ),
    ],
)
def test_what_a_death_cannot_show_is_caught_by_the_order_of_calls(mutant, scene, words, workshop):
    calls, _ = undisturbed(workshop, SCENES[scene], mutants=[mutant])

    assert re.search(words, "\n".join(out_of_order(calls)))
