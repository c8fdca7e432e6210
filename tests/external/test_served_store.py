"""
A store served by the installed command to Debian's skopeo, and to another ullage.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.images import ImageBuilder, push_index
from support.store import check_root
from ullage.platform import Platform

COMMAND = Path(sys.executable).with_name("ullage")

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped: the tests run, and fail for want of the programs.
    pytest.mark.skipif(
        shutil.which("skopeo") is None and not os.environ.get("CI"), reason="apt install skopeo"
    ),
]


def run(*arguments):
    done = subprocess.run(
        [str(each) for each in arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout.decode()


class Served:
    """
    ``ullage serve --log`` on the store, and what it said when it ended.
    """

    def __init__(self, root, *options):
        command = [
            str(each)
            for each in (COMMAND, "--root", root, "serve", "--listen", "127.0.0.1:0", "--log", *options)
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.host = self.process.stdout.readline().strip().partition("://")[2]
        assert self.host, self.process.communicate()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=30)[1]
        assert self.process.returncode == 0, said
        return said


@pytest.fixture
def image(store, registry):
    """
    An image of this machine's platform that came by an index, known as ``team/app:1`` of Docker Hub alone.
    """
    host = str(Platform.of_host().normalised())
    builders = [
        ImageBuilder(registry, "app", platform=each).noise_layer(300_000, each)
        for each in (host, "linux/s390x")
    ]
    image = push_index(registry, "app", builders, "1")[0]
    store.pull_image(image.reference)
    store.tag_image(image.reference, "team/app:1")
    store.untag_image(image.reference)
    return image


@pytest.fixture
def served(image, store, root):
    store.close()
    served = Served(root)
    yield served
    if served.process.poll() is None:
        served.process.kill()
    served.process.communicate()


def test_skopeo_and_another_ullage_pull_from_a_served_store(served, image, tmp_path):
    skopeo = ("skopeo", "--insecure-policy")
    source = f"docker://{served.host}/docker.io/team/app:1"

    raw = run(*skopeo, "inspect", "--raw", "--tls-verify=false", source)
    run(*skopeo, "copy", "--src-tls-verify=false", source, f"dir:{tmp_path / 'dir'}")
    tags = json.loads(run(*skopeo, "list-tags", "--tls-verify=false", source.rpartition(":")[0]))["Tags"]
    image_id = run(COMMAND, "pull", f"{served.host}/team/app:1", "--root", tmp_path / "other").strip()
    said = served.end()

    assert raw.encode() == image.index.raw
    assert tags == ["1"]
    assert (tmp_path / "dir" / "manifest.json").read_bytes() == image.manifest.raw
    for blob in (image.config, *image.layers):
        assert (tmp_path / "dir" / blob.digest.encoded).read_bytes() == blob.raw
    assert image_id == image.image_id
    check_root(tmp_path / "other")
    # Two clients, each blob sent to each of them once.
    layer = image.layers[0]
    assert len(re.findall(rf"^GET \S+/blobs/{layer.digest} 200 {layer.size}$", said, re.MULTILINE)) == 2
    assert re.search(r"^served [0-9]+ requests, [0-9.]+ kB$", said, re.MULTILINE)


def test_skopeo_shows_its_credentials(image, store, root, tmp_path):
    store.close()
    readers = tmp_path / "readers"
    readers.write_text("alice:s3cret\n")
    readers.chmod(0o600)
    served = Served(root, "--credentials", readers)
    source = f"docker://{served.host}/team/app:1"
    try:
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", "--creds", "alice:s3cret", source)
        refused = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", "--creds", "alice:guess", source],
            capture_output=True,
            check=False,
            timeout=60,
        )
    finally:
        served.end()

    assert raw.encode() == image.index.raw
    assert refused.returncode != 0
    assert b"unauthorized" in refused.stderr.lower()
