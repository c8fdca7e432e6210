"""
What a short command costs before it has done anything: each a process, beside one that does next to nothing.
"""

from __future__ import annotations

import argparse
import compileall
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from filled import filled
from ratios import Command, Ratios, scratch

import ullage

ULLAGE = str(Path(sys.executable).with_name("ullage"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000, help="in the large store")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch(), prefix="ullage-bench-")))
        ratios = stack.enter_context(Ratios("start-up", pairs=asked.pairs, directory=base))
        python = Command("python -c pass", ((sys.executable, "-c", "pass"),))
        sqlalchemy = Command("import sqlalchemy", ((sys.executable, "-c", "import sqlalchemy"),))
        small, large = filled(base / "small", 10), filled(base / "large", asked.images)

        # As who installed it has it: else each process would compile what it loads.
        compileall.compile_dir(Path(ullage.__file__).parent, quiet=1)

        def images(root: Path) -> Command:
            return Command("ullage", ((ULLAGE, "images", "--root", str(root)),))

        ratios.compare(
            "import ullage", ours=Command("python", ((sys.executable, "-c", "import ullage"),)), theirs=python
        )
        ask = (
            "import sys, ullage\n"
            "with ullage.ImageService.open(sys.argv[1]) as images: images.image_status('app')"
        )
        ratios.compare(
            "open a store and ask for one image",
            ours=Command("python", ((sys.executable, "-c", ask, str(small)),)),
            theirs=sqlalchemy,
        )
        look = ask.replace("argv[1]", "argv[1], read_only=True")
        ratios.compare(
            "open a store to look, and ask for one image",
            ours=Command("python", ((sys.executable, "-c", look, str(small)),)),
            theirs=sqlalchemy,
        )
        make = (
            "import sys, tempfile, ullage\n"
            "with tempfile.TemporaryDirectory(dir=sys.argv[1]) as root: ullage.ImageService.open(root).close()"
        )
        ratios.compare(
            "make a store",
            ours=Command("python", ((sys.executable, "-c", make, str(base)),)),
            theirs=sqlalchemy,
        )
        ratios.compare("ullage --help", ours=Command("ullage", ((ULLAGE, "--help"),)), theirs=python)
        for what, root in (("10 images", small), (f"{asked.images:,} images", large)):
            listing = "SELECT * FROM image_listing"
            ratios.compare(
                f"ullage images, {what}",
                ours=images(root),
                theirs=Command("sqlite3, the view", (("sqlite3", str(root / "ullage.db"), listing),)),
            )
            ratios.compare(
                f"ullage df, {what}",
                ours=Command("ullage", ((ULLAGE, "df", "--root", str(root)),)),
                theirs=Command(
                    "sqlite3, the view",
                    (("sqlite3", str(root / "ullage.db"), "SELECT * FROM storage_usage"),),
                ),
            )
        if asked.json:
            ratios.write(asked.json)


if __name__ == "__main__":
    main()
