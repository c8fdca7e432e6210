"""
Digests: the grammar of go-digest, and the hasher that verifies.
"""

import json
from pathlib import Path

import pytest

from ullage.digest import Digest, Hasher, digest_of
from ullage.errors import InvalidReference, UnsupportedContent

VECTORS = json.loads((Path(__file__).parents[1] / "data/vectors/references.json").read_text())


def test_every_digest_of_the_vectors_is_read_or_refused_as_go_digest_does():
    for case in VECTORS["digests"]:
        if "error" in case:
            with pytest.raises(InvalidReference) as caught:
                Digest.parse(case["input"])
            assert caught.value.reference == case["input"]
        else:
            digest = Digest.parse(case["input"])
            assert (digest.algorithm, digest.encoded) == (case["algorithm"], case["encoded"]), case


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        f"sha256:{'a' * 64}\n",
        f"sha256:{'A' * 64}",
        "sha256:" + "\u0661" * 64,
        f"sha256:{'a' * 63}\x00",
        f"sha1:{'a' * 40}",
        f" sha256:{'a' * 64}",
        f"sha512:{'a' * 64}",
        f"sha256:../../{'a' * 58}",
    ],
)
def test_what_is_nearly_a_digest_is_refused(text):
    with pytest.raises(InvalidReference):
        Digest.parse(text)


def test_a_digest_is_a_string_with_two_halves():
    digest = Digest.parse(f"sha512:{'0f' * 64}")

    assert digest == f"sha512:{'0f' * 64}"
    assert (digest.algorithm, digest.encoded, digest.short) == ("sha512", "0f" * 64, "0f0f0f0f0f0f")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_hasher_knows_the_promised_bytes_however_they_are_cut(algorithm):
    hasher = Hasher(digest_of(b"some bytes", algorithm))

    hasher.update(b"some ")
    assert not hasher.matches
    hasher.update(memoryview(b"bytes"))

    assert hasher.matches
    assert hasher.digest() == hasher.expected


def test_the_hasher_says_what_it_got_instead():
    hasher = Hasher(digest_of(b"promised"))

    hasher.update(b"delivered")

    assert not hasher.matches
    assert hasher.digest() == digest_of(b"delivered")


def test_content_is_not_named_by_sha384():
    digest = Digest.parse(f"sha384:{'a' * 96}")

    with pytest.raises(UnsupportedContent):
        Hasher(digest)
