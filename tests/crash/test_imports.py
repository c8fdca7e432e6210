"""
Death at any step of an import: what was spooled is charged, and gone after a collection.
"""

from __future__ import annotations

import gzip
import os

import pytest

from support.archives import Layout, built
from support.flows import open_store
from support.killpoints import CHANGES
from support.rehearsal import die_everywhere, undisturbed
from support.scenes import Scene

EVERY_POINT = bool(os.environ.get("ULLAGE_TORTURE"))
#: What other processes see of it, step by step.
FEW = frozenset({"commit", "rename", "unlink"})


def _nothing(workshop, root):
    open_store(root).close()


@pytest.fixture
def archive(tmp_path):
    """
    An archive that has to be spooled, larger than what is worth resuming.
    """
    layout = Layout(tmp_path / "layout").add(built("app", {"etc/a": b"a"}, 90_000), "app:1")
    path = layout.archive(tmp_path / "layout.tar.gz")
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    return path


def test_death_at_any_call_of_an_import_leaves_a_store_that_is_whole(workshop, archive):
    scene = Scene("an import through a spool", "import", _nothing, {"source": str(archive)})

    calls, _ = undisturbed(workshop, scene)
    deaths = die_everywhere(workshop, scene, kinds=CHANGES if EVERY_POINT else FEW)

    assert deaths > 10
    # The spool and the pull: two leases, each given back or completed.
    assert sum(call.kind == "rename" and call.what.startswith("leases/") for call in calls) == 2
