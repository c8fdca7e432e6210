"""
Real images, unpacked by ullage and by others, compared file by file: `make compare IMAGES="DIR:TAG …"`.

Each image is one of an OCI image layout. It is unpacked by ullage, flattened and by way of a tree for each layer, by
umoci, and by GNU tar, and each pair is compared: type, mode, owner, size, time to the nanosecond, extended attributes
(ACLs and capabilities among them), targets of links, content, and which names are one file. Where others differ from
us by a decision that docs/unpacking.md has, that is counted apart. Needs root.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ratios import machine

from support.compare import Facts, by_tar, by_ullage, by_ullage_composed, by_umoci, compared, layers_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="+", metavar="DIR:TAG")
    parser.add_argument("--directory", type=Path, help="where the trees go (default: a temporary directory)")
    parser.add_argument("--show", type=int, default=20, help="how many differences to show of each pair")
    asked = parser.parse_args()
    print(f"# unpacked by ullage and by others: {machine()}\n")
    print("| image | layers | compared with | entries compared | differences | and decided ones |")
    print("|---|---:|---|---:|---:|---|")
    found = 0
    for image in asked.images:
        with tempfile.TemporaryDirectory(dir=asked.directory, prefix="ullage-compare-") as base:
            found += compare(image, Path(base), asked.show)
    return 1 if found else 0


def compare(image: str, base: Path, show: int) -> int:
    directory, _, tag = image.rpartition(":")
    layers = layers_of(Path(directory), tag)
    ours, facts = by_ullage(layers, base / "ullage"), Facts(layers)
    found = 0
    for name, unpacked in (
        ("its own trees, composed", lambda target: by_ullage_composed(layers, target)),
        ("umoci", lambda target: by_umoci(directory, tag, target)),
        ("GNU tar", lambda target: by_tar(layers, target)),
    ):
        theirs = unpacked(base / "theirs")
        entries, different = compared(ours, theirs)
        shutil.rmtree(theirs)
        decided = Counter()
        for path, sides in list(different.items()):
            if (why := facts.explain(path, *sides)) is not None:
                decided[why] += 1
                del different[path]
        explained = "; ".join(f"{count} × {why}" for why, count in decided.items())  # noqa: RUF001 -- a table
        print(
            f"| {Path(directory).name}:{tag} | {len(layers)} | {name} | {entries:,} | {len(different)} | {explained} |",
            flush=True,
        )
        for path in list(different)[:show]:
            print(f"    {path}: {different[path][0]}\n      {name}: {different[path][1]}", file=sys.stderr)
        found += len(different)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
