"""
References: agreement with github.com/distribution/reference, and what it does not say.
"""

import json
import re
import time
from pathlib import Path

import pytest

from ullage import reference as module
from ullage.digest import Digest
from ullage.errors import InvalidReference
from ullage.reference import (
    ImageSpec,
    Reference,
    familiar_match,
    parse,
    parse_any,
    parse_named,
    parse_normalized,
    sort,
    with_name,
)

VECTORS = json.loads((Path(__file__).parents[1] / "data/vectors/references.json").read_text())
DIGEST = f"sha256:{'e6' * 32}"

#: Inputs on which we differ from Go on purpose. None is among the vectors.
DIFFERENT_ON_PURPOSE = {
    f"{'a' * 4096}.io/b": "the grammar bounds no domain; DNS stops at 253 characters and we at 4,096 in all",
}


def facts(reference):
    if isinstance(reference, Digest):
        return {"string": reference, "digest": reference}
    found = {
        "string": str(reference),
        "name": reference.name,
        "domain": reference.domain,
        "path": reference.path,
        "familiar_name": reference.familiar_name,
        "familiar_string": reference.familiar,
        "is_name_only": reference.is_name_only,
        "tag_name_only": str(reference.with_default_tag()),
        "trim_named": str(reference.name_only),
    }
    if reference.tag is not None:
        found["tag"] = reference.tag
    if reference.digest is not None:
        found["digest"] = reference.digest
    return found


def agrees(function, text, expected):
    """
    The same facts, or the same kind of error, as Go.
    """
    try:
        found = facts(function(text))
    except InvalidReference:
        return "error" in expected
    return all(found.get(key) == value for key, value in expected.items() if key != "type")


@pytest.mark.parametrize(
    ("go", "function"),
    [
        ("parse", parse),
        ("normalized", parse_normalized),
        ("parse_named", parse_named),
        ("docker_ref", Reference.parse),
        ("any_reference", parse_any),
        ("with_name", with_name),
    ],
)
def test_every_reference_of_the_vectors_is_read_or_refused_as_go_does(go, function):
    differing = [
        case["input"] for case in VECTORS["references"] if not agrees(function, case["input"], case[go])
    ]

    assert differing == []


def test_familiar_match_agrees_with_go():
    for case in VECTORS["familiar_match"]:
        reference = parse_any(case["ref"])
        if "error" in case:
            with pytest.raises(InvalidReference, match=case["error"]):
                familiar_match(case["pattern"], reference)
        else:
            assert familiar_match(case["pattern"], reference) is case["match"], case


def test_sort_agrees_with_go():
    for case in VECTORS["sort"]:
        assert sort(case["input"]) == case["sorted"], case


def test_sort_puts_the_most_precise_names_first_and_what_does_not_parse_last():
    texts = ["!", "z", f"b@{DIGEST}", "b:1", f"b:1@{DIGEST}", "a:1", DIGEST]

    assert sort(texts) == [
        f"docker.io/library/b:1@{DIGEST}",
        "docker.io/library/a:1",
        "docker.io/library/b:1",
        f"docker.io/library/b@{DIGEST}",
        "docker.io/library/z",
        DIGEST,
        "!",
    ]


def test_with_tag_and_with_digest_agree_with_go():
    for change, argument in (("with_tag", "tag"), ("with_digest", "digest")):
        for case in VECTORS[change]:
            if "result" not in case:  # the name itself does not parse
                with pytest.raises(InvalidReference):
                    parse(case["name"])
                continue

            def changed(text, change=change, case=case, argument=argument):
                return getattr(parse(text), change)(case[argument])

            assert agrees(changed, case["name"], case["result"]), case


def test_the_expressions_find_in_a_text_what_those_of_go_find():
    expressions = {
        "domain": module._DOMAIN,
        "name": module._NAME,
        "tag": module._TAG,
        "digest": module._DIGEST,
    }
    for case in VECTORS["regexps"]:
        for name, expression in expressions.items():
            match = re.search(expression, case["input"])
            assert (match and [match[0]]) == case[name], (case, name)


@pytest.mark.parametrize("text", DIFFERENT_ON_PURPOSE)
def test_where_we_differ_from_go_we_refuse(text):
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_a_digest_of_no_algorithm_that_a_reference_may_carry_is_not_attached():
    """
    Go's WithDigest looks at the form alone; a `Reference` holds digests that are checked.
    """
    with pytest.raises(InvalidReference):
        with_name("a/b").with_digest(f"md5:{'0' * 32}")


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("localhost:5000/a:1", "localhost:5000/a:1", "localhost:5000/a:1"),
        ("[fd00::1]:5000/a", "[fd00::1]:5000/a:latest", "[fd00::1]:5000/a:latest"),
        ("Host/a", "Host/a:latest", "Host/a:latest"),
        (f"a:1@{DIGEST}", f"docker.io/library/a@{DIGEST}", f"a@{DIGEST}"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
    ],
)
def test_a_typed_name_becomes_the_one_that_rows_hold(text, canonical, familiar):
    reference = Reference.parse(text)

    assert (str(reference), reference.familiar) == (canonical, familiar)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a\n",
        "a:1\n",
        "a\x00b",
        "a:",
        "a@",
        "a:1:2",
        "a//b",
        "/a",
        "a/",
        "A",
        "a/B:1",
        "e6" * 32,
        "é",
        "a:é",
        "a\u0661",
        "\ud800",
        "a:\udcff",
        "[fe80::1%eth0]/a",
        f"a@sha256:{'E6' * 32}",
        f"a@sha256:{'e6' * 31}",
        f"a@{DIGEST}\n",
        f"a:{'1' * 129}",
        f"a/{'b' * 256}",
        "a.b./c",
        "-a/b",
        "http://a/b",
    ],
)
def test_what_is_no_reference_is_refused_with_what_was_typed(text):
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)

    assert caught.value.reference == text
    assert caught.value.exit_code == 2


def test_255_characters_of_path_are_allowed_whatever_the_domain_and_the_tag_take():
    path, tag = "a" * 255, "1" * 128

    assert Reference.parse(f"{'d' * 200}.io/{path}:{tag}").path == path
    with pytest.raises(InvalidReference, match="not be more than 255"):
        Reference.parse(f"d.io/{path}a")


@pytest.mark.parametrize(
    "text",
    [
        "a" * 10**6,
        "a/" * 2047,
        "a-" * 2047,
        "a." * 2040 + "!",
        "-" * 4096,
        "a__" * 1365,
        "[" + ":" * 4000,
        "x@" + "a." * 2040,
        "\x00" * 10**6,
    ],
)
def test_a_hostile_name_is_refused_before_anybody_waits(text):
    started = time.perf_counter()

    for function in (parse, parse_normalized, parse_any, with_name, Reference.parse, ImageSpec.parse):
        with pytest.raises(InvalidReference) as caught:
            function(text)
        assert len(str(caught.value)) < 300

    assert time.perf_counter() - started < 2, "a second is a thousand times what it takes"


@pytest.mark.parametrize("value", [None, 1, b"nginx", ["nginx"]])
def test_what_is_no_string_is_a_mistake_of_the_programmer(value):
    for function in (parse, parse_normalized, parse_any, with_name, Reference.parse, ImageSpec.parse):
        with pytest.raises(TypeError):
            function(value)
    with pytest.raises(TypeError):
        ImageSpec("nginx", value)


@pytest.mark.parametrize(
    ("text", "spec", "reference", "normalised"),
    [
        ("nginx", ("nginx", "latest", ""), "nginx:latest", "docker.io/library/nginx:latest"),
        ("nginx:1.25", ("nginx", "1.25", ""), "nginx:1.25", "docker.io/library/nginx:1.25"),
        ("localhost:5000/a", ("localhost:5000/a", "latest", ""), "localhost:5000/a:latest", None),
        (f"localhost:5000/a@{DIGEST}", ("localhost:5000/a", "", DIGEST), f"localhost:5000/a@{DIGEST}", None),
        (f"a:1@{DIGEST}", ("a", "1", DIGEST), f"a:1@{DIGEST}", f"docker.io/library/a@{DIGEST}"),
        ("[::1]:80/a:1", ("[::1]:80/a", "1", ""), "[::1]:80/a:1", None),
        ("[::1]/a", ("[::1]/a", "latest", ""), "[::1]/a:latest", None),
        (f"{'e6' * 32}:1", ("e6" * 32, "1", ""), f"{'e6' * 32}:1", f"docker.io/library/{'e6' * 32}:1"),
    ],
)
def test_an_image_spec_keeps_what_was_typed(text, spec, reference, normalised):
    parsed = ImageSpec.parse(text)

    assert parsed == ImageSpec(*spec)
    assert parsed.reference() == reference
    assert str(parsed.normalised()) == (normalised or reference)


def test_every_reference_of_the_vectors_is_one_as_an_image_spec():
    for case in VECTORS["references"]:
        if "error" in case["docker_ref"]:
            with pytest.raises(InvalidReference):
                ImageSpec.parse(case["input"])
        else:
            assert str(ImageSpec.parse(case["input"]).normalised()) == case["docker_ref"]["string"]


def test_an_image_spec_built_by_hand_means_latest():
    spec = ImageSpec("nginx")

    assert spec.reference() == "nginx:latest"
    assert spec.normalised() == Reference.parse("nginx")


@pytest.mark.parametrize(
    "spec",
    [
        ImageSpec("localhost", "5000/evil"),
        ImageSpec("a:1"),
        ImageSpec("a:1", "2"),
        ImageSpec("a:1", "", DIGEST),
        ImageSpec(f"a@{DIGEST}"),
        ImageSpec(f"a@{DIGEST}", "", DIGEST),
        ImageSpec("a", f"1@{DIGEST}"),
        ImageSpec("a", "1", "sha256:short"),
        ImageSpec("a", "", "1"),
        ImageSpec("a", "", f"x@{DIGEST}"),
        ImageSpec("a", " "),
        ImageSpec("", "1"),
        ImageSpec("A"),
        ImageSpec("a\n", "1"),
    ],
    ids=repr,
)
def test_a_field_of_an_image_spec_cannot_smuggle_in_another(spec):
    with pytest.raises(InvalidReference):
        spec.normalised()


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("a*b?c*x", False),
        ("gcr.io/*/b", True),
        ("gcr.io/*", False),
        ("gcr.io/a/[a-c]:1", True),
        ("gcr.io/a/[^a-c]:1", False),
        ("gcr.io[/]a/b", True),
        ("gcr.io?a/b", False),
        ("gcr.io/a/[z-a]", False),
        ("gcr.io/a/[^z-a]", True),
        ("*[^x]*b", False),
        ("**", False),
        ("\\g*/a/b", True),
        ("", False),
    ],
)
def test_a_pattern_is_read_as_go_reads_it(pattern, matches):
    assert familiar_match(pattern, Reference.parse("gcr.io/a/b:1")) is matches


@pytest.mark.parametrize(
    "pattern", ["[", "[]", "[]a]", "[-x]", "[x-]", "[a-b-c]", "[^]", "a[", "x\\", "*[\\"]
)
def test_a_malformed_pattern_is_refused_wherever_it_is_broken(pattern):
    with pytest.raises(InvalidReference):
        familiar_match(pattern, Reference.parse("gcr.io/a/b:1"))
