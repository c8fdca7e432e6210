"""
Mounting what was unpacked: what the kernel shows of an image's trees, and that they stay while it does.

Mounting takes root; where it is not to be had, these are skipped.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import layers as entries
from support.images import ImageBuilder, gzip_of
from support.layers import entry
from support.store import check_root
from support.worker import run_python
from ullage import ImageInUse, ImageNotFound, StoreError
from ullage.digest import digest_of


def _may_mount():
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b", "m"):
            Path(folder, name).mkdir()
        command = [
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            f"lowerdir={folder}/a:{folder}/b",
            f"{folder}/m",
        ]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            return False
        subprocess.run(["umount", f"{folder}/m"], check=True)
    return True


needs_overlay = pytest.mark.skipif(
    not _may_mount(), reason="mounting an overlay takes root and a kernel that has it"
)


def tar_layer(builder, *tar_entries):
    tar = entries.tar(*tar_entries)
    return builder.raw_layer(gzip_of(tar), diff_id=digest_of(tar))


@pytest.fixture
def image(registry):
    """
    A file that is changed, one that is deleted, a directory that is emptied, and what stays.
    """
    builder = ImageBuilder(registry, "app")
    tar_layer(
        builder,
        entry(b"./", entries.DIRECTORY, mode=0o555),  # nobody but root may write to it, nor move it
        entry(b"etc/", entries.DIRECTORY),
        entry(b"etc/old", data=b"old"),
        entry(b"etc/changed", data=b"first"),
        entry(b"var/", entries.DIRECTORY),
        entry(b"var/gone", data=b"gone"),
        entry(b"usr/", entries.DIRECTORY),
        entry(b"usr/stays", data=b"stays", mode=0o755, uid=7, gid=8),
    )
    tar_layer(
        builder,
        entry(b"etc/.wh.old"),
        entry(b"etc/changed", data=b"second"),
        entry(b"var/.wh..wh..opq"),
        entry(b"var/new", data=b"new"),
    )
    return builder.push("1")


def shown(point):
    return {
        str(path.relative_to(point)): path.read_bytes() for path in sorted(point.rglob("*")) if path.is_file()
    }


SHOWN = {"etc/changed": b"second", "usr/stays": b"stays", "var/new": b"new"}


@contextmanager
def point(tmp_path, name="point"):
    place = tmp_path / name
    place.mkdir(exist_ok=True)
    yield place
    assert list(place.iterdir()) == [], "it is unmounted again"


@needs_overlay
def test_the_kernel_shows_the_image_and_nobody_writes_to_it(store, image, tmp_path):
    store.pull_image(image.reference, unpack=True)

    with point(tmp_path) as place, store.mounted(image.reference, place) as mounted:
        assert shown(mounted) == SHOWN
        status = (mounted / "usr/stays").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (7, 8, 0o755)
        with pytest.raises(OSError, match="Read-only"):
            (mounted / "new").write_bytes(b"x")
        with pytest.raises(ImageInUse):
            store.remove_image(image.reference)

    store.remove_image(image.reference)


@needs_overlay
def test_what_is_written_goes_to_the_directory_on_top(store, root, image, tmp_path):
    store.pull_image(image.reference, unpack=True)
    for name in ("upper, with: \\all", "work"):
        (tmp_path / name).mkdir()
    upper = tmp_path / "upper, with: \\all"

    with (
        point(tmp_path) as place,
        store.mounted(image.reference, place, upperdir=upper, workdir=tmp_path / "work") as mounted,
    ):
        (mounted / "etc/changed").write_bytes(b"third")
        (mounted / "usr/stays").unlink()

    assert (upper / "etc/changed").read_bytes() == b"third"
    assert store.check() == []
    with (
        pytest.raises(ValueError, match="go together"),
        store.mounted(image.reference, place, upperdir=upper),
    ):
        pass


@needs_overlay
def test_an_image_of_one_layer_and_one_of_a_hundred_are_mounted(store, registry, tmp_path):
    """
    The kernel wants two directories at least, and reads a page of options at most.
    """
    one = ImageBuilder(registry, "one").layer({"a": b"a"}).push("1")
    builder = ImageBuilder(registry, "many")
    for number in range(100):
        builder.layer({f"file{number}": b"%d" % number, "last": b"%d" % number})
    many = builder.push("1")

    for image, files, last in ((one, 1, "a"), (many, 101, "last")):
        store.pull_image(image.reference, unpack=True)
        with point(tmp_path) as place, store.mounted(image.reference, place) as mounted:
            assert len(list(mounted.iterdir())) == files
            assert (mounted / last).read_bytes() in (b"a", b"99")
    assert len(store.mount_spec(many.reference).overlay()) > 4096


@needs_overlay
def test_the_options_are_what_the_mount_program_takes(store, image, tmp_path):
    store.pull_image(image.reference, unpack=True)

    with point(tmp_path) as place, store.hold(image.reference):
        options = store.mount_spec(image.reference).overlay()
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, place], check=True)
        try:
            assert shown(place) == SHOWN
        finally:
            subprocess.run(["umount", place], check=True)


@needs_overlay
def test_where_nothing_can_be_mounted_the_hold_is_over(store, image, tmp_path):
    store.pull_image(image.reference)
    with pytest.raises(ImageNotFound, match="not unpacked"), store.mounted(image.reference, tmp_path):
        pass
    store.make_trees(image.reference)

    with (
        pytest.raises(StoreError, match="cannot mount"),
        store.mounted(image.reference, tmp_path / "nowhere"),
    ):
        pass

    store.remove_image(image.reference)


_ROOTLESS = """
import os, sys
from pathlib import Path
from ullage import ImageService, RegistryClient, StoreReadOnly
root, reference = sys.argv[1:]
# Once with privilege, so that all is loaded: the interpreter may lie where nobody else gets in.
with ImageService.open(root + "-first", registry=RegistryClient(plain_http=True)) as store:
    store.pull_image(reference, unpack=True)
    store.check()
os.setgroups([]); os.setegid(65534); os.seteuid(65534)
with ImageService.open(root, registry=RegistryClient(plain_http=True)) as store:
    store.pull_image(reference, unpack=True)
    spec = store.mount_spec(reference)
    top = Path(spec.lowerdirs[0])
    print(spec.options, spec.forgiven, (Path(spec.lowerdirs[1]) / "usr/stays").stat().st_uid)
    print(os.getxattr(top / "var", "user.overlay.opaque"), store.check())
    store.remove_image(reference)
    print(sorted(path.name for path in top.parent.parent.rglob("*")))
    store.pull_image(reference, unpack=True)
    try:
        with store.mounted(reference, root):
            pass
    except StoreReadOnly as error:
        print("refused:", error.hint)
"""


@needs_overlay
def test_without_privilege_trees_belong_to_whoever_unpacks_and_say_so(registry, image, tmp_path):
    """
    They are mounted with `userxattr`, by root as well.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        root = Path(folder, "store")

        said = run_python(_ROOTLESS, root, image.reference).splitlines()

        assert said[0] == "('userxattr',) 0 65534"
        assert said[1] == "b'y' []"
        assert said[2] == "['ingest', 'none', 'sha256', 'sha512', 'trash']"
        assert said[3].startswith("refused: mounting takes root")
        check_root(root)
        from ullage import ImageService, RegistryClient  # noqa: PLC0415

        with ImageService.open(root, registry=RegistryClient(plain_http=True)) as store:
            with point(tmp_path) as place, store.mounted(image.reference, place) as mounted:
                assert shown(mounted) == SHOWN
            # Root goes on with trees of the same kind, or none of them could be mounted together.
            builder = ImageBuilder(registry, "more")
            for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
                builder.raw_layer(layer.raw, diff_id=diff_id)
            more = tar_layer(builder, entry(b"usr/.wh.stays"), entry(b"more", data=b"more")).push("1")
            store.pull_image(more.reference, unpack=True)
            assert store.mount_spec(more.reference).options == ("userxattr",)
            with point(tmp_path) as place, store.mounted(more.reference, place) as mounted:
                assert shown(mounted) == {"etc/changed": b"second", "var/new": b"new", "more": b"more"}
