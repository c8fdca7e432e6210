"""
All benchmarks, one after the other: `make bench`, and `make bench-peers` with the peers. Each has a --help of its own.

    python benchmarks                 those that need no peers; some eight minutes on a quiet machine with two cores
    python benchmarks --peers         pulls and unpacking, beside the peers; some ten
    python benchmarks engine startup  these
    python benchmarks --small         a look, in a minute or two
    python benchmarks --no-disk       on the filesystem of TMPDIR, not on a disk made for this (disk.py says why)

Ratios of what ran in turns, A B A B, are what counts; seconds are of the machine and of its day.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from disk import add_options, disk, ended_by_sigterm, run_on

HERE = Path(__file__).parent
#: What each is told for a look, and to compare with the peers.
SMALL = {
    "engine": ["--pairs", "3", "--images", "10", "--images", "1000"],
    "pulls": ["--pairs", "3", "--scale", "0.05"],
    "crowd": ["--pairs", "3", "--most", "16", "--size", "100000"],
    "startup": ["--pairs", "3", "--images", "1000"],
    "growth": ["--small"],
    "unpack": ["--pairs", "3", "--files", "4000", "--large", "64"],
}
#: umoci takes half a minute for each turn of the whole.
PEERS = {"pulls": ["--peers"], "unpack": ["--files", "20000", "--large", "512"]}
USUAL = ("engine", "pulls", "crowd", "startup", "growth")
WITH_PEERS = ("pulls", "unpack")
#: It measures processor time alone, and has thousands of transactions to undo for each that it measures.
IN_MEMORY = ("engine",)


def scripts() -> list[str]:
    """
    Every file here that runs by itself.
    """
    return sorted(
        path.stem
        for path in HERE.glob("*.py")
        if path.name not in {"__main__.py", "disk.py"} and 'if __name__ == "__main__"' in path.read_text()
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", metavar="|".join(scripts()), help=f"default: {' '.join(USUAL)}")
    parser.add_argument("--small", action="store_true", help="less of each")
    parser.add_argument(
        "--peers", action="store_true", help=f"beside the peers; default: {' '.join(WITH_PEERS)}"
    )
    parser.add_argument(
        "--corpus", metavar="DIR", help="pulls: real images, of the registry whose data is DIR/registry"
    )
    add_options(parser)
    asked = parser.parse_args()
    wanted = asked.what or [*(WITH_PEERS if asked.peers else USUAL)]
    if unknown := sorted(set(wanted) - set(scripts())):
        parser.error(f"there is no {unknown[0]} here, but {', '.join(scripts())}")
    ended_by_sigterm()
    started, failed = time.monotonic(), []
    with nullcontext() if asked.no_disk else disk(asked.disk) as directory:
        for name in wanted:
            options = [
                *(PEERS.get(name, []) if asked.peers else []),
                *(SMALL.get(name, []) if asked.small else []),
                *(["--corpus", asked.corpus] if asked.corpus and name == "pulls" else []),
            ]
            if run_on(
                None if name in IN_MEMORY else directory, [sys.executable, HERE / f"{name}.py", *options]
            ):
                failed.append(name)
            if options:
                print(f"({name} {' '.join(options)}: by itself it does more)\n", flush=True)
    print(f"{(time.monotonic() - started) / 60:.0f} minutes", end="")
    print(f"; left out: {', '.join(sorted(set(scripts()) - set(wanted)))}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
