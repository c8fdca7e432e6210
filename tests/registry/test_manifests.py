"""
What a name denotes: HEAD, GET, and what a registry may get wrong about them.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import registry as faults
from support.images import OCI_MANIFEST, ImageBuilder
from ullage.digest import digest_of
from ullage.errors import (
    AccessDenied,
    AuthenticationFailed,
    InvalidManifest,
    ManifestUnknown,
    RegistryUnavailable,
)
from ullage.manifest import MAX_DOCUMENT_BYTES
from ullage.reference import Reference
from ullage.registry import FetchedHead, FetchedManifest, RegistryClient


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"etc/a": b"a"}).push("1")


def test_a_head_says_what_a_tag_denotes(repo, image):
    head = repo.head_manifest("1")

    assert head == FetchedHead(OCI_MANIFEST, image.digest, image.manifest.size)


def test_a_manifest_comes_as_it_is_by_tag_and_by_digest(repo, image):
    expected = FetchedManifest(image.manifest.raw, OCI_MANIFEST, image.digest)

    assert repo.get_manifest("1") == expected
    assert repo.get_manifest(image.digest) == expected


def test_a_repo_is_made_without_a_request(repo, registry):
    assert registry.connections == 0


def test_who_pulls_nothing_does_not_pay_for_an_http_library():
    code = """if True:
        import sys
        from ullage.reference import Reference
        from ullage.registry import RegistryClient
        RegistryClient().repo(Reference.parse("alpine"))
        sys.exit("urllib3" in sys.modules or "http.client" in sys.modules)
    """

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_requests_one_after_another_share_a_connection(repo, image, registry):
    repo.head_manifest("1")
    repo.get_manifest("1")
    with repo.open_blob(image.config.digest, size=image.config.size) as stream:
        while stream.read():
            pass
    with pytest.raises(ManifestUnknown):
        repo.get_manifest("2")
    repo.head_manifest("1")

    assert registry.connections == 1


def test_every_request_says_who_asks_and_for_what(registry, image):
    with RegistryClient(plain_http=True, user_agent="test/1") as client:
        client.repo(Reference.parse(image.reference)).get_manifest("1")

    sent = registry.asked[0].headers
    assert sent["user-agent"] == "test/1"
    assert sent["accept-encoding"] == "identity"
    assert sent["accept"].split(", ")[0] == "application/vnd.oci.image.index.v1+json"
    assert "authorization" not in sent


def test_the_media_type_comes_without_parameters(repo, image, registry):
    registry.inject("*", faults.headers(content_type="Application/JSON; charset=utf-8"))

    assert repo.get_manifest("1").media_type == "application/json"


def test_without_a_content_type_the_media_type_is_empty(repo, image, registry):
    registry.inject("*", faults.headers(content_type=None))

    assert repo.get_manifest("1").media_type == ""


@pytest.mark.parametrize(
    "fault",
    [
        faults.status(405),
        faults.status(400),
        faults.status(501),
        faults.headers(docker_content_digest=None),
        faults.headers(docker_content_digest="sha256:short"),
        faults.headers(docker_content_digest="\xff" * 100),
    ],
    ids=["405", "400", "501", "no digest", "a short digest", "no digest at all"],
)
def test_where_a_head_is_not_to_be_had_the_caller_is_told_to_fetch(fault, repo, image, registry):
    registry.inject("*", fault, method="HEAD")

    assert repo.head_manifest("1") is None
    assert repo.get_manifest("1").raw == image.manifest.raw


def test_a_registry_that_answers_404_to_every_head_is_asked_by_get(repo, image, registry):
    registry.inject("*", faults.status(404), method="HEAD")

    assert repo.head_manifest("1") is None


@pytest.mark.parametrize("method", ["head_manifest", "get_manifest"])
def test_an_unknown_tag_is_said_in_the_words_of_the_registry(method, repo, image, registry):
    with pytest.raises(ManifestUnknown) as caught:
        getattr(repo, method)("2")

    error = caught.value
    assert error.reference == f"{registry.host}/app:2"
    assert error.status == 404
    assert error.url == f"{registry.url}/v2/app/manifests/2"
    assert error.registry_errors == (("MANIFEST_UNKNOWN", "manifest unknown"),)
    assert str(error) == f"the registry has no {registry.host}/app:2 (MANIFEST_UNKNOWN: manifest unknown)"


def test_an_unknown_repo_is_an_unknown_manifest(client, registry):
    with pytest.raises(ManifestUnknown) as caught:
        client.repo(Reference.parse(f"{registry.host}/nobody")).get_manifest("latest")

    assert caught.value.registry_errors[0][0] == "NAME_UNKNOWN"


@pytest.mark.parametrize("method", ["head_manifest", "get_manifest"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (401, AuthenticationFailed),
        (403, AccessDenied),
        (404, ManifestUnknown),
        (429, RegistryUnavailable),
        (500, RegistryUnavailable),
        (503, RegistryUnavailable),
    ],
)
def test_each_refusal_has_its_exception(method, code, expected, repo, image, registry):
    registry.inject("*", faults.status(code, "SOME_CODE", "some words", {"Retry-After": "60"}))

    with pytest.raises(expected) as caught:
        getattr(repo, method)("1")

    error = caught.value
    assert type(error) is expected
    assert error.status == code
    assert error.url == f"{registry.url}/v2/app/manifests/1"
    if not (method == "head_manifest" and code in {401, 429, 500, 503}):  # no body, no words
        assert error.registry_errors == (("SOME_CODE", "some words"),)
        assert "SOME_CODE: some words" in str(error)


@pytest.mark.parametrize("code", [204, 206, 304, 400, 418, 451, 599])
def test_an_answer_that_makes_no_sense_is_unavailable_with_its_status(code, repo, image, registry):
    registry.inject("*", faults.raw(f"HTTP/1.1 {code} Odd\r\nContent-Length: 0\r\n\r\n".encode()))

    with pytest.raises(RegistryUnavailable) as caught:
        repo.get_manifest("1")

    assert caught.value.status == code


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", ()),
        (b"<html>no</html>", ()),
        (b"\xff\xfe", ()),
        (b"[" * 60_000, ()),
        (b"9" * 60_000, ()),
        (b"[]", ()),
        (b'{"errors": 1}', ()),
        (b'{"errors": [1, null, []]}', ()),
        (b'{"errors": [{"code": 1, "message": ["x"]}]}', ()),
        (b'{"errors": [{"code": "A"}, {"message": "b"}]}', (("A", ""), ("", "b"))),
        (b'{"errors": [{"code": "A\\u001b[31m\\n", "message": "b\\u0000c"}]}', (("A [31m", "b c"),)),
        (b'{"error": "invalid_grant", "error_description": "no"}', (("invalid_grant", "no"),)),
        (b'{"details": "incorrect username or password"}', (("", "incorrect username or password"),)),
    ],
)
def test_an_error_document_is_read_for_what_it_holds(body, expected, repo, registry):
    registry.inject("*", faults.answer(body, code=403))

    with pytest.raises(AccessDenied) as caught:
        repo.get_manifest("1")

    assert caught.value.registry_errors == expected
    assert str(caught.value).isprintable()


def test_a_long_error_document_is_cut(repo, registry):
    many = (
        b'{"errors": ['
        + b",".join([b'{"code": "%b", "message": "%b"}' % (b"C" * 500, b"m" * 2000)] * 20)
        + b"]}"
    )
    registry.inject("*", faults.answer(many, code=403))

    with pytest.raises(AccessDenied) as caught:
        repo.get_manifest("1")

    errors = caught.value.registry_errors
    assert len(errors) == 8
    assert max(len(code) for code, _ in errors) == 64
    assert max(len(message) for _, message in errors) == 300


def test_an_endless_error_document_is_not_read_to_its_end(repo, image, registry):
    registry.inject("*", faults.endless(b"HTTP/1.1 403 Forbidden\r\n\r\n", b"x" * 65536))

    with pytest.raises(AccessDenied):
        repo.get_manifest("1")


def test_a_manifest_of_the_largest_size_is_taken(repo, registry):
    raw = b" " * MAX_DOCUMENT_BYTES
    registry.add_manifest("app", raw, OCI_MANIFEST, ["1"])

    assert len(repo.get_manifest("1").raw) == MAX_DOCUMENT_BYTES


def test_a_manifest_of_one_byte_more_is_refused(repo, registry):
    registry.add_manifest("app", b" " * (MAX_DOCUMENT_BYTES + 1), OCI_MANIFEST, ["1"])

    with pytest.raises(InvalidManifest, match=f"longer than {MAX_DOCUMENT_BYTES} bytes"):
        repo.get_manifest("1")


def test_a_manifest_that_announces_too_much_is_refused_unread(repo, registry):
    registry.inject("*", faults.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"))

    with pytest.raises(InvalidManifest):
        repo.get_manifest("1")


@pytest.mark.parametrize(
    "fault", [faults.endless_body(), faults.chunked(b" " * MAX_DOCUMENT_BYTES, chunk_bytes=65536)]
)
def test_a_manifest_that_does_not_end_is_refused(fault, repo, image, registry):
    registry.inject("*", fault)

    with pytest.raises(InvalidManifest):
        repo.get_manifest("1")


def test_a_manifest_in_chunks_comes_whole(repo, image, registry):
    registry.inject("*", faults.chunked(chunk_bytes=7))

    assert repo.get_manifest("1").raw == image.manifest.raw


def test_a_manifest_is_not_decoded_whatever_its_encoding(repo, image, registry):
    registry.inject("*", faults.headers(content_encoding="gzip"))

    raw = repo.get_manifest("1").raw

    assert digest_of(raw) == image.digest
