"""
A reference by digest is answered from here for those alone who could have fetched it.
"""

from __future__ import annotations

from support.cri import code_of
from support.images import ImageBuilder
from support.registry import FaultRegistry

ALICE = {"username": "alice", "password": "correct horse"}
BOB = {"username": "bob", "password": "battery staple"}


def test_a_pull_by_digest_asks_the_registry_for_whoever_is_not_on_record(cri):
    with FaultRegistry(auth="basic", username="alice", password="correct horse") as registry:
        image = ImageBuilder(registry, "theirs").noise_layer(100).push("1")
        cri.pull(image.reference, auth=ALICE)
        asked = len(registry.asked)

        assert cri.pull(image.repo_digest, auth=ALICE) == image.image_id
        assert len(registry.asked) == asked, "it is here, and she fetched it"

        for auth in (BOB, None, ALICE | {"server_address": "registry.example"}):
            assert code_of(cri.pull, image.repo_digest, auth=auth)[0] == "UNAUTHENTICATED"
        assert len(registry.asked) > asked

        # As kubelet does it: the image of another pod is no reason to let this one have it.
        registry.guard._username, registry.guard._password = BOB.values()
        assert cri.pull(image.repo_digest, auth=BOB) == image.image_id
        asked = len(registry.asked)
        assert cri.pull(image.repo_digest, auth=BOB) == image.image_id
        assert len(registry.asked) == asked


def test_a_public_image_by_digest_is_anybodys(cri, registry, image):
    cri.pull(image.reference)
    asked = len(registry.asked)

    assert cri.pull(image.repo_digest) == cri.pull(image.repo_digest, auth=BOB) == image.image_id
    assert len(registry.asked) == asked
