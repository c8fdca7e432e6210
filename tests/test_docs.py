"""
The documentation runs, and is complete.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import ullage
from support.images import ImageBuilder
from ullage import errors
from ullage.cli import failures
from ullage.cli.app import ullage as command
from ullage.cri import serve
from ullage.cri.metrics import METRICS

PROJECT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_readme_as_a_new_user_reads_it(registry, tmp_path):
    """
    Every block, in order, in one directory and one shell's environment. What a test must not do is replaced: no package
    is installed, and Docker Hub is a registry on loopback.
    """
    ImageBuilder(registry, "library/alpine").layer({"etc/alpine-release": b"3.20"}).config(Cmd=["sh"]).push(
        "3.20"
    )
    reader = _Reader(tmp_path, registry.host)
    skipped = []

    for kind, text in BLOCK.findall((PROJECT / "README.md").read_text()):
        if kind == "python":
            reader.run_python(text)
        else:
            assert kind == "console"
            if "sqlite3" in text and shutil.which("sqlite3") is None:
                skipped.append(text)
            else:
                reader.run_console(text)

    if skipped:
        pytest.skip(f"apt install sqlite3: {len(skipped)} block was not run")


class _Reader:
    """
    A directory as `git clone` and `make` leave it, and somebody who types what stands in the blocks.
    """

    def __init__(self, directory: Path, registry_host: str) -> None:
        self.directory = directory
        self.registry_host = registry_host
        self.environment = dict(os.environ) | {"HOME": str(directory), "PYTHONWARNINGS": "error"}
        for name in ("ULLAGE_ROOT", "XDG_DATA_HOME", "MAKEFLAGS", "MAKELEVEL", "VENV"):
            self.environment.pop(name, None)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(PROJECT / name, directory)
        # An environment in which everything is installed: that of the tests. The stamp says so to make.
        venv = directory / ".venv" / "bin"
        venv.mkdir(parents=True)
        for name in ("python", "ullage"):
            (venv / name).symlink_to(Path(sys.executable).with_name(name))
        (venv / "activate").write_text(f'PATH="{venv}:$PATH"\nexport PATH\n')
        (venv.parent / ".installed").touch()

    def run_console(self, text: str) -> None:
        """
        Type each line after a ``$``; what stands below it is what is seen, ``…`` for anything.
        """
        for typed, seen in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            done = self._bash(typed)
            assert done.returncode == 0, done
            if seen:
                expected = seen.replace("…", "...")
                assert doctest.OutputChecker().check_output(expected, done.stdout, OPTIONS), (
                    typed,
                    done.stdout,
                )

    def run_python(self, text: str) -> None:
        here = (
            text.replace('"alpine:3.20"', f'"{self.registry_host}/library/alpine:3.20"')
            .replace('open("store", ', 'open("store", registry=RegistryClient(plain_http=True), ')
            .replace("import ImageService", "import RegistryClient, ImageService")
        )
        done = subprocess.run(
            [sys.executable, "-c", here],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done

    def _bash(self, typed: str) -> subprocess.CompletedProcess[str]:
        here = typed.replace(
            "pull alpine:3.20", f"pull {self.registry_host}/library/alpine:3.20 --plain-http"
        )
        after = ""
        if here != typed:
            # Docker's defaults apply to the name as it is typed, so it gets that name.
            after = f"ullage --root ~/.local/share/ullage tag {self.registry_host}/library/alpine:3.20 alpine:3.20"
            after += f" && ullage untag {self.registry_host}/library/alpine:3.20"
        # What a line does to the environment (export, activate) is there for the next.
        kept = self.directory / ".environment"
        script = f"set -eo pipefail\n{here}\n{after}\nenv -0 > {kept}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        if kept.exists():
            self.environment = dict(each.split("=", 1) for each in kept.read_text().split("\0") if each)
        return done


# The reference of the command line


def _sections() -> dict[str, str]:
    text = (PROJECT / "docs" / "cli.md").read_text()
    parts = re.split(r"^## `ullage ((?:db )?[\w-]+).*`$", text, flags=re.MULTILINE)
    assert len(set(parts[1::2])) == len(parts[1::2]), "a command twice"
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _commands():
    """
    Every command by its words, those of a group behind the group's own.
    """
    context = click.Context(command)
    found = {}
    for name in command.list_commands(context):
        each = command.get_command(context, name)
        if isinstance(each, click.Group):
            inner = click.Context(each)
            found |= {f"{name} {sub}": each.get_command(inner, sub) for sub in each.list_commands(inner)}
        else:
            found[name] = each
    return found


def test_every_command_and_every_option_is_in_the_reference():
    sections, commands = _sections(), _commands()

    assert list(sections) == list(commands)
    for name, section in sections.items():
        known = {
            option
            for parameter in commands[name].params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        } - {"--root"}
        cells = re.findall(r"^\| (`.*?) \|", section.split("\n## ")[0], flags=re.MULTILINE)
        written = [option for cell in cells for option in re.findall(r"`(--?[a-z-]+)", cell)]
        assert set(written) == known, name
        assert len(set(written)) == len(written), f"{name} has an option twice"


@pytest.mark.parametrize("name", [*_commands(), "db"])
def test_every_help_begins_with_a_sentence_that_fits_and_ends_with_examples(name):
    subcommand = _commands().get(name) or command.get_command(click.Context(command), name)

    assert subcommand.get_short_help_str(limit=60).endswith(".")
    assert not subcommand.get_short_help_str(limit=60).endswith("...")
    assert "Examples:" in subcommand.epilog


def test_the_exit_codes_are_all_in_the_reference():
    table = re.findall(
        r"^\| (\d+) \| (?:`(\w+)`)? ?\|", (PROJECT / "docs" / "cli.md").read_text(), re.MULTILINE
    )
    documented = {name: int(code) for code, name in table if name}

    assert documented == {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if name in errors.__all__ and isinstance(kind, type)
    }
    others = {int(code) for code, name in table if not name}
    assert others == {0, failures.INTERNAL, failures.BROKEN_PIPE, 129, 130, 143}
    assert len({code for code, _ in table}) == len(table)


def test_the_tree_in_the_errors_module_is_the_tree_of_its_classes():
    tree = re.findall(r"^ +([A-Z]\w+)(?: \(\w+\))?  .*?(\d+)$", errors.__doc__, re.MULTILINE)
    drawn = dict(tree) | {"ImageError": str(errors.ImageError.exit_code)}

    for name in errors.__all__:
        assert drawn[name] == str(getattr(errors, name).exit_code), name
    assert set(drawn) == set(errors.__all__)


def test_every_floor_and_module_is_in_the_architecture():
    text = (PROJECT / "docs" / "architecture.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    modules = {each.name for each in pkgutil.iter_modules(ullage.__path__)} - {"migrations"}

    assert listed == modules


@pytest.mark.parametrize(
    "name",
    [each.name for each in pkgutil.walk_packages(ullage.__path__, "ullage.") if "__main__" not in each.name],
)
def test_docstrings_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)

    assert failed == 0


# The CRI server


def test_every_statement_about_cri_names_its_tests():
    text = (PROJECT / "docs" / "kubernetes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .* \| (`.*`) \|$", text, re.MULTILINE)
    tree = ast.parse((PROJECT / "tests" / "cri" / "test_statements.py").read_text())
    tests = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]

    assert [int(number) for number, _ in rows] == list(range(1, 25))
    named = {number: re.findall(r"`(\w+)`", names) for number, names in rows}
    assert sorted(name for names in named.values() for name in names) == sorted(
        name for name in tests if name.startswith("test_")
    )
    assert all(
        name.startswith(f"test_{int(number):02}_") for number, names in named.items() for name in names
    )


def test_every_figure_of_the_cri_server_is_in_its_page():
    text = (PROJECT / "docs" / "kubernetes.md").read_text()

    assert re.findall(r"^\| `(ullage_\w+)` \| (\w+) \| (.*) \|$", text, re.MULTILINE) == [
        (name, kind, says) for name, (kind, says) in METRICS.items()
    ]


def test_the_calls_of_the_cri_page_run(store, registry, tmp_path, capsys):
    image = ImageBuilder(registry, "pause").noise_layer(100).push("3.10")
    asks, hosts = re.findall(
        r"^```python\n(.*?)^```$", (PROJECT / "docs" / "kubernetes.md").read_text(), re.MULTILINE | re.DOTALL
    )
    here = {
        "unix:///run/ullage/cri.sock": f"unix://{tmp_path}/cri.sock",
        "/run/ullage/cri.sock": f"{tmp_path}/cri.sock",
        "/var/lib/ullage": str(tmp_path / "another"),
        "registry.k8s.io/pause:3.10": image.reference,
    }
    for there, ours in here.items():
        asks, hosts = asks.replace(there, ours), hosts.replace(there, ours)

    with serve(store, tmp_path / "cri.sock", drain_seconds=0):
        names: dict[str, Any] = {}
        exec(asks, names)
        names["channel"].close()
    assert capsys.readouterr().out.splitlines() == [
        "ullage v1",
        image.image_id,
        f"{image.reference} {image.image_id} {image.size} False",
        f"{image.size} {len(image.blobs)}",
        "False",
    ]
    exec(hosts, {})
