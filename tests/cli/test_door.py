"""
The way in and the way out: roots, streams, signals, locales, and what goes wrong with a store.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from support.images import ImageBuilder
from ullage import __version__

COMMAND = Path(sys.executable).with_name("ullage")


def test_the_root_may_stand_before_or_after_the_command(ullage, pulled):
    ullage.environment["ULLAGE_ROOT"] = "/nowhere"

    before = ullage.run("--root", ullage.root, "images", "-q")
    after = ullage.run("images", "-q", "--root", ullage.root)
    both = ullage.run("--root", "/nowhere", "images", "-q", f"--root={ullage.root}")

    assert before.lines == after.lines == both.lines == [pulled.image_id]


def test_the_root_is_the_users_when_nobody_names_one(ullage, image, tmp_path):
    ullage.environment["ULLAGE_ROOT"] = ""
    ullage.run("quota", "--max", "1M", env={"XDG_DATA_HOME": str(tmp_path / "data")})
    ullage.run("quota", "--max", "1M", env={"XDG_DATA_HOME": "relative"})

    assert (tmp_path / "data" / "ullage" / "ullage.db").exists()
    assert (ullage.home / ".local" / "share" / "ullage" / "ullage.db").exists()
    assert not (ullage.home / "relative").exists()


@pytest.mark.parametrize("command", ["images", "df", "gc", "quota"])
def test_a_root_that_is_a_file_is_an_error(ullage, tmp_path, command):
    (tmp_path / "file").write_text("mine")

    assert "no directory" in ullage.fail(command, "--root", tmp_path / "file", code=30)
    assert ullage.fail("pull", "app", "--root", tmp_path / "file" / "below", code=30)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_root_with_odd_characters_is_a_root_like_any(ullage, pulled, tmp_path):
    odd = os.fsencode(tmp_path) + b"/a b%20?#'\xff\xc3\xa9"
    shutil.copytree(os.fsencode(ullage.root), odd)

    assert ullage.run("images", "-q", "--root", odd).lines == [pulled.image_id]
    assert ullage.run("rm", "--root", odd, pulled.reference)


def test_a_store_that_may_not_be_written_is_refused_in_words(ullage, pulled):
    """
    To be changed. It can be looked at: nobody who could change it is there.
    """
    # Root writes everywhere, so the command runs without the capabilities that make it so.
    powerless = [] if os.getuid() else ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    folders = [ullage.root, *(path for path in ullage.root.rglob("*") if path.is_dir())]
    files = [path for path in ullage.root.rglob("*") if path.is_file()]
    modes = {path: path.stat().st_mode for path in (*folders, *files)}
    for path in modes:
        path.chmod(0o555 if path in folders else 0o444)

    def run(*arguments):
        return subprocess.run(
            [*powerless, COMMAND, *arguments],
            env=ullage.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    try:
        looked, changed = run("images", "-q"), run("rm", pulled.reference)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)

    assert (looked.returncode, looked.stdout) == (0, ullage.run("images", "-q").stdout), looked
    assert (changed.returncode, changed.stdout) == (36, ""), changed
    assert changed.stderr.startswith("error: ")
    assert len(ullage.run("images", "-q").lines) == 1


def test_a_database_of_somebody_else_is_left_alone(ullage, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "ullage.db").write_bytes(b"no database at all, but a page of text\n" * 200)
    before = (foreign / "ullage.db").read_bytes()

    assert ullage.fail("images", "--root", foreign, code=32)
    assert ullage.fail("pull", "app", "--root", foreign, code=32)
    assert (foreign / "ullage.db").read_bytes() == before


def test_a_store_of_a_later_release_is_left_alone(ullage, tmp_path):
    later = shutil.copytree(ullage.root, tmp_path / "later")
    with closing(sqlite3.connect(later / "ullage.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")

    assert "9999" in ullage.fail("images", "--root", later, code=33)
    assert "9999" in ullage.fail("gc", "--root", later, code=33)


# Streams


def test_a_closed_pipe_is_quiet(ullage, pulled):
    reading, writing = os.pipe()
    os.close(reading)
    with ullage.start("images", stdout=writing) as process:
        os.close(writing)
        talk = process.stderr.read()

    assert (process.returncode, talk) == (141, b"")


def test_output_that_cannot_be_written_is_an_error(ullage, pulled):
    with Path("/dev/full").open("wb") as full, ullage.start("images", stdout=full) as process:
        talk = process.stderr.read().decode()

    assert process.returncode == 1
    assert talk == "error: cannot write the output: No space left on device\n"


def test_what_the_terminal_cannot_show_is_escaped(ullage, registry):
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}

    done = ullage.run("inspect", "é\x1b[31m\u202ename".encode(), code=2, env=ascii_only)
    assert done.stderr.isascii()
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2

    done = ullage.run("rm", b"\xff\xfe", code=2)
    assert done.stderr.startswith("error: ")


def test_json_is_ascii_whatever_a_config_says(ullage, registry):
    labels = {"é": "\x1b[2J", "line": "a\nb", "far": "😀\u202e"}
    image = ImageBuilder(registry, "odd").config(Labels=labels, User="mañana").push("1")
    ullage.run("pull", image.reference, "--plain-http")

    done = ullage.run("inspect", image.reference, env={"PYTHONIOENCODING": "latin-1"})

    assert done.stdout.isascii()
    assert done.json["config"]["config"]["Labels"] == labels
    assert done.json["username"] == "mañana"


# Talk


def test_version_and_help_are_data(ullage):
    assert ullage.run("--version").lines == [f"ullage {__version__}"]
    for arguments in (("--help",), ("-h",), ("pull", "--help"), ("df", "-h")):
        done = ullage.run(*arguments)
        assert done.stdout.startswith("Usage: ullage")
        assert done.stderr == ""
    alone = ullage.run(code=2)
    assert alone.stdout == ""
    assert alone.stderr.startswith("Usage: ullage")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("pul", "app"), "did you mean ullage pull?"),
        (("images", "--jsn"), "did you mean --json?"),
        (("pull",), "`ullage pull --help` shows how"),
        (("images", "a", "b"), "`ullage images --help` shows how"),
        (("pull", "--policy", "sometimes", "a"), "`ullage pull --help` shows how"),
        (("pull", "--timeout", "0", "a"), "`ullage pull --help` shows how"),
        (("--root",), "`ullage --help` shows how"),
    ],
)
def test_a_usage_error_has_the_form_of_all_errors(ullage, arguments, hint):
    done = ullage.run(*arguments, code=2)

    error, said = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert said == f"hint: {hint}"


def test_a_mistake_of_ours_is_one_line_unless_somebody_wants_to_know(ullage):
    broken = (
        "import sys, ullage.service, ullage.cli; ullage.service.ImageService.open = None;"
        "sys.exit(ullage.cli.main(['gc', '--root', sys.argv[1]]))"
    )

    def run(**extra):
        return subprocess.run(
            [sys.executable, "-c", broken, ullage.root],
            env=ullage.environment | extra,
            capture_output=True,
            text=True,
            check=False,
        )

    quiet, told = run(), run(ULLAGE_DEBUG="1")

    assert quiet.returncode == told.returncode == 70
    error, hint = quiet.stderr.splitlines()
    assert error.startswith("error: internal: TypeError")
    assert "ULLAGE_DEBUG=1" in hint
    assert "Traceback" in told.stderr


def test_the_module_is_the_command(ullage):
    done = subprocess.run(
        [sys.executable, "-m", "ullage", "--version"], capture_output=True, text=True, check=False
    )

    assert done.stdout == f"ullage {__version__}\n"


def test_a_shell_completes_commands(ullage):
    done = ullage.run(env={"_ULLAGE_COMPLETE": "bash_complete", "COMP_WORDS": "ullage un", "COMP_CWORD": "1"})

    assert done.lines == ["plain,untag", "plain,unpin", "plain,unpack"]
