"""
A store that is a caching mirror: what it asks its registry for, what it keeps, and what a client sees of it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from support import registry as faults
from support.asking import ask
from support.images import OCI_INDEX, ImageBuilder, push_index
from ullage import ImageServer, InvalidReference


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "team/app").layer({"a": b"a"}).noise_layer(300_000).push("1")


class Mirror:
    """
    The store of a test as a mirror of the test's registry.
    """

    def __init__(self, store, registry, **options):
        options = {"hold_seconds": 0.1, "max_age_seconds": 60.0} | options
        self.store, self.registry = store, registry
        self.server = ImageServer(store, pull_through=[registry.host], **options)

    def get(self, path, method="GET", **headers):
        return ask(self.server, path, method, **headers)

    def manifest(self, image, ref=None, method="GET"):
        return self.get(f"/v2/{image.repo}/manifests/{ref or image.tag}?ns={self.registry.host}", method)

    def blob(self, image, blob, **headers):
        return self.get(f"/v2/{image.repo}/blobs/{blob.digest}?ns={self.registry.host}", **headers)

    def pull(self, image):
        """
        What a client does: manifest, config, layers; what came of each.
        """
        got = [self.manifest(image)]
        if image.index is not None:
            got.append(self.manifest(image, image.manifest.digest))
        return [*got, *(self.blob(image, blob) for blob in (image.config, *image.layers))]

    def asked(self, method, pattern):
        return self.registry.count(method, pattern)


@pytest.fixture
def mirror(store, registry):
    mirror = Mirror(store, registry)
    with mirror.server:
        yield mirror


def expected(image):
    index = [image.index.raw] if image.index else []
    return [*index, image.manifest.raw, image.config.raw, *(layer.raw for layer in image.layers)]


def bodies(got):
    assert [each.status for each in got] == [200] * len(got)
    return [each.body for each in got]


def kept(store, reference, wait_until):
    return wait_until(lambda: store.image_status(reference))


def test_what_is_not_here_is_passed_on_and_kept(mirror, store, image, registry, wait_until):
    assert bodies(mirror.pull(image)) == expected(image)

    status = kept(store, image.reference, wait_until)
    assert status.image_id == image.image_id
    registry.requests.clear()
    assert bodies(mirror.pull(image)) == expected(image)
    assert registry.requests == []


def test_each_blob_is_fetched_once_however_many_ask(mirror, store, image, registry, wait_until):
    with ThreadPoolExecutor(6) as pool:
        pulls = list(pool.map(lambda _: mirror.pull(image), range(6)))

    assert all(bodies(each) == expected(image) for each in pulls)
    kept(store, image.reference, wait_until)
    for blob in (image.config, *image.layers):
        assert mirror.asked("GET", f"*/blobs/{blob.digest}") == 1
    # For the clients together, and for the store.
    assert mirror.asked("GET", "*/manifests/*") == 2


def test_a_client_need_not_wait_for_the_end_of_a_blob(mirror, image, registry):
    layer = image.layers[1]
    stall = registry.inject(f"*/blobs/{layer.digest}", faults.stall(after=200_000))
    mirror.manifest(image)
    stall.wait_reached()

    got = mirror.blob(image, layer, Range="bytes=0-99999")

    assert (got.status, got.body) == (206, layer.raw[:100_000])
    stall.release()


def test_a_look_fetches_nothing(mirror, store, image, registry):
    got = mirror.manifest(image, method="HEAD")

    assert (got.status, got.headers["docker-content-digest"]) == (200, image.manifest.digest)
    assert store.image_count() == 0
    assert mirror.asked("GET", "*/blobs/*") == 0


@pytest.mark.parametrize("platform", [0, 1])
def test_a_client_of_any_platform_is_served_and_what_it_asks_for_is_kept(
    platform, mirror, store, registry, wait_until
):
    builders = [
        ImageBuilder(registry, "multi", platform=each).layer({"a": each.encode()}).noise_layer(50_000, each)
        for each in ("linux/amd64", "linux/s390x")
    ]
    image = push_index(registry, "multi", builders, "1")[platform]

    assert bodies(mirror.pull(image)) == expected(image)

    status = kept(store, image.reference, wait_until)
    assert status.image_id == image.image_id
    registry.requests.clear()
    got = mirror.pull(image)
    assert got[0].headers["content-type"] == OCI_INDEX
    assert bodies(got) == expected(image)
    assert registry.requests == []


def test_two_platforms_of_one_tag_are_kept_beside_each_other(mirror, store, registry, wait_until):
    builders = [
        ImageBuilder(registry, "multi", platform=each).layer({"a": each.encode()})
        for each in ("linux/amd64", "linux/s390x")
    ]
    images = push_index(registry, "multi", builders, "1")
    for image in images:
        mirror.pull(image)
        wait_until(lambda image=image: store.image_status(image.image_id))
    registry.requests.clear()

    for image in images:
        assert bodies(mirror.pull(image)) == expected(image)

    assert registry.requests == []


def test_what_is_here_by_digest_gets_its_tag(mirror, store, image, registry, wait_until):
    store.pull_image(image.repo_digest)

    assert mirror.manifest(image, method="HEAD").status == 200

    assert kept(store, image.reference, wait_until).image_id == image.image_id
    assert mirror.asked("GET", "*/blobs/*") == 3


def test_an_image_is_asked_for_by_digest(mirror, store, image, wait_until):
    got = mirror.manifest(image, image.manifest.digest)

    assert got.body == image.manifest.raw
    assert kept(store, image.repo_digest, wait_until).image_id == image.image_id


def test_a_tag_is_asked_for_again_when_it_is_old(store, registry, image, wait_until):
    mirror = Mirror(store, registry, max_age_seconds=0.0)
    with mirror.server:
        mirror.pull(image)
        kept(store, image.reference, wait_until)
        registry.requests.clear()
        assert mirror.manifest(image).body == image.manifest.raw
        assert [each.method for each in registry.requests] == ["HEAD"]

        moved = ImageBuilder(registry, "team/app").layer({"a": b"new"}).push("1")

        assert bodies(mirror.pull(moved)) == expected(moved)
        wait_until(lambda: store.image_status(moved.reference).image_id == moved.image_id)


def test_a_tag_that_is_young_is_believed(mirror, store, image, registry, wait_until):
    mirror.pull(image)
    kept(store, image.reference, wait_until)

    ImageBuilder(registry, "team/app").layer({"a": b"new"}).push("1")

    assert mirror.manifest(image).body == image.manifest.raw


def test_where_the_registry_is_down_what_is_here_is_served(store, registry, image, wait_until):
    mirror = Mirror(store, registry, max_age_seconds=0.0)
    with mirror.server:
        mirror.pull(image)
        kept(store, image.reference, wait_until)
        registry.inject("*", faults.status(503))

        assert bodies(mirror.pull(image)) == expected(image)
        other = ImageBuilder(registry, "team/app").layer({"b": b"b"}).push("2")
        assert mirror.manifest(other).status == 502


def test_a_registry_that_is_down_is_not_waited_for_again_at_once(store, registry, image, wait_until):
    mirror = Mirror(store, registry, max_age_seconds=0.0)
    with mirror.server:
        mirror.pull(image)
        kept(store, image.reference, wait_until)
        registry.inject("*", faults.status(503))
        mirror.manifest(image)
        registry.requests.clear()

        assert mirror.manifest(image).body == image.manifest.raw

        assert registry.requests == []
        registry.heal()
        mirror.server._through._down_until.clear()  # as it is after a while
        assert mirror.manifest(image).body == image.manifest.raw
        assert [each.method for each in registry.requests] == ["HEAD"]


def test_what_the_registry_has_not_is_not_found(mirror, image, registry):
    for path in ("team/app/manifests/2", "nothing/manifests/1", f"team/app/blobs/sha256:{'0' * 64}"):
        assert mirror.get(f"/v2/{path}?ns={registry.host}").status == 404


def test_what_we_may_not_pull_is_not_found(store, registry, image):
    registry.inject("*", faults.status(403, "DENIED", "not you"))
    mirror = Mirror(store, registry)
    with mirror.server:
        got = mirror.manifest(image)

    assert (got.status, got.codes) == (404, ["MANIFEST_UNKNOWN"])
    assert "not you" not in got.body.decode()


def test_names_without_a_registry_are_of_the_one_that_is_mirrored(mirror, image):
    assert mirror.get("/v2/team/app/manifests/1").body == image.manifest.raw
    assert mirror.get("/v2/team/app/manifests/1?ns=docker.io").status == 404


def test_another_registry_is_not_asked(mirror, registry):
    assert mirror.get("/v2/x/manifests/1?ns=elsewhere.example").status == 404
    assert registry.requests == []


def test_what_does_not_fit_is_passed_on_and_not_kept(open_store, registry, image, wait_until):
    store = open_store(max_storage=1000)
    mirror = Mirror(store, registry)
    with mirror.server:
        assert bodies(mirror.pull(image)) == expected(image)
        wait_until(lambda: not mirror.server._through._pulls)

        assert store.image_count() == 0
        assert store.usage().used_bytes + store.usage().reserved_bytes == 0


def test_room_is_made_where_that_is_allowed(open_store, registry, image, wait_until):
    old = ImageBuilder(registry, "old").noise_layer(300_000, "old").push("1")
    store = open_store(max_storage=400_000)
    store.pull_image(old.reference)
    mirror = Mirror(store, registry, evict=True)
    with mirror.server:
        mirror.pull(image)

        kept(store, image.reference, wait_until)
        assert store.image_status(old.reference) is None


def test_a_part_of_a_blob_on_its_way_is_served(mirror, image):
    mirror.manifest(image)
    layer = image.layers[1]

    got = mirror.blob(image, layer, Range="bytes=150000-150009")

    assert (got.status, got.body) == (206, layer.raw[150_000:150_010])
    assert mirror.blob(image, layer, Range="bytes=999999-").status == 416


def test_where_a_pull_is_late_the_client_is_served_past_it(mirror, image, registry, monkeypatch):
    monkeypatch.setattr("ullage.server.passing.PATIENCE_SECONDS", 0.1)
    layer = image.layers[1]
    stall = registry.inject(f"*/blobs/{layer.digest}", faults.stall(after=1000), times=1)
    mirror.manifest(image)
    stall.wait_reached()

    assert mirror.blob(image, layer).body == layer.raw

    stall.release()


@pytest.mark.parametrize(
    "fault",
    [faults.wrong_bytes(5), faults.shorter(), faults.truncate(1000)],
    ids=["wrong", "short", "broken"],
)
def test_what_is_not_what_its_digest_says_does_not_arrive(fault, mirror, store, image, registry, wait_until):
    import http.client  # noqa: PLC0415

    layer = image.layers[1]
    registry.inject(f"*/blobs/{layer.digest}", fault)
    mirror.manifest(image)

    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        mirror.blob(image, layer)

    wait_until(lambda: not mirror.server._through._pulls)
    assert store.image_count() == 0


def test_a_manifest_that_lies_is_not_passed_on(mirror, image, registry):
    registry.inject(f"*/manifests/{image.manifest.digest}", faults.answer(b'{"a": 1}'))

    assert mirror.manifest(image, image.manifest.digest).status == 502


def test_the_end_of_the_server_ends_its_pulls(store, registry, image):
    stall = registry.inject(f"*/blobs/{image.layers[1].digest}", faults.stall(after=1000))
    mirror = Mirror(store, registry)
    with mirror.server:
        mirror.manifest(image)
        stall.wait_reached()

    assert store.view("in_flight") == [] or all(row["owner"] is None for row in store.view("in_flight"))
    assert threading.active_count() < 50
    stall.release()


@pytest.mark.parametrize("upstream", ["", "nowhere", "docker.io/library", "a b.c"])
def test_what_is_no_registry_is_not_mirrored(upstream, store):
    with pytest.raises(InvalidReference):
        ImageServer(store, pull_through=[upstream])


def test_another_store_pulls_through(mirror, image, open_store, tmp_path, registry, wait_until):
    other = open_store(tmp_path / "other")

    status = other.pull_image(f"{mirror.server.host}/team/app:1")

    assert status.image_id == image.image_id
    kept(mirror.store, image.reference, wait_until)
    for blob in (image.config, *image.layers):
        assert mirror.asked("GET", f"*/blobs/{blob.digest}") == 1


def test_a_part_that_has_not_come_yet_is_waited_for(mirror, image, registry):
    layer = image.layers[1]
    stall = registry.inject(f"*/blobs/{layer.digest}", faults.stall(after=1000), times=1)
    mirror.manifest(image)
    stall.wait_reached()
    threading.Timer(0.3, stall.release).start()

    got = mirror.blob(image, layer, Range="bytes=150000-150009")

    assert (got.status, got.body) == (206, layer.raw[150_000:150_010])
    assert mirror.asked("GET", f"*/blobs/{layer.digest}") == 1


# ---------------------------------------------------------------------- lists

SIGNATURE, PARTS = "application/vnd.example.signature", "application/spdx+json"


def refer(registry, subject, kind, **annotations):
    """
    An artifact in the repo of *subject* that refers to its manifest.
    """
    return (
        ImageBuilder(registry, subject.repo)
        .artifact(kind)
        .annotate(**annotations)
        .manifest_fields(subject=subject.manifest.descriptor)
        .push()
    )


def onward(got):
    """
    The path of the next page.
    """
    found = got.headers["link"]
    assert found.endswith('>; rel="next"')
    return found[1:].partition(">")[0]


@pytest.fixture
def tagged(registry, image):
    """
    A repo of five tags at the registry.
    """
    for tag in ("2", "3", "4", "5"):
        registry.add_manifest(image.repo, image.manifest.raw, image.manifest.media_type, [tag])
    return image


def test_tags_are_listed_as_the_registry_has_them(mirror, store, tagged, registry):
    path = f"/v2/team/app/tags/list?ns={registry.host}"

    got = mirror.get(path)

    assert (got.status, got.json) == (200, {"name": "team/app", "tags": ["1", "2", "3", "4", "5"]})
    store.pull_image(tagged.reference)
    assert mirror.get(path).json["tags"] == ["1", "2", "3", "4", "5"]
    assert mirror.get(path, "HEAD").status == 200


def test_tags_come_page_by_page_each_with_one_question(mirror, tagged, registry):
    got = mirror.get(f"/v2/team/app/tags/list?n=2&ns={registry.host}")
    pages = [got.json["tags"]]
    while "link" in got.headers:
        got = mirror.get(onward(got))
        pages.append(got.json["tags"])

    assert pages == [["1", "2"], ["3", "4"], ["5"]]
    assert mirror.asked("GET", "*/tags/list") == 3
    assert mirror.get(f"/v2/team/app/tags/list?last=4&ns={registry.host}").json["tags"] == ["5"]
    nothing = mirror.get(f"/v2/team/app/tags/list?n=0&ns={registry.host}")
    assert (nothing.json["tags"], "link" in nothing.headers) == ([], False)
    assert mirror.get(f"/v2/team/app/tags/list?n=x&ns={registry.host}").codes == ["PAGINATION_NUMBER_INVALID"]


def test_a_registry_may_say_in_its_own_words_where_the_next_page_begins(mirror, store, tagged, registry):
    """
    Some have a token for it. It comes back to them as it was, and from nobody else can that page be had.
    """
    link = {"Link": '</v2/elsewhere/tags/list?token=a%2Fb%26c&n=1>; rel="next"'}
    registry.inject("*/tags/list", faults.answer(b'{"tags": ["1"]}', headers=link), times=1)
    store.pull_image(tagged.reference)

    got = mirror.get(f"/v2/team/app/tags/list?n=1&ns={registry.host}")
    mirror.get(onward(got))

    last = registry.asked[-1]
    assert (last.path, last.query) == ("/v2/team/app/tags/list", {"token": ["a/b&c"], "n": ["1"]})
    registry.inject("*", faults.status(503))
    assert mirror.get(onward(got)).status == 502


def test_what_refers_to_an_image_is_listed_as_the_registry_has_it(mirror, registry):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
    signature, parts = (refer(registry, image, kind, by=kind) for kind in (SIGNATURE, PARTS))
    registry.inject("*/referrers/*", faults.referrers(page_size=1))
    path = f"/v2/app/referrers/{image.manifest.digest}?ns={registry.host}"

    got = mirror.get(path)

    assert (got.status, got.headers["content-type"]) == (200, OCI_INDEX)
    assert [each["digest"] for each in got.json["manifests"]] == [
        each.manifest.digest for each in (signature, parts)
    ]
    assert got.json["manifests"][0] == signature.manifest.descriptor | {
        "artifactType": SIGNATURE,
        "annotations": {"by": SIGNATURE},
    }
    chosen = mirror.get(f"{path}&artifactType={quote(PARTS)}")
    assert [each["artifactType"] for each in chosen.json["manifests"]] == [PARTS]
    assert chosen.headers["oci-filters-applied"] == "artifactType"
    # And what is listed can be had.
    assert mirror.manifest(signature, signature.manifest.digest).body == signature.manifest.raw


def test_a_list_of_what_refers_to_an_image_is_no_longer_than_a_manifest(mirror, registry):
    image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
    made = [refer(registry, image, SIGNATURE, number=str(n), filler="x" * 900_000) for n in range(6)]
    registry.inject("*/referrers/*", faults.referrers(page_size=2))

    got = mirror.get(f"/v2/app/referrers/{image.manifest.digest}?ns={registry.host}")
    pages = [got.json["manifests"]]
    assert len(got.body) <= 4 * 1024**2
    while "link" in got.headers:
        got = mirror.get(onward(got))
        pages.append(got.json["manifests"])

    assert [len(each) for each in pages] == [4, 2]
    assert [each["digest"] for page in pages for each in page] == [each.manifest.digest for each in made]


def test_where_the_registry_is_down_what_is_here_is_listed(mirror, store, tagged, registry):
    signature = refer(registry, tagged, SIGNATURE)
    store.pull_image(tagged.reference)
    store.pull_image(signature.repo_digest)
    registry.inject("*", faults.status(503))
    tags = f"/v2/team/app/tags/list?ns={registry.host}"
    referrers = f"/v2/team/app/referrers/{tagged.manifest.digest}?ns={registry.host}"

    assert mirror.get(tags).json["tags"] == ["1"]
    asked = len(registry.requests)
    assert [each["digest"] for each in mirror.get(referrers).json["manifests"]] == [signature.manifest.digest]
    assert mirror.get(tags).json["tags"] == ["1"]
    assert len(registry.requests) == asked, "it is not asked again at once"
    assert mirror.get(f"/v2/other/tags/list?ns={registry.host}").status == 502
    assert mirror.get(f"/v2/other/referrers/{tagged.manifest.digest}?ns={registry.host}").status == 502


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.status(404, "NAME_UNKNOWN"), 404),
        (faults.status(403, "DENIED", "not you"), 404),
        (faults.answer(b'{"tags": "all"}'), 502),
        (faults.answer(b'{"tags": ["../x"]}'), 502),
        (faults.answer(b"[" * 100_000), 502),
        (faults.answer(b'{"tags": null}'), 200),
        (faults.answer(b'{"tags": ["' + b"x" * (5 << 20) + b'"]}'), 502),
        (faults.answer(b'{"tags": []}', headers={"Link": f'</x?last={"y" * 9000}>; rel="next"'}), 502),
        (faults.status(405, "UNSUPPORTED"), 404),
    ],
    ids=["unknown", "denied", "no list", "no tags", "deep", "null", "long", "long link", "no such API"],
)
def test_a_list_that_is_no_list_is_an_error_of_its_own(fault, status, mirror, registry):
    registry.inject("*", fault)

    got = mirror.get(f"/v2/team/app/tags/list?ns={registry.host}")

    assert got.status == status
    assert "not you" not in got.body.decode()
    if status != 200:
        assert got.codes == ["NAME_UNKNOWN" if status == 404 else "UNKNOWN"]


def test_a_registry_that_lists_no_tags_leaves_those_that_are_here(mirror, store, tagged, registry):
    store.pull_image(tagged.reference)
    registry.inject("*/tags/list", faults.status(405, "UNSUPPORTED"))

    assert mirror.get(f"/v2/team/app/tags/list?ns={registry.host}").json["tags"] == ["1"]
