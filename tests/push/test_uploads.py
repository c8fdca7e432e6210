"""
Blobs on their way into a registry that does not make it easy.
"""

from __future__ import annotations

import ssl

import pytest
import trustme

from support import registry as faults
from support.images import ImageBuilder
from support.pushes import PushRegistry
from ullage import AuthConfig, PushFailed, RegistryClient, RegistryUnavailable
from ullage.httpd import Reply

SIZE = 100_000


@pytest.fixture
def big(store, registry):
    """
    An image with one layer of seven pieces; its config is sent in one.
    """
    image = ImageBuilder(registry, "big").noise_layer(SIZE).push("1")
    store.pull_image(image.reference)
    return image


def push(store, image, there):
    pushed = store.push_image(image.reference, f"{there.host}/app:1")
    assert there.manifest("app", "1")[0] == image.manifest.raw
    assert there.open_uploads == 0
    return pushed


def patches(there):
    return [each for each in there.requests if each.method == "PATCH"]


def sizes(image):
    return image.config.size + image.layers[0].size


def test_a_large_blob_goes_in_pieces_and_a_small_one_at_once(store, big, there, small_chunks):
    push(store, big, there)

    asked = [each for each in there.asked if each.method == "PATCH"]
    size = big.layers[0].size
    assert [each.headers["content-range"] for each in asked] == [
        f"{at}-{min(at + 15_000, size) - 1}" for at in range(0, size, 15_000)
    ]
    assert all(each.headers["content-type"] == "application/octet-stream" for each in asked)
    assert there.uploaded == sizes(big)


def test_pieces_are_as_large_as_the_registry_wants_them(store, big, small_chunks):
    with PushRegistry(min_chunk_bytes=60_000) as there:
        push(store, big, there)

        assert len(patches(there)) == 2


@pytest.mark.parametrize("relative", [True, False])
def test_a_location_may_be_a_path_or_a_url_and_is_kept_to_the_letter(relative, store, big, small_chunks):
    with PushRegistry(relative=relative) as there:
        push(store, big, there)

        (last,) = [
            each
            for each in there.asked
            if each.method == "PUT" and big.layers[0].digest in each.first("digest")
        ]
        assert last.query["n"] == ["1"]
        assert last.first("_state").endswith("=")


def test_a_digest_that_stands_in_the_location_is_replaced(store, big, there):
    def fault(hit):
        reply = hit.reply()
        location = reply.headers["Location"] + "&digest=sha256:" + "0" * 64
        return Reply(reply.status, {**reply.headers, "Location": location})

    there.inject("*/uploads/", fault, method="POST")

    push(store, big, there)


@pytest.mark.parametrize(
    "fault",
    [faults.reset(), faults.status(500), faults.status(503), faults.raw(b""), faults.raw(b"HTTP/1.1 2")],
    ids=["reset", "500", "503", "gone", "half an answer"],
)
def test_a_piece_that_fails_before_it_is_taken_is_sent_again(fault, store, big, there, small_chunks):
    there.inject("*/uploads/*", fault, method="PATCH", times=1)

    push(store, big, there)

    assert there.uploaded == sizes(big)
    assert len(patches(there)) == 7 + 1


def test_a_piece_that_was_taken_and_whose_answer_is_lost_is_not_sent_again(store, big, there, small_chunks):
    def fault(hit):
        hit.reply()
        hit.registry.log(hit.asked, 0, 0)
        hit.reset()

    there.inject("*/uploads/*", fault, method="PATCH", times=3)

    push(store, big, there)

    assert there.uploaded == sizes(big)
    assert there.count("GET", "*/uploads/*") == 3


def test_a_registry_that_is_elsewhere_is_asked_where(store, big, there, small_chunks):
    def fault(hit):
        # It loses half of what it had.
        (content,) = [each for each in there._uploads.values() if each]
        del content[7_000:]
        return hit.reply()

    there.inject("*/uploads/*", _after(2, fault), method="PATCH")

    push(store, big, there)

    assert 416 in {each.status for each in patches(there)}
    assert there.uploaded > sizes(big)


def _after(count, fault):
    hits = []

    def counted(hit):
        hits.append(hit)
        return fault(hit) if len(hits) == count + 1 else hit.reply()

    return counted


def test_an_upload_that_the_registry_has_forgotten_begins_anew(store, big, there, small_chunks):
    def fault(hit):
        del there._uploads[hit.asked.path.rpartition("/")[2]]  # this one: others are under way beside it
        return faults.status(503)(hit)

    there.inject("*/uploads/*", _after(3, fault), method="PATCH")

    push(store, big, there)

    assert there.uploaded == sizes(big) + 3 * 15_000


def test_a_registry_without_pieces_gets_it_in_one(store, big, small_chunks):
    with PushRegistry(chunks=False) as there:
        push(store, big, there)

        assert len(patches(there)) == 1
        assert there.uploaded == sizes(big)


def test_a_registry_that_takes_one_piece_and_no_more_gets_it_in_one(store, big, there, small_chunks):
    there.inject("*/uploads/*", _after(1, faults.status(404, "BLOB_UPLOAD_UNKNOWN")), method="PATCH")

    push(store, big, there)

    assert there.uploaded == sizes(big) + 15_000


@pytest.mark.parametrize("fault", [faults.reset(), faults.status(502)], ids=["reset", "502"])
def test_a_blob_in_one_piece_is_sent_again_from_its_start(fault, store, big, there):
    there.inject("*/uploads/*", fault, method="PUT", times=1)

    push(store, big, there)


def test_a_blob_whose_answer_is_lost_is_found_there(store, big, there):
    def fault(hit):
        hit.reply()
        hit.registry.log(hit.asked, 0, 0)
        hit.reset()

    there.inject("*/uploads/*", fault, method="PUT", times=2)

    push(store, big, there)

    assert there.uploaded == sizes(big)


@pytest.mark.parametrize("pattern", ["*/uploads/", "*/uploads/*", "*/blobs/sha256:*", "*/manifests/*"])
def test_what_does_not_pass_ends_after_five_attempts(pattern, store, big, there):
    there.inject(pattern, faults.status(503, "UNAVAILABLE", "come back"))

    with pytest.raises(RegistryUnavailable, match=r"come back|503"):
        store.push_image(big.reference, f"{there.host}/app:1")

    assert there.tags("app") == {}


def test_each_piece_that_gets_through_is_progress(store, big, there, small_chunks):
    """
    More failures than attempts, and yet it gets there.
    """
    hits = []

    def every_other(hit):
        hits.append(hit)
        return faults.status(503)(hit) if len(hits) % 2 else hit.reply()

    there.inject("*/uploads/*", every_other, method="PATCH")

    push(store, big, there)

    assert len(hits) == 14


def test_a_digest_that_the_registry_does_not_believe_is_its_own_word(store, big, there):
    there.inject("*/uploads/*", faults.status(400, "DIGEST_INVALID", "not what you said"), method="PUT")

    with pytest.raises(PushFailed, match="DIGEST_INVALID: not what you said"):
        store.push_image(big.reference, f"{there.host}/app:1")


@pytest.mark.parametrize("pattern", ["*/uploads/*", "*/manifests/*"])
def test_a_registry_that_calls_it_something_else_is_not_believed(pattern, store, big, there):
    there.inject(pattern, faults.headers(docker_content_digest="sha256:" + "0" * 64), method="PUT")

    with pytest.raises(PushFailed, match="the registry calls it sha256:000"):
        store.push_image(big.reference, f"{there.host}/app:1")


@pytest.mark.parametrize("location", [None, "ftp://elsewhere.example/x", "http://[bad/x"])
def test_an_upload_that_leads_nowhere_is_refused(location, store, big, there):
    there.inject("*/uploads/", faults.headers(location=location), method="POST")

    with pytest.raises(PushFailed, match="does not say where to"):
        store.push_image(big.reference, f"{there.host}/app:1")


def test_an_upload_at_another_host_gets_no_credentials(store, big):

    with PushRegistry() as storage, PushRegistry(auth="basic", username="a", password="s3cret") as there:

        def fault(hit):
            begun = storage._begin(hit.asked, "app")
            return Reply(begun.status, {**begun.headers, "Location": storage.url + begun.headers["Location"]})

        there.inject("*/uploads/", fault, method="POST")
        with pytest.raises(PushFailed, match="MANIFEST_BLOB_UNKNOWN"):
            store.push_image(
                big.reference, f"{there.host}/app:1", auth=AuthConfig(username="a", password="s3cret")
            )

        assert storage.has("app", big.layers[0].digest)
        assert all("authorization" not in each.headers for each in storage.asked)


def test_pieces_go_over_tls(open_store, registry, tmp_path, small_chunks):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = RegistryClient(tls_ca=tmp_path / "ca.pem", credentials=False)
    image = ImageBuilder(registry, "big").noise_layer(SIZE).push("1")
    store = open_store(registry=client)
    store.pull_image(image.reference)
    with PushRegistry(ssl_context=context) as there:
        there.inject("*/uploads/*", faults.reset(), method="PATCH", times=1)

        push(store, image, there)

        assert there.url.startswith("https://")
        assert there.uploaded == sizes(image)


def test_an_upload_that_is_redirected_goes_on_with_its_bytes(store, big):
    with PushRegistry() as storage, PushRegistry() as there:
        begun = []

        def fault(hit):
            begun.append(storage._begin(hit.asked, "app").headers["Location"])
            digest = hit.asked.first("digest")
            return faults.redirect(f"{storage.url}{begun[-1]}&digest={digest}")(hit)

        there.inject("*/uploads/*", fault, method="PUT")
        with pytest.raises(PushFailed, match="MANIFEST_BLOB_UNKNOWN"):
            store.push_image(big.reference, f"{there.host}/app:1")

        assert storage.uploaded == sizes(big)
