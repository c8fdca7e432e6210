"""
One layer in a directory: everything that an entry says is there afterwards, and nothing that it should not reach.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import stat
import struct

import pytest

from support.layers import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    MTIME,
    SYMLINK,
    apply,
    entry,
    flatten,
    header,
    padded,
    pax,
    record,
    snapshot,
    special,
    stream,
    tar,
)
from ullage.digest import Digest, digest_of
from ullage.errors import DigestMismatch, SizeMismatch, UnsafeLayer
from ullage.layer import ApplyOptions, IdRange, Limits, apply_layer

#: Layers give files to their owners.
pytestmark = pytest.mark.usefixtures("root")

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def xattrs(**attributes):
    return pax({b"SCHILY.xattr." + name.encode(): value for name, value in attributes.items()})


def acl(*lines):
    """
    A POSIX ACL as the kernel keeps it: tag, permissions, id.
    """
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *line) for line in lines)


def looks(path):
    status = os.lstat(path)
    return oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid


# ---------------------------------------------------------------------- exact


def test_owners_modes_and_times_are_those_of_the_layer(tree, root):
    apply(
        tar(
            entry(b"d", DIRECTORY, mode=0o1750, uid=3, gid=4, mtime=MTIME - 5),
            pax({b"mtime": b"1600000000.987654321"})
            + entry(b"d/suid", data=b"x", mode=0o6755, uid=1000, gid=7),
            entry(b"d/link", SYMLINK, link=b"suid", uid=5, gid=6, mode=0o777, mtime=MTIME - 9),
            entry(b"d/fifo", FIFO, mode=0o620, uid=1, gid=2),
            entry(b"d/null", CHAR, mode=0o666, device=(1, 3), gid=9),
            entry(b"d/disk", BLOCK_DEVICE, mode=0o660, device=(259, 1048575)),
        ),
        tree,
    )

    found = snapshot(tree, times=True)
    assert looks(tree / "d") == ("0o1750", 3, 4)
    assert looks(tree / "d/suid") == ("0o6755", 1000, 7)
    assert found["d"]["mtime_ns"] == (MTIME - 5) * 10**9
    assert found["d/suid"]["mtime_ns"] == 1_600_000_000_987_654_321
    assert found["d/link"] == {
        "type": "symlink", "target": "suid", "uid": 5, "gid": 6, "mtime_ns": (MTIME - 9) * 10**9,
    }  # fmt: skip
    assert (found["d/fifo"]["type"], found["d/fifo"]["mode"]) == ("fifo", "0o620")
    assert found["d/null"]["dev"] == [1, 3]
    assert found["d/disk"]["dev"] == [259, 1048575]


def test_times_of_directories_survive_what_is_put_into_them_later(tree):
    apply(
        tar(
            entry(b"a", DIRECTORY, mtime=1000),
            entry(b"a/b", DIRECTORY, mtime=2000),
            entry(b"a/b/f"),
            entry(b"a/g"),
        ),
        tree,
    )
    apply(tar(entry(b"a/b/h"), entry(b"a/.wh.g")), tree)

    assert [os.stat(tree / name).st_mtime for name in ("a", "a/b")] == [1000, 2000]


def test_the_same_layers_give_the_same_tree_parents_without_an_entry_included(tmp_path):
    layers = [tar(entry(b"x/y/z", mtime=77)), tar(entry(b"x/w/v", mtime=88))]

    for name in ("one", "two"):
        flatten(layers, tmp_path / name)
        os.utime(tmp_path / name, (5, 5))

    assert snapshot(tmp_path / "one", times=True) == snapshot(tmp_path / "two", times=True)
    assert os.stat(tmp_path / "one/x").st_mtime == 77


def test_no_umask_and_no_directory_of_a_lower_layer_changes_a_mode(tree, root):
    before = os.umask(0o077)
    try:
        apply(tar(entry(b"d", DIRECTORY, mode=0o2777, gid=50)), tree)
        apply(tar(entry(b"d/f", mode=0o666), entry(b"d/e", DIRECTORY, mode=0o755)), tree)
    finally:
        os.umask(before)

    assert looks(tree / "d/f") == ("0o666", 0, 0)
    assert looks(tree / "d/e") == ("0o755", 0, 0)


def test_attributes_and_capabilities_outlive_the_change_of_owner(tree, root):
    one = {"user.a": b"v\0w", "security.capability": CAPABILITY, "trusted.t": b"t"}
    apply(
        tar(
            xattrs(**one) + entry(b"f", data=b"x", mode=0o4755, uid=1000, gid=1000),
            xattrs(**{"user.d": b"1"}) + entry(b"d", DIRECTORY),
            xattrs(**{"trusted.l": b"1"}) + entry(b"l", SYMLINK, link=b"f"),
            xattrs(**{"trusted.p": b"1"}) + entry(b"p", FIFO),
        ),
        tree,
    )

    found = snapshot(tree)
    assert found["f"]["xattr"] == {name: value.hex() for name, value in one.items()}
    assert looks(tree / "f") == ("0o4755", 1000, 1000)
    assert found["d"]["xattr"] == {"user.d": b"1".hex()}
    assert found["l"]["xattr"] == {"trusted.l": b"1".hex()}
    assert found["p"]["xattr"] == {"trusted.p": b"1".hex()}


def test_acls_come_with_their_mask_and_a_default_one_reaches_no_entry(tree, root):
    access = acl(
        (1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)
    )
    default = acl(
        (1, 7, 0xFFFFFFFF), (2, 7, 1000), (4, 0, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)
    )
    apply(
        tar(
            xattrs(**{"system.posix_acl_default": default}) + entry(b"d", DIRECTORY, mode=0o770),
            xattrs(**{"system.posix_acl_access": access}) + entry(b"d/f", mode=0o660, uid=2),
            entry(b"d/g", mode=0o644),
        ),
        tree,
    )

    found = snapshot(tree)
    assert found["d"]["xattr"] == {"system.posix_acl_default": default.hex()}
    assert found["d/f"]["xattr"] == {"system.posix_acl_access": access.hex()}
    assert (found["d/f"]["mode"], found["d/g"]["mode"]) == ("0o660", "0o644")
    assert "xattr" not in found["d/g"]


def test_marks_of_overlayfs_and_labels_of_the_builders_machine_are_dropped(tree, root):
    apply(
        tar(
            xattrs(
                **{
                    "trusted.overlay.redirect": b"/etc",
                    "trusted.overlay.opaque": b"y",
                    "user.overlay.opaque": b"y",
                    "security.selinux": b"system_u:object_r:etc_t:s0\0",
                    "user.kept": b"1",
                }
            )
            + entry(b"d", DIRECTORY)
        ),
        tree,
    )

    assert snapshot(tree)["d"]["xattr"] == {"user.kept": b"1".hex()}


def test_a_directory_described_anew_loses_what_it_had_before(tree, root):
    apply(tar(xattrs(**{"user.old": b"1"}) + entry(b"d", DIRECTORY, mode=0o700, uid=9), entry(b"d/f")), tree)
    apply(tar(xattrs(**{"user.new": b"2"}) + entry(b"d", DIRECTORY, mode=0o755)), tree)

    assert snapshot(tree)["d"] == {
        "type": "dir", "mode": "0o755", "uid": 0, "gid": 0, "xattr": {"user.new": b"2".hex()},
    }  # fmt: skip
    assert (tree / "d/f").exists()


def test_attributes_that_a_kind_of_file_cannot_have_are_left_out_and_counted(tree):
    result = apply(tar(xattrs(**{"user.a": b"v"}) + entry(b"l", SYMLINK, link=b"x")), tree)

    assert result.forgiven == {"xattr user.a": 1}


def test_a_sparse_file_has_its_holes(tree):
    mib = 1 << 20
    data = random.Random(1).randbytes(5000)
    archive = (
        pax(
            {
                b"GNU.sparse.major": b"1",
                b"GNU.sparse.minor": b"0",
                b"GNU.sparse.name": b"holes",
                b"GNU.sparse.realsize": b"%d" % (64 * mib),
            }
        )
        + entry(b"x", data=padded(b"2\n%d\n5000\n%d\n0\n" % (8 * mib, 64 * mib)) + data, mode=0o640)
    )  # fmt: skip

    result = apply(tar(archive, entry(b"after")), tree)

    status = os.stat(tree / "holes")
    assert status.st_size == 64 * mib
    assert status.st_blocks * 512 < mib
    with open(tree / "holes", "rb") as file:
        file.seek(8 * mib)
        assert file.read(5001) == data + b"\0"
    assert result.space_bytes < 2 * mib
    assert (tree / "after").exists()


def test_names_are_bytes(tree):
    names = [b"\xff\xfe", b"caf\xc3\xa9", b"new\nline", b" ", b"..x", b"x..", b"-rf", b"a" * 255]

    apply(tar(*(entry(name, data=name) for name in names)), tree)

    assert sorted(os.listdir(os.fsencode(tree))) == sorted(names)
    assert (tree / os.fsdecode(b"\xff\xfe")).read_bytes() == b"\xff\xfe"


@pytest.mark.parametrize("name", [b"/abs/f", b"./abs/f", b"abs//f", b"abs/./f", b"x/../abs/f", b"../../abs/f", b"/../abs/f"])  # fmt: skip
def test_a_name_is_what_it_would_be_inside_a_chroot(name, tree):
    apply(tar(entry(name, data=b"x")), tree)

    assert (tree / "abs/f").read_bytes() == b"x"
    assert sorted(snapshot(tree)) == [".", "abs", "abs/f"]


def test_hard_links_are_one_file_across_directories_and_through_links(tree):
    apply(
        tar(
            entry(b"usr/lib/f", data=b"one"),
            entry(b"lib", SYMLINK, link=b"usr/lib"),
            entry(b"deep/er/g", LINK, link=b"lib/f"),
            entry(b"h", LINK, link=b"/deep/er/g"),
        ),
        tree,
    )

    inodes = {os.lstat(tree / name).st_ino for name in ("usr/lib/f", "deep/er/g", "h")}
    assert len(inodes) == 1
    assert os.stat(tree / "h").st_nlink == 3


def test_a_file_that_replaces_one_of_several_links_leaves_the_others(tree):
    apply(tar(entry(b"a", data=b"old"), entry(b"b", LINK, link=b"a")), tree)
    apply(tar(entry(b"a", data=b"new")), tree)

    assert (tree / "a").read_bytes() == b"new"
    assert (tree / "b").read_bytes() == b"old"


def test_directories_are_replaced_by_files_and_back(tree):
    apply(tar(entry(b"x/y/z"), entry(b"l", SYMLINK, link=b"x")), tree)
    apply(tar(entry(b"x", data=b"file"), entry(b"l", DIRECTORY)), tree)
    assert (tree / "x").read_bytes() == b"file"
    assert list((tree / "l").iterdir()) == []

    apply(tar(entry(b"x", DIRECTORY, mode=0o700), entry(b"l", SYMLINK, link=b"x")), tree)
    assert list((tree / "x").iterdir()) == []
    assert os.readlink(tree / "l") == "x"


@pytest.mark.parametrize("kind", [FILE, DIRECTORY, SYMLINK, FIFO])
@pytest.mark.parametrize("before", [FILE, DIRECTORY, SYMLINK, FIFO])
def test_of_two_entries_with_one_name_the_later_stands(before, kind, tree):
    apply(tar(entry(b"x", before, link=b"y", mode=0o600), entry(b"x", kind, link=b"z", mode=0o640)), tree)

    one = snapshot(tree)["x"]
    assert one["type"] == {FILE: "file", DIRECTORY: "dir", SYMLINK: "symlink", FIFO: "fifo"}[kind]
    assert one.get("mode", "0o640") == "0o640"
    assert one.get("target", "z") == "z"


def test_the_roots_own_entry_describes_the_root(tree, root):
    apply(tar(entry(b"./", DIRECTORY, mode=0o750, uid=3, gid=4, mtime=99), entry(b"f")), tree)

    assert looks(tree) == ("0o750", 3, 4)
    assert os.stat(tree).st_mtime == 99


def test_ids_are_mapped_and_one_that_is_not_is_refused(tree, root):
    options = ApplyOptions(
        uid_map=(IdRange(0, 100_000, 1000),), gid_map=(IdRange(0, 200_000, 10), IdRange(10, 300_000, 10))
    )

    apply(tar(entry(b"f", uid=5, gid=12), entry(b"made/g")), tree, options=options)

    assert looks(tree / "f") == ("0o644", 100_005, 300_002)
    assert looks(tree / "made") == ("0o755", 100_000, 200_000)
    with pytest.raises(UnsafeLayer, match="no id is mapped for 1000") as refused:
        apply(tar(entry(b"g", uid=1000)), tree, options=options)
    assert refused.value.entry == "g"


def test_nine_hundred_levels_are_made_linked_and_removed_with_few_descriptors(tree):
    deep = b"/".join([b"d"] * 900)
    apply(tar(entry(deep + b"/f", data=b"deep"), entry(deep + b"/g", LINK, link=deep + b"/f")), tree)

    apply(tar(entry(b".wh.d")), tree)

    assert list(tree.iterdir()) == []


# ---------------------------------------------------------------------- whiteouts

LOWER = tar(
    entry(b"d", DIRECTORY), entry(b"d/a", data=b"1"), entry(b"d/sub/b", data=b"2"), entry(b"top", data=b"3")
)


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ([entry(b".wh.d")], {"top"}),
        ([entry(b"d/.wh.a")], {"d", "d/sub", "d/sub/b", "top"}),
        ([entry(b"d/.wh.missing")], {"d", "d/a", "d/sub", "d/sub/b", "top"}),
        ([entry(b"d/.wh..wh..opq")], {"d", "top"}),
        ([entry(b".wh..wh..opq")], set()),
        ([entry(b"d/new"), entry(b"d/.wh..wh..opq")], {"d", "d/new", "top"}),
        ([entry(b"d/.wh..wh..opq"), entry(b"d/new")], {"d", "d/new", "top"}),
        ([entry(b"d/sub/new"), entry(b"d/.wh..wh..opq")], {"d", "d/sub", "d/sub/new", "top"}),
        ([entry(b"d/new"), entry(b".wh.d")], {"d", "d/new", "top"}),
        ([entry(b".wh.d"), entry(b"d/new")], {"d", "d/new", "top"}),
        ([entry(b"top", data=b"x"), entry(b".wh.top")], {"d", "d/a", "d/sub", "d/sub/b", "top"}),
        ([entry(b".wh.top"), entry(b".wh.top")], {"d", "d/a", "d/sub", "d/sub/b"}),
        ([entry(b".wh.d", DIRECTORY)], {"top"}),
        ([entry(b".wh.d/inside")], {"d", "d/a", "d/sub", "d/sub/b", "top", ".wh.d", ".wh.d/inside"}),
        ([entry(b".wh..wh.aufs")], {"d", "d/a", "d/sub", "d/sub/b", "top"}),
        ([entry(b".wh..wh.plnk/1.2")], {"d", "d/a", "d/sub", "d/sub/b", "top", ".wh..wh.plnk", ".wh..wh.plnk/1.2"}),
    ],
)  # fmt: skip
def test_a_whiteout_hides_what_lower_layers_left_and_nothing_of_its_own(upper, left, tree):
    apply(LOWER, tree)

    apply(tar(*upper), tree)

    assert set(snapshot(tree)) - {"."} == left


@pytest.mark.parametrize(
    "name", [b".wh.", b".wh..", b".wh...", b"d/.wh.", b"d/.wh..", b"d/.wh...", b"d/../.wh..."]
)
def test_a_whiteout_of_a_directory_itself_or_its_parent_is_refused(name, tree):
    apply(LOWER, tree)
    before = snapshot(tree)

    with pytest.raises(UnsafeLayer, match="whiteout of a directory by itself"):
        apply(tar(entry(name)), tree)

    assert snapshot(tree) == before


# ---------------------------------------------------------------------- hostile


def hostile(victim):
    """
    Layers that try to get out, to the directory *victim* beside the tree. Each is refused, or stays inside.
    """
    return {
        "dots": [entry(b"../victim/evil")],
        "dots in the middle": [entry(b"a/../../victim/evil")],
        "absolute dots": [entry(b"/../victim/evil")],
        "GNU's long dots": [special(b"L", b"../victim/evil\0") + entry(b"ok")],
        "PAX dots": [pax({b"path": b"../victim/evil"}) + entry(b"ok")],
        "sparse name of dots": [
            pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"../victim/evil",
                 b"GNU.sparse.realsize": b"1"}) + entry(b"ok", data=padded(b"1\n0\n1\n") + b"x")
        ],
        "a link to the parent": [entry(b"l", SYMLINK, link=b"../victim"), entry(b"l/evil")],
        "an absolute link": [entry(b"l", SYMLINK, link=victim), entry(b"l/evil")],
        "a chain of links": [
            entry(b"a", SYMLINK, link=b"b/.."), entry(b"b", SYMLINK, link=b".."), entry(b"a/victim/evil"),
        ],
        "a link that a directory entry follows": [entry(b"l", SYMLINK, link=b"../victim"), entry(b"l", DIRECTORY), entry(b"l/evil")],
        "a directory that becomes a link": [entry(b"d/f"), entry(b"d", SYMLINK, link=b"../victim"), entry(b"d/evil")],
        "a file through a link": [entry(b"hello", SYMLINK, link=b"../victim/hello"), entry(b"hello", data=b"pwned")],
        "the mode of a link's target": [entry(b"m", SYMLINK, link=b"../victim/hello"), entry(b"m", LINK, link=b"m", mode=0o777)],
        "a hard link to a link, then its mode": [
            entry(b"m", SYMLINK, link=b"../victim/hello"), entry(b"n", LINK, link=b"m", mode=0o4777, uid=1),
        ],
        "a hard link out": [entry(b"h", LINK, link=b"../victim/hello")],
        "an absolute hard link": [entry(b"h", LINK, link=victim + b"/hello")],
        "a hard link through a link": [entry(b"l", SYMLINK, link=b"../victim"), entry(b"h", LINK, link=b"l/hello")],
        "attributes through a link": [
            xattrs(**{"trusted.x": b"1"}) + entry(b"hello", SYMLINK, link=b"../victim/hello"),
            entry(b"again", LINK, link=b"hello"),
        ],
        "a whiteout through a link": [entry(b"l", SYMLINK, link=b"../victim"), entry(b"l/.wh.hello")],
        "an opaque whiteout through a link": [entry(b"l", SYMLINK, link=b"../victim"), entry(b"l/.wh..wh..opq")],
        "a whiteout of dots": [entry(b"../.wh.victim")],
        "a whiteout of a link": [entry(b"l", SYMLINK, link=b"../victim"), entry(b".wh.l"), entry(b"l/evil")],
        "the root as a link": [entry(b".", SYMLINK, link=b"../victim"), entry(b"evil")],
        "the root as a file": [entry(b"./", data=b"x")],
        "an empty name": [entry(b"", SYMLINK, link=b"/")],
        "dots as a link": [entry(b"..", SYMLINK, link=b"victim")],
        "dots as a directory": [entry(b"..", DIRECTORY, mode=0o777, uid=5)],
        "proc": [entry(b"p", SYMLINK, link=b"/proc/self/cwd"), entry(b"p/evil")],
        "a fifo for a parent": [entry(b"p", FIFO), entry(b"p/f")],
        "a link to itself for a parent": [entry(b"l", SYMLINK, link=b"l"), entry(b"l/f")],
        "a file written through a fifo's name": [entry(b"p", FIFO), entry(b"p", data=b"x")],
    }  # fmt: skip


HOSTILE = hostile(b"/")


def beside(tree):
    return {
        path: one
        for path, one in snapshot(tree.parent, times=True).items()
        if path not in (".", "dest") and not path.startswith("dest/")
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_layer_reaches_nothing_outside(name, tree, root):
    before = beside(tree)

    with contextlib.suppress(UnsafeLayer):
        apply(tar(*hostile(os.fsencode(tree.parent / "victim"))[name]), tree)

    assert beside(tree) == before
    assert not [path for path, one in snapshot(tree).items() if one.get("size") == len("secret")]


@pytest.mark.parametrize("split", [1, 2])
@pytest.mark.parametrize("name", HOSTILE)
def test_nor_does_one_whose_links_an_earlier_layer_planted(name, split, tree, root):
    entries = hostile(os.fsencode(tree.parent / "victim"))[name]
    before = beside(tree)

    with contextlib.suppress(UnsafeLayer):
        apply(tar(*entries[:split]), tree)
        apply(tar(*entries[split:]), tree)

    assert beside(tree) == before


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (entry(b"f/" + b"n" * 256), "File name too long"),
        (entry(b"/".join([b"n" * 200] * 30)), "name is too long"),
        (entry(b"s", SYMLINK, link=b"t" * 4096), "File name too long"),
        (entry(b"s", SYMLINK, link=b""), "No such file"),
        (entry(b"a", SYMLINK, link=b"b") + entry(b"b", SYMLINK, link=b"a") + entry(b"a/f"), "too many links"),
        (entry(b"p") + entry(b"p/f"), "no directory"),
        (entry(b"h", LINK, link=b"later") + entry(b"later"), "not there"),
        (entry(b"d", DIRECTORY) + entry(b"h", LINK, link=b"d"), "hard link to a directory"),
        (entry(b"h", LINK, link=b"/"), "not there"),
        (pax({b"SCHILY.xattr.user.a": b"x" * 100_000}) + entry(b"f"), "attribute user.a"),
        (pax(b"".join(record(b"SCHILY.xattr.user.%d" % n, b"x" * 9000) for n in range(40))) + entry(b"f"), "too many"),
        (pax({b"SCHILY.xattr.nowhere": b"x"}) + entry(b"g"), None),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name_or_forgiven(layer, message, tree):
    if message is None:
        assert apply(tar(layer), tree).forgiven == {"xattr nowhere": 1}
        return
    with pytest.raises(UnsafeLayer, match=message) as refused:
        apply(tar(layer), tree)

    assert refused.value.entry
    assert refused.value.exit_code == 24


def test_a_sparse_file_of_a_terabyte_is_refused(tree):
    archive = pax(
        {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % (1 << 40)}
    ) + entry(b"f", data=padded(b"0\n"))

    with pytest.raises(UnsafeLayer, match="a sparse file of"):
        apply(tar(archive), tree)


def test_bytes_without_end_after_the_archive_are_refused(tree):
    options = ApplyOptions(limits=Limits(max_overhead_bytes=100_000))

    apply(tar(entry(b"f")) + bytes(90_000), tree, options=options)
    with pytest.raises(UnsafeLayer, match="no end of bytes"):
        apply(tar(entry(b"f")) + bytes(200_000), tree, options=options)


# ---------------------------------------------------------------------- verified


def test_the_diff_id_is_that_of_every_byte_and_is_verified(tree):
    layer = tar(entry(b"f")) + b"trailing bytes"
    diff_id = digest_of(layer)

    result = apply(layer, tree, diff_id=diff_id)

    assert (result.diff_id, result.entries, result.uncompressed_bytes) == (diff_id, 1, len(layer))
    with pytest.raises(DigestMismatch) as mismatch:
        apply(layer + b".", tree, diff_id=diff_id)
    assert mismatch.value.expected == diff_id
    assert apply(layer, tree, diff_id=digest_of(layer, "sha512")).diff_id.startswith("sha512:")


@pytest.mark.parametrize("threads", [False, True])
def test_the_blob_may_be_verified_as_well(threads, tree):
    layer = tar(entry(b"f"))

    apply(layer, tree, digest=digest_of(layer), size=len(layer), threads=threads)

    with pytest.raises(DigestMismatch):
        apply(layer, tree, digest=Digest("sha256:" + "0" * 64), threads=threads)
    for wrong in (len(layer) - 1, len(layer) + 1):
        with pytest.raises(SizeMismatch):
            apply(layer, tree, digest=digest_of(layer), size=wrong, threads=threads)


def unprivileged(layer, directory, **options):
    """
    What applying a layer ends with in a child that is nobody.
    """
    reading, writing = os.pipe()
    descriptor = os.open(directory, os.O_RDONLY)
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            ctypes.CDLL(None).prctl(
                4, 1
            )  # PR_SET_DUMPABLE: as if it had been started so, /proc/self is its own
            with stream(layer) as source:
                result = apply_layer(source, descriptor, options=ApplyOptions(**options))
            said = repr(dict(result.forgiven))
        except BaseException as error:  # noqa: BLE001 -- the parent reads what it was
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(descriptor)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_without_privilege_things_are_refused_or_left_out_and_counted_as_asked(tree, root):
    layer = tar(
        entry(b"null", CHAR, device=(1, 3)), entry(b"f", uid=5, gid=6, data=b"x"), entry(b"d/g", uid=7)
    )
    os.chown(tree, 65534, 65534)

    assert (
        unprivileged(layer, tree)
        == "UnsafeLayer: unsafe layer: null: a device node, and no right to make one"
    )
    refused = unprivileged(layer, tree, forgive_devices=True)
    assert refused.startswith("StoreReadOnly: no right to unpack a layer (f:")
    forgiven = unprivileged(layer, tree, forgive_devices=True, ownership="forgive")
    assert forgiven == "{'device': 1, 'ownership': 2}"
    assert unprivileged(layer, tree, forgive_devices=True, ownership="xattr") == "{'device': 1}"
    assert os.getxattr(tree / "f", "user.rootlesscontainers") == b"\x08\x05\x10\x06"
    assert os.getxattr(tree / "d/g", "user.rootlesscontainers") == b"\x08\x07"
    assert looks(tree / "f") == ("0o644", 65534, 65534)


def test_without_privilege_directories_closed_to_their_owner_are_still_filled_and_emptied(tree, root):
    os.chown(tree, 65534, 65534)
    closed = tar(
        entry(b"d", DIRECTORY, mode=0o000, mtime=5),
        entry(b"d/e", DIRECTORY, mode=0o100),
        entry(b"d/e/f", mode=0o000),
    )
    filled = tar(entry(b"d/e/g", mode=0o400), xattrs(**{"user.a": b"1"}) + entry(b"d/h", mode=0o444))

    assert unprivileged(closed, tree, ownership="forgive") == "{}"
    assert unprivileged(filled, tree, ownership="forgive") == "{}"

    assert (looks(tree / "d")[0], looks(tree / "d/e")[0], looks(tree / "d/h")[0]) == ("0o0", "0o100", "0o444")
    assert os.stat(tree / "d").st_mtime == 5
    assert sorted(snapshot(tree)) == [".", "d", "d/e", "d/e/f", "d/e/g", "d/h"]
    assert unprivileged(tar(entry(b".wh.d")), tree, ownership="forgive") == "{}"
    assert os.listdir(tree) == []


def test_a_header_that_is_none_in_the_middle_names_the_entry_before(tree):
    with pytest.raises(UnsafeLayer) as refused:
        apply(entry(b"good") + header(b"bad", checksum=bytes(8)), tree)

    assert refused.value.entry == "good"
