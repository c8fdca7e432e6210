"""
Death and errors where Python cannot be wrapped: in the system calls of SQLite itself, between two pages of a commit.

A child stops, strace takes hold of it and lets one call of many go wrong, and it goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from support.rehearsal import recovered, undisturbed
from support.scenes import SCENES

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

EVERY_POINT = bool(os.environ.get("ULLAGE_TORTURE"))
FLOWS = ("the first pull", "a pull that evicts", "a removal", "a limit that evicts", "a hold")


@contextlib.contextmanager
def injected(child, call, fault):
    """
    Hold *child* with strace, which lets *fault* happen to *call*.
    """
    tracer = subprocess.Popen(
        [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-p",
            str(child.pid),
            "-e",
            f"trace={call}",
            "-e",
            f"inject={call}:{fault}",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 10.0
        while "TracerPid:\t0\n" in Path(f"/proc/{child.pid}/status").read_text():
            assert tracer.poll() is None, tracer.stderr.read()
            assert time.monotonic() < until, "strace takes no hold of it"
        yield
    finally:
        if tracer.poll() is None:
            tracer.terminate()
        tracer.wait(10)
        tracer.stderr.close()


def stopped(workshop, scene, root, **how):
    child = workshop.spawn(scene, root, action="stop", at=1, **how)
    assert child.wait() == "stopped"
    return child


def numbers():
    """
    Which of the calls go wrong: some of the first fifty, or every one.
    """
    return itertools.count(1) if EVERY_POINT else (1, 3, 8, 21, 55)


@pytest.mark.parametrize("name", FLOWS)
def test_death_between_the_writes_of_a_commit_leaves_a_store_that_is_whole(name, workshop):
    scene = SCENES[name]
    _, expected = undisturbed(workshop, scene)
    deaths = 0
    for at in numbers():
        root = workshop.copy(workshop.prepared(scene))
        child = stopped(workshop, scene, root)
        with injected(child, "pwrite64", f"signal=SIGKILL:when={at}"):
            child.go_on()
            child.wait()
        if child.completed:
            break

        deaths += 1
        recovered(workshop, scene, root, child, expected)
        shutil.rmtree(root)
    assert deaths > 0, "nothing was killed"


@pytest.mark.parametrize(
    ("call", "code"), [("pwrite64", "ENOSPC"), ("pwrite64", "EIO"), ("fdatasync", "EIO")]
)
@pytest.mark.parametrize("name", FLOWS)
def test_an_error_of_the_disk_in_a_commit_is_told_and_leaves_no_mess(name, call, code, workshop):
    scene = SCENES[name]
    _, expected = undisturbed(workshop, scene)
    raised = 0
    for at in itertools.takewhile(lambda at: at < 60, numbers()):
        root = workshop.copy(workshop.prepared(scene))
        child = stopped(workshop, scene, root)
        with injected(child, call, f"error={code}:when={at}"):
            child.go_on()
            child.wait()

        assert child.completed
        assert child.heard("untyped") == []
        raised += len(child.heard("raised"))
        recovered(workshop, scene, root, child, expected, by_death=False)
        shutil.rmtree(root)
    # Of a full disk nothing need be told: what removes has room that was set aside. Memory is never synced late.
    assert raised > 0 or (call, code) != ("pwrite64", "EIO"), "no error came through"
