"""
Children that know everything already: a process that has imported the package forks one for each thing to be done.

    with Nursery() as nursery:
        child = nursery.spawn("pull", root, {"reference": …}, action="die", at=7)
        child.wait()

The nursery has no thread and no open connection, so that a fork of it is safe; whoever uses it may have both. What a
child says goes to a file line by line, and so outlives it.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.worker import environment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from support.killpoints import Action

__all__ = ["Child", "Nursery"]

_PATIENCE_SECONDS = 30.0


class Child:
    """
    One fork: what it said, and how it ended.
    """

    def __init__(self, nursery: Nursery, pid: int, report: Path) -> None:
        self.pid = pid
        self._nursery = nursery
        self._report = report
        #: "exit 0", "signal 9"; None while it runs.
        self.end: str | None = None

    def wait(self, seconds: float = _PATIENCE_SECONDS) -> str:
        """
        Until it has ended, or stopped itself; *seconds* at most, then it is killed and that fails the test.
        """
        if self.end is not None:
            return self.end
        state: str = self._nursery._ask({"wait": self.pid, "seconds": seconds})
        if state == "late":
            self.kill()
            raise AssertionError(f"a process did not end within {seconds} s; it said {self.said}")
        if state != "stopped":
            self.end = state
        return state

    def is_late(self, seconds: float) -> bool:
        """
        Whether it is still at it after *seconds*.
        """
        state: str = self._nursery._ask({"wait": self.pid, "seconds": seconds})
        if state in ("late", "stopped"):
            return True
        self.end = state
        return False

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """
        SIGKILL, and the end of it. Harmless for one that has ended.
        """
        if self.end is None:
            os.kill(self.pid, signal.SIGKILL)
            self.end = self._nursery._ask({"wait": self.pid, "seconds": _PATIENCE_SECONDS})

    @property
    def said(self) -> list[list[Any]]:
        """
        All that it said so far. A line that it died in does not count.
        """
        lines = self._report.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def heard(self, word: str) -> list[Any]:
        """
        What it said after *word*, each time that it said it.
        """
        return [line[1:] for line in self.said if line[0] == word]

    def forget(self) -> None:
        """
        What it said is no longer asked for.
        """
        self._report.unlink()

    @property
    def completed(self) -> bool:
        assert self.end in ("exit 0", "signal 9"), (self.end, self.said)
        return self.end == "exit 0"


class Nursery:
    """
    The process that forks; ended by leaving the with-block.
    """

    def __enter__(self) -> Self:
        self._reports = tempfile.TemporaryDirectory(prefix="ullage-reports-")
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.nursery"],
            # Sets of digests are in the same order each time, and so are the calls.
            env=environment() | {"PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._reports.cleanup()

    def spawn(
        self,
        flow: str,
        root: Path,
        arguments: dict[str, Any] | None = None,
        *,
        action: Action = "record",
        at: int = 0,
        kinds: Iterable[str] | None = None,
        code: int = errno.EIO,
        outside_gate: bool = False,
        arm: str = "opened",
        mutants: Iterable[str] = (),
        options: dict[str, Any] | None = None,
        fetches: int = 1,
    ) -> Child:
        """
        Start *flow* on the store in *root*.

        Args:
            arm: when calls begin to count: at the "start", or when the store has been "opened".
            mutants: names of `support.mutants`.
            options: of `ImageService.open`.
            fetches: how many blobs a pull fetches, and unpacks, at once; one makes the order of calls the same each
                time.
        """
        self._count += 1
        report = Path(self._reports.name) / str(self._count)
        report.touch()
        pid: int = self._ask(
            {
                "flow": flow,
                "root": str(root),
                "arguments": arguments or {},
                "points": {"action": action, "at": at, "code": code, "outside_gate": outside_gate},
                "kinds": None if kinds is None else sorted(kinds),
                "arm": arm,
                "mutants": list(mutants),
                "options": options or {},
                "fetches": fetches,
                "report": str(report),
            }
        )
        return Child(self, pid, report)

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery is gone"
        return json.loads(line)


# ---------------------------------------------------------------------- in the nursery


def main() -> None:
    from support import flows, mutants  # noqa: F401, PLC0415 -- what the children need, read before they are born

    flows.warm_up()
    # What is here stays: a collection in a child would copy the pages of all of it.
    gc.collect()
    gc.freeze()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    _say_out("ready")
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            _say_out(_wait(question["wait"], question["seconds"]))
            continue
        pid = os.fork()
        if pid == 0:
            _be_a_child(question)
        _say_out(pid)


def _say_out(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def _wait(pid: int, seconds: float) -> str:
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if ended:
            if os.WIFSTOPPED(status):
                return "stopped"
            return (
                f"signal {os.WTERMSIG(status)}"
                if os.WIFSIGNALED(status)
                else f"exit {os.WEXITSTATUS(status)}"
            )
        left = until - time.monotonic()
        if left <= 0 or signal.sigtimedwait({signal.SIGCHLD}, left) is None:
            return "late"


def _be_a_child(question: dict[str, Any]) -> None:
    code = 3
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.close(0)
        random.seed(question["report"])
        code = _run(question)
    except BaseException:  # noqa: BLE001 -- the door of a process: what is not expected is told, and fails the test
        traceback.print_exc()
    finally:
        os._exit(code)


def _run(question: dict[str, Any]) -> int:
    import ullage.layer.unpacking  # noqa: PLC0415 -- imported by the nursery already
    import ullage.pull  # noqa: PLC0415
    from support import flows, mutants  # noqa: PLC0415
    from support.killpoints import Points  # noqa: PLC0415

    report = os.open(question["report"], os.O_WRONLY | os.O_APPEND)

    def say(word: str, *facts: object) -> None:
        os.write(report, (json.dumps([word, *facts]) + "\n").encode())

    root = Path(question["root"])
    kinds = None if question["kinds"] is None else frozenset(question["kinds"])
    points = Points(root, kinds=kinds, **question["points"])
    points.install()
    ullage.pull.PARALLEL_FETCHES = question["fetches"]  # type: ignore[misc]
    ullage.layer.unpacking._WORKERS = min(2, question["fetches"])  # type: ignore[misc]
    for name in question["mutants"]:
        mutants.MUTANTS[name]()
    try:
        flows.perform(question, points, say)
    except BaseException:
        say("untyped", traceback.format_exc())
        raise
    return 0


if __name__ == "__main__":
    main()
