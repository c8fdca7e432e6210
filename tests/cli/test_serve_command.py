"""
``serve`` from outside: what it prints, how it ends, what it refuses.
"""

from __future__ import annotations

import re
import signal
import socket
import urllib.request

import pytest


def started(ullage, *options):
    process = ullage.start("serve", "--listen", "127.0.0.1:0", *options)
    url = process.stdout.readline().decode().strip()
    assert re.fullmatch(r"https?://127\.0\.0\.1:[0-9]+", url), process.communicate()
    return process, url


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_told_to_end(number, code, ullage, pulled):
    process, url = started(ullage)
    path = f"{url}/v2/{pulled.name.replace(':', '__')}/manifests/1"

    with urllib.request.urlopen(path) as answer:
        assert answer.read() == pulled.manifest.raw
    assert b"pid" in ullage.run("rm", pulled.reference, code=5).stderr.encode()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)

    assert process.returncode == code
    assert out == b""
    assert "served 1 requests" in err.decode()
    ullage.run("rm", pulled.reference)  # nothing is held any more


def test_each_request_is_said_where_that_is_asked_for(ullage, pulled):
    process, url = started(ullage, "--log")
    path = f"/v2/{pulled.name.replace(':', '__')}/blobs/{pulled.config.digest}"

    urllib.request.urlopen(urllib.request.Request(url + path, headers={"Range": "bytes=0-9"})).read()
    process.send_signal(signal.SIGTERM)

    assert f"GET {path} bytes=0-9 206 10" in process.communicate(timeout=20)[1].decode()


def test_who_serves_to_everybody_is_warned(ullage, pulled):
    process = ullage.start("serve", "--listen", ":0")
    assert process.stdout.readline().startswith(b"http://0.0.0.0:")
    process.send_signal(signal.SIGTERM)

    assert b"warning: whoever reaches this address" in process.communicate(timeout=20)[1]


def test_an_address_that_is_taken_is_refused(ullage, pulled):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = ullage.fail("serve", "--listen", f"127.0.0.1:{port}", code=9)

    assert said == f"cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize("address", ["5000", "127.0.0.1:65536"])
def test_what_is_no_address_is_a_usage_error(address, ullage):
    assert "no HOST:PORT" in ullage.fail("serve", "--listen", address, code=2)


def test_a_file_of_readers_that_others_may_read_is_refused(ullage, pulled, tmp_path):
    readers = tmp_path / "readers"
    readers.write_text("a:b\n")
    readers.chmod(0o644)

    assert "others may read it" in ullage.fail("serve", "--credentials", readers, code=6)


def test_it_brings_what_is_not_here_and_makes_a_store(elsewhere, image, registry):
    process, url = started(elsewhere, "--pull-through", registry.host, "--plain-http")
    path = f"{url}/v2/{image.repo}/manifests/1"

    with urllib.request.urlopen(path) as answer:
        assert answer.read() == image.manifest.raw
    for layer in image.layers:
        with urllib.request.urlopen(f"{url}/v2/{image.repo}/blobs/{layer.digest}") as answer:
            assert answer.read() == layer.raw
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 0, err
    assert "served 3 requests" in err.decode()


def test_what_is_no_registry_is_not_mirrored(ullage):
    assert "no registry: nowhere" in ullage.fail("serve", "--pull-through", "nowhere", code=2)


def test_a_root_without_a_store_is_not_served(elsewhere):
    assert "there is no store" in elsewhere.fail("serve", code=30)
