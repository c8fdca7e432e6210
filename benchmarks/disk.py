"""
A disk like a user's, for a while: an ext4 with a journal on a loop device, whatever the machine has below.

    python benchmarks/disk.py python benchmarks/unpack.py small     a command whose temporary files are there

Machines for tests are set up for speed: without a journal, in memory, with a filesystem that has seen ten million
files come and go, on which another one takes twenty times as long. What a pull waits for there is not what it waits for
on a user's disk. The image of this disk is a file in memory, or where it is told: a flush costs what the journal costs,
and nothing that depends on what is below. It is unmounted and removed at the end, after ctrl-C as well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["add_options", "described", "disk", "run_on"]

MEMORY = Path("/dev/shm")
#: Of which only what is written takes room, and gives it back when it is removed.
SIZE_GIB = 12


def add_options(parser: argparse.ArgumentParser) -> None:
    """
    Where the disk is to be, or that there is to be none.
    """
    parser.add_argument(
        "--disk", type=Path, metavar="DIR", help="where the disk's image goes (default: memory)"
    )
    parser.add_argument("--no-disk", action="store_true", help="use the filesystem of TMPDIR as it is")


@contextmanager
def disk(image_in: Path | None = None) -> Iterator[Path | None]:
    """
    A directory on a new filesystem; None, with a word on why, where there can be none.
    """
    needed = [each for each in ("mkfs.ext4", "mount", "umount") if shutil.which(each) is None]
    if os.geteuid() or needed:
        print(
            f"(no disk of our own: {'only root can mount one' if os.geteuid() else 'for want of ' + needed[0]})\n"
        )
        yield None
        return
    with (
        tempfile.TemporaryDirectory(dir=image_in or MEMORY, prefix="ullage-disk-") as directory,
        # A short path: podman and Unix sockets take no long ones.
        tempfile.TemporaryDirectory(prefix="ullage-") as mount_point,
    ):
        image, mounted = Path(directory) / "image", Path(mount_point)
        with image.open("wb") as file:
            file.truncate(SIZE_GIB << 30)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        # What is removed gives its memory back.
        done = subprocess.run(
            ["mount", "-o", "loop,discard", image, mounted], check=False, capture_output=True, text=True
        )
        if done.returncode:
            print(f"(no disk of our own: {done.stderr.strip()})\n")
            yield None
            return
        try:
            yield mounted
        finally:
            # Lazily: a daemon of a peer's may still be on its way out.
            subprocess.run(["umount", "--lazy", mounted], check=True)


def run_on(directory: Path | None, command: Sequence[str | Path]) -> int:
    """
    Run *command* with its temporary files there; its exit status. Whatever ends us ends it first.
    """
    environment = os.environ if directory is None else os.environ | {"TMPDIR": str(directory)}
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal has told it, too, and it tidies up
            raise
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise


def ended_by_sigterm() -> None:
    """
    Let SIGTERM end this process as ctrl-C does: with everything tidied up.
    """

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def described(path: Path) -> str:
    """
    The filesystem that *path* is on, and whether it has a journal where that is to be known.
    """
    found = subprocess.run(
        ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", path], check=False, capture_output=True, text=True
    )
    kind, _, source = found.stdout.strip().partition(" ")
    device = Path(source.strip()).name
    if kind != "ext4":
        return kind or "an unknown filesystem"
    journal = any(each.name.startswith(f"{device}-") for each in Path("/proc/fs/jbd2").glob("*"))
    text = f"ext4 {'with' if journal else 'without'} a journal"
    backing = Path(f"/sys/block/{device}/loop/backing_file")
    if not backing.exists():
        return text
    below = Path(backing.read_text().strip()).parent
    return f"{text}, on a loop device in {'memory' if below.is_relative_to(MEMORY) else f'a file ({below})'}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if not asked.command:
        parser.error("which command?")
    ended_by_sigterm()
    if asked.no_disk:
        return run_on(None, asked.command)
    with disk(asked.disk) as directory:
        return run_on(directory, asked.command)


if __name__ == "__main__":
    sys.exit(main())
