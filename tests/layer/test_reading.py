"""
One file of a root filesystem, read as from inside of it.
"""

from __future__ import annotations

import os

import pytest

from support.layers import opened
from ullage.layer.reading import read_inside
from ullage.layer.refused import Refused


def read(tree, path=b"etc/passwd", **options):
    with opened(tree) as (root,):
        before = len(os.listdir("/proc/self/fd"))
        try:
            return read_inside(root, path, **{"max_bytes": 100} | options)
        finally:
            assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_read(tree):
    (tree / "etc").mkdir()
    (tree / "etc/passwd").write_bytes(b"it")

    assert read(tree) == b"it"
    assert read(tree, b"/./etc//passwd") == b"it"


def test_where_there_is_none_there_is_none(tree):
    assert read(tree) is None
    (tree / "etc").write_bytes(b"no directory")
    assert read(tree) is None
    assert read(tree, b"..") is None
    assert read(tree, b"") is None


@pytest.mark.parametrize(
    "links",
    [
        {"etc/passwd": "/usr/passwd"},
        {"etc/passwd": "../usr/passwd"},
        {"etc/passwd": "../../../../../usr/passwd"},
        {"etc": "usr"},
        {"etc": "/a/b", "a": "c/..", "b": "usr/."},
        {"etc/passwd": "two", "etc/two": "../usr/./passwd"},
    ],
)
def test_links_lead_below_the_root(links, tree):
    (tree / "usr").mkdir()
    (tree / "c").mkdir()
    (tree / "usr/passwd").write_bytes(b"inside")
    for name, target in links.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).symlink_to(target)

    assert read(tree) == b"inside"


@pytest.mark.parametrize(
    "target", ["{victim}", "../victim/hello", "../../victim/hello", "/proc/self/environ"]
)
def test_a_link_out_of_it_shows_nothing_of_what_is_there(target, tree):
    (tree / "etc").mkdir()
    (tree / "etc/passwd").symlink_to(target.format(victim=tree.parent / "victim/hello"))

    assert read(tree) is None


def test_a_directory_that_leads_out_shows_nothing_either(tree):
    (tree / "etc").symlink_to("../victim")

    assert read(tree, b"etc/hello") is None


def test_what_is_no_file_is_refused(tree):
    (tree / "etc").mkdir()
    os.mkfifo(tree / "etc/passwd")  # reading it would wait for ever
    (tree / "etc/group").mkdir()

    for path in (b"etc/passwd", b"etc/group"):
        with pytest.raises(Refused, match="no regular file"):
            read(tree, path)


def test_links_without_end_and_files_without_end_are_refused(tree):
    (tree / "etc").mkdir()
    (tree / "etc/passwd").symlink_to("passwd")
    (tree / "long").write_bytes(bytes(101))

    with pytest.raises(Refused, match="too many links"):
        read(tree)
    with pytest.raises(Refused, match="longer than 100"):
        read(tree, b"long")
    assert read(tree, b"long", max_bytes=101) == bytes(101)
