"""
The installed command, started as a person or a script starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.images import ImageBuilder
from support.store import check_root

COMMAND = Path(sys.executable).with_name("ullage")


@dataclass
class Done:
    """
    What a command said, and what it exited with.
    """

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


class Ullage:
    """
    Runs the command on the store of this test, in an environment of its own.
    """

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.home = home
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ULLAGE_ROOT": str(root),
            "PYTHONWARNINGS": "error",
            # A stranger's locale may be anything; where it matters, a test says so.
            "LC_ALL": "C.UTF-8",
        }

    def run(
        self, *arguments: object, code: int = 0, env: dict[str, str] | None = None, **options: Any
    ) -> Done:
        """
        Run to the end, which must be with exit code *code*.
        """
        done = subprocess.run(
            [COMMAND, *map(_argument, arguments)],
            env=self.environment | (env or {}),
            cwd=self.home,
            stdin=None if "input" in options else subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            **options,
        )
        result = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert result.code == code, result
        return result

    def fail(self, *arguments: object, code: int, **options: Any) -> str:
        """
        Run to a failure: no data, one line of error, at most one of hint. The message of the error.
        """
        done = self.run(*arguments, code=code, **options)
        assert done.stdout == ""
        talk = [line for line in done.stderr.splitlines() if not line.startswith(("hint: ", " "))]
        assert talk[-1].startswith("error: "), done.stderr
        assert sum(line.startswith("error: ") for line in talk) == 1, done.stderr
        assert "Traceback" not in done.stderr
        return talk[-1].removeprefix("error: ")

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        """
        Run beside the test.
        """
        options = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
        } | options
        return subprocess.Popen(
            [COMMAND, *map(_argument, arguments)], env=self.environment, cwd=self.home, **options
        )

    def usage(self) -> dict[str, int]:
        """
        What `df` says.
        """
        return self.run("df", "--json").json


def _argument(value: object) -> str | bytes:
    return value if isinstance(value, bytes) else str(value)


@pytest.fixture
def ullage(root, tmp_path):
    """
    The command; the store is checked to the byte when the test is over.
    """
    home = tmp_path / "home"
    home.mkdir()
    yield Ullage(root, home)
    check_root(root, limit_was_lowered=True)


@pytest.fixture
def elsewhere(ullage, tmp_path):
    """
    The command with a root that is not there.
    """
    ullage.environment["ULLAGE_ROOT"] = str(tmp_path / "elsewhere")
    return ullage


@pytest.fixture
def image(registry):
    """
    A small image on the registry.
    """
    builder = ImageBuilder(registry, "app").layer({"etc/motd": b"hello"}).noise_layer(2000)
    return builder.config(User="1000:1000", Env=["A=B"]).push("1")


@pytest.fixture
def pulled(ullage, image):
    """
    That image, pulled.
    """
    ullage.run("pull", image.reference, "--plain-http")
    return image
