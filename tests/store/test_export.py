"""
Images to layouts and archives: whole or not there, and the same bytes each time.
"""

from __future__ import annotations

import json
import tarfile

import pytest

from support.archives import NOWHERE, DockerSave, Layout, built, saved
from support.images import ImageBuilder, noise, push_index
from support.store import snapshot
from ullage import (
    ImageError,
    ImageNotFound,
    InvalidArchive,
    InvalidReference,
    StoreCorrupt,
    UnsupportedContent,
)
from ullage.archive.tarwriter import TarWriter
from ullage.digest import digest_of


@pytest.fixture
def images(store, tmp_path):
    """
    Two images that share a layer, in the store.
    """
    base = {"base": noise(2000)}
    one, two = built("app", base, 300), built("other", base, 400)
    layout = Layout(tmp_path / "source").add(one, "app:1", "app:latest").add(two, "ghcr.io/org/other:2")
    store.import_images(layout.write())
    return one, two


BOTH = ("app:1", "ghcr.io/org/other:2")


def members(path):
    with tarfile.open(path) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive if each.isfile()}


def folder_of(path):
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_what_goes_out_comes_back_the_same(store, open_store, images, tmp_path, form):
    store.export_images(BOTH, tmp_path / "out", form=form)

    other = open_store(tmp_path / "other")
    found = other.import_images(tmp_path / "out")

    assert {each.image_id for each in found} == {each.image_id for each in images}
    assert {name for each in found for name in each.repo_tags} == {
        "docker.io/library/app:1",
        "ghcr.io/org/other:2",
    }
    if form != "docker-archive":
        assert {other.manifest(each).raw for each in found} == {each.manifest.raw for each in images}
    assert other.check(digests=True) == []


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_the_same_images_give_the_same_bytes(store, open_store, images, tmp_path, form):
    """
    In whatever order they are named, in another store, as another file, and into a pipe.
    """
    store.export_images(BOTH, tmp_path / "one.tar", form=form)
    store.export_images(BOTH[::-1], tmp_path / "two.tar", form=form)
    other = open_store(tmp_path / "other")
    other.import_images(tmp_path / "source")
    other.export_images(BOTH, tmp_path / "three.tar", form=form)

    content = (tmp_path / "one.tar").read_bytes()
    assert (tmp_path / "two.tar").read_bytes() == (tmp_path / "three.tar").read_bytes() == content
    # And tomorrow: a change here changes what everybody's archives are.
    assert digest_of(content).short == {"oci-archive": "f32bd106508f", "docker-archive": "9d8e7ff6d04c"}[form]


def test_what_images_share_is_in_an_archive_once(store, images, tmp_path):
    store.export_images(BOTH, f"oci-archive:{tmp_path / 'both.tar'}")
    store.export_images(BOTH, f"docker-archive:{tmp_path / 'saved.tar'}")

    blobs = {blob.digest: blob.raw for image in images for blob in image.blobs}
    files = members(tmp_path / "both.tar")
    assert {name: raw for name, raw in files.items() if name.startswith("blobs")} == {
        f"blobs/sha256/{digest.encoded}": raw for digest, raw in blobs.items()
    }
    manifest = json.loads(members(tmp_path / "saved.tar")["manifest.json"])
    layers = {name for each in manifest for name in each["Layers"]}
    assert layers == {f"{diff_id.partition(':')[2]}.tar" for each in images for diff_id in each.diff_ids}
    assert len(layers) == 3
    assert len(members(tmp_path / "saved.tar")) == 3 + 2 + 1


def test_an_archive_has_nothing_of_today_and_of_this_machine(store, images, tmp_path):
    store.export_images(["app:1"], tmp_path / "out.tar")

    with tarfile.open(tmp_path / "out.tar") as archive:
        for each in archive:
            assert (each.mtime, each.uid, each.gid, each.uname, each.gname) == (0, 0, 0, "", "")
            assert each.mode == (0o755 if each.isdir() else 0o644)


def test_an_image_goes_out_by_the_name_that_it_was_named_by(store, images, tmp_path):
    """
    By its id it has all of its tags; a tag of the destination is its only name there.
    """
    image_id = images[0].image_id

    def names(image, destination):
        store.export_images([image], destination)
        path = str(destination).split(":")[1]
        return [
            each.get("annotations", {}).get("org.opencontainers.image.ref.name")
            for each in json.loads(members(path)["index.json"])["manifests"]
        ]

    out = f"oci-archive:{tmp_path / 'out.tar'}"
    assert names("app:latest", out) == ["docker.io/library/app:latest"]
    assert names(image_id, out) == ["docker.io/library/app:1", "docker.io/library/app:latest"]
    assert names(store.image_status(image_id), out) == names(image_id[7:19], out) == names(image_id, out)
    assert names("app:1", f"{out}:mine") == ["mine"]
    digest = f"docker.io/library/app@{images[0].manifest.digest}"
    assert names(digest, out) == [digest]
    for tag in ("app:1", "app:latest", digest):
        store.untag_image(tag)
    assert names(image_id, out) == [None]


def test_a_layout_that_is_there_is_added_to(store, images, tmp_path):
    layout = tmp_path / "layout"
    store.export_images(["app:1"], f"oci:{layout}:latest")
    before = folder_of(layout)

    store.export_images(["ghcr.io/org/other:2"], f"oci:{layout}:2")
    both = json.loads((layout / "index.json").read_bytes())["manifests"]
    store.export_images(["ghcr.io/org/other:2"], f"oci:{layout}:latest")
    moved = json.loads((layout / "index.json").read_bytes())["manifests"]

    name = "org.opencontainers.image.ref.name"
    assert [(each["annotations"][name], each["digest"]) for each in both] == [
        ("latest", images[0].manifest.digest),
        ("2", images[1].manifest.digest),
    ]
    assert [(each["annotations"][name], each["digest"]) for each in moved] == [
        ("2", images[1].manifest.digest),
        ("latest", images[1].manifest.digest),
    ]
    assert before.keys() <= folder_of(layout).keys()
    assert not list(layout.rglob(".*"))


def test_what_others_wrote_into_a_layout_stays(store, images, tmp_path):
    layout = Layout(tmp_path / "layout").add(built("third", 50), "third")
    path = layout.write()
    index = json.loads((path / "index.json").read_bytes()) | {"annotations": {"of": "mine"}}
    (path / "index.json").write_text(json.dumps(index))
    half = path / "blobs/sha256" / images[0].layers[0].digest.encoded
    half.write_bytes(b"half of it")

    store.export_images(["app:1"], f"oci:{path}:mine")

    written = json.loads((path / "index.json").read_bytes())
    assert written["annotations"] == {"of": "mine"}
    assert len(written["manifests"]) == 2
    assert half.read_bytes() == images[0].layers[0].raw, "a blob that another tool left half written"


def test_a_file_is_replaced_when_the_new_one_is_whole(store, root, images, tmp_path):
    target = tmp_path / "out.tar"
    target.write_text("before")
    blob = root / "blobs/sha256" / images[0].layers[1].digest.encoded
    blob.chmod(0o644)
    good = blob.read_bytes()

    for damaged in (bytes(len(good)), good[:-1], good + b"x"):
        blob.write_bytes(damaged)
        for form in ("oci-archive", "docker-archive"):
            with pytest.raises(StoreCorrupt):
                store.export_images(["app:1"], target, form=form)
        with pytest.raises(StoreCorrupt):
            store.export_images(["app:1"], tmp_path / "layout", form="oci")
        assert sorted(
            each.name for each in tmp_path.iterdir() if "out" in each.name or "layout" in each.name
        ) == ["out.tar"]
        assert target.read_text() == "before"
    blob.write_bytes(good)
    blob.chmod(0o444)
    store.export_images(["app:1"], target)

    assert "index.json" in members(target)


def test_a_layout_that_is_there_has_nothing_of_an_export_that_failed(store, root, images, tmp_path):
    layout = tmp_path / "layout"
    store.export_images(["ghcr.io/org/other:2"], f"oci:{layout}")
    before = folder_of(layout)
    blob = root / "blobs/sha256" / images[0].layers[1].digest.encoded
    blob.chmod(0o644)
    good = blob.read_bytes()
    blob.write_bytes(bytes(len(good)))

    with pytest.raises(StoreCorrupt):
        store.export_images(["app:1"], f"oci:{layout}")

    assert folder_of(layout) == before
    blob.write_bytes(good)
    blob.chmod(0o444)


def test_what_cannot_go_out(store, open_store, images, tmp_path):
    artifact = ImageBuilder(NOWHERE, "a").artifact("application/vnd.example").raw_layer(b"data").build()
    store.import_images(Layout(tmp_path / "artifact").add(artifact, "example.com/a:1").write())
    store.register_image("elsewhere", size=10)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    before = snapshot(store._files.root)

    def refused(expected, images, destination, says=".", **options):
        with pytest.raises(expected, match=says):
            store.export_images(images, destination, **options)

    out = tmp_path / "out"
    refused(ImageNotFound, ["nothing"], out)
    refused(ImageNotFound, ["elsewhere"], out, "not kept here")
    refused(InvalidReference, [], out, "no images")
    refused(InvalidReference, BOTH, f"oci:{out}:tag", "2 images")
    refused(InvalidReference, ["app:1"], f"oci:{out}", "not to be had as", form="oci-archive")
    refused(InvalidReference, ["app:1"], out, "not to be had as", form="zip")
    refused(InvalidReference, ["app:1"], "-", "not to be had as", form="oci")
    refused(UnsupportedContent, ["example.com/a:1"], f"docker-archive:{out}", "images of one platform")
    refused(InvalidArchive, ["app:1"], tmp_path / "folder", "without index.json|no OCI|version")
    refused(InvalidArchive, ["app:1"], store._files.root, "the root of a store")
    refused(ImageError, ["app:1"], f"oci-archive:{tmp_path / 'folder'}", "it is a directory")
    refused(ImageError, ["app:1"], tmp_path / "nothing" / "out", "cannot write")
    refused(ImageError, ["app:1"], f"oci:{tmp_path / 'nothing' / 'out'}", "cannot write")

    assert not out.exists()
    assert snapshot(store._files.root) == before
    store.export_images(["example.com/a:1"], out)
    assert open_store(tmp_path / "o").import_images(out)[0].image_id == artifact.manifest.digest


def test_layers_without_compression_and_of_other_digests_go_out_as_well(store, tmp_path):
    image = saved("plain:1", layers=({"a": b"a"}, {"b": b"b"}))
    store.import_images(DockerSave().add(image).archive(tmp_path / "in.tar"))
    odd = ImageBuilder(NOWHERE, "odd", algorithm="sha512").layer({"c": b"c"}).build()
    store.import_images(Layout(tmp_path / "odd").add(odd, "odd:1").write())

    store.export_images(["plain:1"], f"docker-archive:{tmp_path / 'out.tar'}")
    store.export_images(["odd:1"], f"oci-archive:{tmp_path / 'odd.tar'}")

    files = members(tmp_path / "out.tar")
    (entry,) = json.loads(files["manifest.json"])
    assert [files[name] for name in entry["Layers"]] == list(image.layers)
    assert files[entry["Config"]] == image.config
    assert f"blobs/sha512/{odd.layers[0].digest.encoded}" in members(tmp_path / "odd.tar")


def test_the_header_of_a_file_of_more_than_eight_gigabytes(tmp_path):
    with (tmp_path / "header").open("wb") as out:
        writer = TarWriter(out)
        out.write(writer.header("big", 9 << 30))
        out.write(bytes(512))

    with tarfile.open(tmp_path / "header") as archive:
        assert archive.next().size == 9 << 30


# ---------------------------------------------------------------------- several platforms


@pytest.fixture
def platforms(registry):
    """
    An index of two platforms at a registry.
    """
    builders = [
        ImageBuilder(registry, "multi", platform=each).layer({"a": each.encode()}).noise_layer(1000)
        for each in ("linux/amd64", "linux/s390x")
    ]
    return push_index(registry, "multi", builders, "1")


def blobs_of(path, form):
    """
    Its ``index.json``, and its blobs by digest.
    """
    files = folder_of(path) if form == "oci" else members(path)
    index = json.loads(files.pop("index.json"))
    files.pop("oci-layout")
    return index["manifests"], {
        name.removeprefix("blobs/").replace("/", ":"): raw for name, raw in files.items()
    }


@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_an_index_goes_out_with_all_its_platforms_and_comes_back(
    form, store, open_store, platforms, registry, tmp_path
):
    amd64, s390x = platforms
    store.pull_image(amd64.reference, platform="all")

    store.export_images([amd64.reference], tmp_path / "out", form=form, platform="all")

    ((top,), blobs) = blobs_of(tmp_path / "out", form)
    assert (top["digest"], top["mediaType"]) == (amd64.index.digest, amd64.index.media_type)
    assert top["annotations"]["io.containerd.image.name"] == amd64.reference
    assert blobs == {
        blob.digest: blob.raw
        for image in platforms
        for blob in (image.index, image.manifest, image.config, *image.layers)
    }
    registry.requests.clear()
    other = open_store(tmp_path / "other")
    other.import_images(tmp_path / "out", platform="all")
    other.export_images([amd64.reference], tmp_path / "again", form=form, platform="all")
    assert blobs_of(tmp_path / "again", form)[1] == blobs
    assert {each.image_id for each in other.list_images()} == {amd64.image_id, s390x.image_id}
    assert registry.requests == []


def test_of_an_index_any_platform_that_is_here_goes_out(store, platforms, tmp_path):
    amd64, s390x = platforms
    store.pull_image(amd64.reference, platform="all")

    store.export_images([amd64.reference], tmp_path / "s390x.tar", platform="linux/s390x")
    store.export_images([amd64.reference], tmp_path / "own.tar")

    assert s390x.manifest.digest in blobs_of(tmp_path / "s390x.tar", "oci-archive")[1]
    ((top,), blobs) = blobs_of(tmp_path / "own.tar", "oci-archive")
    assert (top["digest"], len(blobs)) == (amd64.manifest.digest, 4)


def test_what_of_an_index_is_not_here_is_named_or_left_out(store, open_store, platforms, tmp_path):
    amd64, s390x = platforms
    store.pull_image(amd64.reference, platform="linux/amd64")

    with pytest.raises(ImageNotFound, match=s390x.manifest.digest) as raised:
        store.export_images([amd64.reference], tmp_path / "out.tar", platform="all")
    assert "--sparse" in raised.value.hint
    assert not (tmp_path / "out.tar").exists()
    store.export_images([amd64.reference], tmp_path / "out.tar", platform="all", sparse=True)

    ((top,), blobs) = blobs_of(tmp_path / "out.tar", "oci-archive")
    assert top["digest"] == amd64.index.digest
    assert blobs[amd64.index.digest] == amd64.index.raw
    assert amd64.manifest.digest in blobs
    assert s390x.manifest.digest not in blobs
    other = open_store(tmp_path / "other")
    (found,) = other.import_images(tmp_path / "out.tar", platform="linux/amd64")
    assert found.image_id == amd64.image_id
    with pytest.raises(ImageError):
        other.import_images(tmp_path / "out.tar", platform="linux/s390x")


def test_several_platforms_have_no_place_in_a_docker_archive(store, platforms, tmp_path):
    store.pull_image(platforms[0].reference, platform="all")

    with pytest.raises(UnsupportedContent):
        store.export_images(
            [platforms[0].reference], f"docker-archive:{tmp_path / 'out.tar'}", platform="all"
        )
    with pytest.raises(ValueError, match="sparse"):
        store.export_images([platforms[0].reference], tmp_path / "out.tar", sparse=True)

    assert not (tmp_path / "out.tar").exists()
