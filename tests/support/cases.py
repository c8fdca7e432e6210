"""
The page of all hostile and odd layers with their outcomes, written from what the tests of layers are held to.

    PYTHONPATH=tests python -m support.cases    writes docs/unpacking-cases.md
"""

from __future__ import annotations

import json
from pathlib import Path

from support.oddlayers import APART, ODD, REFUSED

__all__ = ["PAGE", "page"]

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs/unpacking-cases.md"
ENGINES = ("containerd", "umoci", "containers-storage", "moby")
HEAD = """# The layers that four engines were tried with

Each case is one layer or several, from the tests of containerd, umoci, containers/storage, Go's archive/tar and
CPython's tarfile, or our own (`own/`). **A**, **B** … are the trees that came of it, the same letter the same tree;
**-** is a refusal, and **own** a tree of our own. Nothing beside the root changes in any of them.

`tests/layer/test_vectors.py` unpacks all of them in both forms, and this page is written from what it asks for
(`python -m support.cases`); [unpacking.md](unpacking.md) says why we are with whom, and has the one case that overlays
cannot say.

| | cases |
|---|---:|
"""

ODD_HEAD = """
## Odd ones

Layers of our own, made in `tests/support/oddlayers.py`: combinations that the cases above lack. **A** is our tree,
**B** another; times of directories do not count. Debian's umoci 0.4.7 and containerd 1.6.20 (its native snapshotter,
one directory for a stack) were asked; `tests/external/test_odd_layers.py` asks umoci each time.

| case | umoci | containerd | ullage |
|---|---|---|---|"""


def page() -> str:
    data = PROJECT / "tests/data"
    cases = json.loads((data / "vectors/layers.json").read_text())["cases"]
    decisions = json.loads((data / "layers/decisions.json").read_text())
    classes = {
        "accept": "the four make the same tree, and so do we",
        "reject": "the four refuse, and so do we",
        "mixed": "some of the four refuse",
        "differ": "the four make different trees",
    }
    counts = [
        f"| {words} | {sum(each['class'] == kind for each in cases.values())} |"
        for kind, words in classes.items()
    ]
    rows = [_row(name, cases[name], decisions.get(name)) for name in sorted(cases)]
    odd = json.loads((data / "layers/odd.json").read_text())
    table = ["", "| case | " + " | ".join((*ENGINES, "ullage")) + " |", "|---|---|---|---|---|---|"]
    beside = [f"| {name} | {' | '.join(odd[name].values())} | {_ours(name)} |" for name in ODD]
    return HEAD + "\n".join([*counts, *table, *rows, *ODD_HEAD.splitlines(), *beside]) + "\n"


def _ours(name: str) -> str:
    return "**-**" if name in REFUSED else "**A**, as trees another" if name in APART else "**A**"


def _row(name, case, decision) -> str:
    if case["class"] == "accept":
        cells = ["A"] * 5
    elif case["class"] == "reject":
        cells = ["-"] * 5
    else:
        letters = {}
        for letter, tree in zip("ABCD", case["trees"], strict=False):
            engines = tree["engines"] if isinstance(tree, dict) else tree
            letters |= dict.fromkeys(engines, letter)
        cells = [letters.get(engine, "-") for engine in ENGINES]
        cells.append({"refused": "-", "own": "own"}.get(str(decision)) or letters[decision[0]])
    return f"| `{name}` | " + " | ".join((*cells[:-1], f"**{cells[-1]}**")) + " |"


if __name__ == "__main__":
    PAGE.write_text(page())
