"""
The registry of the demo and of these tests is itself held to the standard, by another client than ours.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import threading
import urllib.request

import pytest

from support.images import OCI_MANIFEST, ImageBuilder, gzip_of, noise, push_index, tar_of
from ullage.demo.registry import Logged, LoopbackRegistry


@pytest.fixture
def plain():
    with LoopbackRegistry() as registry:
        yield registry


def ask(registry, path, method="GET", **headers):
    """
    Status, headers and body, by the standard library's client on a connection of its own.
    """
    connection = http.client.HTTPConnection(registry.host, timeout=5)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): each for name, each in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_the_base_says_that_this_is_a_registry(plain):
    status, headers, body = ask(plain, "/v2/")

    assert (status, body) == (200, b"{}")
    assert headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_is_served_by_tag_and_by_digest(method, plain):
    digest = plain.add_manifest("org/app", b'{"a": 1}', OCI_MANIFEST, ["1", "2"])

    for ref in ("1", "2", digest):
        status, headers, body = ask(plain, f"/v2/org/app/manifests/{ref}", method)
        assert status == 200
        assert headers["content-type"] == OCI_MANIFEST
        assert headers["docker-content-digest"] == digest
        assert headers["etag"] == f'"{digest}"'
        assert headers["content-length"] == "8"
        assert body == (b'{"a": 1}' if method == "GET" else b"")


def test_a_tag_moves_and_the_old_manifest_stays(plain):
    old = plain.add_manifest("app", b"old", OCI_MANIFEST, ["1"])
    plain.add_manifest("app", b"new", OCI_MANIFEST, ["1"])

    assert ask(plain, "/v2/app/manifests/1")[2] == b"new"
    assert ask(plain, f"/v2/app/manifests/{old}")[2] == b"old"


def test_what_the_client_has_is_not_sent_again(plain):
    digest = plain.add_manifest("app", b"{}", OCI_MANIFEST, ["1"])

    status, _, body = ask(plain, "/v2/app/manifests/1", If_None_Match=f'"{digest}"')

    assert (status, body) == (304, b"")


@pytest.mark.parametrize(
    ("stated", "status", "content_range", "body"),
    [
        ("bytes=0-", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=3-", 206, "bytes 3-9/10", b"3456789"),
        ("bytes=3-5", 206, "bytes 3-5/10", b"345"),
        ("bytes=3-99", 206, "bytes 3-9/10", b"3456789"),
        ("bytes=-4", 206, "bytes 6-9/10", b"6789"),
        ("bytes=-99", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=10-", 416, "bytes */10", b""),
        ("bytes=-0", 416, "bytes */10", b""),
        ("bytes=5-4", 416, "bytes */10", b""),
        ("bytes=-", 200, None, b"0123456789"),
        ("bytes=0-1,4-5", 200, None, b"0123456789"),
        ("lines=1-2", 200, None, b"0123456789"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_a_range_of_a_blob_is_served(stated, status, content_range, body, from_file, plain, tmp_path):
    (tmp_path / "blob").write_bytes(b"0123456789")
    digest = plain.add_blob(tmp_path / "blob" if from_file else b"0123456789")

    got, headers, content = ask(plain, f"/v2/app/blobs/{digest}", Range=stated)

    assert (got, headers.get("content-range"), content) == (status, content_range, body)
    assert headers["accept-ranges"] == "bytes"


def test_a_range_of_something_else_is_not_served(plain):
    digest = plain.add_blob(b"0123456789")

    assert ask(plain, f"/v2/app/blobs/{digest}", Range="bytes=3-", If_Range='"other"')[0] == 200
    assert ask(plain, f"/v2/app/blobs/{digest}", Range="bytes=3-", If_Range=f'"{digest}"')[0] == 206


def test_a_large_file_comes_whole(plain, tmp_path):
    content = noise(5_000_000)
    (tmp_path / "blob").write_bytes(content)
    digest = plain.add_blob(tmp_path / "blob")

    assert ask(plain, f"/v2/app/blobs/{digest}")[2] == content
    assert ask(plain, f"/v2/app/blobs/{plain.add_blob(content, algorithm='sha512')}")[2] == content
    assert digest == "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v2/app/manifests/2", "GET", 404, "MANIFEST_UNKNOWN"),
        ("/v2/app/manifests/sha256:" + "0" * 64, "GET", 404, "MANIFEST_UNKNOWN"),
        ("/v2/nobody/manifests/1", "GET", 404, "NAME_UNKNOWN"),
        ("/v2/app/blobs/sha256:" + "0" * 64, "GET", 404, "BLOB_UNKNOWN"),
        ("/v2/app/blobs/junk", "GET", 400, "DIGEST_INVALID"),
        ("/v2/app/tags/other", "GET", 404, "NAME_INVALID"),
        ("/", "GET", 404, "NAME_INVALID"),
        ("/v2/app/../manifests", "GET", 404, "NAME_INVALID"),
        ("/token", "GET", 404, "NAME_INVALID"),
        ("/v2/app/manifests/1", "PUT", 405, "UNSUPPORTED"),
        ("/v2/app/blobs/uploads/", "POST", 405, "UNSUPPORTED"),
        ("/v2/app/manifests/1", "DELETE", 405, "UNSUPPORTED"),
    ],
)
def test_each_refusal_is_a_document_of_the_specification(path, method, status, code, plain):
    plain.add_manifest("app", b"{}", OCI_MANIFEST, ["1"])

    got, headers, body = ask(plain, path, method)

    assert got == status
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["errors"][0]["code"] == code


def test_tags_are_listed_in_order_and_in_pages(plain):
    plain.add_manifest("app", b"{}", OCI_MANIFEST, ["b", "a", "c"])

    assert json.loads(ask(plain, "/v2/app/tags/list")[2]) == {"name": "app", "tags": ["a", "b", "c"]}
    _, headers, body = ask(plain, "/v2/app/tags/list?n=2")
    assert json.loads(body)["tags"] == ["a", "b"]
    assert headers["link"] == '</v2/app/tags/list?n=2&last=b>; rel="next"'
    assert json.loads(ask(plain, "/v2/app/tags/list?n=2&last=b")[2])["tags"] == ["c"]


def test_the_log_has_what_was_sent(plain):
    digest = plain.add_blob(b"0123456789")
    ask(plain, f"/v2/app/blobs/{digest}", "HEAD")
    ask(plain, f"/v2/app/blobs/{digest}?x=y", Range="bytes=3-")

    assert plain.requests == [
        Logged("HEAD", f"/v2/app/blobs/{digest}", 200, "", 0),
        Logged("GET", f"/v2/app/blobs/{digest}", 206, "bytes=3-", 7),
    ]


def test_a_token_opens_what_it_was_sold_for_and_nothing_else():
    with LoopbackRegistry(auth="token", username="alice", password="x") as registry:
        for name in ("app", "other"):
            registry.add_manifest(name, b"{}", OCI_MANIFEST, ["1"])
        status, headers, _ = ask(registry, "/v2/app/manifests/1")
        assert status == 401
        assert headers["www-authenticate"] == (
            f'Bearer realm="{registry.url}/token",service="{registry.host}",scope="repository:app:pull"'
        )
        known = "Basic " + base64.b64encode(b"alice:x").decode()
        assert ask(registry, "/token?scope=repository:app:pull")[0] == 401
        _, _, body = ask(registry, "/token?scope=repository:app:pull,push", Authorization=known)
        token = json.loads(body)["token"]

        assert ask(registry, "/v2/", Authorization=f"Bearer {token}")[0] == 200
        assert ask(registry, "/v2/app/manifests/1", Authorization=f"Bearer {token}")[0] == 200
        status, headers, _ = ask(registry, "/v2/other/manifests/1", Authorization=f"Bearer {token}")
        assert status == 401
        assert 'error="insufficient_scope"' in headers["www-authenticate"]
        registry.guard.revoke()
        assert ask(registry, "/v2/app/manifests/1", Authorization=f"Bearer {token}")[0] == 401


def test_it_leaves_no_thread_and_no_listener_behind():
    before = set(threading.enumerate())
    with LoopbackRegistry() as registry:
        waiting = http.client.HTTPConnection(registry.host, timeout=5)
        waiting.request("GET", "/v2/")
        waiting.getresponse().read()

    assert set(threading.enumerate()) == before
    waiting.close()
    with pytest.raises(OSError, match="refused"):
        ask(registry, "/v2/")


def test_a_mistake_in_a_handler_is_raised_at_the_end():
    class Broken(LoopbackRegistry):
        def reply(self, asked):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Broken() as registry, pytest.raises(OSError):  # noqa: PT011
        ask(registry, "/v2/")


def test_the_builder_makes_the_same_bytes_each_time(plain):
    def build():
        return (
            ImageBuilder(plain, "app")
            .layer({"etc/a": b"a", "b": b"b"})
            .noise_layer(100)
            .config(User="1")
            .build()
        )

    assert build() == build()
    assert build().digest == "sha256:a994a5cfb665938bf72ddac171fa601705a6c8bc7f6003e4ee41ad4687864c03"
    assert gzip.decompress(gzip_of(tar_of({"a": noise(200_000)}))) == tar_of({"a": noise(200_000)})


def test_an_index_names_an_image_for_each_platform(plain):
    builders = [
        ImageBuilder(plain, "app", platform=each).layer({"a": each.encode()})
        for each in ("linux/amd64", "linux/arm/v7")
    ]

    images = push_index(plain, "app", builders, "1")

    with urllib.request.urlopen(f"{plain.url}/v2/app/manifests/1", timeout=5) as answer:
        index = json.load(answer)
    assert [each["platform"] for each in index["manifests"]] == [
        {"os": "linux", "architecture": "amd64"},
        {"os": "linux", "architecture": "arm", "variant": "v7"},
    ]
    assert [each["digest"] for each in index["manifests"]] == [image.manifest.digest for image in images]
    assert len({image.digest for image in images}) == 1
