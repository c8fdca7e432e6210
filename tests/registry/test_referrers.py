"""
What refers to an image: listed by its registry, and pulled.
"""

from __future__ import annotations

import threading

import pytest

from support import registry as faults
from support.images import OCI_INDEX, OCI_MANIFEST, ImageBuilder, json_of, push_index
from support.registry import FaultRegistry
from ullage import (
    AuthConfig,
    ContentError,
    ImageNotFound,
    InvalidManifest,
    Platform,
    PullCancelled,
    PullPolicy,
    RegistryClient,
    RegistryUnavailable,
    SimulatedRegistry,
    StorageLimitExceeded,
    UnsupportedContent,
)
from ullage.digest import Digest
from ullage.reference import Reference
from ullage.registry.referrers import MAX_REFERRERS, tag_of

SIGNATURE, PARTS = "application/vnd.example.signature", "application/spdx+json"


def refer(registry, subject, kind=SIGNATURE, content=b"signed", **annotations):
    """
    An artifact of one layer that refers to the manifest of *subject*.
    """
    return (
        ImageBuilder(registry, "app")
        .artifact(kind)
        .raw_layer(content, media_type=kind)
        .annotate(**annotations)
        .manifest_fields(subject=subject.descriptor)
        .push()
    )


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")


@pytest.fixture
def api(registry):
    """
    The registry knows the referrers API.
    """
    return registry.inject("*/referrers/*", faults.referrers())


def seen(found):
    return [(each.digest, each.artifact_type, each.subject) for each in found]


# ---------------------------------------------------------------------- listing


def test_what_refers_to_an_image_is_listed_with_what_its_registry_says(store, registry, image, api):
    signature = refer(registry, image.manifest, by="alice")
    store.pull_image(image.reference)

    (found,) = store.referrers(image.reference)

    assert found.reference == f"{image.name}@{signature.digest}"
    assert (found.digest, found.media_type, found.size) == (
        signature.digest,
        OCI_MANIFEST,
        signature.manifest.size,
    )
    assert (found.artifact_type, found.subject) == (SIGNATURE, image.digest)
    assert dict(found.annotations) == {"by": "alice"}
    assert found.image_id is None
    assert [each.image_id for each in store.list_images()] == [image.image_id], "it is only listed"


def test_an_image_that_is_not_here_can_be_asked_about(store, registry, image, api):
    signature = refer(registry, image.manifest)

    assert seen(store.referrers(image.reference)) == [(signature.digest, SIGNATURE, image.digest)]
    assert store.list_images() == []


def test_index_and_manifest_are_both_asked_about(store, registry, api):
    here = str(Platform.of_host().normalised())
    (image,) = push_index(
        registry, "app", [ImageBuilder(registry, "app", platform=here).layer({"a": b"a"})], "1"
    )
    of_index, of_manifest = refer(registry, image.index), refer(registry, image.manifest)

    before = store.referrers(image.reference)
    status = store.pull_image(image.reference)

    expected = [
        (of_index.digest, SIGNATURE, image.index.digest),
        (of_manifest.digest, SIGNATURE, image.manifest.digest),
    ]
    assert seen(before) == expected
    assert seen(store.referrers(image.reference)) == expected
    assert seen(store.referrers(status.id)) == expected, "by its id, where its digests lead to"


def test_an_image_whose_tag_moved_is_asked_about_as_it_is_here(store, registry, image, api):
    signature = refer(registry, image.manifest)
    store.pull_image(image.reference)
    ImageBuilder(registry, "app").layer({"a": b"b"}).push("1")

    assert [each.digest for each in store.referrers(image.reference)] == [signature.digest]


@pytest.mark.parametrize("filters", [True, False])
def test_one_type_is_listed_whoever_filters(filters, store, registry, image):
    registry.inject("*/referrers/*", faults.referrers(filters=filters))
    refer(registry, image.manifest)
    parts = refer(registry, image.manifest, PARTS)

    found = store.referrers(image.reference, artifact_type=PARTS)

    assert [each.digest for each in found] == [parts.digest]
    asked = next(each for each in registry.asked if "/referrers/" in each.path)
    assert asked.query == {"artifactType": [PARTS]}


@pytest.mark.parametrize("artifact_type", ["", SIGNATURE])
def test_a_long_list_comes_in_pages(artifact_type, store, registry, image):
    registry.inject("*/referrers/*", faults.referrers(page_size=2))
    pushed = {refer(registry, image.manifest, content=b"%d" % number).digest for number in range(5)}

    found = store.referrers(image.reference, artifact_type=artifact_type)

    assert {each.digest for each in found} == pushed
    assert registry.count("GET", "*/referrers/*") == 3


def test_the_next_page_is_asked_for_at_the_registry_whatever_it_says(store, registry, image, api):
    with FaultRegistry() as victim:
        link = f'<{victim.url}/v2/app/referrers/x?start=1>; rel="next"'
        empty = json_of({"schemaVersion": 2, "manifests": []})
        registry.inject(
            "*/referrers/*", faults.answer(empty, headers={"Content-Type": OCI_INDEX, "Link": link}), times=1
        )

        assert store.referrers(image.reference) == []

        assert victim.asked == []
    assert [dict(each.query) for each in registry.asked if "/referrers/" in each.path] == [
        {},
        {"start": ["1"]},
    ]


@pytest.mark.parametrize(
    "unknown",
    [
        faults.status(404, "NOT_FOUND"),
        faults.status(405),
        faults.answer(b"<html>", headers={"Content-Type": "text/html"}),
    ],
)
def test_a_registry_without_the_api_is_asked_for_the_tag(unknown, store, registry, image):
    registry.inject("*/referrers/*", unknown)
    signature, parts = refer(registry, image.manifest), refer(registry, image.manifest, PARTS)
    assert store.referrers(image.reference) == []
    entries = [
        each.manifest.descriptor | {"artifactType": kind}
        for each, kind in ((signature, SIGNATURE), (parts, PARTS))
    ]
    tag = image.digest.replace(":", "-")
    raw = json_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    registry.add_manifest("app", raw, OCI_INDEX, [tag])

    assert {each.digest for each in store.referrers(image.reference)} == {signature.digest, parts.digest}
    assert [each.digest for each in store.referrers(image.reference, artifact_type=PARTS)] == [parts.digest]


def test_a_tag_that_is_no_list_is_refused(store, registry, image):
    registry.inject("*/referrers/*", faults.status(404))
    registry.add_manifest("app", image.manifest.raw, OCI_MANIFEST, [image.digest.replace(":", "-")])

    with pytest.raises(InvalidManifest, match="is no index"):
        store.referrers(image.reference)


@pytest.mark.parametrize(
    ("digest", "tag"),
    [
        (f"sha256:{'ab' * 32}", f"sha256-{'ab' * 32}"),
        (f"sha512:{'ab' * 64}", f"sha512-{'ab' * 32}"),
    ],
)
def test_the_tag_is_the_specifications(digest, tag):
    assert tag_of(Digest(digest)) == tag


def test_a_list_without_end_is_refused(store, registry, image):
    """
    Neither pages for ever nor one long one.
    """
    store.pull_image(image.reference)
    empty = json_of({"schemaVersion": 2, "manifests": []})
    onward = {"Content-Type": OCI_INDEX, "Link": '<?start=1>; rel="next"'}
    registry.inject("*/referrers/*", faults.answer(empty, headers=onward))
    with pytest.raises(ContentError, match="more than 100 pages"):
        store.referrers(image.reference)
    assert registry.count("GET", "*/referrers/*") == 100

    many = [
        {"mediaType": OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 2}
        for number in range(MAX_REFERRERS + 1)
    ]
    registry.inject(
        "*/referrers/*",
        faults.answer(json_of({"manifests": many}), headers={"Content-Type": OCI_INDEX}),
    )
    with pytest.raises(ContentError, match="more than 1000"):
        store.referrers(image.reference)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.status(503, headers={"Retry-After": "600"}), RegistryUnavailable),
        (faults.answer(b"[]", headers={"Content-Type": OCI_INDEX}), InvalidManifest),
        (faults.answer(b'{"manifests": [{}]}', headers={"Content-Type": OCI_INDEX}), InvalidManifest),
        (faults.answer(b" " * 5_000_000, headers={"Content-Type": OCI_INDEX}), InvalidManifest),
    ],
)
def test_a_list_that_is_none_is_a_typed_error(fault, expected, store, registry, image):
    registry.inject("*/referrers/*", fault)

    with pytest.raises(expected):
        store.referrers(image.reference)


def test_what_has_no_registry_to_ask_says_so(store, registry, image, open_store, tmp_path):
    store.register_image("elsewhere:1", size=5)
    with pytest.raises(ImageNotFound, match="not kept here"):
        store.referrers("elsewhere:1")
    with pytest.raises(ImageNotFound, match="no such image"):
        store.referrers(99)
    status = store.pull_image(image.reference)
    store.untag_image(image.reference)
    store.untag_image(image.repo_digest)
    with pytest.raises(ImageNotFound, match="no name that says which registry"):
        store.referrers(status.id)
    simulated = open_store(tmp_path / "simulated", registry=SimulatedRegistry())
    with pytest.raises(UnsupportedContent):
        simulated.referrers("nginx")


def test_a_mirror_is_asked_only_if_it_may(open_store, registry, tmp_path, image):
    """
    One that may not list is passed over; one that does not know the API is too, and the registry's word counts.
    """
    registry.inject("*/referrers/*", faults.referrers())
    signature = refer(registry, image.manifest)
    (tmp_path / "r.example").mkdir()
    with FaultRegistry() as mirror:
        for capabilities, times in (('"pull", "resolve"', 0), ('"pull", "resolve", "referrers"', 1)):
            (tmp_path / "r.example/hosts.toml").write_text(
                f'server = "{registry.url}"\n[host."{mirror.url}"]\ncapabilities = [{capabilities}]\n'
            )
            with RegistryClient(hosts_dir=tmp_path) as client:
                repo = client.repo(Reference.parse("r.example/app:1"))
                found = repo.referrers(image.digest, artifact_type=SIGNATURE)
            assert [each.digest for each in found] == [signature.digest]
            assert mirror.count("GET", "*/referrers/*") == times
        asked = next(each for each in mirror.asked if "/referrers/" in each.path)
        assert asked.query == {"artifactType": [SIGNATURE], "ns": ["r.example"]}


def test_listing_behind_tokens_uses_the_right_to_pull(store):
    with FaultRegistry(auth="token", username="alice", password="wonderland") as registry:
        image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        registry.inject(
            "*/referrers/*",
            lambda hit: hit.registry.guard.refuse(hit.asked, "app") or faults.referrers()(hit),
        )
        signature = refer(registry, image.manifest)
        alice = AuthConfig("alice", "wonderland")

        found = store.referrers(image.reference, auth=alice)

    assert [each.digest for each in found] == [signature.digest]


# ---------------------------------------------------------------------- pulling


def test_what_refers_to_an_image_is_pulled_as_images_of_their_own(store, registry, image, api):
    signature, parts = refer(registry, image.manifest), refer(registry, image.manifest, PARTS, b"parts")
    of_parts = refer(registry, parts.manifest, content=b"signed too")

    status = store.pull_image(image.reference, with_referrers=True)

    names = {f"{image.name}@{each.digest}" for each in (signature, parts, of_parts)}
    assert status.image_id == image.image_id
    others = [each for each in store.list_images() if each.id != status.id]
    assert {each.repo_digests for each in others} == {(name,) for name in names}
    assert {each.repo_tags for each in others} == {()}
    for each in store.referrers(image.reference, follow=True):
        assert each.image_id == store.image_status_by_ref(each.reference).image_id
        assert store.manifest(each.reference).subject.digest == each.subject

    store.remove_image(image.reference)
    assert len(store.list_images()) == 3, "they are removed by themselves"
    for name in names:
        store.remove_image(name)
    assert store.usage().used_bytes == 0


def test_a_second_pull_asks_only_what_there_is(store, registry, image, api):
    refer(registry, image.manifest)
    store.pull_image(image.reference, with_referrers=True)
    registry.requests.clear()

    again = store.pull_referrers(image.reference)

    assert len(again) == 1
    assert registry.count("GET", "*/referrers/*") == len(registry.requests) == 2, (
        "of it, and of what refers to it"
    )


def test_only_three_deep_are_followed(store, registry, image, api):
    chain = [image.manifest]
    for number in range(5):
        chain.append(refer(registry, chain[-1], content=b"%d" % number).manifest)

    pulled = store.pull_referrers(image.reference)

    assert [each.image_id for each in pulled] == [each.digest for each in chain[1:4]]


def test_what_refers_in_a_circle_is_pulled_once(store, registry, image):
    signature = refer(registry, image.manifest)
    entries = [signature.manifest.descriptor, image.manifest.descriptor]
    raw = json_of({"schemaVersion": 2, "manifests": entries})
    registry.inject("*/referrers/*", faults.answer(raw, headers={"Content-Type": OCI_INDEX}))

    assert len(store.pull_referrers(image.reference)) == 1
    assert registry.count("GET", "*/referrers/*") == 2


def test_what_refers_to_something_else_is_refused(store, registry, image):
    """
    A registry may list what it likes; what it lists has to bear it out.
    """
    other = ImageBuilder(registry, "app").layer({"a": b"other"}).push()
    raw = json_of({"schemaVersion": 2, "manifests": [other.manifest.descriptor]})
    registry.inject("*/referrers/*", faults.answer(raw, headers={"Content-Type": OCI_INDEX}))

    with pytest.raises(InvalidManifest, match=f"does not refer to {image.digest}"):
        store.pull_image(image.reference, with_referrers=True)

    assert [each.image_id for each in store.list_images()] == [image.image_id]


def test_more_than_a_hundred_are_not_followed(store, registry, image, api):
    for number in range(101):
        refer(registry, image.manifest, content=b"%d" % number)

    with pytest.raises(ContentError, match="more than 100 artifacts"):
        store.pull_image(image.reference, with_referrers=True)

    assert len(store.list_images()) == 1
    assert len(store.referrers(image.reference)) == 101, "listed they are"


def test_one_that_does_not_fit_leaves_those_before_it(open_store, registry, image):
    registry.inject("*/referrers/*", faults.referrers())
    small = refer(registry, image.manifest)
    refer(registry, image.manifest, PARTS, b"x" * 100_000)
    store = open_store(max_storage=image.size + 10_000)

    with pytest.raises(StorageLimitExceeded):
        store.pull_image(image.reference, with_referrers=True)

    assert store.image_status_by_ref(f"{image.name}@{small.digest}") is not None
    assert len(store.list_images()) == 2


def test_a_pull_that_is_cancelled_or_may_not_ask_pulls_none(store, registry, image, api):
    refer(registry, image.manifest)
    store.pull_image(image.reference)
    cancel = threading.Event()
    cancel.set()

    with pytest.raises(PullCancelled):
        store.pull_referrers(image.reference, cancel=cancel)
    with pytest.raises(PullCancelled):
        store.pull_referrers(image.reference, timeout=0)
    with pytest.raises(ValueError, match="the policy forbids it"):
        store.pull_image(image.reference, policy=PullPolicy.NEVER, with_referrers=True)

    assert len(store.list_images()) == 1
