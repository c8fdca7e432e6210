"""
Layers as overlay trees: what the kernel shows of them, and what composing makes of them, is what applying the layers
on top of each other gives.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.layers import (
    CHAR,
    DIRECTORY,
    FILE,
    LINK,
    SYMLINK,
    apply,
    composed,
    differences,
    entry,
    flatten,
    mounted,
    opened,
    overlay,
    pax,
    snapshot,
    stream,
    tar,
)
from support.oddlayers import base256, device
from support.volumes import may_mount, mounted_volume
from ullage.errors import ImageError, UnsafeLayer
from ullage.layer import ApplyOptions, apply_overlay, compose, occupied

#: Layers give files to their owners.
pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture(scope="session")
def can_mount():
    """
    Whether this kernel lets us look at an overlay.
    """
    if os.geteuid():
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        (base / "tree").mkdir()
        try:
            with mounted([base / "tree"], base / "point"):
                pass
        except subprocess.CalledProcessError:
            pytest.skip("this machine mounts no overlay")


# ---------------------------------------------------------------------- any stack at all

few = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(b"/".join)
targets = st.sampled_from([b"a", b"b", b"/a", b"/a/b", b"../a", b"c/b", b"..", b"/c", b"."])


def whiteout(path):
    parent, _, name = path.rpartition(b"/")
    return entry((parent + b"/" if parent else b"") + b".wh." + name)


anything = st.one_of(
    st.builds(lambda path, digit: entry(path, FILE, b"%d" % digit), few, st.integers(0, 9)),
    st.builds(lambda path, mode: entry(path, DIRECTORY, mode=mode), few, st.sampled_from([0o755, 0o700])),
    st.builds(lambda path, mode: entry(path, DIRECTORY, mode=mode), few, st.sampled_from([0o755, 0o700])),
    st.builds(lambda path, link: entry(path, SYMLINK, link=link, mode=0o777), few, targets),
    st.builds(lambda path, link: entry(path, LINK, link=link), few, few),
    st.builds(whiteout, few),
    st.builds(lambda path: entry(path + b"/.wh..wh..opq"), few),
    st.just(entry(b".wh..wh..opq")),
)
stacks = st.lists(st.lists(anything, min_size=1, max_size=6), min_size=1, max_size=4)


def every_way(stack, base):
    """
    The stack in one directory, composed from trees, and the trees; None for what was refused.
    """
    layers = [tar(*entries) for entries in stack]
    flat = made = trees = None
    try:
        flatten(layers, base / "flat")
        flat = snapshot(base / "flat", links=False)
    except ImageError:
        pass
    try:
        trees = overlay(layers, base)
        composed(trees, base / "composed")
        made = snapshot(base / "composed", links=False)
    except ImageError:
        pass
    for one in (flat, made):
        if one is not None:
            del one["."]  # made by different hands
    return flat, made, trees


@settings(max_examples=200, deadline=None)
@given(stacks)
def test_composing_the_trees_of_layers_is_applying_them_in_one_directory(stack):
    with tempfile.TemporaryDirectory() as directory:
        flat, made, _trees = every_way(stack, Path(directory))

    assert flat == made


@settings(max_examples=40, deadline=None)
@given(stacks)
def test_the_kernel_shows_of_the_trees_what_composing_makes_of_them(can_mount, stack):
    with tempfile.TemporaryDirectory() as directory:
        _flat, made, trees = every_way(stack, Path(directory))
        if made is None:
            return
        with mounted(trees, Path(directory) / "point") as point:
            shown = snapshot(point, links=False)
        del shown["."]

    assert differences(shown, made) == {}


# ---------------------------------------------------------------------- parents that a layer only passes through


def test_a_parent_without_an_entry_keeps_what_it_is_below(tmp_path, root):
    below = [
        tar(
            pax({b"SCHILY.xattr.user.a": b"1", b"mtime": b"5.5"}) + entry(b"d", DIRECTORY, mode=0o2750, uid=3, gid=4),
            entry(b"d/e", DIRECTORY, mode=0o711, uid=7),
        ),
        tar(entry(b"d/e/f")),
    ]  # fmt: skip

    trees = overlay(below, tmp_path)

    expected = snapshot(trees[0], times=True)
    found = snapshot(trees[1], times=True)
    assert found["d"] == expected["d"]
    assert found["d/e"] == expected["d/e"]


def test_the_root_keeps_what_it_is_below(tmp_path, root):
    trees = overlay([tar(entry(b"./", DIRECTORY, mode=0o711, uid=5, mtime=9)), tar(entry(b"f"))], tmp_path)

    assert snapshot(trees[1], times=True)["."] == snapshot(trees[0], times=True)["."]


def test_a_file_below_a_link_of_a_lower_layer_goes_where_the_link_leads(tmp_path):
    """
    /lib is a link on most systems; a layer that says lib/x must not hide all the rest of it.
    """
    trees = overlay(
        [
            tar(entry(b"usr/lib/a"), entry(b"lib", SYMLINK, link=b"usr/lib")),
            tar(entry(b"lib/x/y"), entry(b"lib/z")),
        ],
        tmp_path,
    )

    assert sorted(snapshot(trees[1])) == [".", "usr", "usr/lib", "usr/lib/x", "usr/lib/x/y", "usr/lib/z"]


def test_a_directory_that_replaces_a_file_of_its_own_layer_shows_nothing_from_below(tmp_path):
    stack = [
        tar(entry(b"d/lower")),
        tar(entry(b"d", data=b"file"), entry(b"d", DIRECTORY), entry(b"d/upper")),
    ]

    composed(overlay(stack, tmp_path), tmp_path / "composed")

    assert sorted(snapshot(tmp_path / "composed")) == [".", "d", "d/upper"]


def test_a_hard_link_to_a_file_of_a_lower_layer_copies_it_up_once(tmp_path, root):
    stack = [
        tar(
            pax({b"SCHILY.xattr.user.a": b"1"}) + entry(b"d/f", data=b"content", mode=0o4755, uid=5, mtime=7)
        ),
        tar(
            entry(b"g", LINK, link=b"d/f", mode=0o4755, uid=5, mtime=7),
            entry(b"h", LINK, link=b"d/f", mode=0o4755, uid=5, mtime=7),
        ),
    ]

    trees = overlay(stack, tmp_path)

    lower, upper = snapshot(trees[0], times=True), snapshot(trees[1], times=True, links=False)
    assert upper["d/f"] == upper["g"] == upper["h"] == lower["d/f"]
    assert os.stat(trees[1] / "g").st_nlink == 3
    assert os.stat(trees[0] / "d/f").st_nlink == 1


def test_lower_trees_are_not_asked_for_by_a_layer_that_describes_its_parents(tmp_path):
    (tmp_path / "tree").mkdir()
    layer = tar(
        entry(b"./", DIRECTORY),
        entry(b"d", DIRECTORY),
        entry(b"d/f", data=b"x"),
        entry(b"d/g", LINK, link=b"d/f"),
        entry(b"l", SYMLINK, link=b"d"),
        entry(b"l/h"),
    )

    def lowers():
        raise AssertionError("nobody needs them")

    with opened(tmp_path / "tree") as (directory,), stream(layer) as source:
        apply_overlay(source, directory, lowers=lowers)


# ---------------------------------------------------------------------- marks


def test_whiteouts_are_devices_and_opaque_directories_have_their_mark(tmp_path, root):
    stack = [
        tar(entry(b"d/a"), entry(b"e/b"), entry(b"top")),
        tar(entry(b"d/.wh.a"), entry(b"e/.wh..wh..opq"), entry(b".wh.top"), entry(b".wh.nothing")),
    ]

    upper = overlay(stack, tmp_path)[1]

    found = snapshot(upper)
    assert found["d/a"] == {"type": "char", "dev": [0, 0], "mode": "0o0", "uid": 0, "gid": 0}
    assert found["top"]["type"] == "char"
    assert found["e"]["xattr"] == {"trusted.overlay.opaque": b"y".hex()}
    assert "nothing" not in found, "a whiteout that hides nothing would be listed"


def test_an_opaque_root_is_spelled_out_because_the_kernel_does_not_look_there(tmp_path, can_mount):
    stack = [
        tar(entry(b"gone"), entry(b"kept/old")),
        tar(entry(b"kept/new"), entry(b".wh..wh..opq")),
    ]

    trees = overlay(stack, tmp_path)

    with mounted(trees, tmp_path / "point") as point:
        assert sorted(snapshot(point)) == [".", "kept", "kept/new"]


def test_a_device_that_overlayfs_takes_for_a_whiteout_is_refused(tmp_path, root):
    with pytest.raises(UnsafeLayer, match="takes for a whiteout") as refused:
        overlay([tar(entry(b"x")), tar(entry(b"x", CHAR))], tmp_path)
    assert refused.value.entry == "x"

    with pytest.raises(UnsafeLayer):
        overlay([tar(entry(b"x", CHAR))], tmp_path / "tree0")

    with pytest.raises(UnsafeLayer, match="takes for a whiteout"):
        overlay([tar(device(base256(4096, 8), base256(1 << 20, 8)))], tmp_path / "tree1")


def test_user_marks_are_for_mounts_without_privilege(tmp_path, root):
    stack = [tar(entry(b"d/a")), tar(entry(b"d/.wh..wh..opq"), entry(b"d/b"))]

    trees = overlay(stack, tmp_path, options=ApplyOptions(user_xattrs=True))

    assert snapshot(trees[1])["d"]["xattr"] == {"user.overlay.opaque": b"y".hex()}
    composed(trees, tmp_path / "composed")
    assert sorted(snapshot(tmp_path / "composed")) == [".", "d", "d/b"]
    assert "xattr" not in snapshot(tmp_path / "composed")["d"]


def test_a_whiteout_may_also_be_a_marked_file(tmp_path, root):
    """
    What is made where device nodes may not be (before Linux 5.8): composing knows it.
    """
    trees = overlay([tar(entry(b"d/a"), entry(b"d/b")), tar(entry(b"d/c"))], tmp_path)
    (trees[1] / "d/a").touch()
    os.setxattr(trees[1] / "d/a", "trusted.overlay.whiteout", b"y")

    composed(trees, tmp_path / "composed")

    assert sorted(snapshot(tmp_path / "composed")) == [".", "d", "d/b", "d/c"]


# ---------------------------------------------------------------------- composing


def test_composing_copies_everything_and_leaves_the_trees_alone(tmp_path, root):
    stack = [
        tar(
            pax({b"SCHILY.xattr.user.a": b"1", b"mtime": b"77.000000001"})
            + entry(b"d/f", data=b"content" * 1000, mode=0o4711, uid=5, gid=6),
            entry(b"d/g", LINK, link=b"d/f", mode=0o4711, uid=5, gid=6, mtime=77),
            entry(b"l", SYMLINK, link=b"d/f", mode=0o777, uid=8),
            entry(b"null", CHAR, device=(1, 3), mode=0o666),
            entry(b"dir", DIRECTORY, mode=0o1777, gid=3, mtime=5),
        )
    ]
    trees = overlay(stack, tmp_path)
    before = snapshot(trees[0], times=True)

    result = composed(trees, tmp_path / "composed")

    assert snapshot(tmp_path / "composed", times=True) == before == snapshot(trees[0], times=True)
    with open(tmp_path / "composed/d/f", "ab") as file:
        file.write(b"more")
    assert snapshot(trees[0], times=True) == before
    assert result.copied_bytes + result.shared_bytes == 7000
    with opened(tmp_path / "composed") as (directory,):
        assert result.inodes == occupied(directory)[1] - 1


def test_holes_are_holes_in_the_copy(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    with open(tree / "holes", "wb") as file:
        file.seek(10 << 20)
        file.write(b"data")
        file.truncate(40 << 20)

    composed([tree], tmp_path / "composed")

    copied = tmp_path / "composed/holes"
    assert copied.read_bytes() == (tree / "holes").read_bytes()
    assert copied.stat().st_blocks * 512 < 1 << 20


@pytest.mark.external
def test_blocks_are_shared_where_the_filesystem_can(tmp_path, root):
    if not may_mount("xfs"):
        pytest.skip("needs the right to mount, and mkfs.xfs (xfsprogs)")
    with mounted_volume("xfs", tmp_path, mib=300) as point:
        (point / "tree").mkdir()
        (point / "tree/f").write_bytes(b"x" * (4 << 20))
        result = composed([point / "tree"], point / "composed")
        with open(point / "composed/f", "r+b") as file:
            file.write(b"y")

        assert (result.shared_bytes, result.copied_bytes) == (4 << 20, 0)
        assert (point / "tree/f").read_bytes()[:1] == b"x"


def test_many_trees_are_composed_in_order(tmp_path):
    stack = [
        tar(entry(b"f", data=b"%d" % n), entry(b"g%d" % n), entry(b".wh.g%d" % (n - 1))) for n in range(30)
    ]

    trees = overlay(stack, tmp_path)
    with opened(*trees) as roots:
        (tmp_path / "composed").mkdir()
        with opened(tmp_path / "composed") as (target,):
            result = compose(roots, target)

    assert sorted(snapshot(tmp_path / "composed")) == [".", "f", "g29"]
    assert (tmp_path / "composed/f").read_bytes() == b"29"
    assert result.entries == 2


def test_what_a_tree_occupies_is_what_was_charged_for_it(tmp_path, root):
    """
    To the byte on filesystems that give a file its blocks when it is written; whiteouts and directories included.
    """
    lower = tar(entry(b"a/b/c", data=b"x" * 10_000), entry(b"a/b/d", data=b""), entry(b"gone", data=b"y"))
    upper = tar(
        entry(b"a/b/e", data=b"z" * 5000),
        entry(b".wh.gone"),
        entry(b"a/b/e", data=b"shorter"),
        entry(b"l" * 50, SYMLINK, link=b"t" * 3000),
        *(entry(b"many/%0200d" % n, LINK, link=b"a/b/e") for n in range(100)),
    )
    trees = overlay([lower], tmp_path)
    (tmp_path / "upper").mkdir()

    with opened(tmp_path / "upper", *trees) as (directory, *lowers), stream(upper) as source:
        result = apply_overlay(source, directory, lowers=lambda: lowers)

        assert (result.space_bytes, result.inodes) == occupied(directory)


def test_the_same_goes_for_a_flattened_one(tree):
    apply(tar(entry(b"a/b", data=b"x" * 9000), entry(b"c", data=b"y"), entry(b"d/e/f")), tree)
    with opened(tree) as (directory,):
        before = occupied(directory)

        result = apply(
            tar(entry(b"a/b", data=b""), entry(b".wh.d"), entry(b"g/h", data=b"z" * 5000), entry(b"c", DIRECTORY)),
            tree,
        )  # fmt: skip

        after = occupied(directory)
    assert (result.space_bytes, result.inodes) == (after[0] - before[0], after[1] - before[1])
    assert stat.S_ISDIR(os.lstat(tree / "c").st_mode)
