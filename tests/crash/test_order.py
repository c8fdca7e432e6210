"""
The order of files and rows in each flow, and what each costs: design §4, I3 and I4.
"""

from __future__ import annotations

import pytest

from support.protocol import Counts, counts, out_of_order
from support.rehearsal import undisturbed
from support.scenes import SCENES

# A change here is a change of what a host pays: say why where it is made. SQLite's own sync of each write transaction
# comes on top. A blob costs its fdatasync; a directory one fsync for all that was renamed in it, or out of it.
COSTS = {
    # The two syncs are of directories that may have been made just now.
    "a store is opened": Counts(reads=3, writes=0, statements=3, fsyncs=2, fdatasyncs=0),
    # Admission and completion; four blobs.
    "the first pull": Counts(reads=7, writes=2, statements=39, fsyncs=1, fdatasyncs=5),
    # One more statement: the lease on the layer that is here.
    "a pull that shares layers": Counts(reads=7, writes=2, statements=40, fsyncs=1, fdatasyncs=4),
    "a pull that goes on with a partial blob": Counts(
        reads=7, writes=2, statements=40, fsyncs=1, fdatasyncs=6
    ),
    # The sweep is a write, and syncs the directory that files left and the one that they came to.
    "a pull that evicts": Counts(reads=9, writes=3, statements=68, fsyncs=3, fdatasyncs=5),
    # The doom and the sweep.
    "a removal": Counts(reads=5, writes=2, statements=19, fsyncs=2, fdatasyncs=1),
    # With the opening of the store, which sweeps what was doomed already, and so has to look whether names changed.
    "a collection": Counts(reads=18, writes=3, statements=34, fsyncs=8, fdatasyncs=1),
    "a hold": Counts(reads=1, writes=2, statements=7, fsyncs=0, fdatasyncs=0),
    "a limit": Counts(reads=1, writes=1, statements=4, fsyncs=0, fdatasyncs=0),
    # Beside those of a pull: a claim, a step of the reservation and its end (not durable), a word to the shell, blobs
    # before trees, trees. One syncfs, and the two directories of the rename.
    "a pull that unpacks": Counts(reads=10, writes=9, statements=73, fsyncs=3, fdatasyncs=4),
    "a removal of what is unpacked": Counts(reads=6, writes=3, statements=23, fsyncs=4, fdatasyncs=1),
}


@pytest.mark.parametrize("name", SCENES)
def test_files_and_rows_come_and_go_in_the_order_of_the_protocol(name, workshop):
    calls, _ = undisturbed(workshop, SCENES[name])

    assert out_of_order(calls) == []


@pytest.mark.parametrize("name", COSTS)
def test_a_flow_costs_what_it_did(name, workshop):
    calls, _ = undisturbed(workshop, SCENES[name])

    assert counts(calls) == COSTS[name]


def test_a_blob_costs_one_sync_and_its_directory_one_for_all_of_them(workshop):
    for name in ("small", "large"):
        image = getattr(workshop, name)
        scene = {"small": "the first pull", "large": "the first pull of large blobs"}[name]
        calls, _ = undisturbed(workshop, SCENES[scene])

        cost = counts(calls)
        assert (cost.fdatasyncs, cost.fsyncs, cost.writes) == (len(image.blobs) + 1, 1, 2), (
            "one for index.json"
        )


def test_the_cost_of_admission_and_completion_does_not_grow_with_the_layers(workshop):
    """
    The large image has one layer more; its pull has the same statements.
    """
    few, more = (
        undisturbed(workshop, SCENES[name])[0] for name in ("the first pull", "the first pull of large blobs")
    )

    assert counts(few).statements == counts(more).statements
    assert isinstance(counts(few), Counts)
