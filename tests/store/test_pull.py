"""
Pulls that go well: what arrives, what it is called, and what was asked of the registry for it.
"""

from __future__ import annotations

import json
import threading

import pytest

from support import registry as faults
from support.images import (
    DOCKER_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_LAYER,
    Blob,
    ImageBuilder,
    json_of,
    push_index,
)
from support.registry import FaultRegistry
from support.store import files_of, query
from support.worker import run_python
from ullage import (
    AuthConfig,
    ImageNotFound,
    ImageSpec,
    Platform,
    PullPolicy,
    PullStatus,
    Reference,
)
from ullage.manifest import MAX_INDEX_DEPTH

HOST = str(Platform.of_host().normalised())
#: Two platforms that no host of ours has.
FOREIGN, OTHER = "linux/s390x", "linux/riscv64"


def builder(registry, name="app", **options):
    return ImageBuilder(registry, name, **options).layer({"etc/name": name.encode()})


@pytest.fixture
def image(registry):
    return builder(registry).layer({"usr/bin/app": b"app"}).config(User="1000:users", Env=["A=1"]).push("1")


def blobs_asked_for(registry):
    return sorted(each.path.rpartition("/")[2] for each in registry.requests if "/blobs/" in each.path)


# ---------------------------------------------------------------------- what arrives


def test_a_first_pull_brings_every_blob_and_the_image_in_one(store, image, registry):
    status = store.pull_image(image.reference)

    assert status.image_id == image.image_id
    assert status.size == image.size
    assert status.repo_tags == (image.reference,)
    assert status.repo_digests == (image.repo_digest,)
    assert status.spec == ImageSpec(image.name, "1")
    assert status.platform == "linux/amd64"
    assert (status.uid, status.username, status.pinned) == (1000, "", False)
    assert store.list_images() == [status]
    assert store.used_storage() == image.size
    assert blobs_asked_for(registry) == sorted([image.config.digest, *(each.digest for each in image.layers)])
    assert registry.count("HEAD") == 0, "what is not here has to be fetched"


def test_what_was_pulled_can_be_read_back(store, image):
    status = store.pull_image(image.reference)

    assert store.manifest(status).raw == image.manifest.raw
    assert store.config(image.reference) == json.loads(image.config.raw)
    for layer in image.layers:
        with store.open_blob(layer.digest) as file:
            assert file.read() == layer.raw


def test_the_config_can_be_asked_for_in_the_shell(store, image, root):
    store.pull_image(image.reference)

    assert query(root, "SELECT json_extract(config, '$.config.Env[0]') FROM images") == [("A=1",)]


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", None, ""),
        ("0", 0, ""),
        ("1002", 1002, ""),
        ("www-data", None, "www-data"),
        ("1003:users", 1003, ""),
        ("www-data:100", None, "www-data"),
    ],
)
def test_the_user_is_a_number_or_a_name(user, uid, username, store, registry):
    image = builder(registry).config(User=user).push("1")

    status = store.pull_image(image.reference)

    assert (status.uid, status.username) == (uid, username)


def test_annotations_of_the_manifest_are_kept(store, registry):
    image = builder(registry).annotate(**{"org.opencontainers.image.title": "schön", "b": ""}).push("1")

    status = store.pull_image(image.reference)

    assert dict(status.annotations) == {"org.opencontainers.image.title": "schön", "b": ""}


def test_a_docker_schema_2_image_is_an_image(store, registry):
    image = builder(registry, docker=True).push("1")

    status = store.pull_image(image.reference)

    assert image.config.media_type == DOCKER_CONFIG
    assert (status.image_id, status.size) == (image.config.digest, image.size)
    assert store.manifest(status).media_type == image.manifest.media_type


def test_content_under_sha512_is_stored_under_sha512(store, registry, root):
    image = builder(registry, algorithm="sha512").push("1")

    status = store.pull_image(image.reference)

    assert status.image_id == image.config.digest
    assert status.image_id.startswith("sha512:")
    stored = {each.rpartition("/")[2] for each in files_of(root, "blobs/sha512")}
    assert stored == {each.digest.encoded for each in (image.config, *image.layers)}


def test_a_layer_that_is_listed_twice_is_fetched_and_charged_once(store, registry):
    image = builder(registry).raw_layer(b"twice").raw_layer(b"once").raw_layer(b"twice").push("1")

    status = store.pull_image(image.reference)

    assert status.size == store.used_storage() == image.size
    assert len(blobs_asked_for(registry)) == 4
    assert [each.digest for each in store.manifest(status).layers] == [each.digest for each in image.layers]


def test_layers_of_no_bytes_are_layers(store, registry):
    image = builder(registry).raw_layer(b"").raw_layer(b"").push("1")

    status = store.pull_image(image.reference)

    with store.open_blob(image.layers[-1].digest) as file:
        assert file.read() == b""
    assert status.size == image.size


def test_an_image_without_layers_is_an_image(store, registry):
    image = ImageBuilder(registry, "app").push("1")

    assert store.pull_image(image.reference).size == image.size


def test_many_layers_arrive_three_at_a_time(store, registry):
    making = builder(registry)
    for number in range(12):
        making.raw_layer(b"layer %d" % number)
    image = making.push("1")
    gates = [registry.inject(f"*/blobs/{each.digest}", faults.stall(0)) for each in image.layers]
    pull = threading.Thread(target=store.pull_image, args=(image.reference,))

    pull.start()
    try:
        at_once = []
        for _ in image.layers:
            at_once.append(_stalled(gates))
            next(gate for gate in gates if gate.hits and not gate.released.is_set()).release()
    finally:
        registry.heal()
        pull.join(10)

    assert max(at_once) == 3
    assert store.image_count() == 1


def _stalled(gates):
    """
    How many requests stall, when no more come: three, or all that are left.
    """
    left = sum(not gate.released.is_set() for gate in gates)
    expected = min(3, left)
    for _ in range(2000):
        stalled = sum(gate.hits > 0 and not gate.released.is_set() for gate in gates)
        if stalled >= expected:
            return stalled
        threading.Event().wait(0.002)
    raise AssertionError("fewer are fetched at once")


# ---------------------------------------------------------------------- artifacts


def test_artifacts_that_share_the_empty_config_are_two_images(store, registry):
    one = ImageBuilder(registry, "app").artifact("application/x.one").raw_layer(b"one").push("1")
    other = ImageBuilder(registry, "app").artifact("application/x.other").raw_layer(b"other").push("2")

    first, second = store.pull_image(one.reference), store.pull_image(other.reference)

    assert one.config.digest == other.config.digest
    assert first.image_id == one.manifest.digest
    assert second.image_id == other.manifest.digest
    assert (first.platform, first.uid, first.username) == (None, None, "")
    assert store.used_storage() == one.size + other.size - one.config.size


def test_an_artifact_may_have_any_config(store, registry):
    image = (
        ImageBuilder(registry, "app")
        .artifact("application/x.model", b"\x00no json", "application/x.model.config")
        .raw_layer(b"weights", media_type="application/x.weights")
        .push("1")
    )

    status = store.pull_image(image.reference)

    assert store.manifest(status).artifact_type == "application/x.model"
    with store.open_blob(image.config.digest) as file:
        assert file.read() == b"\x00no json"


# ---------------------------------------------------------------------- what is here is not fetched


def test_a_second_pull_of_a_known_name_makes_no_request(store, image, registry):
    first = store.pull_image(image.reference)
    registry.requests.clear()

    assert store.pull_image(image.reference) == first
    assert registry.requests == []


def test_always_is_one_head_when_nothing_moved(store, image, registry):
    first = store.pull_image(image.reference)
    registry.requests.clear()

    again = store.pull_image(image.reference, policy=PullPolicy.ALWAYS)

    assert again.id == first.id
    assert [each.method for each in registry.requests] == ["HEAD"]


def test_never_answers_what_is_known_and_asks_nobody(store, image, registry):
    with pytest.raises(ImageNotFound):
        store.pull_image(image.reference, policy=PullPolicy.NEVER)
    assert registry.requests == []
    pulled = store.pull_image(image.reference)
    registry.requests.clear()

    assert store.pull_image(image.reference, policy=PullPolicy.NEVER) == pulled
    assert registry.requests == []


def test_a_tag_that_moved_moves_here_and_the_old_image_keeps_its_digest_reference(store, registry):
    old = builder(registry).push("1")
    first = store.pull_image(old.reference)
    new = builder(registry).layer({"new": b"new"}).push("1")

    second = store.pull_image(new.reference, policy=PullPolicy.ALWAYS)

    assert second.id != first.id
    assert second.repo_tags == (new.reference,)
    assert second.repo_digests == (new.repo_digest,)
    left = store.image_status(first.id)
    assert (left.repo_tags, left.repo_digests) == ((), (old.repo_digest,))
    assert store.image_status_by_ref(new.reference).id == second.id


def test_a_tag_that_moved_back_costs_one_head(store, registry):
    old = builder(registry).push("1")
    first = store.pull_image(old.reference)
    new = builder(registry).layer({"new": b"new"}).push("1")
    store.pull_image(new.reference, policy=PullPolicy.ALWAYS)
    registry.add_manifest("app", old.manifest.raw, old.manifest.media_type, ["1"])
    registry.requests.clear()

    back = store.pull_image(old.reference, policy=PullPolicy.ALWAYS)

    assert back.id == first.id
    assert back.repo_tags == (old.reference,)
    assert [each.method for each in registry.requests] == ["HEAD"]


def test_two_tags_of_one_image_are_one_image_and_the_second_fetches_no_blob(store, registry):
    image = builder(registry).push("1", "latest")
    first = store.pull_image(image.reference)
    registry.requests.clear()

    second = store.pull_image(f"{image.name}:latest")

    assert second.id == first.id
    assert second.repo_tags == (image.reference, f"{image.name}:latest")
    assert second.repo_digests == (image.repo_digest,)
    assert [each.path for each in registry.requests] == ["/v2/app/manifests/latest"]
    assert store.usage().image_count == 1


def test_one_image_in_two_repos_is_one_image_with_a_digest_reference_in_each(store, image, registry):
    store.pull_image(image.reference)
    registry.add_manifest("mirror", image.manifest.raw, image.manifest.media_type, ["2"])
    registry.requests.clear()

    status = store.pull_image(f"{registry.host}/mirror:2")

    assert status.repo_tags == (image.reference, f"{registry.host}/mirror:2")
    assert status.repo_digests == (image.repo_digest, f"{registry.host}/mirror@{image.digest}")
    assert [each.path for each in registry.requests] == ["/v2/mirror/manifests/2"]


def test_a_shared_layer_is_fetched_stored_and_charged_once(store, registry):
    base = {"usr/lib/base": b"base" * 1000}
    one = ImageBuilder(registry, "one").layer(base).layer({"one": b"1"}).push("1")
    two = ImageBuilder(registry, "two").layer(base).layer({"two": b"2"}).push("1")
    shared = one.layers[0]
    assert shared.digest == two.layers[0].digest

    store.pull_image(one.reference)
    second = store.pull_image(two.reference)

    assert registry.count("GET", f"*/blobs/{shared.digest}") == 1
    usage = store.usage()
    assert usage.used_bytes == one.size + two.size - shared.size
    assert usage.logical_bytes == one.size + two.size
    (storage,) = store.image_storage(second)
    assert (storage.shared_bytes, storage.exclusive_bytes) == (shared.size, two.size - shared.size)


def test_two_manifests_of_one_config_are_one_image_of_their_bytes_together(store, registry):
    image = builder(registry).push("1")
    recompressed = (
        ImageBuilder(registry, "app")
        .raw_layer(b"other bytes, same files", diff_id=image.diff_ids[0])
        .push("2")
    )
    assert image.config.digest == recompressed.config.digest

    first = store.pull_image(image.reference)
    second = store.pull_image(recompressed.reference)

    assert first.id == second.id
    assert second.size == image.size + recompressed.manifest.size + recompressed.layers[0].size
    assert second.repo_digests == tuple(sorted((image.repo_digest, recompressed.repo_digest)))


def test_a_reference_keeps_the_manifest_that_it_was_resolved_to(store, registry):
    """
    A hostile manifest may pair a known config with other layers: it must not stand in for the first.
    """
    image = builder(registry).push("1")
    hostile = ImageBuilder(registry, "evil").raw_layer(b"evil", diff_id=image.diff_ids[0]).push("1")
    store.pull_image(image.reference)
    store.pull_image(hostile.reference)

    assert store.manifest(image.reference).digest == image.manifest.digest
    assert store.manifest(image.repo_digest).digest == image.manifest.digest
    assert store.manifest(hostile.reference).digest == hostile.manifest.digest


# ---------------------------------------------------------------------- by digest


def test_a_pull_by_digest_gives_a_digest_reference_and_no_tag(store, image, registry):
    status = store.pull_image(image.repo_digest)

    assert (status.repo_tags, status.repo_digests) == ((), (image.repo_digest,))
    assert status.spec == ImageSpec(image.name, "", image.digest)
    registry.requests.clear()
    assert store.pull_image(image.repo_digest).id == status.id
    assert registry.requests == []


def test_a_name_with_tag_and_digest_is_the_digest(store, image):
    status = store.pull_image(f"{image.name}:9@{image.digest}")

    assert (status.repo_tags, status.repo_digests) == ((), (image.repo_digest,))


def test_a_digest_that_came_with_a_tag_is_known(store, image, registry):
    pulled = store.pull_image(image.reference)
    registry.requests.clear()

    assert store.pull_image(image.repo_digest).id == pulled.id
    assert registry.requests == []


# ---------------------------------------------------------------------- platforms


@pytest.fixture
def platforms(registry):
    """
    One index: this machine's image, and two that it could not run.
    """
    return push_index(
        registry,
        "app",
        [
            builder(registry, platform=FOREIGN).layer({"a": b"foreign"}),
            builder(registry, platform=HOST).layer({"a": b"host"}),
            builder(registry, platform=OTHER).layer({"a": b"other"}),
        ],
        "1",
    )


def test_an_index_leads_to_the_image_of_this_machine(store, platforms):
    host = platforms[1]

    status = store.pull_image(host.reference)

    assert (status.image_id, status.platform) == (host.image_id, HOST)
    assert status.size == host.size, "the index is of it"
    assert status.repo_digests == (f"{host.name}@{host.index.digest}",)


@pytest.mark.parametrize("asked", [FOREIGN, "s390x", Platform("linux", "s390x")], ids=str)
def test_an_index_leads_to_the_platform_that_is_asked_for(asked, store, platforms):
    foreign = platforms[0]

    status = store.pull_image(foreign.reference, platform=asked)

    assert (status.image_id, status.platform) == (foreign.image_id, FOREIGN)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v8", "linux/arm/v7"),
        ("linux/arm64", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/x86_64", "linux/amd64"),
    ],
)
def test_variants_are_chosen_as_the_field_does(asked, chosen, store, registry):
    there = ("linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/amd64")
    images = push_index(registry, "app", [builder(registry, platform=each) for each in there], "1")

    status = store.pull_image(images[0].reference, platform=asked)

    assert status.platform == chosen


def test_a_docker_manifest_list_is_an_index(store, registry):
    images = push_index(
        registry,
        "app",
        [builder(registry, docker=True, platform=each) for each in (FOREIGN, HOST)],
        "1",
        docker=True,
    )

    assert store.pull_image(images[1].reference).image_id == images[1].image_id


def nested(registry, image, depth, tag):
    """
    An index that leads to *image* through *depth* others.
    """
    inner, indexes = image.index, [image.index]
    for _ in range(depth):
        content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner.descriptor]}
        inner = Blob(json_of(content), OCI_INDEX)
        indexes.append(inner)
        registry.add_manifest(image.repo, inner.raw, OCI_INDEX, [tag])
    return indexes


def test_indexes_within_indexes_are_followed_and_kept(store, registry):
    (image,) = push_index(registry, "app", [builder(registry, platform=HOST)])
    indexes = nested(registry, image, MAX_INDEX_DEPTH - 1, "deep")

    status = store.pull_image(f"{image.name}:deep")

    assert status.image_id == image.image_id
    assert status.size == image.size + sum(each.size for each in indexes[1:])
    assert status.repo_digests == (f"{image.name}@{indexes[-1].digest}",)


def test_an_entry_without_a_platform_is_judged_by_its_config(store, registry):
    image = builder(registry, platform=FOREIGN).push()
    content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [image.manifest.descriptor]}
    registry.add_manifest("app", json_of(content), OCI_INDEX, ["1"])

    status = store.pull_image(f"{image.name}:1", platform=FOREIGN)

    assert status.image_id == image.image_id
    assert registry.count("GET", f"*/blobs/{image.config.digest}") == 1, "fetched once, to look and to keep"


def test_a_manifest_that_is_asked_for_by_itself_is_taken_whatever_it_runs_on(store, platforms):
    foreign = platforms[0]

    status = store.pull_image(f"{foreign.name}@{foreign.manifest.digest}")

    assert status.platform == FOREIGN
    assert status.size == foreign.size - foreign.index.size


def test_a_known_reference_is_asked_for_again_when_another_platform_is_wanted(store, platforms, registry):
    foreign, host, _ = platforms
    first = store.pull_image(host.reference)
    registry.requests.clear()

    second = store.pull_image(host.reference, platform=FOREIGN)

    assert second.image_id == foreign.image_id
    assert second.id != first.id
    assert registry.count() > 0
    registry.requests.clear()
    assert store.pull_image(host.reference, platform=FOREIGN).id == second.id
    assert registry.requests == []


def test_the_index_goes_with_the_platform_that_was_pulled_last(store, platforms):
    foreign, host, _ = platforms
    first = store.pull_image(host.reference)
    second = store.pull_image(host.reference, platform=FOREIGN)

    left = store.image_status(first.id)
    assert (left.repo_tags, left.repo_digests) == ((), (f"{host.name}@{host.manifest.digest}",))
    assert second.repo_tags == (host.reference,)
    assert second.repo_digests == (f"{host.name}@{host.index.digest}",)
    assert store.pull_image(host.reference, platform=HOST).id == first.id
    assert store.image_status(second.id).repo_digests == (f"{foreign.name}@{foreign.manifest.digest}",)


def test_going_back_to_a_platform_that_is_here_costs_one_head(store, platforms, registry):
    host = platforms[1]
    first = store.pull_image(host.reference)
    store.pull_image(host.reference, platform=FOREIGN)
    registry.requests.clear()

    assert store.pull_image(host.reference, platform=HOST).id == first.id
    assert [each.method for each in registry.requests] == ["HEAD"]


def test_always_without_a_platform_is_for_this_machine(store, platforms):
    """
    The default platform is this machine's, whatever was asked for the last time.
    """
    host = platforms[1]
    store.pull_image(host.reference, platform=FOREIGN)

    assert store.pull_image(host.reference, policy=PullPolicy.ALWAYS).platform == HOST


def test_platforms_that_differ_in_what_only_the_index_says_are_two(store, registry):
    """
    Windows images differ in their version; a config may say less than its entry does.
    """
    images = [
        builder(registry, platform="windows/amd64").layer({"build": build.encode()}).push()
        for build in ("17763", "20348")
    ]
    entries = [
        image.manifest.descriptor
        | {"platform": {"os": "windows", "architecture": "amd64", "os.version": f"10.0.{build}.1"}}
        for image, build in zip(images, ("17763", "20348"), strict=True)
    ]
    registry.add_manifest("app", json_of({"manifests": entries}), OCI_INDEX, ["1", "2"])
    name, older, newer = images[0].name, "windows(10.0.17763)/amd64", "windows(10.0.20348)/amd64"

    first = store.pull_image(f"{name}:1", platform=older)
    other_tag = store.pull_image(f"{name}:2", platform=newer)
    other_platform = store.pull_image(f"{name}:1", platform=newer)

    assert first.image_id == images[0].image_id
    assert other_tag.image_id == other_platform.image_id == images[1].image_id
    assert store.pull_image(f"{name}:1", platform=newer).id == other_platform.id


def test_a_config_that_was_looked_at_before_the_pull_is_not_fetched_again(store, registry):
    image = builder(registry, platform=FOREIGN).push("1")

    store.pull_image(image.reference, platform=FOREIGN)

    assert registry.count("GET", f"*/blobs/{image.config.digest}") == 1


# ---------------------------------------------------------------------- registries of several kinds


@pytest.mark.parametrize(
    "fault",
    [faults.status(405), faults.headers(docker_content_digest=None), faults.status(404)],
    ids=["no HEAD", "no digest", "404 to HEAD alone"],
)
def test_where_head_is_not_to_be_had_a_get_does(fault, store, image, registry):
    registry.inject("*/manifests/*", fault, method="HEAD")

    status = store.pull_image(image.reference)

    assert status.image_id == image.image_id
    assert status.repo_digests == (image.repo_digest,)
    assert store.pull_image(image.reference, policy=PullPolicy.ALWAYS).id == status.id


@pytest.mark.parametrize("scheme", ["basic", "token"])
def test_a_registry_that_asks_for_credentials_gets_them(scheme, store):
    with FaultRegistry(auth=scheme, username="me", password="secret") as registry:
        image = builder(registry).push("1")

        status = store.pull_image(image.reference, auth=AuthConfig(username="me", password="secret"))

    assert status.image_id == image.image_id


def test_a_token_that_ends_in_the_middle_is_bought_again(store):
    with FaultRegistry(auth="token", password="secret") as registry:
        image = builder(registry).raw_layer(b"more").push("1")

        def revoked(hit):
            registry.guard.revoke()
            return hit.reply()

        registry.inject("*/blobs/*", revoked, times=1)
        status = store.pull_image(image.reference, auth=AuthConfig(username="demo", password="secret"))

        assert registry.count("GET", "/token") == 2
    assert status.image_id == image.image_id


def test_blobs_may_live_on_another_host(store, image, registry):
    with FaultRegistry() as elsewhere:
        for each in (image.config, *image.layers):
            elsewhere.add_blob(each.raw)
            registry.inject(
                f"*/blobs/{each.digest}", faults.redirect(f"{elsewhere.url}/v2/x/blobs/{each.digest}")
            )

        assert store.pull_image(image.reference).size == image.size


def test_bodies_in_chunks_are_bodies(store, image, registry):
    registry.inject("*/blobs/*", faults.chunked())

    assert store.pull_image(image.reference).size == image.size


# ---------------------------------------------------------------------- progress


class Progress:
    """
    Keeps what it is told, and in which thread.
    """

    def __init__(self):
        self.events, self.threads = [], set()

    def __call__(self, event):
        self.events.append(event)
        self.threads.add(threading.get_ident())


def test_progress_goes_up_to_the_total_and_ends_complete(store, registry):
    image = builder(registry).noise_layer(300_000, "a").noise_layer(200_000, "b").push("1")
    progress = Progress()

    store.pull_image(image.reference, on_progress=progress)

    events = progress.events
    assert {each.reference for each in events} == {image.reference}
    assert events[0].status is PullStatus.PENDING
    assert [each.status for each in events if each.status.is_terminal] == [PullStatus.COMPLETE]
    assert events[-1].status is PullStatus.COMPLETE
    assert events[-1].done_bytes == events[-1].total_bytes == image.size
    assert [each.done_bytes for each in events] == sorted(each.done_bytes for each in events)
    assert all(each.done_bytes <= each.total_bytes for each in events)
    sizes = {each.digest: each.size for each in image.blobs}
    assert {each.blob: each.blob_total_bytes for each in events if each.blob} == sizes
    assert all(each.blob_done_bytes <= each.blob_total_bytes for each in events)


def test_progress_comes_in_the_thread_of_the_caller(store, image):
    progress = Progress()

    store.pull_image(image.reference, on_progress=progress)

    assert progress.threads == {threading.get_ident()}


def test_progress_says_what_was_here_already(store, registry):
    base = {"base": b"base" * 1000}
    one = ImageBuilder(registry, "one").layer(base).push("1")
    two = ImageBuilder(registry, "two").layer(base).layer({"two": b"2"}).push("1")
    store.pull_image(one.reference)
    progress = Progress()

    store.pull_image(two.reference, on_progress=progress)

    last, shared = progress.events[-1], two.layers[0].size
    assert last.present_bytes == shared
    assert last.total_bytes == two.size - shared


def test_progress_of_a_pull_that_fails_ends_failed(store, image, registry):
    registry.inject("*/blobs/*", faults.wrong_bytes())
    progress = Progress()

    with pytest.raises(Exception, match="digest mismatch"):
        store.pull_image(image.reference, on_progress=progress)

    assert progress.events[-1].status is PullStatus.FAILED


def test_progress_of_a_known_name_is_none_at_all(store, image):
    store.pull_image(image.reference)
    progress = Progress()

    store.pull_image(image.reference, on_progress=progress)

    assert progress.events == []


def test_the_shell_sees_how_far_a_pull_is(store, registry, root, wait_until):
    image = builder(registry).noise_layer(200_000).push("1")
    stalled = registry.inject(f"*/blobs/{image.layers[1].digest}", faults.stall(100_000))
    pull = threading.Thread(target=store.pull_image, args=(image.reference,))
    pull.start()

    try:
        stalled.wait_reached()
        digest = image.layers[1].digest
        (row,) = wait_until(
            lambda: query(
                root,
                "SELECT reference, status, size, pid FROM in_flight WHERE digest = ? AND received_bytes = 100000",
                digest,
            )
        )
    finally:
        registry.heal()
        pull.join(10)

    assert row[:3] == (image.reference, "downloading", image.layers[1].size)
    assert row[3] > 0


# ---------------------------------------------------------------------- memory

_PULL_AND_MEASURE = """
import resource, sys, tracemalloc
from ullage import ImageService, RegistryClient
root, small, large = sys.argv[1:]
with ImageService.open(root, registry=RegistryClient(plain_http=True)) as store:
    store.pull_image(small)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    store.pull_image(large)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, tracemalloc.get_traced_memory()[1])
"""


def test_memory_stays_flat_whatever_the_layer(root, open_store, registry, tmp_path):
    """
    Measured in a process of its own: this one has the registry in it.
    """
    small = builder(registry).push("1")
    layer_size = 64 << 20
    layer = tmp_path / "layer"
    layer.write_bytes(b"\0" * layer_size)
    digest = registry.add_blob(layer)
    content = json.loads(small.manifest.raw)
    content["layers"].append({"mediaType": OCI_LAYER, "digest": digest, "size": layer_size})
    registry.add_manifest("app", json_of(content), small.manifest.media_type, ["2"])

    measured = run_python(_PULL_AND_MEASURE, root, small.reference, f"{small.name}:2")

    grown_kib, peak_bytes = map(int, measured.split())
    assert peak_bytes < 8 << 20
    assert grown_kib < 24 << 10
    assert open_store().used_storage() > layer_size


# ---------------------------------------------------------------------- names that denote nothing yet


def test_the_empty_descriptor_may_be_config_and_layer_at_once(store, registry):
    image = (
        ImageBuilder(registry, "app")
        .artifact("application/x.signature")
        .raw_layer(b"{}", media_type=OCI_EMPTY)
        .push("1")
    )

    assert store.pull_image(image.reference).size == image.manifest.size + 2


def test_the_name_that_was_typed_is_kept_and_the_normalised_one_is_compared(store, image):
    status = store.pull_image(ImageSpec(image.name, "1"))

    assert status.spec == ImageSpec(image.name, "1")
    assert str(Reference.parse(image.reference)) == status.repo_tags[0]
    assert store.image_status_by_ref(ImageSpec(image.name, "1")).id == status.id
