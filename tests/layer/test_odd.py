"""
Layers that nobody should write: whatever comes of them is the same in one directory, composed of trees, and in the eyes
of the kernel; and nothing beside changes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.layers import composed, differences, flatten, mounted, overlay, snapshot, tar
from support.oddlayers import APART, LARGE, ODD, ONE_USER_MORE, REFUSED, d, f
from support.store import occupied
from ullage.errors import UnsafeLayer
from ullage.layer import ApplyOptions, fresh_directory, remove_tree

#: Layers give files to their owners.
pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture(scope="session")
def can_mount():
    """
    Whether this kernel shows an overlay.
    """
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        (base / "tree").mkdir()
        try:
            with mounted([base / "tree"], base / "point"):
                return True
        except subprocess.CalledProcessError:
            return False


def unpacked(unpack, *arguments, **options):
    try:
        return unpack(*arguments, **options)
    except UnsafeLayer:
        return None


@pytest.mark.parametrize("name", ODD)
def test_an_odd_layer_is_the_same_whichever_way_it_is_unpacked(name, tree, can_mount):
    base, layers = tree.parent, ODD[name]
    os.utime(tree, (0, 0))  # as old as a root that no layer describes
    before = snapshot(base / "victim", times=True)
    empty_bytes, empty_inodes = occupied(tree)

    flat = unpacked(flatten, layers, tree)
    trees = unpacked(overlay, layers, base)

    assert snapshot(base / "victim", times=True) == before
    assert (flat is None, trees is None) == (name in REFUSED, name in REFUSED)
    if flat is None or trees is None:
        return
    space_bytes, inodes = occupied(tree)
    assert space_bytes - empty_bytes == sum(each.space_bytes for each in flat)
    assert inodes - empty_inodes == sum(each.inodes for each in flat)
    composed(trees, base / "composed")
    made = snapshot(base / "composed", times=True)
    assert differences(snapshot(tree, times=True), made).keys() == APART.get(name, set())
    if can_mount:
        with mounted(trees, base / "point") as point:
            assert differences(made, snapshot(point, times=True)) == {}
    assert snapshot(base / "victim", times=True) == before
    expected = {"dest", "victim", "composed", "point", "bottom", *(each.name for each in trees)}
    assert set(os.listdir(base)) <= expected


@pytest.mark.parametrize("name", ODD)
def test_without_privilege_too_it_is_the_same_both_ways(name, tree):
    """
    In the form that is made without privilege; root makes it here, for whom everything in it works.
    """
    base, layers, options = tree.parent, ODD[name], ApplyOptions.rootless()
    os.utime(tree, (0, 0))

    flat = unpacked(flatten, layers, tree, options=options)
    trees = unpacked(overlay, layers, base, options=options)

    assert (flat is None) == (trees is None)
    if trees is not None:
        composed(trees, base / "composed")
        found = differences(snapshot(tree, times=True), snapshot(base / "composed", times=True))
        assert found.keys() == APART.get(name, set())


@pytest.mark.parametrize("name", LARGE)
def test_a_large_odd_layer_is_the_same_both_ways(name, tmp_path):
    layers = LARGE[name]()
    base = tmp_path / "base"
    base.mkdir()
    try:
        flat = unpacked(flatten, layers, base / "dest")
        trees = unpacked(overlay, layers, base)

        assert (flat is None) == (trees is None)
        if trees is not None:
            composed(trees, base / "composed")
            assert sorted(os.listdir(base / "dest")) == sorted(os.listdir(base / "composed"))
    finally:
        remove_tree(base)  # which is deeper than what cleans up after tests can go
    assert not base.exists()


def test_nothing_is_inherited_from_where_a_directory_is_made(tmp_path):
    above = tmp_path / "above"
    above.mkdir()
    try:
        os.setxattr(above, "system.posix_acl_default", ONE_USER_MORE)
    except OSError:
        pytest.skip("this filesystem has no ACLs")

    with fresh_directory(above / "made") as (directory, _):
        flatten([tar(d(b"d"), f(b"d/f"))], Path(f"/proc/self/fd/{directory}"))

    found = snapshot(above / "made")
    assert [path for path, one in found.items() if "xattr" in one] == []
    assert {path: one["mode"] for path, one in found.items()} == {".": "0o755", "d": "0o755", "d/f": "0o644"}
