"""
Somebody else is writing, and does not stop: nobody waits longer than he was told to.
"""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from support.images import ImageBuilder
from ullage import PullCancelled, StoreBusy
from ullage.database import Database
from ullage.locks import FileLock


@pytest.fixture
def gate(root):
    """
    Held, as another process would: it is another open file.
    """
    locks = []

    def hold():
        locks.append(FileLock.acquire(root / "gate", timeout_seconds=10))
        assert locks[-1] is not None

    yield hold
    for lock in locks:
        lock.release()


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")


def test_the_deadline_of_a_pull_counts_waiting_for_the_gate(store, image, gate):
    gate()
    started = time.monotonic()

    with pytest.raises(PullCancelled):
        store.pull_image(image.reference, timeout=0.3)

    assert time.monotonic() - started < 10  # and not the sixty seconds that a write waits
    assert store.list_images() == []


def test_a_pull_that_waits_for_the_gate_is_cancelled_by_its_caller(store, image, gate, registry, wait_until):
    gate()
    cancel, outcome = threading.Event(), []

    def pull():
        try:
            store.pull_image(image.reference, cancel=cancel)
        except PullCancelled as error:
            outcome.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    wait_until(lambda: any("/manifests/" in each.path for each in registry.requests))
    cancel.set()
    thread.join(10)

    assert not thread.is_alive()
    assert len(outcome) == 1


def test_a_known_reference_does_not_wait_for_the_gate_to_note_its_use(open_store, image, gate):
    now = datetime.now(UTC)
    store = open_store(clock=lambda: now)
    pulled = store.pull_image(image.reference)
    now += timedelta(hours=1)
    gate()
    started = time.monotonic()

    again = store.pull_image(image.reference)

    assert time.monotonic() - started < 10
    assert again.last_used_at == pulled.last_used_at  # the next use notes it


def test_a_write_that_waits_too_long_is_busy(open_store, image, gate):
    store = open_store(busy_timeout_seconds=0.2)
    gate()

    with pytest.raises(StoreBusy) as raised:
        store.tag_image(image.reference, "other:1")

    assert raised.value.waited_seconds >= 0.2


def test_more_readers_at_once_than_connections_are_told_so(root):
    database = Database(root / "ullage.db", gate=root / "gate", timeout_seconds=0.1)

    with contextlib.ExitStack() as readers:
        for _ in range(32):
            readers.enter_context(database.read())
        with pytest.raises(StoreBusy, match="every connection for reading"), database.read():
            pass
    database.close()
