"""
Images from layouts and archives: the same admission, verification, deduplication and accounting as a pull.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import threading

import pytest

from support.archives import NOWHERE, DockerSave, Layout, Link, built, saved, tar_bytes
from support.images import OCI_INDEX, OCI_MANIFEST, Blob, ImageBuilder, gzip_of, json_of, noise
from support.store import query, snapshot
from ullage import (
    ContentError,
    DigestMismatch,
    ImageNotFound,
    InvalidArchive,
    InvalidManifest,
    InvalidReference,
    ManifestUnknown,
    NoMatchingPlatform,
    PullCancelled,
    PullPolicy,
    SizeMismatch,
    StorageLimitExceeded,
    UnsupportedContent,
)
from ullage.digest import digest_of
from ullage.layer.decompress import zstd


def bytes_of(store, digest):
    with store.open_blob(digest) as blob:
        return blob.read()


@pytest.fixture
def image():
    return built("app", {"etc/base": b"base"}, 3000)


@pytest.fixture
def layout(tmp_path, image):
    return Layout(tmp_path / "layout").add(image, "app:1")


@pytest.fixture
def as_it_was(root):
    """
    The store is, at the end, what it was.
    """
    before = snapshot(root)
    yield
    assert snapshot(root) == before


# ---------------------------------------------------------------------- OCI


@pytest.mark.parametrize("form", ["directory", "archive", "gzip", "zstd", "fifo"])
def test_a_layout_comes_in_whole_whatever_it_lies_in(store, layout, image, form, tmp_path):
    source = layout.write() if form == "directory" else layout.archive(tmp_path / "layout.tar")
    if form == "gzip":
        source.write_bytes(gzip.compress(source.read_bytes()))
    elif form == "zstd":
        source.write_bytes(zstd.compress(source.read_bytes()))
    elif form == "fifo":
        content, source = source.read_bytes(), tmp_path / "fifo"
        os.mkfifo(source)
        threading.Thread(target=source.write_bytes, args=[content]).start()

    (found,) = store.import_images(source)

    assert found.image_id == image.image_id
    assert found.repo_tags == ("docker.io/library/app:1",)
    assert found.repo_digests == (f"docker.io/library/app@{image.manifest.digest}",)
    assert found.size == image.size
    assert store.manifest(found).raw == image.manifest.raw
    assert all(bytes_of(store, blob.digest) == blob.raw for blob in image.blobs)
    assert store.used_storage() == image.size
    assert store.usage().reserved_bytes == 0


def test_what_is_here_is_not_read_again(store, layout, image):
    """
    The second import finds every blob here: the layout has no longer any.
    """
    layout.add(image, "ghcr.io/org/app:2").write()
    store.import_images(f"oci:{layout.path}:app:1")
    for blob in (layout.path / "blobs/sha256").iterdir():
        blob.unlink()

    (found,) = store.import_images(f"oci:{layout.path}:ghcr.io/org/app:2")

    assert found.repo_tags == ("docker.io/library/app:1", "ghcr.io/org/app:2")
    assert store.used_storage() == image.size


def test_several_images_and_tags_share_what_they_share(store, tmp_path):
    base = {"base": noise(2000)}
    first, second = built("app", base, 100), built("app", base, 200)
    layout = Layout(tmp_path / "layout").add(first, "app:1", "app:latest").add(second, "ghcr.io/org/app:2")

    found = store.import_images(layout.archive(tmp_path / "both.tar"))

    assert [each.repo_tags for each in found] == [
        ("docker.io/library/app:1", "docker.io/library/app:latest"),
        ("ghcr.io/org/app:2",),
    ]
    assert store.used_storage() == sum(
        blob.size for blob in {blob.digest: blob for blob in (*first.blobs, *second.blobs)}.values()
    )


def test_an_index_is_followed_to_the_platform_that_is_asked_for(store, tmp_path):
    arm, amd = built("app", 10, platform="linux/arm64"), built("app", 20, platform="linux/amd64")
    index = Blob(
        json_of(
            {
                "schemaVersion": 2,
                "manifests": [
                    arm.manifest.descriptor | {"platform": {"os": "linux", "architecture": "arm64"}},
                    amd.manifest.descriptor | {"platform": {"os": "linux", "architecture": "amd64"}},
                ],
            }
        ),
        OCI_INDEX,
    )
    layout = Layout(tmp_path / "layout").add(arm).add(amd)
    layout.entries = [index.descriptor | {"annotations": {"org.opencontainers.image.ref.name": "app:1"}}]
    layout.blobs[f"sha256/{index.digest.encoded}"] = index.raw
    layout.write()

    (found,) = store.import_images(layout.path, platform="linux/arm64")

    assert (found.image_id, found.platform) == (arm.image_id, "linux/arm64")
    assert found.repo_digests == (f"docker.io/library/app@{index.digest}",)
    with pytest.raises(NoMatchingPlatform):
        store.import_images(layout.path, platform="linux/riscv64")


def test_the_name_that_containerd_and_docker_write_wins_over_a_tag(store, image, tmp_path):
    layout = Layout(tmp_path / "layout").add(image, "1", containerd="docker.io/library/app:1").write()

    (found,) = store.import_images(layout)

    assert found.repo_tags == ("docker.io/library/app:1",)


def test_an_image_without_a_name_is_known_by_its_id(store, root, image, tmp_path):
    layout = Layout(tmp_path / "layout").add(image, "latest").write()

    (found,) = store.import_images(layout)

    assert (found.repo_tags, found.repo_digests) == ((), ())
    assert store.image_status(image.image_id) == found
    assert query(root, "SELECT spec_image_name || spec_tag || spec_digest FROM images") == [("",)]
    # It stays without one when it comes again, and gets one when there is one.
    assert [each.repo_tags for each in store.import_images(layout)] == [()]
    assert store.import_images(layout, name="app")[0].repo_tags == ("docker.io/library/app:latest",)


def test_a_name_may_be_given_and_a_repo_takes_the_tags_that_are_there(store, tmp_path):
    layout = Layout(tmp_path / "layout").add(built("a"), "1").add(built("b", 10), "2", "latest").write()

    named = store.import_images(layout, name="ghcr.io/org/app")

    assert [each.repo_tags for each in named] == [
        ("ghcr.io/org/app:1",),
        ("ghcr.io/org/app:2", "ghcr.io/org/app:latest"),
    ]
    (one,) = store.import_images(f"oci:{layout}:1", name="mine:x")
    assert one.repo_tags == ("docker.io/library/mine:x", "ghcr.io/org/app:1")
    for name in ("mine:x", f"mine@{digest_of(b'')}", "No/Name"):
        with pytest.raises(InvalidReference):
            store.import_images(layout, name=name)


def test_an_artifact_comes_in_as_well(store, tmp_path):
    artifact = ImageBuilder(NOWHERE, "a").artifact("application/vnd.example").raw_layer(b"data").build()

    (found,) = store.import_images(Layout(tmp_path / "layout").add(artifact, "example.com/a:1").write())

    assert found.image_id == artifact.manifest.digest


# ---------------------------------------------------------------------- Docker


@pytest.mark.parametrize("old", [False, True])
def test_a_docker_archive_keeps_config_and_layers_as_they_are(store, tmp_path, old):
    base = {"base": noise(2000)}
    first = saved("app:1", "ghcr.io/org/app:latest", layers=(base, {"etc/a": b"a"}))
    second = saved("other:1", layers=(base, {"etc/b": b"b"}))
    archive = DockerSave(old=old).add(first).add(second).archive(tmp_path / "saved.tar")

    found = store.import_images(archive)

    assert [each.image_id for each in found] == [first.image_id, second.image_id]
    assert [each.repo_tags for each in found] == [
        ("docker.io/library/app:1", "ghcr.io/org/app:latest"),
        ("docker.io/library/other:1",),
    ]
    manifest = store.manifest(found[0])
    assert manifest.media_type == OCI_MANIFEST
    assert [bytes_of(store, layer.digest) for layer in manifest.layers] == list(first.layers)
    assert bytes_of(store, manifest.config.digest) == first.config
    before = store.usage()
    assert [each.id for each in store.import_images(archive)] == [each.id for each in found]
    assert store.usage() == before


def test_a_docker_archive_gives_the_same_manifest_each_time(store, open_store, tmp_path):
    image = saved("app:1")
    DockerSave().add(image).archive(tmp_path / "new.tar")
    DockerSave(old=True).add(image).archive(tmp_path / "old.tar")

    (new,) = store.import_images(tmp_path / "new.tar")
    (old,) = open_store(tmp_path / "other").import_images(tmp_path / "old.tar")

    assert new.repo_digests == old.repo_digests


def test_an_image_without_tags_is_known_by_its_id(store, tmp_path):
    (found,) = store.import_images(DockerSave().add(saved()).archive(tmp_path / "saved.tar"))

    assert found.repo_tags == ()


def test_one_image_of_a_docker_archive_by_its_name(store, tmp_path):
    first, second = saved("app:1"), saved("app:2", seed="2")
    archive = DockerSave().add(first).add(second).archive(tmp_path / "saved.tar")

    (found,) = store.import_images(f"docker-archive:{archive}:docker.io/library/app:2")

    assert found.image_id == second.image_id
    with pytest.raises(ManifestUnknown, match="no image called app:3") as refused:
        store.import_images(f"docker-archive:{archive}:app:3")
    assert refused.value.hint == "it has app:1, app:2"


@pytest.mark.parametrize("compress", [gzip_of, zstd.compress])
def test_a_layer_that_lies_there_compressed_stays_so(store, tmp_path, compress):
    image = saved("app:1")
    archive = DockerSave()
    archive.add(image)
    (name,) = archive.entries[0]["Layers"]
    archive.files[name] = compress(image.layers[0])

    (found,) = store.import_images(archive.archive(tmp_path / "saved.tar"))

    (layer,) = store.manifest(found).layers
    assert layer.digest == digest_of(compress(image.layers[0]))
    assert layer.media_type.endswith(("tar+gzip", "tar+zstd"))


def test_what_docker_25_writes_is_read_as_the_layout_that_it_is(store, image, tmp_path):
    """
    Both forms in one archive: the layout has the manifest as it was built.
    """
    layout = Layout(tmp_path / "layout").add(image, "1", containerd="docker.io/library/app:1")
    config = f"blobs/sha256/{image.config.digest.encoded}"
    layers = [f"blobs/sha256/{each.digest.encoded}" for each in image.layers]
    manifest = [{"Config": config, "RepoTags": ["app:1"], "Layers": layers}]
    archive = tmp_path / "saved.tar"
    archive.write_bytes(tar_bytes(layout.files | {"manifest.json": json_of(manifest)}))

    (found,) = store.import_images(archive)
    (same,) = store.import_images(f"docker-archive:{archive}")

    assert found.repo_digests == (f"docker.io/library/app@{image.manifest.digest}",)
    assert same.image_id == found.image_id


# ---------------------------------------------------------------------- room, time


def test_an_archive_that_does_not_fit_is_refused_with_the_numbers(store, layout, image, as_it_was):
    store.set_max_storage(image.size - 1)
    try:
        with pytest.raises(StorageLimitExceeded) as refused:
            store.import_images(layout.write())
    finally:
        store.set_max_storage(store.DEFAULT_MAX_STORAGE)
    assert refused.value.needed_bytes == image.size


def test_what_is_spooled_is_charged_and_its_room_is_free_again(store, layout, image, tmp_path, as_it_was):
    """
    A compressed archive lies here in full while it is read: both have to fit.
    """
    archive = layout.archive(tmp_path / "layout.tar")
    size = archive.stat().st_size
    archive.write_bytes(gzip.compress(archive.read_bytes()))
    for limit in (size - 1, size + image.size - 1):
        store.set_max_storage(limit)
        with pytest.raises(StorageLimitExceeded) as refused:
            store.import_images(archive)
        assert refused.value.needed_bytes == (size if limit < size else image.size)
    store.set_max_storage(size + image.size)
    store.import_images(archive)
    store.remove_image("app:1")
    store.set_max_storage(store.DEFAULT_MAX_STORAGE)


def test_a_pipe_that_never_ends_stops_at_the_limit(store, tmp_path, as_it_was):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def pour():
        with fifo.open("wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
            while True:
                pipe.write(bytes(1 << 20))

    thread = threading.Thread(target=pour)
    thread.start()
    store.set_max_storage(20 << 20)
    with pytest.raises(StorageLimitExceeded):
        store.import_images(fifo)
    thread.join()
    store.set_max_storage(store.DEFAULT_MAX_STORAGE)


def test_a_spool_evicts_where_it_may(store, layout, image, tmp_path):
    store.import_images(Layout(tmp_path / "old").add(built("old", 40_000), "old:1").write())
    archive = layout.archive(tmp_path / "layout.tar")
    needed = archive.stat().st_size + image.size
    archive.write_bytes(gzip.compress(archive.read_bytes()))
    store.set_max_storage(needed + 1000)
    with pytest.raises(StorageLimitExceeded):
        store.import_images(archive)

    (found,) = store.import_images(archive, evict=True)

    assert [each.id for each in store.list_images()] == [found.id]


def test_an_import_waits_for_a_pipe_no_longer_than_it_may(store, tmp_path, as_it_was):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cancel = threading.Event()
    cancel.set()
    held = os.open(fifo, os.O_RDWR)
    try:
        with pytest.raises(PullCancelled, match="deadline"):
            store.import_images(fifo, timeout=0.1)
        with pytest.raises(PullCancelled, match="cancelled"):
            store.import_images(fifo, cancel=cancel)
    finally:
        os.close(held)


# ---------------------------------------------------------------------- bad input


def _blob(layout, blob):
    return layout.path / "blobs/sha256" / blob.digest.encoded


def _missing(layout, image):
    _blob(layout, image.layers[1]).unlink()


def _missing_manifest(layout, image):
    _blob(layout, image.manifest).unlink()


def _oversized(layout, image):
    with _blob(layout, image.layers[1]).open("ab") as file:
        file.write(b"more")


def _short(layout, image):
    with _blob(layout, image.layers[1]).open("r+b") as file:
        file.truncate(100)


def _wrong(layout, image):
    _blob(layout, image.layers[1]).write_bytes(bytes(image.layers[1].size))


def _wrong_config(layout, image):
    _blob(layout, image.config).write_bytes(bytes(image.config.size))


def _wrong_manifest(layout, image):
    _blob(layout, image.manifest).write_bytes(b" " * image.manifest.size)


def _symlinked(layout, image):
    path = _blob(layout, image.layers[1])
    path.rename(layout.path / "elsewhere")
    path.symlink_to(layout.path / "elsewhere")


def _symlinked_directory(layout, image):
    (layout.path / "blobs").rename(layout.path / "elsewhere")
    (layout.path / "blobs").symlink_to("elsewhere")


def _fifo(layout, image):
    _blob(layout, image.layers[1]).unlink()
    os.mkfifo(_blob(layout, image.layers[1]))


def _directory(layout, image):
    _blob(layout, image.layers[1]).unlink()
    _blob(layout, image.layers[1]).mkdir()


def _no_index(layout, image):
    (layout.path / "index.json").unlink()


def _index_no_json(layout, image):
    (layout.path / "index.json").write_bytes(b"{")


def _version(layout, image):
    (layout.path / "oci-layout").write_bytes(b'{"imageLayoutVersion": "2.0.0"}')


def _version_huge(layout, image):
    (layout.path / "oci-layout").write_bytes(b" " * 5000)


def _two_for_one_tag(layout, image):
    layout.add(built("other", 10), "docker.io/library/app:1", "app:1").write()


def _size_lies(layout, image):
    layout.entries[0]["size"] += 1
    layout.write()


BROKEN = [
    (_missing, ContentError, "names a blob that is not there"),
    (_missing_manifest, ManifestUnknown, "lists a manifest that is not there"),
    (_oversized, SizeMismatch, "expected 10263 bytes, there are 10267"),
    (_short, SizeMismatch, "there are 100"),
    (_wrong, DigestMismatch, "digest mismatch"),
    (_wrong_config, DigestMismatch, "digest mismatch"),
    (_wrong_manifest, InvalidManifest, "not JSON"),
    (_symlinked, InvalidArchive, "no regular file"),
    (_symlinked_directory, InvalidArchive, "no regular file"),
    (_fifo, InvalidArchive, "no regular file"),
    (_directory, InvalidArchive, "no regular file"),
    (_no_index, InvalidArchive, r"without index\.json"),
    (_index_no_json, InvalidManifest, r"index\.json: document is not JSON"),
    (_version, InvalidArchive, "version '2.0.0'"),
    (_version_huge, InvalidArchive, "has 5000 bytes, limit 4096"),
    (_two_for_one_tag, InvalidArchive, "app:1 denotes both"),
    (_size_lies, SizeMismatch, "size mismatch"),
]


def test_a_broken_layout_is_refused_and_nothing_of_it_is_left(store, image, as_it_was, tmp_path):
    for spoil, expected, says in BROKEN:
        layout = Layout(tmp_path / spoil.__name__).add(image, "app:1")
        layout.write()
        spoil(layout, image)

        with pytest.raises(expected, match=says):
            store.import_images(layout.path)


def _layer_of(image):
    return f"{digest_of(image.layers[0]).encoded}.tar"


BROKEN_ARCHIVES = [
    ({}, {"Layers": ["nothing.tar"]}, InvalidArchive, "names 'nothing.tar', and the archive has no"),
    ({}, {"Layers": ["../../etc/passwd"]}, InvalidArchive, "names '../../etc/passwd'"),
    ({}, {"Layers": ["/etc/passwd"]}, InvalidArchive, "names '/etc/passwd'"),
    ({}, {"Layers": []}, InvalidManifest, "0 layers, and its config says 1"),
    ({}, {"Layers": "x"}, InvalidManifest, "expected a list"),
    ({}, {"Config": "nothing.json"}, InvalidArchive, "names 'nothing.json'"),
    ({}, {"Config": None}, InvalidArchive, "names ''"),
    ({}, {"RepoTags": ["No Name"]}, InvalidArchive, "RepoTags"),
    ({"../evil": b""}, {}, InvalidArchive, "leads out of the archive: ../evil"),
    ({"/etc/evil": b""}, {}, InvalidArchive, "leads out of the archive: /etc/evil"),
    ({"a/evil": Link("../../evil")}, {}, InvalidArchive, r"leads out of the archive: \.\./\.\./evil"),
    ({"evil": Link("/etc/passwd")}, {}, InvalidArchive, "leads out of the archive: /etc/passwd"),
    ({"a": Link("b"), "b": Link("a")}, {"Layers": ["a"]}, InvalidArchive, "links without end at"),
]


def test_a_broken_docker_archive_is_refused_and_nothing_of_it_is_left(store, tmp_path, as_it_was):
    for files, manifest, expected, says in BROKEN_ARCHIVES:
        archive = DockerSave().add(saved("app:1"))
        archive.files |= files

        with pytest.raises(expected, match=says):
            store.import_images(archive.archive(tmp_path / "saved.tar", **manifest))


def test_a_layer_that_is_not_what_the_config_says(store, tmp_path, as_it_was):
    for content in (lambda tar: bytes(len(tar)), lambda tar: gzip_of(tar + b"x")):
        image = saved("app:1")
        archive = DockerSave().add(image)
        archive.files[_layer_of(image)] = content(image.layers[0])
        with pytest.raises(DigestMismatch):
            store.import_images(archive.archive(tmp_path / "saved.tar"))


def test_a_config_that_is_not_what_its_name_says(store, tmp_path, as_it_was):
    image = saved("app:1")
    archive = DockerSave().add(image)
    archive.files[archive.entries[0]["Config"]] = saved(seed="another").config

    with pytest.raises(DigestMismatch, match="the config"):
        store.import_images(archive.archive(tmp_path / "saved.tar"))


def test_one_tag_for_two_images_of_a_docker_archive(store, tmp_path, as_it_was):
    archive = DockerSave().add(saved("app:1")).add(saved("docker.io/library/app:1", seed="2"))

    with pytest.raises(InvalidArchive, match="denotes two images"):
        store.import_images(archive.archive(tmp_path / "saved.tar"))


def test_two_entries_of_one_name(store, layout, image, tmp_path, as_it_was):
    archive = tmp_path / "layout.tar"
    name = f"blobs/sha256/{image.config.digest.encoded}"
    archive.write_bytes(tar_bytes([*layout.files.items(), (f"./{name}", b"another")]))

    with pytest.raises(InvalidArchive, match="two files are called"):
        store.import_images(archive)


def test_a_link_in_the_place_of_a_blob(store, layout, image, tmp_path, as_it_was):
    archive = tmp_path / "layout.tar"
    name = f"blobs/sha256/{image.config.digest.encoded}"
    files = layout.files | {"elsewhere": image.config.raw, name: Link("../../elsewhere")}
    archive.write_bytes(tar_bytes(files))

    with pytest.raises(InvalidArchive, match="is a link, and no blob"):
        store.import_images(archive)


def test_an_archive_that_is_cut_off(store, layout, tmp_path, as_it_was):
    content = layout.archive(tmp_path / "layout.tar").read_bytes().rstrip(b"\0")
    for whole in (content, gzip_of(content)):
        for keep in (100, 512, 5000, -1500):
            (tmp_path / "layout.tar").write_bytes(whole[:keep])
            with pytest.raises((InvalidArchive, ContentError)):
                store.import_images(tmp_path / "layout.tar")


def test_headers_without_end_and_sizes_without_bytes(store, tmp_path, as_it_was):
    header = bytearray(tar_bytes({"oci-layout": b""})[:512])
    header[124:136] = b"\x80" + (1 << 62).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}".encode() + b"\0 "
    (tmp_path / "huge.tar").write_bytes(bytes(header))
    long_name = bytearray(tar_bytes({"x" * 2_000_000: b""}))
    (tmp_path / "long.tar").write_bytes(long_name)

    for name in ("huge.tar", "long.tar"):
        with pytest.raises(InvalidArchive, match="no whole tar"):
            store.import_images(tmp_path / name)


def test_a_path_with_nothing_to_read(store, tmp_path, as_it_was):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "tar").write_bytes(tar_bytes({"etc/passwd": b""}))
    (tmp_path / "xz").write_bytes(b"\xfd7zXZ\x00" + bytes(1000))

    for path, expected in (
        ("nothing", InvalidArchive),
        ("empty", InvalidArchive),
        ("text", InvalidArchive),
        ("tar", InvalidArchive),
        ("xz", UnsupportedContent),
    ):
        with pytest.raises(expected):
            store.import_images(tmp_path / path)
    for source in ("oci:", "oci:-", ""):
        with pytest.raises(InvalidReference):
            store.import_images(source)
    with pytest.raises(InvalidArchive, match="no such directory"):
        store.import_images(f"oci:{tmp_path / 'text'}")
    with pytest.raises(InvalidArchive, match="a directory, and no archive"):
        store.import_images(f"oci-archive:{tmp_path / 'empty'}")


def test_a_name_is_never_taken_for_a_path_of_this_machine(store, layout):
    """
    What a host passes on as the name of an image may come from a stranger.
    """
    layout.write()

    with pytest.raises((InvalidReference, ImageNotFound)):
        store.pull_image(f"oci:{layout.path}:app:1", policy=PullPolicy.NEVER)


def test_images_before_one_that_fails_stay(store, layout, image, tmp_path):
    broken = built("broken", 700)
    layout.add(broken, "broken:1").write()
    (layout.path / "blobs/sha256" / broken.layers[0].digest.encoded).unlink()

    with pytest.raises(ContentError):
        store.import_images(layout.path)

    assert [each.image_id for each in store.list_images()] == [image.image_id]
