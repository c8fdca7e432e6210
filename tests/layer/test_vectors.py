"""
The layers that four engines were tried with: the same tree or a refusal where the four agree, what
tests/data/layers/decisions.json says (and docs/unpacking.md explains) where they do not.

Each case is unpacked twice: on top of each other in one directory, and as overlay trees that are then composed.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.cases import PAGE, page
from support.layers import composed, flatten, overlay, snapshot
from ullage.errors import ImageError

DATA = Path(__file__).parents[1] / "data"
SHARED = Path(os.environ.get("ULLAGE_SHARED", Path(__file__).parents[3] / "shared")) / "vectors"
CASES = json.loads((DATA / "vectors/layers.json").read_text())["cases"]
DECISIONS = json.loads((DATA / "layers/decisions.json").read_text())

#: Where an overlay cannot say what the layer says.
OVERLAY_REFUSES = {
    "own/wh-chardev": "a device 0/0 would hide what is below it: overlayfs knows it as a whiteout"
}


@pytest.fixture(scope="session")
def layers(tmp_path_factory):
    """
    The layers of all cases where they are here, of our own ones where not.
    """
    directory = tmp_path_factory.mktemp("layers")
    archive = SHARED / "layers.tar.xz"
    if not archive.exists():
        archive = DATA / "layers/own.tar.xz"
    subprocess.run(["tar", "-xJf", archive, "-C", directory], check=True)
    return directory


@pytest.fixture
def case(request, layers, root):
    """
    A case with its layers, or a skip that says where they are missing.
    """
    if not (layers / request.param).exists():
        pytest.skip(f"the layers of {request.param} are not here: ULLAGE_SHARED has no vectors/layers.tar.xz")
    one = CASES[request.param]
    return (
        request.param,
        one,
        [layers / request.param / name for name in one["layers"]],
        layers / request.param,
    )


def cases(*classes):
    names = [name for name, one in CASES.items() if one["class"] in classes]
    return pytest.mark.parametrize("case", names, indirect=True)


forms = pytest.mark.parametrize("form", ["flattened", "overlay"])


def outside(directory):
    """
    Everything beside the tree, and the directory that it is in.
    """
    beside = {name: snapshot(directory / name, times=True) for name in ("victim",)}
    return beside, os.lstat(directory).st_mode


def unpack(case, form, tree):
    """
    What the case becomes; None when it is refused. Nothing beside the tree changes, whatever happens.
    """
    _name, one, layers, where = case
    if one["pre"]:
        subprocess.run(["tar", "-xpf", where / "pre.tar", "-C", tree], check=True)
    base = tree.parent
    result = tree
    before = outside(base)
    try:
        if form == "flattened":
            flatten(layers, tree)
        else:
            result = base / "composed"
            composed(overlay(layers, base, trees=[tree]), result)
    except ImageError:
        result = None
    assert outside(base) == before
    expected = {"dest", "victim"}
    if form == "overlay":
        expected |= {f"tree{number}" for number in range(len(layers))} | {"composed"}
    assert set(os.listdir(base)) <= expected
    return None if result is None else (snapshot(result), times_of(result))


def times_of(root):
    return {path: one["mtime_ns"] for path, one in snapshot(root, times=True).items()}


@cases("accept")
@forms
def test_a_layer_on_which_four_engines_agree_becomes_the_same_tree(case, form, tree):
    unpacked = unpack(case, form, tree)

    if form == "overlay" and case[0] in OVERLAY_REFUSES:
        assert unpacked is None
        return
    assert unpacked is not None
    found, times = unpacked
    assert found == case[1]["tree"]
    assert {path: times[path] for path in case[1]["mtime_ns"]} == case[1]["mtime_ns"]


@cases("reject")
@forms
def test_a_layer_that_four_engines_refuse_is_refused(case, form, tree):
    assert unpack(case, form, tree) is None


@cases("mixed", "differ")
@forms
def test_where_engines_differ_the_documented_decision_is_taken(case, form, tree):
    decision = DECISIONS[case[0]]

    unpacked = unpack(case, form, tree)

    if decision == "refused":
        assert unpacked is None
    elif decision == "own":
        assert unpacked is not None
    else:
        (expected,) = [each["tree"] for each in case[1]["trees"] if each["engines"] == decision]
        assert unpacked is not None
        assert unpacked[0] == expected


def test_there_is_a_decision_for_every_difference_and_no_other():
    differences = {name for name, one in CASES.items() if one["class"] in ("mixed", "differ")}

    assert DECISIONS.keys() == differences


def test_the_page_of_the_cases_says_what_is_tested_here():
    assert PAGE.read_text() == page()
