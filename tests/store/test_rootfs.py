"""
Directories made of images: a root filesystem, and a bundle.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support.images import OCI_CONFIG, Blob, ImageBuilder, gzip_of, json_of
from support.layers import CHAR, DIRECTORY, MTIME, SYMLINK, entry, snapshot, tar
from support.store import query
from ullage import (
    BundleOptions,
    ContentError,
    DigestMismatch,
    DiskFull,
    ImageInUse,
    ImageNotFound,
    InvalidManifest,
    InvalidProcess,
    SimulatedRegistry,
    StoreCorrupt,
    StoreError,
    TargetExists,
    UnsafeLayer,
    UnsupportedContent,
)
from ullage.digest import digest_of

LOWER = tar(
    entry(b"etc", DIRECTORY),
    entry(b"etc/passwd", data=b"root:x:0:0::/root:/bin/sh\nwww:x:33:34::/srv:\n"),
    entry(b"etc/group", data=b"log:x:4:www\n"),
    entry(b"bin", SYMLINK, link=b"usr/bin"),
    entry(b"usr/bin/tool", data=b"tool", mode=0o4755, uid=7, gid=8),
)
UPPER = tar(entry(b"etc/.wh.group"), entry(b"home/me", data=b"mine" * 100, uid=1000, gid=1000))
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root")


def built(registry, *layers, repo="app", **config):
    builder = ImageBuilder(registry, repo).config(**config)
    for layer in layers:
        builder.raw_layer(gzip_of(layer), diff_id=digest_of(layer))
    return builder


@pytest.fixture
def image(registry, store):
    image = built(registry, LOWER, UPPER, Cmd=["/bin/tool"], User="www", Env=["A=1"]).push("1")
    store.pull_image(image.reference)
    return image


def beside(tmp_path):
    """
    What is in the directory of the test, beside the store.
    """
    return [name for name in names(tmp_path) if name != "store"]


def names(directory):
    return sorted(each.name for each in directory.iterdir())


# One whole directory


@needs_root
def test_an_image_becomes_a_directory(store, image, tmp_path):
    made = store.unpack(image.reference, tmp_path / "rootfs")

    found = snapshot(tmp_path / "rootfs", times=True)
    assert sorted(found) == [
        ".", "bin", "etc", "etc/passwd", "home", "home/me", "usr", "usr/bin", "usr/bin/tool",
    ]  # fmt: skip
    assert found["usr/bin/tool"]["mode"] == "0o4755"
    assert (found["usr/bin/tool"]["uid"], found["home/me"]["gid"]) == (7, 1000)
    assert found["etc/passwd"]["mtime_ns"] == MTIME * 10**9
    assert (made.image_id, made.directory) == (image.image_id, str(tmp_path / "rootfs"))
    assert (made.layers, made.entries, made.rootless, dict(made.forgiven)) == (2, 7, False, {})
    assert made.inodes == len(found) - 1  # the root was there before
    assert beside(tmp_path) == ["rootfs"]


def test_an_image_becomes_a_directory_of_ones_own(store, image, registry, tmp_path):
    upper = tar(entry(b"null", CHAR, device=(1, 3)), entry(b"link", SYMLINK, link=b"x", uid=5))
    device = built(registry, LOWER, upper, repo="device").push("1")
    store.pull_image(device.reference)

    made = store.unpack(device.reference, str(tmp_path / "rootfs"), rootless=True)

    tool = tmp_path / "rootfs/usr/bin/tool"
    assert tool.stat().st_uid == os.geteuid()
    assert made.rootless
    if os.listxattr(tool):
        assert os.getxattr(tool, "user.rootlesscontainers") == bytes([0x08, 7, 0x10, 8])
    assert made.forgiven["ownership"] == 1  # no link carries a note
    assert {"device"} <= made.forgiven.keys() or ROOT
    assert (tmp_path / "rootfs/null").exists() == ROOT


def test_what_is_written_there_never_reaches_the_store(store, image, tmp_path):
    for name in ("one", "two"):
        store.unpack(image.reference, tmp_path / name, rootless=True)
        (tmp_path / name / "home/me").write_text("changed")

    assert store.check(digests=True) == []
    store.unpack(image.reference, tmp_path / "three", rootless=True)
    assert (tmp_path / "three/home/me").read_bytes() == b"mine" * 100


def test_an_empty_directory_is_filled_and_a_full_one_left(store, image, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()

    store.unpack(image.reference, tmp_path / "empty", rootless=True, durable=True)

    assert (tmp_path / "empty/home/me").exists()
    for make in (store.unpack, store.bundle):
        with pytest.raises(TargetExists) as refused:
            make(image.reference, tmp_path / "full", rootless=True)
        assert refused.value.hint
    assert names(tmp_path / "full") == ["mine"]


def test_an_image_is_unpacked_from_the_manifest_that_it_was_named_by(store, image, registry, tmp_path):
    """
    A later manifest may pair a known config with other layers: it changes nothing for the older name.
    """
    other = built(registry, tar(entry(b"evil", data=b"x")), UPPER, Cmd=["/bin/tool"], User="www", Env=["A=1"])
    manifest = json.loads(other.build().manifest.raw) | {"config": image.config.descriptor}
    other.push()
    registry.add_manifest("app", json_of(manifest), image.manifest.media_type, ("2",))
    store.pull_image(f"{image.name}:2")

    store.unpack(image.reference, tmp_path / "rootfs", rootless=True)
    with pytest.raises(ContentError):
        store.unpack(f"{image.name}:2", tmp_path / "evil", rootless=True)

    assert not (tmp_path / "rootfs/evil").exists()
    assert beside(tmp_path) == ["rootfs"]


def test_an_unpacked_image_is_composed_of_its_trees(store, image, root, tmp_path):
    """
    The same to the nanosecond, with no blob being read; and what is written there never reaches a tree.
    """
    before = store.unpack(image.reference, tmp_path / "before")
    store.make_trees(image.reference)
    blobs = root / "blobs/sha256"
    for layer in image.layers:
        (blobs / layer.digest.encoded).rename(tmp_path / f"{layer.digest.encoded}.aside")

    made = store.unpack(image.reference, tmp_path / "after")
    store.bundle(image.reference, tmp_path / "bundle", options=BundleOptions(user="0:0"))

    expected = snapshot(tmp_path / "before", times=True)
    assert snapshot(tmp_path / "after", times=True) == expected
    assert snapshot(tmp_path / "bundle/rootfs", times=True) == expected
    assert (made.layers, made.inodes, made.rootless) == (before.layers, before.inodes, before.rootless)
    (tmp_path / "after/home/me").write_text("changed")
    store.unpack(image.reference, tmp_path / "again")
    assert snapshot(tmp_path / "again", times=True) == expected
    for layer in image.layers:
        (tmp_path / f"{layer.digest.encoded}.aside").rename(blobs / layer.digest.encoded)


@needs_root
def test_trees_of_the_other_kind_are_no_help(store, image, tmp_path):
    store.make_trees(image.reference)

    made = store.unpack(image.reference, tmp_path / "rootfs", rootless=True)

    assert made.rootless
    assert (tmp_path / "rootfs/usr/bin/tool").stat().st_uid == 0
    assert os.getxattr(tmp_path / "rootfs/usr/bin/tool", "user.rootlesscontainers")


def test_a_directory_in_the_store_is_no_place_for_it(store, image, root, tmp_path):
    (tmp_path / "link").symlink_to(root / "trees")

    for place in (root / "rootfs", root / "blobs/rootfs", tmp_path / "link/rootfs"):
        for make in (store.unpack, store.bundle):
            with pytest.raises(StoreError, match="is in the store"):
                make(image.reference, place, rootless=True)


# What goes wrong leaves nothing


@pytest.mark.parametrize(
    ("layer", "diff_id", "error"),
    [
        (gzip_of(tar(entry(b"f"), entry(b"f/g"))), None, UnsafeLayer),
        (gzip_of(UPPER), digest_of(b"another"), DigestMismatch),
        (gzip_of(UPPER)[:-9], digest_of(UPPER), ContentError),
        (b"no tar at all" * 100, None, UnsafeLayer),
    ],
)
def test_a_layer_that_is_no_use_leaves_nothing(layer, diff_id, error, store, registry, tmp_path):
    builder = built(registry, LOWER, repo="bad", Cmd=["x"])
    image = builder.raw_layer(layer, diff_id=diff_id or digest_of(tar(entry(b"f"), entry(b"f/g")))).push("1")
    store.pull_image(image.reference)

    for make in (store.unpack, store.bundle):
        with pytest.raises(error) as raised:
            make(image.reference, tmp_path / "target", rootless=True)
        assert ("check --digests" in raised.value.hint) == (error is not UnsafeLayer)

    assert beside(tmp_path) == []
    store.remove_image(image.reference)  # nobody holds it any longer


def test_an_image_whose_config_counts_other_layers_is_refused(store, registry, tmp_path):
    builder = built(registry, LOWER, UPPER, repo="bad")
    document = json.loads(builder.build().config.raw)
    document["rootfs"]["diff_ids"].pop()
    config = Blob(json_of(document), OCI_CONFIG)
    manifest = json.loads(builder.push().manifest.raw) | {"config": config.descriptor}
    registry.add_blob(config.raw)
    registry.add_manifest("bad", json_of(manifest), "application/vnd.oci.image.manifest.v1+json", ("1",))

    store.pull_image(f"{registry.host}/bad:1")

    with pytest.raises(InvalidManifest, match="2 layers, and the config 1"):
        store.unpack(f"{registry.host}/bad:1", tmp_path / "target")

    assert beside(tmp_path) == []


def test_what_has_no_layers_of_files_cannot_be_unpacked(store, open_store, registry, tmp_path):
    artifact = ImageBuilder(registry, "sbom").artifact("text/spdx").raw_layer(b"{}").push("1")
    store.pull_image(artifact.reference)
    store.register_image("registered", size=5)

    with pytest.raises(UnsupportedContent):
        store.unpack(artifact.reference, tmp_path / "target")
    with pytest.raises(ImageNotFound, match="not kept here"):
        store.unpack("registered", tmp_path / "target")
    with pytest.raises(ImageNotFound):
        store.bundle("absent", tmp_path / "target")
    assert beside(tmp_path) == []


def test_a_blob_that_is_gone_is_the_stores_fault(store, image, root, tmp_path):
    blob = root / "blobs/sha256" / image.layers[1].digest.encoded
    blob.rename(root / "aside")

    with pytest.raises(StoreCorrupt, match="has a row and no file") as refused:
        store.unpack(image.reference, tmp_path / "target")

    assert "check --repair" in refused.value.hint
    (root / "aside").rename(blob)
    assert beside(tmp_path) == []


@needs_root
def test_a_full_disk_leaves_nothing(store, registry, tmp_path):
    big = built(registry, tar(entry(b"big", data=bytes(3_000_000))), repo="big", Cmd=["x"]).push("1")
    store.pull_image(big.reference)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        for make in (store.unpack, store.bundle):
            with pytest.raises(DiskFull):
                make(big.reference, small / "target")
        assert names(small) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_run_that_is_killed_leaves_what_the_next_one_removes(store, registry, root, tmp_path):
    """
    Nobody can remove the image while it is unpacked, and the hold goes with the process.
    """
    many = tar(*(entry(b"d%d/f%d" % (number % 50, number)) for number in range(20_000)))
    image = built(registry, many, repo="many").push("1")
    store.pull_image(image.reference)
    code = (
        "import sys, ullage\n"
        "with ullage.ImageService.open(sys.argv[1]) as images:\n"
        "    images.unpack(sys.argv[2], sys.argv[3], rootless=True)"
    )
    target = tmp_path / "target"
    with subprocess.Popen([sys.executable, "-c", code, root, image.reference, target]) as process:
        while not any(tmp_path.glob(".target.*.partial/rootfs/d1/*")):
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        try:
            assert query(root, "SELECT image_id FROM held") == [(image.image_id,)]
            with pytest.raises(ImageInUse):
                store.remove_image(image.reference)
        finally:
            process.kill()
    assert not target.exists()
    assert len(beside(tmp_path)) == 1

    store.unpack(image.reference, target, rootless=True)

    assert beside(tmp_path) == ["target"]
    assert sum(len(files) for _, _, files in os.walk(target)) == 20_000
    store.remove_image(image.reference)


# Bundles


def test_a_bundle_is_a_root_filesystem_and_a_config(store, image, tmp_path):
    made = store.bundle(
        image.reference,
        tmp_path / "bundle",
        options=BundleOptions(env=("B=2",)),
        rootless=False if ROOT else None,
    )

    document = json.loads((tmp_path / "bundle/config.json").read_text())
    assert names(tmp_path / "bundle") == ["config.json", "rootfs"]
    assert (tmp_path / "bundle/rootfs/home/me").exists()
    assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "bundle/rootfs").stat().st_mode) == 0o755
    process = document["process"]
    assert (process["args"], process["env"][0]) == (["/bin/tool"], "A=1")
    assert "B=2" in process["env"]
    # The upper layer took /etc/group away.
    assert process["user"] == {"uid": 33, "gid": 34}
    assert document["hostname"] == image.image_id[7:19]
    assert ("uidMappings" in document["linux"]) == made.rootless
    assert made.directory == str(tmp_path / "bundle")
    assert beside(tmp_path) == ["bundle"]


def test_a_rootless_bundle_has_a_user_namespace(store, image, tmp_path):
    store.bundle(image.reference, tmp_path / "bundle", options=BundleOptions(user="0:0"), rootless=True)

    linux = json.loads((tmp_path / "bundle/config.json").read_text())["linux"]
    assert linux["uidMappings"][0] == {"containerID": 0, "hostID": os.geteuid(), "size": 1}
    assert linux["gidMappings"][0] == {"containerID": 0, "hostID": os.getegid(), "size": 1}


@pytest.mark.parametrize(
    "options",
    [
        BundleOptions(user="nobody-there"),
        BundleOptions(user="0:nothing-there"),
        BundleOptions(args=("\0",)),
        BundleOptions(entrypoint=()),
        BundleOptions(hostname="a b"),
    ],
)
def test_what_cannot_run_leaves_no_bundle(options, store, image, tmp_path):
    with pytest.raises(InvalidProcess):
        store.bundle(image.reference, tmp_path / "bundle", options=options, rootless=True)

    assert beside(tmp_path) == []


def test_users_are_never_looked_up_outside_of_the_image(store, registry, tmp_path):
    """
    A planted link leads below the root, where there is nothing.
    """
    (tmp_path / "passwd").write_text("spy:x:4242:4242::/:\n")
    planted = tar(entry(b"etc/passwd", SYMLINK, link=os.fsencode(tmp_path / "passwd")))
    image = built(registry, planted, repo="planted", Cmd=["x"], User="spy").push("1")
    fifo = built(registry, tar(entry(b"etc/passwd", b"6")), repo="fifo", Cmd=["x"]).push("1")
    for each in (image, fifo):
        store.pull_image(each.reference)

    with pytest.raises(InvalidProcess, match="no user 'spy'"):
        store.bundle(image.reference, tmp_path / "bundle", rootless=True)
    with pytest.raises(UnsafeLayer, match="no regular file"):
        store.bundle(fifo.reference, tmp_path / "bundle", rootless=True)

    assert beside(tmp_path) == ["passwd"]


def test_a_simulated_image_has_nothing_to_unpack(open_store, tmp_path):
    store = open_store(registry=SimulatedRegistry())
    store.pull_image("nginx")

    with pytest.raises(ImageNotFound, match="not kept here"):
        store.unpack("nginx", tmp_path / "target")


# What runs is loaded before the rights go: the interpreter may be where nobody else may look.
_AS_NOBODY = """
import os, sys
from pathlib import Path
from ullage import ImageService, RegistryClient
def unpack(folder):
    folder.mkdir()
    with ImageService.open(folder / "store", registry=RegistryClient(plain_http=True)) as store:
        store.pull_image(sys.argv[1], unpack=True)
        assert store.mount_spec(sys.argv[1]).lowerdirs
        assert store.check(digests=True) == []
        store.unpack(sys.argv[1], folder / "made")
        assert sorted(os.listdir(folder)) == ["made", "store"]
unpack(Path(sys.argv[2], "warm"))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
unpack(Path(sys.argv[2], "nobody"))
"""


def test_what_is_closed_to_its_owner_is_unpacked_without_privilege_too(registry):
    """
    As some distributions have ``/etc/shadow``. From the trees it cannot be copied then: the layers are read.
    """
    layer = tar(
        entry(b"etc", DIRECTORY),
        entry(b"etc/shadow", data=b"root:!", mode=0),
        entry(b"closed", DIRECTORY, mode=0),
        entry(b"closed/in", data=b"in"),
        entry(b"open", data=b"open"),
    )
    image = built(registry, layer, repo="closed").push("1")
    with tempfile.TemporaryDirectory(prefix="ullage-nobody-") as name:
        Path(name).chmod(0o777)

        subprocess.run([sys.executable, "-c", _AS_NOBODY, image.reference, name], check=True)

        made = Path(name) / "nobody/made"
        for each in (made / "closed", made / "etc/shadow") if not ROOT else ():
            each.chmod(0o700)
        assert (made / "etc/shadow").read_bytes() == b"root:!"
        assert (made / "closed/in").read_bytes() == b"in"
        assert (made / "open").read_bytes() == b"open"
        for each in Path(name).rglob("closed") if not ROOT else ():
            each.chmod(0o700)
