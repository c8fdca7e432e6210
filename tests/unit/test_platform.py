"""
Platforms and matchers: agreement with github.com/containerd/platforms.
"""

import json
import os
from pathlib import Path

import pytest

from ullage.errors import InvalidReference
from ullage.matcher import ALL, exact, only, only_os, only_strict
from ullage.platform import Platform

VECTORS = json.loads((Path(__file__).parents[1] / "data/vectors/platforms.json").read_text())
#: Where the vectors were computed; what a specifier leaves out is the host's.
HOST = Platform("linux", "amd64")


def platform_of(fields):
    return Platform(
        fields["os"],
        fields["architecture"],
        fields.get("variant", ""),
        fields.get("os.version", ""),
        tuple(fields.get("os.features", ())),
    )


def facts(platform):
    normalised = platform.normalised()
    return str(platform), platform.format_all(), normalised, normalised.format_all()


def expected_facts(case):
    return (
        case["format"],
        case["format_all"],
        platform_of(case["normalized"]),
        case["normalized_format_all"],
    )


def test_every_specifier_of_the_vectors_is_read_or_refused_as_containerd_does():
    for case in VECTORS["parse"]:
        if "error" in case:
            with pytest.raises(InvalidReference) as caught:
                Platform.parse(case["input"], host=HOST)
            assert caught.value.reference == case["input"]
            assert "linux/amd64" in caught.value.hint
        else:
            platform = Platform.parse(case["input"], host=HOST)
            assert platform == platform_of(case["platform"]), case
            assert facts(platform) == expected_facts(case), case


def test_every_platform_of_the_vectors_is_normalised_and_printed_as_containerd_does():
    for case in VECTORS["normalize"]:
        assert facts(platform_of(case["input"])) == expected_facts(case), case


@pytest.mark.parametrize(
    ("go", "matcher_for"), [("only", only), ("strict", only_strict), ("new", exact), ("onlyos", only_os)]
)
def test_every_host_of_the_vectors_matches_and_prefers_what_containerd_does(go, matcher_for):
    candidates = [platform_of(fields) for fields in VECTORS["match"]["candidates"]]
    for case in VECTORS["match"]["hosts"]:
        matcher = matcher_for(platform_of(case["host"]))

        matches = "".join("01"[matcher.match(candidate)] for candidate in candidates)
        order = sorted(range(len(candidates)), key=lambda place: matcher.key(candidates[place]))

        assert matches == case[go]["match"], case["host"]
        assert order == case[go].get("order", order), case["host"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "linux/",
        "linux//v7",
        "linux/amd64/v1/x",
        "linux/*",
        "nonsense",
        "linux/amd64\n",
        "linux(%zz)/amd64",
        "linux(%ff)/amd64",
        "linux(1",
        "lin\x00ux/amd64",
        "\ud800/amd64",
        "x" * 10**6,
        "linux(" + "+a" * 10**6 + ")",
    ],
)
def test_what_is_no_platform_is_refused_with_what_was_typed(text):
    with pytest.raises(InvalidReference) as caught:
        Platform.parse(text)

    assert caught.value.reference == text
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [None, 1, b"linux/amd64"])
def test_what_is_no_string_is_a_mistake_of_the_programmer(value):
    with pytest.raises(TypeError):
        Platform.parse(value)


def test_what_a_specifier_leaves_out_is_taken_from_the_host():
    pi = Platform("linux", "arm", "v6")

    assert Platform.parse("linux", host=pi) == pi
    assert Platform.parse("amd64", host=Platform("freebsd", "arm64")) == Platform("freebsd", "amd64")


def test_this_machine_has_a_platform_that_it_can_run():
    host = Platform.of_host()

    assert host.os == "linux"
    assert host.architecture not in ("x86_64", "aarch64", os.sep, "")
    assert only(host).match(host)
    assert Platform.parse("linux") == host


def test_what_is_printed_in_full_is_read_back():
    platform = Platform("windows", "amd64", "v2", "10.0+(50%/x)", ("a+b", "win32k"))

    assert Platform.parse(platform.format_all()) == platform


def test_a_level_that_no_machine_has_does_not_make_an_endless_list():
    """
    Containerd counts down from any level; past 64 we start at 64.
    """
    matcher = only(Platform("linux", "amd64", "v999999999999"))

    assert matcher.match(Platform("linux", "amd64", "v999999999999"))
    assert matcher.match(Platform("linux", "amd64", "v64"))
    assert not matcher.match(Platform("linux", "amd64", "v65"))
    assert matcher.match(Platform("linux", "386"))


@pytest.mark.parametrize(
    ("host", "container", "runs"),
    [
        ("10.0.17763.1", "10.0.17763.9", True),
        ("10.0.17763", "10.0.17762", False),
        ("10.0.20348", "10.0.17763", False),
        ("10.0.22621", "10.0.20348", True),
        ("10.0.26100", "10.0.20348", True),
        ("10.0.26100", "10.0.26100", True),
        ("10.0.27000", "10.0.20348", False),
        ("10.0.27000", "10.0.26100", True),
        ("10.0.20348", "10.0.20349", False),
        ("10.0.20348", "10.1.20348", False),
        ("10.0.20348", "", True),
        ("10.0", "10.0.17763", True),
        ("10.0.20348", "10.0", False),
        ("10.0.70000", "10.0.17763", True),
    ],
)
def test_windows_runs_what_microsoft_says_it_runs(host, container, runs):
    matcher = only(Platform("windows", "amd64", "", host))

    assert matcher.match(Platform("windows", "amd64", "", container)) is runs


def test_everything_fits_who_wants_everything():
    platforms = [Platform("", ""), Platform("unknown", "unknown"), HOST]

    assert all(ALL.match(platform) for platform in platforms)
    assert sorted(platforms, key=ALL.key) == platforms
