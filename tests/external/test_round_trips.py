"""
Debian's skopeo, umoci and podman read what ullage writes, and ullage what they write.

The table of docs/import-export.md is what is tried here. Whatever goes round has the image id that it had, and the
digest of its manifest wherever there is a manifest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.archives import NOWHERE, Layout
from support.images import ImageBuilder, noise, push_index
from support.store import check_root
from ullage import ImageService
from ullage.digest import digest_of

PROGRAMS = ("skopeo", "umoci", "podman")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped: the tests run, and fail for want of the programs.
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"apt install {' '.join(MISSING)}"),
]

NAME = "docker.io/library/app:1"
PAGE = Path(__file__).parents[2] / "docs" / "import-export.md"

#: Tool, form, direction. umoci knows layouts alone.
CASES = [
    *((tool, form, way) for tool in ("skopeo", "podman") for form in ("oci", "oci-archive", "docker-archive")
      for way in ("out", "in")),
    ("umoci", "oci", "out"),
    ("umoci", "oci", "in"),
    *((tool, "store", "out") for tool in PROGRAMS),
]  # fmt: skip


def run(*command, **options):
    done = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
        check=False,
        **options,
    )
    assert done.returncode == 0, done
    return done.stdout.decode()


def skopeo(*command):
    return run("skopeo", "--insecure-policy", *command)


@pytest.fixture
def podman(tmp_path):
    """
    podman with a storage of its own that needs nothing of the kernel.
    """
    if os.geteuid() != 0:
        pytest.skip("not root: podman would need subordinate ids")
    # A path of more than fifty characters is too long for it.
    with tempfile.TemporaryDirectory(prefix="ullage-podman-") as run_root:
        storage = ("--root", tmp_path / "podman", "--runroot", run_root, "--storage-driver", "vfs")

        def podman(*command):
            return run("podman", *storage, "--cgroup-manager", "cgroupfs", *command)

        yield podman


@pytest.fixture
def image():
    """
    Two layers, a user, a variable: small, and like a real one.
    """
    builder = ImageBuilder(NOWHERE, "app").layer({"etc/motd": b"hello", "lib/noise": noise(5000)})
    return builder.layer({"etc/motd": b"hello again"}).config(User="1000:1000", Env=["A=B"]).build()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "store"
    yield root
    if root.exists():
        check_root(root)


@pytest.fixture
def layout(tmp_path, image):
    return Layout(tmp_path / "source").add(image, NAME).write()


class Seen:
    """
    What a tool says an image is.
    """

    def __init__(self, image_id, digest=None):
        self.image_id = image_id
        self.digest = digest


def _copied(source, tmp_path):
    """
    An image as skopeo takes it apart, which verifies it.
    """
    target = tmp_path / "taken"
    skopeo("copy", "--quiet", source, f"dir:{target}")
    raw = (target / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    assert (
        digest_of((target / manifest["config"]["digest"].partition(":")[2]).read_bytes())
        == (manifest["config"]["digest"])
    )
    return Seen(manifest["config"]["digest"], digest_of(raw))


def _unpacked(reference, tmp_path):
    """
    An image as umoci unpacks it.
    """
    run(
        "umoci",
        "unpack",
        *([] if os.geteuid() == 0 else ["--rootless"]),
        "--image",
        reference,
        tmp_path / "bundle",
    )
    assert (tmp_path / "bundle" / "rootfs" / "etc" / "motd").read_bytes() == b"hello again"
    layout = reference.partition(":")[0]
    assert NAME in run("umoci", "ls", "--layout", layout).splitlines()
    index = json.loads((Path(layout) / "index.json").read_bytes())
    digest = next(
        each["digest"]
        for each in index["manifests"]
        if each["annotations"]["org.opencontainers.image.ref.name"] == NAME
    )
    manifest = json.loads((Path(layout) / "blobs" / digest.replace(":", "/")).read_bytes())
    return Seen(manifest["config"]["digest"], digest)


def _in_podman(podman):
    (found,) = json.loads(podman("image", "inspect", NAME))
    assert (found["Config"]["User"], found["Config"]["Env"]) == ("1000:1000", ["A=B"])
    return Seen(f"sha256:{found['Id']}", found["Digest"])


def _read(tool, form, path, podman, tmp_path):
    """
    What *tool* makes of the *form* at *path*.
    """
    transport = "oci" if form == "store" else form
    if tool == "skopeo":
        return _copied(f"{transport}:{path}:{NAME}", tmp_path)
    if tool == "umoci":
        return _unpacked(f"{path}:{NAME}", tmp_path)
    if transport == "oci":
        podman("pull", "--quiet", f"oci:{path}:{NAME}")
        podman("tag", podman("images", "--quiet").strip(), NAME)
    else:
        podman("load", "--quiet", "--input", path)
    return _in_podman(podman)


def _write(tool, form, layout, path, podman):
    """
    Have *tool* write the image of *layout* as *form*; whether its manifest is still the one that it was.
    """
    if tool == "skopeo":
        skopeo("copy", "--quiet", f"oci:{layout}:{NAME}", f"{form}:{path}:{NAME}")
    elif tool == "umoci":
        shutil.copytree(layout, path)
        run("umoci", "tag", "--image", f"{path}:{NAME}", "mine")
    else:
        podman("pull", "--quiet", f"oci:{layout}:{NAME}")
        podman("tag", podman("images", "--quiet").strip(), NAME)
        podman("save", "--quiet", "--format", "oci-dir" if form == "oci" else form, "--output", path, NAME)


@pytest.mark.parametrize(("tool", "form", "way"), CASES)
def test_round_trip(tool, form, way, image, layout, root, request, tmp_path):
    podman = request.getfixturevalue("podman") if tool == "podman" else None
    path = tmp_path / "between"

    if way == "out":
        with ImageService.open(root) as store:
            store.import_images(layout)
            if form == "store":
                path = root
                store.write_index()
            else:
                store.export_images([NAME], path, form=form)
            # A store is read while it is open.
            seen = _read(tool, form, path, podman, tmp_path)
    else:
        _write(tool, form, layout, path, podman)
        with ImageService.open(root) as store:
            (found,) = store.import_images(path)
            assert NAME in found.repo_tags
            seen = Seen(found.image_id, store.manifest(found).digest)

    assert seen.image_id == image.image_id
    # A Docker archive has no manifest, and podman compresses layers anew when it saves them.
    if form != "docker-archive" and (tool, way) != ("podman", "in"):
        assert seen.digest == image.manifest.digest


def test_an_index_goes_round_with_skopeo(registry, root, tmp_path):
    builders = [
        ImageBuilder(registry, "app", platform=each).layer({"a": each.encode()}).noise_layer(2000)
        for each in ("linux/amd64", "linux/s390x")
    ]
    images = push_index(registry, "app", builders, "1")
    paths = [tmp_path / "out", tmp_path / "between"]
    with ImageService.open(root) as store:
        store.pull_image(images[0].reference, platform="all")
        store.export_images([images[0].reference], f"oci:{paths[0]}:{NAME}", platform="all")

    skopeo("copy", "--quiet", "--all", f"oci:{paths[0]}:{NAME}", f"oci:{paths[1]}:{NAME}")

    with ImageService.open(tmp_path / "other") as store:
        store.import_images(paths[1], platform="all")
        assert {each.image_id for each in store.list_images()} == {each.image_id for each in images}
        assert {store.manifest(each).digest for each in store.list_images()} == {
            each.manifest.digest for each in images
        }
        store.export_images([NAME], f"oci:{tmp_path / 'again'}:{NAME}", platform="all")
    (top,) = json.loads((tmp_path / "again/index.json").read_bytes())["manifests"]
    assert top["digest"] == images[0].index.digest


def test_skopeo_takes_from_a_sparse_index_the_platform_that_is_there(registry, root, tmp_path):
    builders = [
        ImageBuilder(registry, "app", platform=each).layer({"a": each.encode()})
        for each in ("linux/amd64", "linux/s390x")
    ]
    image, _ = push_index(registry, "app", builders, "1")
    path = tmp_path / "out"
    with ImageService.open(root) as store:
        store.pull_image(image.reference, platform="linux/amd64")
        store.export_images([image.reference], f"oci:{path}:{NAME}", platform="all", sparse=True)

    skopeo("--override-arch", "amd64", "copy", "--quiet", f"oci:{path}:{NAME}", f"dir:{tmp_path / 'taken'}")

    assert (tmp_path / "taken/manifest.json").read_bytes() == image.manifest.raw


def test_a_change_by_umoci_comes_in(layout, root):
    run("umoci", "config", "--image", f"{layout}:{NAME}", "--tag", "mine", "--author", "me")
    index = json.loads((layout / "index.json").read_bytes())
    (digest,) = (
        each["digest"]
        for each in index["manifests"]
        if each["annotations"]["org.opencontainers.image.ref.name"] == "mine"
    )

    with ImageService.open(root) as store:
        (found,) = store.import_images(f"oci:{layout}:mine", name="mine:1")

        assert store.manifest(found).digest == digest
        assert store.config(found)["author"] == "me"


def test_what_ullage_saves_and_podman_loads_and_saves_comes_back(layout, root, podman, image, tmp_path):
    """
    Two images with a layer in common, all the way round in one archive of docker's form.
    """
    other = ImageBuilder(NOWHERE, "other").layer({"etc/motd": b"hello", "lib/noise": noise(5000)}).build()
    source = Layout(tmp_path / "both").add(image, NAME).add(other, "ghcr.io/org/other:2").write()
    with ImageService.open(root) as store:
        ids = {each.image_id for each in store.import_images(source)}
        store.export_images([NAME, "ghcr.io/org/other:2"], f"docker-archive:{tmp_path / 'out.tar'}")
    podman("load", "--quiet", "--input", tmp_path / "out.tar")
    podman("save", "--quiet", "-m", "--output", tmp_path / "back.tar", NAME, "ghcr.io/org/other:2")

    with ImageService.open(tmp_path / "two") as store:
        found = store.import_images(tmp_path / "back.tar")
        assert {each.image_id for each in found} == ids
        assert {each for image in found for each in image.repo_tags} == {NAME, "ghcr.io/org/other:2"}
    check_root(tmp_path / "two")


def test_the_table_of_the_page_is_that_of_these_tests():
    rows = re.findall(r"^\| (\w+) \| `([\w-]+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE)

    assert sorted(rows) == sorted(CASES)
