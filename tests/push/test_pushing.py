"""
An image brought to a registry: what is sent, what is not, and what it is there.
"""

from __future__ import annotations

import json
import threading

import pytest

from support import registry as faults
from support.images import OCI_INDEX, OCI_MANIFEST, ImageBuilder, push_index
from support.pushes import PushRegistry
from ullage import (
    AccessDenied,
    AuthConfig,
    AuthenticationFailed,
    ImageInUse,
    ImageNotFound,
    NoMatchingPlatform,
    PushCancelled,
    PushFailed,
    RegistryUnavailable,
    StoreCorrupt,
)


def content_bytes(image):
    return image.config.size + sum(layer.size for layer in image.layers)


def test_an_image_is_there_as_it_is_here(store, pulled, there):
    pushed = store.push_image(pulled.reference, f"{there.host}/org/copy:2")

    assert there.manifest("org/copy", "2") == (pulled.manifest.raw, OCI_MANIFEST)
    assert all(there.has("org/copy", blob.digest) for blob in (pulled.config, *pulled.layers))
    assert pushed.digest == pulled.manifest.digest
    assert pushed.repo_digest == f"{there.host}/org/copy@{pulled.manifest.digest}"
    assert (pushed.sent_blobs, pushed.sent_bytes) == (3, content_bytes(pulled))
    assert there.uploaded == content_bytes(pulled)
    assert there.open_uploads == 0


def test_what_was_pushed_can_be_pulled(store, pulled, there, open_store, tmp_path):
    store.push_image(pulled.reference, f"{there.host}/org/copy:2")
    other = open_store(tmp_path / "other")

    status = other.pull_image(f"{there.host}/org/copy:2")

    assert status.image_id == pulled.image_id
    assert status.repo_digests == (f"{there.host}/org/copy@{pulled.manifest.digest}",)


def test_a_second_push_is_one_question(store, pulled, there):
    store.push_image(pulled.reference, f"{there.host}/org/copy:2")
    there.requests.clear()

    pushed = store.push_image(pulled.reference, f"{there.host}/org/copy:2")

    assert [(each.method, each.path) for each in there.requests] == [("HEAD", "/v2/org/copy/manifests/2")]
    assert (pushed.sent_blobs, pushed.present_blobs) == (0, 3)


def test_another_tag_of_what_is_there_is_one_manifest(store, pulled, there):
    store.push_image(pulled.reference, f"{there.host}/org/copy:2")
    there.requests.clear()

    store.push_image(pulled.reference, f"{there.host}/org/copy:3")

    assert [each.method for each in there.requests] == ["HEAD", "HEAD", "PUT"]
    assert there.tags("org/copy") == dict.fromkeys(("2", "3"), pulled.manifest.digest)


def test_a_blob_that_is_there_is_not_sent(store, pulled, there):
    there.add_blob(pulled.layers[1].raw, repo="org/copy")

    pushed = store.push_image(pulled.reference, f"{there.host}/org/copy:2")

    assert there.uploaded == content_bytes(pulled) - pulled.layers[1].size
    assert (pushed.sent_blobs, pushed.present_blobs) == (2, 1)


def test_a_blob_that_another_repo_has_is_mounted(store, pulled, there):
    store.push_image(pulled.reference, f"{there.host}/first:1")
    store.tag_image(pulled.reference, f"{there.host}/first:1")
    before = there.uploaded

    pushed = store.push_image(pulled.reference, f"{there.host}/second:1")

    assert there.uploaded == before
    assert (pushed.sent_blobs, pushed.mounted_blobs) == (0, 3)
    assert all(there.has("second", blob.digest) for blob in (pulled.config, *pulled.layers))


def test_where_a_mount_is_not_granted_the_upload_that_it_began_is_used(store, pulled):
    with PushRegistry(mounts=False) as there:
        store.tag_image(pulled.reference, f"{there.host}/first:1")

        pushed = store.push_image(pulled.reference, f"{there.host}/second:1")

        assert (pushed.sent_blobs, pushed.mounted_blobs) == (3, 0)
        assert there.count("POST") == 3
        assert there.open_uploads == 0


@pytest.mark.parametrize("code", [400, 403, 404, 405])
def test_where_a_mount_is_refused_the_blob_is_sent(code, store, pulled, there):
    store.tag_image(pulled.reference, f"{there.host}/first:1")
    there.inject("*/uploads/", lambda hit: _refused_mount(hit, code), method="POST")

    assert store.push_image(pulled.reference, f"{there.host}/second:1").sent_blobs == 3


def _refused_mount(hit, code):
    return faults.status(code, "DENIED")(hit) if hit.asked.first("mount") else hit.reply()


def test_repos_of_another_registry_are_told_to_nobody(store, pulled, there):
    store.push_image(pulled.reference, f"{there.host}/org/copy:2")

    assert not any("mount" in each.query or "from" in each.query for each in there.asked)


def test_a_tag_of_an_index_is_pushed_as_the_image_that_is_here(store, registry, there):
    image, _ = _two_platforms(registry)
    store.pull_image(image.reference, platform="linux/amd64")

    pushed = store.push_image(image.reference, f"{there.host}/app:1")

    assert (pushed.digest, pushed.media_type) == (image.manifest.digest, OCI_MANIFEST)
    assert there.manifest("app", "1")[0] == image.manifest.raw


def test_an_index_is_pushed_with_all_that_it_names(store, registry, there):
    images = _two_platforms(registry)
    store.pull_image(images[0].reference, platform="all")

    pushed = store.push_image(images[0].reference, f"{there.host}/app:1", platform="all")

    assert (pushed.digest, pushed.media_type) == (images[0].index.digest, OCI_INDEX)
    assert there.manifest("app", "1") == (images[0].index.raw, OCI_INDEX)
    for image in images:
        assert there.manifest("app", image.manifest.digest)[0] == image.manifest.raw
        assert all(there.has("app", layer.digest) for layer in image.layers)
    # The index is what the tag is put on, and it is put last.
    puts = [each.path.rpartition("/")[2] for each in there.requests if each.method == "PUT"]
    assert puts[-1] == "1"
    assert set(puts[-3:-1]) == {each.manifest.digest for each in images}


def test_an_index_of_which_not_all_is_here_is_not_pushed(store, registry, there):
    image, other = _two_platforms(registry)
    store.pull_image(image.reference, platform="linux/amd64")

    with pytest.raises(ImageNotFound, match=other.manifest.digest):
        store.push_image(image.reference, f"{there.host}/app:1", platform="all")

    assert there.requests == []


def test_another_platform_of_the_index_is_pushed(store, registry, there):
    images = _two_platforms(registry)
    store.pull_image(images[0].reference, platform="all")

    pushed = store.push_image(images[0].reference, f"{there.host}/app:arm", platform="linux/arm64")

    assert pushed.digest == images[1].manifest.digest
    with pytest.raises(NoMatchingPlatform):
        store.push_image(images[0].reference, f"{there.host}/app:s390x", platform="linux/s390x")


def _two_platforms(registry):
    builders = [
        ImageBuilder(registry, "app", platform=each).layer({"a": each.encode()})
        for each in ("linux/amd64", "linux/arm64")
    ]
    return push_index(registry, "app", builders, "1")


def test_an_image_is_pushed_by_its_id_and_under_its_digest(store, pulled, there):
    status = store.image_status(pulled.reference)
    store.untag_image(pulled.reference)
    store.untag_image(pulled.repo_digest)

    store.push_image(status.id, f"{there.host}/app@{pulled.manifest.digest}")

    assert there.manifest("app", pulled.manifest.digest)[0] == pulled.manifest.raw
    assert there.tags("app") == {}


def test_an_image_is_not_pushed_under_a_digest_that_it_has_not(store, pulled, there):
    with pytest.raises(PushFailed, match=f"would be {pulled.manifest.digest}"):
        store.push_image(pulled.reference, f"{there.host}/app@sha256:{'0' * 64}")

    assert there.requests == []


def test_what_is_not_here_is_not_pushed(store, there):
    store.register_image("elsewhere:1", size=10)

    for name in ("nothing", "elsewhere:1"):
        with pytest.raises(ImageNotFound):
            store.push_image(name, f"{there.host}/app:1")


def test_an_image_is_held_while_it_is_pushed(store, pulled, there):
    stall = there.inject("*/uploads/*", faults.stall(), method="PUT")
    failures = []

    def push():
        try:
            store.push_image(pulled.reference, f"{there.host}/app:1")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=push)
    thread.start()
    stall.wait_reached()

    with pytest.raises(ImageInUse):
        store.remove_image(pulled.reference)

    there.heal()
    thread.join(20)
    assert failures == []
    store.remove_image(pulled.reference)


def test_a_push_that_is_cancelled_ends_at_once_and_leaves_the_tag(store, pulled, there):
    there.add_manifest("app", b"{}", OCI_MANIFEST, ["1"])
    stall = there.inject("*/uploads/*", faults.stall(), method="PUT")
    cancel = threading.Event()
    threading.Thread(target=lambda: (stall.wait_reached(), cancel.set())).start()

    with pytest.raises(PushCancelled, match="was cancelled"):
        store.push_image(pulled.reference, f"{there.host}/app:1", cancel=cancel)

    there.heal()
    assert there.manifest("app", "1")[0] == b"{}"
    with pytest.raises(PushCancelled, match="deadline"):
        store.push_image(pulled.reference, f"{there.host}/app:1", timeout=0.000001)
    store.remove_image(pulled.reference)


def test_progress_tells_what_moves(store, pulled, there):
    there.add_blob(pulled.config.raw, repo="app")
    seen = []

    store.push_image(pulled.reference, f"{there.host}/app:1", on_progress=seen.append)

    last = seen[-1]
    assert last.done_bytes == last.total_bytes == sum(layer.size for layer in pulled.layers)
    assert last.present_bytes == pulled.config.size
    assert last.reference == f"{there.host}/app:1"


def test_a_blob_that_rotted_here_reaches_nobody(store, pulled, there):
    path = store._files.blob_path(pulled.layers[1].digest)
    raw = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))

    with pytest.raises(StoreCorrupt, match="not what its name says"):
        store.push_image(pulled.reference, f"{there.host}/app:1")

    assert not there.has("app", pulled.layers[1].digest)
    assert there.tags("app") == {}
    path.write_bytes(raw)
    path.chmod(0o444)


def test_a_referrer_is_listed_where_the_registry_lists_none(store, registry, image, there):
    subject = {"mediaType": OCI_MANIFEST, "digest": image.manifest.digest, "size": image.manifest.size}
    made = [
        ImageBuilder(registry, "team/app")
        .artifact(f"example/{each}")
        .manifest_fields(subject=subject)
        .push(each)
        for each in ("sbom", "signature")
    ]
    for each in made:
        store.pull_image(each.reference)
        store.push_image(each.reference, f"{there.host}/app:{each.tag}")
        store.push_image(each.reference, f"{there.host}/app:again-{each.tag}")

    raw, media_type = there.manifest("app", image.manifest.digest.replace(":", "-"))

    assert media_type == OCI_INDEX
    assert [each["digest"] for each in json.loads(raw)["manifests"]] == [
        each.manifest.digest for each in made
    ]
    assert [each["artifactType"] for each in json.loads(raw)["manifests"]] == [
        "example/sbom",
        "example/signature",
    ]


def test_a_referrer_is_left_to_a_registry_that_lists_it(store, registry, image):
    subject = {"mediaType": OCI_MANIFEST, "digest": image.manifest.digest, "size": image.manifest.size}
    made = (
        ImageBuilder(registry, "app").artifact("example/sbom").manifest_fields(subject=subject).push("sbom")
    )
    store.pull_image(made.reference)
    with PushRegistry(referrers=True) as there:
        store.push_image(made.reference, f"{there.host}/app:sbom")

        assert there.tags("app") == {"sbom": made.manifest.digest}


# Who may


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_who_may_push_does(auth, store, pulled):
    with PushRegistry(auth=auth, username="alice", password="s3cret") as there:
        credentials = AuthConfig(username="alice", password="s3cret")

        store.push_image(pulled.reference, f"{there.host}/app:1", auth=credentials)

        assert there.manifest("app", "1")[0] == pulled.manifest.raw
        for wrong in (None, AuthConfig(username="alice", password="guess")):
            with pytest.raises(AuthenticationFailed):
                store.push_image(pulled.reference, f"{there.host}/app:2", auth=wrong)


def test_a_token_is_asked_for_pushing_and_for_pulling_what_is_mounted(store, pulled):
    with PushRegistry(auth="token", username="alice", password="s3cret") as there:
        credentials = AuthConfig(username="alice", password="s3cret")
        store.push_image(pulled.reference, f"{there.host}/first:1", auth=credentials)
        assert {scope for each in there.asked for scope in each.query.get("scope", ())} == {
            "repository:first:pull,push"
        }
        store.tag_image(pulled.reference, f"{there.host}/first:1")
        there.asked.clear()

        pushed = store.push_image(pulled.reference, f"{there.host}/second:1", auth=credentials)

        assert pushed.mounted_blobs == 3
        assert {scope for each in there.asked for scope in each.query.get("scope", ())} == {
            "repository:second:pull,push",
            "repository:first:pull",
        }


def test_a_token_that_ends_in_the_middle_is_renewed(store, pulled):
    with PushRegistry(auth="token", username="alice", password="s3cret") as there:
        there.inject("*/uploads/*", lambda hit: (there.guard.revoke(), hit.reply())[1], method="PUT", times=1)

        store.push_image(
            pulled.reference, f"{there.host}/app:1", auth=AuthConfig(username="alice", password="s3cret")
        )

        assert there.manifest("app", "1")[0] == pulled.manifest.raw
        assert there.uploaded == content_bytes(pulled)


# What a registry says


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, PushFailed),
        (401, AuthenticationFailed),
        (403, AccessDenied),
        (404, PushFailed),
        (413, PushFailed),
        (429, RegistryUnavailable),
        (500, RegistryUnavailable),
        (507, PushFailed),
    ],
)
@pytest.mark.parametrize(("method", "pattern"), [("POST", "*/uploads/"), ("PUT", "*/manifests/*")])
def test_each_refusal_has_its_exception_and_the_registrys_own_words(
    code, kind, method, pattern, store, pulled, there
):
    there.inject(pattern, faults.status(code, "QUOTA", "no more for you"), method=method)

    with pytest.raises(kind, match="QUOTA: no more for you") as caught:
        store.push_image(pulled.reference, f"{there.host}/app:1")

    assert caught.value.status == code
    assert caught.value.registry_errors == (("QUOTA", "no more for you"),)
    assert there.tags("app") == {}


def test_a_registry_that_is_down_is_unavailable(store, pulled):
    with pytest.raises(RegistryUnavailable):
        store.push_image(pulled.reference, "127.0.0.1:1/app:1")
