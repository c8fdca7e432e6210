"""
The eight tests of the seed, under their own names, against the real engine.

What the seed computes (sizes and digests of a simulated image) is computed here once more, from its own text.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ullage import ImageService, ImageSpec, PullFailed, SimulatedRegistry, StorageLimitExceeded

MIB = 1024 * 1024


def seed_size(name: str) -> int:
    return 50 * MIB + len(name) * MIB


def seed_digest(name: str, tag: str) -> str:
    hashed = 0x5381
    for byte in (name + tag).encode():
        hashed = (hashed * 33 + byte) % 2**64
    words = (hashed, hashed ^ 0xFF, hashed * 7 % 2**64, (hashed + 42) % 2**64)
    return "sha256:" + "".join(format(word, "016x") for word in words)


class Ticks:
    """
    A clock that says what it is told: the seed's ticks, as seconds of a day.
    """

    def __init__(self) -> None:
        self.tick = 0

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.tick, UTC)


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def svc(open_store, ticks) -> ImageService:
    return open_store(registry=SimulatedRegistry(), clock=ticks)


@pytest.fixture
def test_spec() -> ImageSpec:
    return ImageSpec("nginx", "latest")


def test_pull_image(svc, test_spec, ticks):
    ticks.tick = 100

    image = svc.pull_image(test_spec)

    assert image.id > 0
    assert svc.image_count() == 1
    assert image.size == seed_size("nginx") == 57671680
    assert image.repo_tags == ("docker.io/library/nginx:latest",)
    assert image.repo_digests == (f"docker.io/library/nginx@{seed_digest('nginx', 'latest')}",)


def test_pull_duplicate_returns_existing(svc, test_spec, ticks):
    ticks.tick = 100
    first = svc.pull_image(test_spec)
    ticks.tick = 200
    second = svc.pull_image(test_spec)

    assert first.id == second.id
    assert svc.image_count() == 1
    assert second.pulled_at == first.pulled_at
    assert second.last_used_at == datetime.fromtimestamp(200, UTC)


def test_image_status(svc, test_spec, ticks):
    ticks.tick = 100
    image = svc.pull_image(test_spec)

    status = svc.image_status(image.id)

    assert status == image
    assert status.spec == test_spec
    assert status.spec.image_name == "nginx"
    assert status.pulled_at == datetime.fromtimestamp(100, UTC)


def test_image_status_by_ref(svc, test_spec):
    svc.pull_image(test_spec)

    status = svc.image_status_by_ref("nginx:latest")

    assert status.spec.tag == "latest"


def test_list_images(svc, test_spec):
    svc.pull_image(test_spec)
    svc.pull_image(ImageSpec("redis", "7"))

    assert len(svc.list_images()) == 2


def test_remove_image(svc, test_spec):
    image = svc.pull_image(test_spec)
    storage_before = svc.used_storage()

    svc.remove_image(image.id)

    assert svc.image_count() == 0
    assert svc.used_storage() < storage_before


def test_remove_image_by_ref(svc, test_spec):
    svc.pull_image(test_spec)

    svc.remove_image_by_ref("nginx:latest")

    assert svc.image_count() == 0


def test_storage_limit(open_store, test_spec):
    svc = open_store(registry=SimulatedRegistry(), max_storage=1024)

    with pytest.raises(StorageLimitExceeded, match=r"^storage limit exceeded") as raised:
        svc.pull_image(test_spec)

    assert isinstance(raised.value, PullFailed)
    assert raised.value.needed_bytes == seed_size("nginx")
    assert raised.value.available_bytes == 1024
    assert svc.image_count() == 0


def test_the_default_limit_is_ten_gibibytes(svc):
    assert svc.available_storage() == 10 * 1024**3 == ImageService.DEFAULT_MAX_STORAGE


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("nginx", "latest"),
        ("redis", "7"),
        ("docker.io/library/nginx", "1.25"),
        ("ghcr.io/org/app", "v1.2.3-rc.1"),
        ("x" * 200, "y" * 128),
    ],
)
def test_sizes_and_digests_are_those_of_the_seed_for_the_name_as_typed(name, tag, svc):
    image = svc.pull_image(ImageSpec(name, tag))

    assert image.size == seed_size(name)
    assert [each.partition("@")[2] for each in image.repo_digests] == [seed_digest(name, tag)]
    assert svc.used_storage() == seed_size(name)


def test_a_plain_string_is_pulled_as_the_spec_that_it_spells(svc):
    image = svc.pull_image("nginx")

    assert image.spec == ImageSpec("nginx", "latest")
    assert svc.pull_image("docker.io/library/nginx:latest").id == image.id


def test_ids_are_not_used_again(svc, test_spec):
    first = svc.pull_image(test_spec).id
    svc.remove_image(first)

    assert svc.pull_image(test_spec).id > first
    assert svc.image_status(first) is None


def test_digests_that_collide_belong_to_two_images(svc):
    """
    The seed's hash knows no boundary between name and tag.
    """
    one, other = svc.pull_image(ImageSpec("nginx", "latest")), svc.pull_image(ImageSpec("nginxl", "atest"))

    assert one.id != other.id
    assert one.repo_digests[0].partition("@")[2] == other.repo_digests[0].partition("@")[2]
