"""
Fixtures of the crash tests: children that die, and stores in memory, since nobody pulls the plug here.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from support.nursery import Nursery
from support.registry import FaultRegistry
from support.scenes import Workshop

_ENOUGH_BYTES = 256 << 20


def room_for_stores(fallback: Path) -> Path:
    """
    A filesystem on which a sync costs nothing, where there is one with room; a death needs no disk.
    """
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK):
        figures = os.statvfs(memory)
        if figures.f_bavail * figures.f_frsize >= _ENOUGH_BYTES:
            return memory
    return fallback


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def workshop(nursery, tmp_path_factory):
    room = room_for_stores(tmp_path_factory.mktemp("stores"))
    with FaultRegistry() as registry, tempfile.TemporaryDirectory(prefix="ullage-", dir=room) as name:
        yield Workshop(registry, nursery, Path(name))
