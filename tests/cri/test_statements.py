"""
What CRI's api.proto, its conformance tests and plain sense ask of an image service, statement by statement.

The numbers are those of the table in docs/kubernetes.md, which names these tests.
"""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.cri import code_of, crowd, runtime
from support.images import ImageBuilder
from support.registry import FaultRegistry, stall, status
from support.store import query, snapshot
from ullage import RegistryClient, SignatureValidationFailed

HEX = "ab" * 32


def keys_of(image):
    """
    All that an image of a listing may be asked by.
    """
    return [image.id, image.id.partition(":")[2], *image.repo_tags, *image.repo_digests]


def test_01_the_status_of_an_absent_image_is_empty_and_no_error(cri):
    answer = cri.status_answer("registry.example/never:1", verbose=True)

    assert not answer.HasField("image")
    assert dict(answer.info) == {}


@pytest.mark.parametrize("key", [f"sha256:{HEX}", HEX, HEX[:12], f"registry.example/never@sha256:{HEX}"])
def test_02_the_status_of_an_absent_id_is_empty_in_every_form(cri, key):
    assert cri.status(key) is None


def test_03_removing_is_idempotent_however_many_do_it_at_once(cri, image):
    cri.remove("registry.example/never:1")
    cri.pull(image.reference)

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: cri.remove(image.reference), range(8)))
    cri.remove(image.reference)
    cri.remove(image.image_id)

    assert cri.list() == []


def test_04_removing_by_one_tag_removes_every_name_in_every_repo(cri, registry, image):
    with FaultRegistry() as other:
        elsewhere = (
            ImageBuilder(other, "copy/app").layer({"etc/motd": b"hello"}).noise_layer(2000).push("a", "b")
        )
        assert elsewhere.image_id == image.image_id
        for reference in (image.reference, f"{elsewhere.name}:a", f"{elsewhere.name}:b"):
            cri.pull(reference)
    (listed,) = cri.list()
    assert (len(listed.repo_tags), len(listed.repo_digests)) == (3, 2)

    cri.remove(f"{elsewhere.name}:b")

    assert [cri.status(key) for key in keys_of(listed)] == [None] * 7
    assert cri.list() == []


def test_05_what_was_removed_is_nowhere_when_the_removal_returns(cri, root, registry, image):
    kept = ImageBuilder(registry, "kept").noise_layer(3000).push("1")
    cri.pull(kept.reference)
    before = cri.usage()
    cri.pull(image.reference)

    cri.remove(image.reference)

    assert cri.status(image.reference) is None
    assert [each.id for each in cri.list()] == [kept.image_id]
    assert cri.usage() == before
    assert not any((root / "trash").iterdir())


def test_06_a_pinned_image_is_removed_when_asked(serving, image):
    cri = serving(pinned_images=(image.name,))
    cri.pull(image.reference)
    assert cri.status(image.reference).pinned

    cri.remove(image.reference)

    assert cri.list() == []


def test_07_a_pull_a_status_and_a_list_give_the_same_id(cri, registry, image):
    with FaultRegistry() as other:
        elsewhere = ImageBuilder(other, "copy").layer({"etc/motd": b"hello"}).noise_layer(2000).push("x")
        pulled = {cri.pull(each) for each in (image.reference, image.repo_digest, elsewhere.reference)}

    (listed,) = cri.list()
    assert pulled == {listed.id} == {cri.status(image.reference).id} == {image.image_id}


def test_08_names_are_those_it_was_pulled_by(cri, registry):
    tagged = ImageBuilder(registry, "tagged").noise_layer(10, "a").push("v1")
    latest = ImageBuilder(registry, "latest").noise_layer(10, "b").push("latest")
    plain = ImageBuilder(registry, "digest").noise_layer(10, "c").push("v1")
    both = ImageBuilder(registry, "both").noise_layer(10, "d").push("v1")

    cri.pull(tagged.reference)
    cri.pull(latest.name)
    cri.pull(plain.repo_digest)
    cri.pull(f"{both.reference}@{both.digest}")

    assert {each.id: list(each.repo_tags) for each in cri.list()} == {
        tagged.image_id: [f"{tagged.name}:v1"],
        latest.image_id: [f"{latest.name}:latest"],
        plain.image_id: [],
        both.image_id: [],
    }
    assert list(cri.status(plain.repo_digest).repo_digests) == [plain.repo_digest]
    assert list(cri.status(both.repo_digest).repo_digests) == [both.repo_digest]


def test_09_the_status_is_the_equal_message_whatever_it_is_asked_by(cri, registry, image):
    ImageBuilder(registry, "app").layer({"etc/motd": b"hello"}).noise_layer(2000).push("z", "a", "m")
    for tag in ("z", "1", "m", "a"):
        cri.pull(f"{image.name}:{tag}")
    (listed,) = cri.list()

    found = [cri.status(key).SerializeToString(deterministic=True) for key in keys_of(listed)]

    assert set(found) == {listed.SerializeToString(deterministic=True)}
    assert list(listed.repo_tags) == [f"{image.name}:{tag}" for tag in ("1", "a", "m", "z")]


def test_10_three_tags_are_one_image_and_three_images_are_three(cri, registry):
    same = ImageBuilder(registry, "same").noise_layer(10, "s").push("1", "2", "3")
    other = [ImageBuilder(registry, "other").noise_layer(10, str(tag)).push(str(tag)) for tag in (1, 2, 3)]
    for tag in (1, 2, 3):
        cri.pull(f"{same.name}:{tag}")
        cri.pull(f"{other[0].name}:{tag}")

    tags = {each.id: list(each.repo_tags) for each in cri.list()}

    assert tags.pop(same.image_id) == [f"{same.name}:{tag}" for tag in (1, 2, 3)]
    assert tags == {each.image_id: [each.reference] for each in other}


def test_11_an_image_is_visible_when_its_pull_returns_and_gone_when_its_removal_does(cri, image):
    for _ in range(5):
        cri.pull(image.reference)
        assert [each.id for each in cri.list()] == [cri.status(image.reference).id]

        cri.remove(image.reference)
        assert (cri.list(), cri.status(image.reference)) == ([], None)


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("1002", 1002, ""),
        ("0", 0, ""),
        ("www-data", None, "www-data"),
        ("1003:users", 1003, ""),
        ("www-data:100", None, "www-data"),
        ("", None, ""),
    ],
)
def test_12_the_user_is_a_number_or_a_name(cri, registry, user, uid, username):
    pushed = ImageBuilder(registry, "user").noise_layer(10).config(User=user).push("1")
    cri.pull(pushed.reference)

    found = cri.status(pushed.reference)

    assert (found.uid.value if found.HasField("uid") else None) == uid
    assert found.username == username


def test_13_the_size_is_what_its_blobs_take_and_the_rest_is_in_the_verbose_info(cri, root, image):
    cri.pull(image.reference)

    answer = cri.status_answer(image.reference, verbose=True)

    on_disk = sum(path.stat().st_size for path in (root / "blobs").rglob("*") if path.is_file())
    assert answer.image.size == image.size == on_disk
    storage = json.loads(answer.info["storage"])
    assert storage["compressedBytes"] == storage["exclusiveBytes"] == image.size
    assert storage["sharedBytes"] == 0


def test_13_the_size_and_the_usage_have_the_trees_as_du_counts_them(serving, root, registry):
    cri = serving(store_options={"unpack": True})
    one = (
        ImageBuilder(registry, "one")
        .layer({"etc/base": b"b" * 9000})
        .layer({"etc/one": b"1" * 100})
        .push("1")
    )
    two = ImageBuilder(registry, "two").layer({"etc/base": b"b" * 9000}).layer({"etc/two": b"2"}).push("1")

    def du(what):
        trees = (root / "trees" / "sha256").iterdir()
        done = subprocess.run(["du", what, "--summarize", *trees], capture_output=True, text=True, check=True)
        return sum(int(line.split()[0]) for line in done.stdout.splitlines())

    cri.pull(one.reference)
    blocks = du("--block-size=1")
    assert blocks > 9000
    assert cri.status(one.reference).size == cri.list()[0].size == one.size + blocks
    assert cri.usage() == (one.size + blocks, len(one.blobs) + du("--inodes"))

    cri.pull(two.reference)
    blobs = {blob.digest: blob.size for each in (one, two) for blob in each.blobs}
    usage = (sum(blobs.values()) + du("--block-size=1"), len(blobs) + du("--inodes"))
    assert cri.usage() == usage
    storage = json.loads(cri.status_answer(two.reference, verbose=True).info["storage"])
    assert cri.status(two.reference).size == storage["compressedBytes"] + storage["unpackedBytes"]

    cri.remove(two.reference)

    assert cri.usage()[0] == usage[0] - storage["exclusiveBytes"] == one.size + blocks
    assert cri.usage()[1] == len(one.blobs) + du("--inodes")


def test_14_a_deadline_of_a_millisecond_leaves_nothing_visible(cri, root, image, wait_until):
    before = snapshot(root)

    code, _ = code_of(cri.pull, image.reference, timeout=0.001)

    assert code == "DEADLINE_EXCEEDED"
    wait_until(lambda: "ullage_pulls_in_progress 0" in cri.server.metrics.text(cri.service))
    assert cri.list() == []
    wait_until(lambda: snapshot(root).rows == before.rows)


def test_14_a_deadline_in_the_middle_of_a_layer_ends_the_pull_and_keeps_what_is_accounted(
    cri, root, registry, wait_until
):
    big = ImageBuilder(registry, "big").noise_layer(3_000_000).push("1")
    registry.inject(f"*/blobs/{big.layers[0].digest}", stall(after=2_000_000))

    code, _ = code_of(cri.pull, big.reference, timeout=0.7)

    assert code == "DEADLINE_EXCEEDED"
    wait_until(lambda: query(root, "SELECT * FROM leases") == [])
    assert cri.list() == []
    ((received, reserved),) = query(root, "SELECT received_bytes, reserved_bytes FROM ingests")
    assert received == reserved > 0


def test_15_an_unknown_runtime_handler_is_refused_and_a_known_one_is_not(serving, image):
    cri = serving(runtime_handlers=("kata",))

    for call in (cri.pull, cri.status, cri.remove, cri.list):
        assert code_of(call, image.reference, runtime_handler="nobody")[0] == "INVALID_ARGUMENT"
    assert cri.list() == []
    assert cri.pull(image.reference, runtime_handler="kata") == image.image_id
    assert cri.status(image.reference, runtime_handler="kata").id == image.image_id
    assert cri.pull(image.reference, runtime_handler="") == image.image_id


def test_16_a_stream_has_each_image_once_and_no_empty_message(cri, root):
    assert cri.stream() == []
    crowd(root, 1203)

    messages = cri.stream()

    assert all(messages)
    assert len(messages) > 1
    assert [each for images in messages for each in images] == cri.list()
    assert len({each.id for images in messages for each in images}) == 1203


def test_16_a_stream_is_of_one_moment_whatever_happens_while_it_is_read(cri, root):
    there = crowd(root, 3000)
    stream = cri.channel.unary_stream("/runtime.v1.ImageService/StreamImages")(
        runtime("StreamImagesRequest").SerializeToString()
    )
    first = next(stream)

    cri.remove(there[-1])
    cri.service.register_image("registry.example/late:1", size=1)
    rest = list(stream)

    names = [
        name
        for data in (first, *rest)
        for each in type(runtime("StreamImagesResponse")).FromString(data).images
        for name in each.repo_tags
    ]
    assert names == there


def test_17_info_is_empty_unless_asked_for_and_then_it_is_json(cri, image):
    cri.pull(image.reference)

    assert dict(cri.status_answer(image.reference).info) == {}
    info = cri.status_answer(image.reference, verbose=True).info
    assert json.loads(info["info"])["imageSpec"]["rootfs"]["diff_ids"] == list(image.diff_ids)
    assert all(isinstance(json.loads(value), dict) for value in info.values())


def test_18_the_filesystem_is_what_du_says_at_once(cri, root, registry, image):
    def du():
        files = sorted(path for path in (root / "blobs").rglob("*") if path.is_file())
        if not files:
            return 0, 0
        said = subprocess.run(
            ["du", "--apparent-size", "--block-size=1", "--total", *files],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return int(said.splitlines()[-1].split()[0]), len(files)

    shared = ImageBuilder(registry, "shared").layer({"etc/motd": b"hello"}).noise_layer(5000, "x").push("1")
    started = time.time_ns()
    figures = [(cri.usage(), du())]
    for act, name in (
        (cri.pull, image.reference),
        (cri.pull, shared.reference),
        (cri.remove, image.reference),
        (cri.remove, shared.reference),
    ):
        act(name)
        figures.append((cri.usage(), du()))

    assert [said for said, _ in figures] == [true for _, true in figures]
    assert figures[0] == figures[-1] == ((0, 0), (0, 0))
    assert figures[1][0] == (image.size, len(image.blobs))
    answer = cri.fs_info()
    for first in (answer.image_filesystems[0], answer.container_filesystems[0]):
        assert first.timestamp >= started
        assert first.fs_id.mountpoint == str(root)


def test_19_a_filter_leaves_what_it_names_and_an_empty_one_leaves_all(cri, registry):
    a = ImageBuilder(registry, "a").noise_layer(10, "a").push("1", "latest")
    b = ImageBuilder(registry, "b").noise_layer(10, "b").push("1")
    for reference in (a.reference, f"{a.name}:latest", b.reference):
        cri.pull(reference)

    assert len(cri.list()) == len(cri.list("")) == len(cri.stream("")[0]) == 2
    for name in (a.reference, a.name, a.repo_digest, a.image_id, a.image_id[7:19]):
        assert [each.id for each in cri.list(name)] == [a.image_id], name
        assert [each.id for (each,) in cri.stream(name)] == [a.image_id], name
    for absent in (f"{b.name}:2", b.name, f"sha256:{HEX}"):
        assert (cri.list(absent), cri.stream(absent)) == ([], []), absent


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (status(404, "MANIFEST_UNKNOWN"), "NOT_FOUND"),
        (status(401), "UNAUTHENTICATED"),
        (status(403), "PERMISSION_DENIED"),
    ],
)
def test_20_what_the_registry_says_is_the_code(cri, root, registry, image, fault, code):
    before = snapshot(root)
    registry.inject("*/manifests/*", fault)

    assert code_of(cri.pull, image.reference)[0] == code
    assert snapshot(root) == before


def test_20_an_invalid_reference_is_an_invalid_argument(cri):
    for call in (cri.pull, cri.status, cri.remove, cri.list):
        assert code_of(call, "UPPER/Case:::")[0] == "INVALID_ARGUMENT"


def test_20_what_does_not_fit_is_resource_exhausted(serving, open_store, root, image):
    cri = serving(open_store(max_storage=1000))
    before = snapshot(root)

    code, words = code_of(cri.pull, image.reference)

    assert code == "RESOURCE_EXHAUSTED"
    assert words.startswith("storage limit exceeded")
    assert snapshot(root) == before


def test_20_wrong_bytes_are_data_loss(cri, root, registry):
    bad = ImageBuilder(registry, "bad").noise_layer(100).push("1")
    registry._blobs[bad.layers[0].digest] = (b"x" * bad.layers[0].size, bad.layers[0].size)
    before = snapshot(root)

    code, words = code_of(cri.pull, bad.reference)

    assert (code, words.partition(":")[0]) == ("DATA_LOSS", "digest mismatch")
    assert snapshot(root) == before


def test_20_a_registry_that_is_not_there_is_said_with_kubelets_prefix(serving, root):
    cri = serving(store_options={"registry": RegistryClient(plain_http=True, attempts=1)})
    before = snapshot(root)

    code, words = code_of(cri.pull, "127.0.0.1:1/app:1")

    assert code == "UNKNOWN"
    assert words.startswith("RegistryUnavailable: ")
    assert snapshot(root) == before


def test_20_a_policy_that_refuses_is_said_with_kubelets_prefix(serving, root):
    class Suspicious(RegistryClient):
        def repo(self, reference, *, auth=None):
            raise SignatureValidationFailed(f"nobody signed {reference}")

    cri = serving(store_options={"registry": Suspicious()})

    assert code_of(cri.pull, "registry.example/app:1") == (
        "UNKNOWN",
        "SignatureValidationFailed: nobody signed registry.example/app:1",
    )


def test_20_an_index_without_our_platform_is_not_found_and_leaves_nothing(serving, root, registry, image):
    cri = serving(platform="linux/s390x")
    before = snapshot(root)

    assert code_of(cri.pull, image.reference)[0] == "NOT_FOUND"
    assert snapshot(root) == before
    assert cri.list() == []


def test_21_no_name_is_an_error_of_a_pull_alone(cri):
    for data in (b"", runtime("PullImageRequest", image=runtime("ImageSpec")).SerializeToString()):
        assert code_of(cri.raw, "ImageService/PullImage", data)[0] == "INVALID_ARGUMENT"
    assert cri.status("") is None
    assert cri.raw("ImageService/ImageStatus", b"") == b""
    cri.remove("")
    assert cri.raw("ImageService/RemoveImage", b"") == b""


def test_22_credentials_for_another_server_are_not_sent(cri):
    with FaultRegistry(auth="basic", username="u", password="p") as registry:
        image = ImageBuilder(registry, "private").noise_layer(10).push("1")
        elsewhere = {"username": "u", "password": "p", "server_address": "registry.example"}

        assert code_of(cri.pull, image.reference, auth=elsewhere)[0] == "UNAUTHENTICATED"
        assert not any("authorization" in each.headers for each in registry.asked)

        assert cri.pull(image.reference, auth=elsewhere | {"server_address": registry.host}) == image.image_id


def test_23_pulls_at_once_fetch_each_blob_once_across_servers_and_images(serving, registry):
    layer = {"shared": b"s" * 200_000}
    images = [
        ImageBuilder(registry, f"app{number}").layer(layer).noise_layer(1000, str(number)).push("1")
        for number in range(3)
    ]
    clients = [serving(), serving()]

    with ThreadPoolExecutor(12) as executor:
        pulled = list(
            executor.map(
                lambda number: clients[number % 2].pull(images[number % 3].reference, timeout=30), range(12)
            )
        )

    assert set(pulled) == {each.image_id for each in images}
    for blob in {blob.digest for each in images for blob in (each.config, *each.layers)}:
        assert registry.count("GET", f"*/blobs/{blob}") == 1


def test_24_annotations_of_the_image_are_in_its_spec(cri, registry):
    said = {"org.opencontainers.image.title": "title", "key": "ünïcode"}
    pushed = ImageBuilder(registry, "noted").noise_layer(10).annotate(**said).push("1")
    cri.pull(pushed.reference)

    (listed,) = cri.list()

    assert dict(listed.spec.annotations) == dict(cri.status(pushed.reference).spec.annotations) == said
    assert listed.spec.image == pushed.reference


def test_24_what_is_said_of_one_pull_is_not_said_of_the_image(serving, registry):
    cri = serving(runtime_handlers=("kata",))
    pushed = ImageBuilder(registry, "noted").noise_layer(10).annotate(own="own").push("1")
    cri.pull(pushed.reference)
    before = cri.status(pushed.reference)

    cri.pull(
        pushed.reference, annotations={"asked": "x"}, user_specified_image="noted", runtime_handler="kata"
    )

    assert cri.status(pushed.reference) == cri.list()[0] == before
    assert dict(before.spec.annotations) == {"own": "own"}
    assert (before.spec.user_specified_image, before.spec.runtime_handler) == ("", "")
