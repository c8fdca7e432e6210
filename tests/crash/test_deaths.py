"""
Hundreds of deaths among several processes, and the store is whole after each. ``make torture`` goes on for thousands.
"""

from __future__ import annotations

import pytest
from deaths import report, torture

from support import audit
from support.flows import open_store
from support.images import ImageBuilder, noise
from support.registry import FaultRegistry, stall


@pytest.mark.timeout(300)
def test_processes_that_die_at_any_moment_leave_a_store_that_is_whole(record_property):
    """
    Three hundred rounds, or as many as a slow machine makes in a minute.
    """
    run = torture(rounds=300, seed=20261124, seconds=60.0)

    record_property("counts", report(run))
    assert run.violations == []
    assert run.counts["killed at a call"] > 0
    assert run.counts["killed at a moment"] > 0


def test_what_a_killed_process_was_fetching_is_taken_over_by_one_that_waits(nursery, tmp_path, wait_until):
    """
    From where it stopped: the waiter asks the registry for the rest, and for nothing that is here.
    """
    root = tmp_path / "store"
    open_store(root).close()
    with FaultRegistry() as registry:
        image = ImageBuilder(registry, "app").layer({"big": noise(300_000)}).push("1")
        layer = image.layers[0]
        stalled = registry.inject(f"*/blobs/{layer.digest}", stall(100_000), times=1)
        fetcher = nursery.spawn("pull", root, {"reference": image.reference}, fetches=3)
        stalled.wait_reached()
        partial = root / "ingest" / layer.digest.encoded
        wait_until(lambda: partial.exists() and partial.stat().st_size == 100_000)
        waiter = nursery.spawn("pull", root, {"reference": image.reference}, fetches=3)
        wait_until(lambda: len(list((root / "leases").iterdir())) == 2)

        fetcher.kill()
        waiter.wait()

        assert waiter.heard("pulled") == [[image.reference]]
        blobs = [each for each in registry.requests if "/blobs/" in each.path]
        assert [(each.path.rpartition("/")[2], each.range) for each in blobs[-1:]] == [
            (layer.digest, "bytes=100000-")
        ]
        assert sum(each.path.endswith(layer.digest) for each in blobs) == 2
        registry.heal()
    assert audit.at_rest(root) == []
