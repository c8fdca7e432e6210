"""
Documents: what holds for any bytes.
"""

import json

from hypothesis import assume, given
from hypothesis import strategies as st

from ullage.conformance import validate_document
from ullage.digest import digest_of
from ullage.errors import ImageError, InvalidManifest, NoMatchingPlatform, UnsupportedContent
from ullage.manifest import ACCEPT, Index, Manifest, parse_config, parse_document, select_manifest
from ullage.matcher import ALL, exact, only, only_os, only_strict
from ullage.platform import Platform

DIGEST = digest_of(b"x")
#: Keys and values that mean something, in any place, beside those that mean nothing.
KEYS = st.one_of(
    st.sampled_from(
        (
            *("mediaType", "digest", "size", "config", "layers", "manifests", "platform", "annotations"),
            *("subject", "os", "architecture", "variant", "os.features", "rootfs", "diff_ids", "User"),
            *("data", "urls", "fsLayers"),
        )
    ),
    st.text(max_size=5),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=10),
    st.sampled_from([DIGEST, "sha256:short", "blake3:abc", *ACCEPT, "linux", "amd64", "unknown"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=25,
)
DESCRIPTORS = st.fixed_dictionaries(
    {"digest": st.just(DIGEST), "size": st.just(1)},
    optional={"mediaType": st.sampled_from(ACCEPT), "platform": VALUES, "annotations": VALUES},
)
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "config": DESCRIPTORS,
        "layers": st.lists(DESCRIPTORS | VALUES, max_size=3),
        "manifests": st.lists(DESCRIPTORS, max_size=3),
        "annotations": st.dictionaries(st.text(), st.text(), max_size=2) | VALUES,
        "mediaType": st.sampled_from(ACCEPT) | VALUES,
        "schemaVersion": st.just(2) | VALUES,
    },
)
RAWS = st.one_of(st.binary(), st.one_of(VALUES, LIKELY).map(lambda value: json.dumps(value).encode()))
MEDIA_TYPES = st.sampled_from(ACCEPT) | st.text(max_size=20)
CONFORMANCE_TYPES = st.sampled_from(
    [
        "application/vnd.oci.descriptor.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.layout.header.v1+json",
        *ACCEPT,
    ]
)
WORDS = st.sampled_from(["", "linux", "Linux", "windows", "macos", "amd64", "x86_64", "arm", "arm64", "386"])
VARIANTS = st.sampled_from(["", "v1", "v2", "v5", "v7", "v8", "v8.2", "v9", "v9.1", "8", "v99", "\u0130"])
FEATURES = st.lists(st.sampled_from(["", "a", "b", "win32k"]), max_size=3).map(tuple)
VERSIONS = st.sampled_from(["", "10.0.17763", "10.0.20348.1", "10.0", "x"])
PLATFORMS = st.builds(Platform, WORDS | st.text(max_size=3), WORDS, VARIANTS, VERSIONS, FEATURES)


@given(RAWS, MEDIA_TYPES)
def test_any_bytes_are_a_document_or_say_why_not(raw, media_type):
    try:
        document = parse_document(raw, media_type=media_type)
    except (InvalidManifest, UnsupportedContent) as error:
        assert len(str(error)) < 500  # noqa: PT017 - most bytes raise, and some must not
        return

    assert isinstance(document, (Manifest, Index))
    assert document.raw == raw
    assert document.digest == digest_of(raw)
    str(document).encode()


@given(RAWS)
def test_any_bytes_are_a_config_or_say_why_not(raw):
    try:
        config = parse_config(raw)
    except InvalidManifest:
        return

    assert config.text.encode() == raw
    assert config.uid is None or config.username == ""


@given(RAWS, CONFORMANCE_TYPES)
def test_any_bytes_conform_or_say_why_not(raw, media_type):
    try:
        assert validate_document(media_type, raw) is None
    except (InvalidManifest, UnsupportedContent) as error:
        assert len(str(error)) < 500  # noqa: PT017 - most bytes raise, and some must not


@given(RAWS, MEDIA_TYPES, PLATFORMS, st.lists(RAWS, min_size=1))
def test_choosing_among_any_bytes_ends_in_a_manifest_or_an_error_of_ours(raw, media_type, platform, answers):
    try:
        document = parse_document(raw, media_type=media_type)
    except ImageError:
        return

    try:
        _, found = select_manifest(document, platform, lambda _: answers[0])
    except (InvalidManifest, UnsupportedContent, NoMatchingPlatform):
        pass
    except ImageError as error:
        assert error.exit_code in (21, 22)  # noqa: PT017 - other bytes than were promised
    else:
        assert isinstance(found, Manifest)


@given(PLATFORMS)
def test_normalising_twice_is_normalising_once(platform):
    assert platform.normalised().normalised() == platform.normalised()


@given(PLATFORMS, PLATFORMS)
def test_what_matches_is_preferred_to_what_does_not(host, candidate):
    for matcher_for in (only, only_strict, only_os, exact):
        matcher = matcher_for(host)
        stranger = Platform("nowhere", "none")

        assert not matcher.match(stranger)
        assert (matcher.key(candidate) < matcher.key(stranger)) or not matcher.match(candidate)
    assert ALL.match(candidate)


@given(PLATFORMS)
def test_what_is_stricter_matches_no_more(host):
    candidates = [host, host.normalised(), Platform(host.os, "386"), Platform(host.os, "arm", "v7")]
    own = host.normalised()
    # Of a revision of arm64 that nobody knows, nobody knows what it runs: not even itself.
    assume(own.architecture != "arm64" or own.variant in ("", "v8.2", "v9", "v9.1"))

    for candidate in candidates:
        assert only(host).match(candidate) or not only_strict(host).match(candidate)
