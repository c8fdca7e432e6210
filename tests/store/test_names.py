"""
What an image is found by, and what is done to its names: look up, tag, untag, pin, remove, hold.
"""

from __future__ import annotations

import pytest

from support.images import ImageBuilder
from support.store import files_of, query, snapshot, usage
from support.worker import Refused, Worker
from ullage import (
    ImageAlreadyExists,
    ImageInUse,
    ImageNotFound,
    ImageSpec,
    InvalidReference,
    SimulatedRegistry,
    StoreReadOnly,
)


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"etc/a": b"a"}).push("1")


@pytest.fixture
def other(registry):
    return ImageBuilder(registry, "other").layer({"etc/b": b"b"}).push("1")


@pytest.fixture
def names(open_store):
    """
    A store whose images are numbers in rows: for tests of names alone.
    """
    return open_store(registry=SimulatedRegistry())


# ---------------------------------------------------------------------- looking up


def test_an_image_is_the_same_by_whatever_it_is_found(store, image):
    pulled = store.pull_image(image.reference)
    encoded = pulled.image_id.partition(":")[2]

    for key in (
        pulled.id,
        pulled,
        pulled.image_id,
        encoded,
        encoded[:12],
        encoded[:4],
        pulled.image_id[:20],
        image.reference,
        image.repo_digest,
        f"{image.name}:7@{image.digest}",
        ImageSpec(image.name, "1"),
        ImageSpec(image.name, "", image.digest),
    ):
        assert store.image_status(key) == pulled, key


@pytest.mark.parametrize(
    "typed",
    ["nginx", "nginx:latest", "library/nginx", "docker.io/nginx", "index.docker.io/library/nginx:latest"],
)
def test_the_familiar_name_finds_what_the_normalised_one_does(typed, names):
    pulled = names.pull_image("docker.io/library/nginx:latest")

    assert names.image_status(typed) == names.image_status_by_ref(typed) == pulled


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        2**31,
        2**63 - 1,
        2**63,
        -(2**64),
        2**200,
        "nothing",
        "nothing:1",
        "abcd",
        "sha256:" + "0" * 64,
        "0" * 64,
    ],
)
def test_what_is_not_here_has_no_status(key, names):
    names.pull_image("nginx")

    assert names.image_status(key) is None


@pytest.mark.parametrize("key", ["", "UPPER", "a b", "abc:", "sha256:xyz@", "\n", "é"])
def test_what_names_nothing_is_refused(key, names):
    with pytest.raises(InvalidReference):
        names.image_status(key)
    with pytest.raises(InvalidReference):
        names.remove_image(key, missing_ok=True)


def ambiguous(names):
    """
    Two images whose ids begin alike, and those four digits.
    """
    seen = {}
    for number in range(3000):
        digest = SimulatedRegistry().image_id(ImageSpec(f"x{number}", "1"))
        prefix = digest.encoded[:4]
        if prefix in seen:
            return names.pull_image(f"x{seen[prefix]}:1"), names.pull_image(f"x{number}:1"), prefix
        seen[prefix] = number
    raise AssertionError("a hash without collisions")


def test_a_prefix_of_two_ids_is_ambiguous(names):
    first, second, prefix = ambiguous(names)
    tail = next(at for at in range(4, 64) if first.image_id[7:][at] != second.image_id[7:][at])

    with pytest.raises(InvalidReference, match="ambiguous"):
        names.image_status(prefix)
    with pytest.raises(InvalidReference, match="ambiguous"):
        names.remove_image(prefix)

    assert names.image_status(first.image_id[7 : 7 + tail + 1]).id == first.id
    assert names.image_status(second.image_id[: 7 + tail + 1]).id == second.id
    assert names.image_count() == 2


def test_three_digits_are_a_name_and_no_prefix(names):
    pulled = names.pull_image("nginx")

    assert names.image_status(pulled.image_id[7:10]) is None


def test_a_name_that_is_hex_goes_before_an_id_that_begins_so(names):
    pulled = names.pull_image("nginx")
    digits = pulled.image_id[7:15]
    named = names.pull_image(digits)

    assert names.image_status(digits).id == named.id
    assert names.image_status(pulled.image_id[:15]).id == pulled.id
    names.untag_image(digits)
    assert names.image_status(digits).id == pulled.id


def test_a_name_that_is_a_number_is_no_row(names):
    pulled = names.pull_image("nginx")
    named = names.pull_image(str(pulled.id))

    assert names.image_status(str(pulled.id)).id == named.id
    assert names.image_status(pulled.id).id == pulled.id


def test_listing_is_in_the_order_of_arrival_with_names_sorted(names):
    for name in ("nginx", "alpine", "redis"):
        names.pull_image(name)
    names.tag_image("nginx", "zzz")
    names.tag_image("nginx", "aaa")

    listed = names.list_images()

    assert [each.id for each in listed] == sorted(each.id for each in listed)
    assert [each.spec.image_name for each in listed] == ["nginx", "alpine", "redis"]
    assert listed[0].repo_tags == tuple(
        f"docker.io/library/{each}:latest" for each in ("aaa", "nginx", "zzz")
    )
    assert [names.image_status(each.id) for each in listed] == listed


# ---------------------------------------------------------------------- tag and untag


def test_a_tag_costs_a_row_and_nothing_else(store, image, root, registry):
    pulled = store.pull_image(image.reference)
    used, files = store.used_storage(), files_of(root)
    registry.requests.clear()

    tagged = store.tag_image(image.reference, "mine:2")

    assert tagged.id == pulled.id
    assert tagged.repo_tags == (image.reference, "docker.io/library/mine:2")
    assert tagged.repo_digests == pulled.repo_digests
    assert (store.used_storage(), files_of(root)) == (used, files)
    assert store.pull_image("mine:2").id == pulled.id
    assert registry.requests == []


def test_a_tag_that_is_here_already_changes_nothing(store, image, root):
    store.pull_image(image.reference)
    store.tag_image(image.reference, "mine:2")
    before = snapshot(root)

    store.tag_image(image.reference, "docker.io/library/mine:2")

    assert snapshot(root) == before


def test_a_tag_of_another_image_is_moved_only_when_asked(store, image, other):
    first, second = store.pull_image(image.reference), store.pull_image(other.reference)

    with pytest.raises(ImageAlreadyExists) as raised:
        store.tag_image(other.reference, image.reference)
    assert raised.value.reference == image.reference
    moved = store.tag_image(other.reference, image.reference, move=True)

    assert moved.id == second.id
    assert moved.repo_tags == (image.reference, other.reference)
    assert store.image_status(first.id).repo_tags == ()


@pytest.mark.parametrize(
    "tag", ["", "UPPER", "a:", "x@sha256:" + "0" * 64, "a" * 64, "x" * 2000 + ".com/a:1"]
)
def test_what_is_no_tag_is_refused(tag, names, root):
    names.pull_image("nginx")
    before = snapshot(root)

    with pytest.raises(InvalidReference):
        names.tag_image("nginx", tag)

    assert snapshot(root) == before


def test_a_tag_of_nothing_is_refused(names):
    with pytest.raises(ImageNotFound) as raised:
        names.tag_image("nothing:1", "mine:1")

    assert raised.value.image == "nothing:1"


def test_a_tag_resolves_to_what_its_image_was_named_by(store, image, root):
    store.pull_image(image.reference)
    store.tag_image(image.reference, "mine:1")
    store.tag_image(image.image_id, "mine:2")
    store.tag_image(image.repo_digest, "mine:3")

    rows = query(root, "SELECT DISTINCT digest, manifest_id FROM repo_tags")

    assert len(rows) == 1
    assert rows[0][0] == image.digest


def test_untag_takes_one_name_and_leaves_the_image(store, image):
    pulled = store.pull_image(image.reference)
    store.tag_image(pulled, "mine:1")

    left = store.untag_image(image.reference)

    assert (left.id, left.repo_tags, left.repo_digests) == (
        pulled.id,
        ("docker.io/library/mine:1",),
        (image.repo_digest,),
    )
    assert store.image_status_by_ref(image.reference) is None


def test_an_image_without_a_name_stays_and_is_found_by_its_id(store, image):
    pulled = store.pull_image(image.reference)

    store.untag_image(image.reference)
    nameless = store.untag_image(image.repo_digest)

    assert (nameless.repo_tags, nameless.repo_digests) == ((), ())
    assert store.image_status(pulled.image_id[7:20]).id == pulled.id
    assert store.used_storage() == image.size
    assert store.manifest(pulled.id).digest == image.manifest.digest
    assert store.tag_image(pulled.id, "again:1").repo_tags == ("docker.io/library/again:1",)


def test_untag_of_nothing_is_refused(names):
    with pytest.raises(ImageNotFound):
        names.untag_image("nothing:1")


# ---------------------------------------------------------------------- pin


def test_a_pin_is_seen_and_taken_back(names):
    names.pull_image("nginx")

    assert names.pin_image("nginx").pinned
    assert names.image_status("nginx").pinned
    assert names.pin_image("nginx").pinned
    assert not names.unpin_image("nginx").pinned
    assert not names.image_status("nginx").pinned


def test_a_pinned_image_is_removed_when_somebody_says_so(names):
    names.pull_image("nginx")
    names.pin_image("nginx")

    names.remove_image("nginx")

    assert names.list_images() == []


def test_a_pin_survives_a_second_pull(names):
    names.pull_image("nginx")
    names.pin_image("nginx")

    assert names.pull_image("nginx").pinned


def test_a_pin_of_nothing_is_refused(names):
    for verb in (names.pin_image, names.unpin_image):
        with pytest.raises(ImageNotFound):
            verb("nothing:1")


# ---------------------------------------------------------------------- remove


def keys_of(status, image):
    return {
        "id": status.id,
        "image id": status.image_id,
        "prefix": status.image_id[7:19],
        "tag": image.reference,
        "other tag": "mine:1",
        "digest": image.repo_digest,
        "status": status,
        "spec": ImageSpec("mine", "1"),
    }


@pytest.mark.parametrize("by", ["id", "image id", "prefix", "tag", "other tag", "digest", "status", "spec"])
def test_a_removal_takes_every_name_and_every_byte(by, store, image, root):
    status = store.pull_image(image.reference)
    store.tag_image(status, "mine:1")

    store.remove_image(keys_of(status, image)[by])

    assert store.list_images() == []
    assert store.image_status_by_ref("mine:1") is None
    assert store.image_status_by_ref(image.repo_digest) is None
    assert store.used_storage() == 0
    assert files_of(root) == {}
    assert not any(snapshot(root).rows.values())


def test_a_removal_by_reference_takes_every_name(store, image):
    store.tag_image(store.pull_image(image.reference), "mine:1")

    store.remove_image_by_ref("mine:1")

    assert store.image_status_by_ref(image.reference) is None


def test_a_removal_frees_what_the_image_alone_has(store, registry):
    base = {"base": b"base" * 1000}
    one = ImageBuilder(registry, "one").layer(base).push("1")
    two = ImageBuilder(registry, "two").layer(base).layer({"two": b"2"}).push("1")
    store.pull_image(one.reference)
    status = store.pull_image(two.reference)
    (storage,) = store.image_storage(status)
    before = store.used_storage()

    store.remove_image(status)

    assert before - store.used_storage() == storage.exclusive_bytes
    assert store.used_storage() == one.size
    with store.open_blob(one.layers[0].digest) as file:
        assert file.read() == one.layers[0].raw


def test_a_removed_image_is_pulled_again_from_the_start(store, image, registry):
    first = store.pull_image(image.reference)
    store.remove_image(first)
    registry.requests.clear()

    again = store.pull_image(image.reference)

    assert again.id > first.id
    assert registry.count("GET", "*/blobs/*") == 2


def test_removing_what_is_not_here_is_refused_unless_that_is_all_right(names, root):
    names.pull_image("nginx")
    before = snapshot(root)

    for verb, key in (
        (names.remove_image, 99),
        (names.remove_image, 2**70),
        (names.remove_image, "nothing:1"),
        (names.remove_image_by_ref, "nothing:1"),
        (names.remove_image_by_ref, ImageSpec("nothing", "1")),
    ):
        with pytest.raises(ImageNotFound) as raised:
            verb(key)
        assert isinstance(raised.value, LookupError)
        verb(key, missing_ok=True)

    assert snapshot(root) == before


def test_a_reference_that_is_a_prefix_is_no_reference(names):
    pulled = names.pull_image("nginx")

    assert names.image_status_by_ref(pulled.image_id[7:19]) is None
    with pytest.raises(ImageNotFound):
        names.remove_image_by_ref(pulled.image_id[7:19])


def test_a_removal_while_a_blob_is_read_leaves_the_reader_its_bytes(store, image):
    store.pull_image(image.reference)
    with store.open_blob(image.layers[0].digest) as file:
        store.remove_image(image.reference)

        assert file.read() == image.layers[0].raw
    with pytest.raises(ImageNotFound):
        store.open_blob(image.layers[0].digest)


# ---------------------------------------------------------------------- hold


def test_a_held_image_is_not_removed_and_says_who_holds_it(store, image, root):
    status = store.pull_image(image.reference)
    with store.hold(image.reference) as held:
        assert held.id == status.id
        before = snapshot(root)

        with pytest.raises(ImageInUse) as raised:
            store.remove_image(status)

        assert raised.value.image == status.image_id
        (holder,) = raised.value.holders
        assert "pid" in holder
        assert snapshot(root) == before
        assert query(root, "SELECT id FROM held") == [(status.id,)]

    store.remove_image(status)
    assert store.image_count() == 0


def test_a_hold_of_another_process_holds(store, image, root):
    store.pull_image(image.reference)
    with Worker(root) as worker:
        worker.call("hold", image.reference)

        with pytest.raises(ImageInUse, match=f"pid {worker.pid}"):
            store.remove_image(image.reference)
        worker.call("release")

    store.remove_image(image.reference)


def test_a_hold_ends_with_its_process_however_that_ends(store, image, root):
    store.pull_image(image.reference)
    with Worker(root) as worker:
        worker.call("hold", image.reference)
        worker.kill()

    store.remove_image(image.reference)

    assert store.image_count() == 0


def test_a_hold_ends_when_its_block_raises(store, image):
    store.pull_image(image.reference)

    with pytest.raises(ZeroDivisionError), store.hold(image.reference):
        raise ZeroDivisionError

    store.remove_image(image.reference)


def test_two_holds_are_two(store, image):
    store.pull_image(image.reference)

    with store.hold(image.reference):
        with store.hold(image.reference):
            pass
        with pytest.raises(ImageInUse):
            store.remove_image(image.reference)


def test_a_held_image_keeps_its_names_movable(store, image):
    store.pull_image(image.reference)

    with store.hold(image.reference) as held:
        store.tag_image(held, "mine:1")
        store.untag_image(image.reference)
        store.collect()

        assert store.manifest(held.id).digest == image.manifest.digest


def test_a_hold_of_nothing_is_refused_and_leaves_nothing(store, root):
    with pytest.raises(ImageNotFound), store.hold("nothing:1"):
        raise AssertionError

    assert files_of(root, "leases") == {}
    assert query(root, "SELECT * FROM leases") == []


def test_a_store_that_was_opened_to_look_holds_nothing(open_store, names, root):
    names.pull_image("nginx")
    looking = open_store(read_only=True)

    with pytest.raises(StoreReadOnly), looking.hold("nginx"):
        raise AssertionError

    assert files_of(root, "leases") == {}


def test_a_worker_is_refused_as_we_are(store, image, root):
    store.pull_image(image.reference)

    with store.hold(image.reference), Worker(root) as worker, pytest.raises(Refused) as raised:
        worker.call("remove_image", image.reference)

    assert raised.value.kind == "ImageInUse"
    assert usage(root)["image_count"] == 1


# ---------------------------------------------------------------------- registered images and images with content


def test_an_image_that_is_here_is_not_registered_over(store, image, root):
    pulled = store.pull_image(image.reference)
    before = snapshot(root)

    with pytest.raises(ImageAlreadyExists):
        store.register_image("elsewhere:1", size=1, digest=pulled.image_id)

    assert snapshot(root) == before


def test_a_registered_image_has_no_content_to_read(names):
    names.register_image("elsewhere:1", size=1)

    with pytest.raises(ImageNotFound):
        names.manifest("elsewhere:1")
