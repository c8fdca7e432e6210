"""
Debian's containerd with the store of this test as its mirror, by the hosts.toml of docs/serving.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from support.images import ImageBuilder, push_index
from ullage import ImageServer
from ullage.platform import Platform

MISSING = shutil.which("containerd") is None or shutil.which("ctr") is None

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped for want of a program: the tests run, and fail.
    pytest.mark.skipif(MISSING and not os.environ.get("CI"), reason="apt install containerd"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd wants root"),
]

CONFIG = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{directory}/socket"
[ttrpc]
  address = "{directory}/socket.ttrpc"
"""


@pytest.fixture
def ctr(tmp_path_factory):
    """
    Runs `ctr` against a containerd that ends with the test.
    """
    directory = tmp_path_factory.mktemp("c")  # a short path: a socket's name has a limit
    (directory / "config.toml").write_text(CONFIG.format(directory=directory))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["containerd", "--config", directory / "config.toml"], stdout=log, stderr=log
        )

    def run(*arguments):
        return subprocess.run(
            ["ctr", "--address", str(directory / "socket"), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    try:
        until = time.monotonic() + 30
        while run("version").returncode:
            assert time.monotonic() < until, (directory / "log").read_text()
            time.sleep(0.1)
        yield run
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def image(registry):
    """
    An image of this machine's platform, beside one of another, in an index.
    """
    host = str(Platform.of_host().normalised())
    builders = [
        ImageBuilder(registry, "app", platform=each)
        .layer({"etc/a": each.encode()})
        .noise_layer(300_000, each)
        for each in (host, "linux/s390x")
    ]
    return push_index(registry, "app", builders, "1")[0]


@pytest.fixture
def pull(ctr, registry, tmp_path):
    """
    Lets containerd pull an image anew by way of a mirror.
    """

    def pull(image, mirror):
        directory = tmp_path / "certs.d" / registry.host
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "hosts.toml").write_text(
            f'server = "http://{registry.host}"\n[host."{mirror}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        ctr("images", "rm", "--sync", image.reference)
        done = ctr(
            "images", "pull", "--snapshotter", "native",
            "--hosts-dir", str(tmp_path / "certs.d"), image.reference,
        )  # fmt: skip
        assert done.returncode == 0, done
        assert image.digest in ctr("images", "list").stdout

    return pull


def test_containerd_pulls_from_a_store_and_asks_no_registry(pull, store, registry, image):
    store.pull_image(image.reference)
    registry.requests.clear()

    with ImageServer(store, hold_seconds=0.1) as server:
        pull(image, server.url)

    assert registry.requests == []


def test_containerd_pulls_through_a_store_that_keeps_it(pull, store, registry, image, wait_until):
    with ImageServer(store, pull_through=[registry.host], hold_seconds=0.1) as server:
        pull(image, server.url)
        wait_until(lambda: store.image_status(image.reference))
        for blob in (image.config, *image.layers):
            assert registry.count("GET", f"*/blobs/{blob.digest}") == 1
        registry.requests.clear()

        pull(image, server.url)

    assert registry.requests == []
