"""
Images pushed to Debian's docker-registry, and what Debian's skopeo says of them there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.images import ImageBuilder, push_index
from ullage import ManifestUnknown

PROGRAMS = ("docker-registry", "skopeo")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
COMMAND = Path(sys.executable).with_name("ullage")

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped: the tests run, and fail for want of the programs.
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"apt install {' '.join(MISSING)}"),
]

CONFIG = """
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


@pytest.fixture
def debian(tmp_path):
    """
    The host of a docker-registry that ends with the test.
    """
    (tmp_path / "config.yml").write_text(CONFIG.format(root=tmp_path / "data"))
    log = (tmp_path / "registry.log").open("w+")
    command = ["docker-registry", "serve", str(tmp_path / "config.yml")]
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True) as process, log:
        try:
            listening = None
            while listening is None and process.poll() is None:
                listening = re.search(
                    r"listening on (127\.0\.0\.1:[0-9]+)", (tmp_path / "registry.log").read_text()
                )
            assert listening, (tmp_path / "registry.log").read_text()
            yield listening[1]
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def log(tmp_path):
    """
    How often the registry has answered a method below a path with a status.
    """

    def count(method, path, status):
        line = rf'"{method} /v2/{path}[^"]*HTTP/1.1" {status} '
        return len(re.findall(line, (tmp_path / "registry.log").read_text()))

    return count


def skopeo(*arguments):
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *map(str, arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def test_what_is_pushed_is_what_skopeo_finds(debian, log, store, registry, tmp_path):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).noise_layer(300_000).push("1")
    store.pull_image(image.reference)

    pushed = store.push_image(image.reference, f"{debian}/team/app:1")
    again = store.push_image(image.reference, f"{debian}/team/app:1")

    source = f"docker://{debian}/team/app:1"
    assert skopeo("inspect", "--raw", "--tls-verify=false", source) == image.manifest.raw
    skopeo("copy", "--src-tls-verify=false", source, f"dir:{tmp_path / 'dir'}")
    for blob in (image.config, *image.layers):
        assert (tmp_path / "dir" / blob.digest.encoded).read_bytes() == blob.raw
    assert (pushed.sent_blobs, pushed.digest) == (3, image.manifest.digest)
    assert (again.sent_blobs, again.present_blobs) == (0, 3)
    assert log("PUT", "team/app/blobs", 201) == 3


def test_an_index_arrives_whole(debian, store, registry):
    builders = [
        ImageBuilder(registry, "app", platform=each).layer({"a": each.encode()})
        for each in ("linux/amd64", "linux/arm64")
    ]
    images = push_index(registry, "app", builders, "1")
    store.pull_image(images[0].reference, platform="all")

    pushed = store.push_image(images[0].reference, f"{debian}/app:1", platform="all")

    assert pushed.digest == images[0].index.digest
    source = f"docker://{debian}/app:1"
    assert skopeo("inspect", "--raw", "--tls-verify=false", source) == images[0].index.raw
    for image in images:
        by_digest = f"docker://{debian}/app@{image.manifest.digest}"
        assert skopeo("inspect", "--raw", "--tls-verify=false", by_digest) == image.manifest.raw


def test_a_blob_of_another_repo_is_mounted(debian, log, store, registry):
    image = ImageBuilder(registry, "app").noise_layer(300_000).push("1")
    store.pull_image(image.reference)
    store.push_image(image.reference, f"{debian}/first:1")
    store.tag_image(image.reference, f"{debian}/first:1")

    pushed = store.push_image(image.reference, f"{debian}/second:1")

    assert (pushed.sent_blobs, pushed.mounted_blobs) == (0, 2)
    assert log("POST", "second/blobs/uploads/", 201) == 2
    assert log("PUT", "second/blobs", 201) == 0


def test_a_large_blob_goes_in_pieces(debian, log, store, registry, monkeypatch):
    monkeypatch.setattr("ullage.sending.CHUNKED_BYTES", 100_000)
    monkeypatch.setattr("ullage.sending.CHUNK_BYTES", 100_000)
    image = ImageBuilder(registry, "app").noise_layer(450_000).push("1")
    store.pull_image(image.reference)

    store.push_image(image.reference, f"{debian}/app:1")

    assert log("PATCH", "app/blobs/uploads/", 202) == 5
    assert skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{debian}/app:1") == image.manifest.raw


def test_the_command_pushes_and_another_store_pulls(debian, store, root, registry, tmp_path, open_store):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
    store.pull_image(image.reference)
    store.tag_image(image.reference, "app:1")

    done = subprocess.run(
        [COMMAND, "push", "app:1", f"{debian}/app:1", "--root", root],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, f"{debian}/app@{image.manifest.digest}\n"), done
    other = open_store(tmp_path / "other")
    assert other.pull_image(f"{debian}/app:1").image_id == image.image_id
    with_index = f"{debian}/app@{'sha256:' + '0' * 64}"
    with pytest.raises(ManifestUnknown):
        other.pull_image(with_index)
