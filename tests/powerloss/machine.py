"""
A Linux that runs as a process, with a disk whose every write is logged: Debian's `user-mode-linux`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import ullage

_HERE = Path(__file__).parent
_DISK_BYTES = 64 << 20
_LOG_BYTES = 2 << 30  # a hole, but for what is written
_TIMEOUT_SECONDS = 420
#: More processor state than User-Mode Linux before 6.13 can hand back: see xstate.c.
_TOO_MUCH_STATE = "amx_tile"

PROGRAMS = ("linux.uml", "dmsetup", "busybox", "mkfs.ext4", "mount", "umount")


def what_is_missing() -> str | None:
    """
    Why no power can be cut here; None when it can.
    """
    if os.geteuid() != 0:
        return "only root mounts what a power cut leaves"
    missing = [each for each in PROGRAMS if shutil.which(each) is None]
    if needs_shim() and shutil.which("cc") is None:
        missing.append("cc")
    if missing:
        packages = "user-mode-linux dmsetup busybox-static e2fsprogs gcc libc6-dev"
        return f"not installed: {', '.join(missing)} (Debian: {packages})"
    if not Path("/dev/loop-control").exists():
        return "this kernel has no loop devices"
    return None


def needs_shim() -> bool:
    return _TOO_MUCH_STATE in Path("/proc/cpuinfo").read_text().split()


@dataclass(frozen=True)
class Recording:
    """
    The disk before, and everything that was written to it.
    """

    base: Path
    log: Path
    states: Path
    trees: Path


def record(folder: Path, *, length: str, mutant: str = "none") -> Recording:
    """
    Boot, run the workload on a fresh ext4, halt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "disk").mkdir()
    data, log, base = folder / "data.img", folder / "log.img", folder / "base.img"
    for path, size in ((data, _DISK_BYTES), (log, _LOG_BYTES)):
        with path.open("wb") as file:
            file.truncate(size)
    subprocess.run(
        [
            "mkfs.ext4",
            "-q",
            "-F",
            "-m",
            "0",
            "-J",
            "size=4",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
            data,
        ],
        check=True,
    )
    subprocess.run(["cp", "--sparse=always", data, base], check=True)
    _write_script(folder, length, mutant)
    environment = dict(os.environ) | {"HOME": str(folder)}
    if needs_shim():
        environment["LD_PRELOAD"] = str(_shim(folder))
    console = subprocess.run(
        [
            "linux.uml",
            "mem=384M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rw",
            f"init={_HERE / 'init.sh'}",
            f"HERE={folder}",
            f"ubd0={data}",
            f"ubd1={log}",
            "con=null",
            "con0=null,fd:1",
        ],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_TIMEOUT_SECONDS,
        check=False,
        text=True,
        errors="replace",
    ).stdout
    status, output = (folder / "status"), (folder / "output")
    said = output.read_text() if output.exists() else ""
    assert status.exists(), f"User-Mode Linux did not get that far:\n{console[-3000:]}{said[-3000:]}"
    assert status.read_text().strip() == "0", f"the workload failed:\n{said[-3000:]}\n{console[-1500:]}"
    return Recording(base, log, folder / "states", folder / "trees")


def _write_script(folder: Path, length: str, mutant: str) -> None:
    package = Path(ullage.__file__).parent.parent
    lines = {
        "PYTHONPATH": os.pathsep.join([str(_HERE.parent), str(package), *filter(None, sys.path)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
    }
    script = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in lines.items())
    command = [sys.executable, str(_HERE / "workload.py"), str(folder), length, mutant]
    (folder / "workload.sh").write_text(f"{script}{shlex.join(command)}\n")


def _shim(folder: Path) -> Path:
    library = folder / "xstate.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, _HERE / "xstate.c", "-ldl"], check=True)
    return library
