"""
Hundreds of deaths among several processes, and the store is whole after each. ``make torture`` goes on for thousands.
"""

from __future__ import annotations

import os
import signal

import pytest
from deaths import report, torture

from support import audit
from support.flows import open_store
from support.images import ImageBuilder, noise
from support.registry import FaultRegistry, stall
from support.store import query


@pytest.mark.timeout(300)
def test_processes_that_die_at_any_moment_leave_a_store_that_is_whole(record_property):
    """
    Three hundred rounds, or as many as there are in ten seconds: ``make torture`` takes its time.
    """
    run = torture(rounds=300, seed=20261124, seconds=10.0)

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
        asked = [each.range for each in registry.requests if each.path.endswith(layer.digest)]
        assert asked == ["", "bytes=100000-"]
        registry.heal()
    assert audit.at_rest(root) == []


def test_what_gives_way_to_a_pull_that_takes_over_is_gone_from_the_disk(nursery, tmp_path, wait_until):
    """
    A third pull takes the room that a killed one had reserved; the one that takes over evicts it, files and all.
    """
    root = tmp_path / "store"
    with FaultRegistry() as registry:
        image = ImageBuilder(registry, "app").layer({"big": noise(300_000)}).push("1")
        third = ImageBuilder(registry, "third").layer({"third": noise(150_000, "third")}).push("1")
        open_store(root, max_storage=image.size + 1000).close()
        stalled = registry.inject(f"*/blobs/{image.layers[0].digest}", stall(100_000), times=1)
        fetcher = nursery.spawn("pull", root, {"reference": image.reference})
        stalled.wait_reached()
        partial = root / "ingest" / image.layers[0].digest.encoded
        wait_until(lambda: partial.exists() and partial.stat().st_size == 100_000)
        waiter = nursery.spawn("pull", root, {"reference": image.reference, "evict": True})
        wait_until(lambda: query(root, "SELECT count(*) FROM leases") == [(2,)])

        os.kill(waiter.pid, signal.SIGSTOP)
        assert waiter.wait() == "stopped"
        fetcher.kill()
        with open_store(root) as store:
            store.pull_image(third.reference)
        waiter.go_on()
        waiter.wait()

        assert waiter.heard("pulled") == [[image.reference]]
        assert query(root, "SELECT doomed_bytes, image_count FROM storage_usage") == [(0, 1)]
        assert {path.name for path in root.glob("blobs/*/*")} == {blob.digest.encoded for blob in image.blobs}
        assert list((root / "trash").iterdir()) == []
        registry.heal()
    assert audit.at_rest(root) == []
