"""
References: what holds for every text.
"""

from hypothesis import given
from hypothesis import strategies as st

from ullage.digest import Digest
from ullage.errors import InvalidReference
from ullage.platform import Platform
from ullage.reference import (
    _TAG,
    ImageSpec,
    Reference,
    familiar_match,
    parse,
    parse_any,
    parse_normalized,
    sort,
    with_name,
)

COMPONENTS = st.from_regex(r"[a-z0-9]{1,8}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
LABELS = st.from_regex(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,6}[a-zA-Z0-9])?", fullmatch=True)
PORTS = st.sampled_from(["", ":0", ":5000"])
HOSTS = st.one_of(
    st.lists(LABELS, min_size=2, max_size=3).map(".".join),
    st.from_regex(r"\[[a-fA-F0-9:]{0,9}:[a-fA-F0-9:]{0,9}\]", fullmatch=True),
    st.just("localhost"),
)
DOMAINS = st.builds("{}{}".format, HOSTS, PORTS)
TAGS = st.from_regex(_TAG, fullmatch=True)
DIGESTS = st.sampled_from([("sha256", 64), ("sha384", 96), ("sha512", 128)]).flatmap(
    lambda kind: st.text("0123456789abcdef", min_size=kind[1], max_size=kind[1]).map(
        lambda encoded: Digest(f"{kind[0]}:{encoded}")
    )
)
REFERENCES = st.builds(Reference, DOMAINS, PATHS, st.none() | TAGS, st.none() | DIGESTS)
#: Texts made of what means something in a reference, beside those made of anything.
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="aA0/:@._-[]\n sha256%é\x00\ud800", max_size=100),
    st.lists(st.one_of(DOMAINS, PATHS, TAGS, DIGESTS, st.sampled_from("/:@"))).map("".join),
)


@given(REFERENCES)
def test_what_is_printed_is_what_was_parsed(reference):
    assert parse(str(reference)) == reference


@given(REFERENCES)
def test_the_familiar_form_denotes_the_same_and_so_does_the_canonical(reference):
    whole = parse_normalized(str(reference))

    assert parse_normalized(whole.familiar) == whole
    assert parse_normalized(str(whole)) == whole


@given(REFERENCES)
def test_what_rows_hold_is_parsed_as_itself(reference):
    held = Reference.parse(str(reference))

    assert Reference.parse(str(held)) == held
    assert Reference.parse(held.familiar) == held
    assert (held.tag is None) != (held.digest is None)


@given(REFERENCES)
def test_an_image_spec_prints_what_was_typed_and_denotes_the_same(reference):
    typed = str(reference)
    spec = ImageSpec.parse(typed)

    assert spec.reference() == typed or (reference.is_name_only and spec.reference() == f"{typed}:latest")
    assert spec.normalised() == Reference.parse(typed)
    assert ImageSpec.parse(spec.reference()) == spec


@given(TEXTS)
def test_any_text_is_a_reference_or_an_invalid_one(text):
    for function in (parse, parse_normalized, parse_any, with_name, Reference.parse, ImageSpec.parse):
        try:
            found = function(text)
        except InvalidReference as error:
            assert error.reference == text  # noqa: PT017 - most texts raise, and some must not
        else:
            assert found is not None


@given(TEXTS)
def test_a_text_that_is_accepted_has_a_stable_canonical_form(text):
    try:
        held = Reference.parse(text)
    except InvalidReference:
        return

    assert str(held).isascii()
    assert str(held).isprintable()
    assert Reference.parse(str(held)) == held
    assert ImageSpec.parse(text).normalised() == held


@given(TEXTS, TEXTS, TEXTS)
def test_fields_by_hand_make_the_reference_that_they_say_or_none(name, tag, digest):
    try:
        held = ImageSpec(name, tag, digest).normalised()
    except InvalidReference:
        return

    assert held.name == parse_normalized(name + (f":{tag}" if tag else "")).name
    assert held.digest == (digest or None)
    assert held.tag == (None if digest else tag or "latest")


@given(st.lists(TEXTS))
def test_sorting_loses_nothing_and_is_stable(texts):
    once = sort(texts)

    assert len(once) == len(texts)
    assert sort(once) == once


@given(st.text(alphabet="ab/*?[]^-\\", max_size=12), st.text(alphabet="ab/:", max_size=12))
def test_any_pattern_is_a_pattern_or_an_invalid_one(pattern, path):
    try:
        found = familiar_match(pattern, Reference("", path))
    except InvalidReference:
        return

    assert found in (True, False)


@given(st.one_of(st.text(), st.text(alphabet="linuxarm64/()+.%2v78*\n", max_size=40)))
def test_any_text_is_a_platform_or_an_invalid_one(text):
    try:
        platform = Platform.parse(text)
    except InvalidReference as error:
        assert error.reference == text  # noqa: PT017 - most texts raise, and some must not
        return

    normalised = platform.normalised()
    assert normalised.normalised() == normalised
