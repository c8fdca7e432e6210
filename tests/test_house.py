"""
The house rules that a machine can look after.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import ullage
from support.images import ImageBuilder
from support.keepsake import kept, unpacked
from support.registry import FaultRegistry
from support.schema import GOLDEN, schema_of
from support.worker import run_python

PROJECT = Path(__file__).parent.parent
SOURCES = sorted((PROJECT / "src" / "ullage").rglob("*.py"))

#: "About 400": a line or two more are not yet two ideas.
MODULE_LINES, FUNCTION_LINES = 410, 70
#: What is longer than that, and why it may be.
LONG_MODULES = {
    "errors.py": "a tree of exceptions is read as one",
}
LONG_FUNCTIONS: dict[str, str] = {}

HEAVY = ("alembic", "click", "grpc", "rich", "sqlalchemy", "urllib3")


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT / "src" / "ullage").as_posix()


# Light to load


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, ullage; print(*sorted(sys.modules))"

    loaded = run_python(code).split()

    assert not set(HEAVY) & set(loaded)
    assert [name for name in loaded if name.startswith("ullage.")] == []


def test_help_loads_only_the_command_line():
    code = (
        "import sys, ullage.cli\n"
        "code = ullage.cli.main(['--help'])\n"
        "print('these:', *sorted(sys.modules))\n"
        "sys.exit(code)"
    )

    loaded = run_python(code).rpartition("these: ")[2].split()

    assert set(HEAVY) & set(loaded) == {"click"}
    assert not {"ullage.service", "ullage.database", "ullage.registry"} & set(loaded)


#: What a look-up may load of this package, by the command line's modules and the parts of the service beside these.
LOOKING = {
    *(
        "archive",
        "blobs",
        "database",
        "digest",
        "driver",
        "errors",
        "events",
        "exports",
        "filesystem",
        "head",
    ),
    *(
        "ingest",
        "layer",
        "locks",
        "model",
        "moment",
        "pattern",
        "platform",
        "recovery",
        "reference",
        "refusal",
    ),
    *("repository", "revision", "schema", "service", "simulated", "sizes", "snapshot", "trees"),
    *("repository.acting", "repository.history", "repository.looking", "repository.lookup"),
    *("repository.lookups", "repository.records", "repository.rows", "repository.standing"),
    *("gate", "repository.holding", "repository.layout"),
    *("schema.revisions", "schema.script"),
}
#: And what else who reads documents.
INSPECTING = {
    "charge",
    "document",
    "image_config",
    "layer.chain",
    "manifest",
    "matcher",
    "mounts",
    "vocabulary",
}
#: And what else whoever opens a store to change it.
CHANGING = {"layout", "vocabulary"}


def modules_of(printed):
    """
    What was loaded: from elsewhere of what is heavy, and of this package, without what any store needs.
    """
    loaded = printed.rpartition("these: ")[2].split()
    own = {name.removeprefix("ullage.") for name in loaded if name.startswith("ullage.")}
    beside = {name for name in own if name.partition(".")[0] == "cli" or name.startswith("service.")}
    return set(HEAVY) & set(loaded), own - beside


def commanded(root, *arguments):
    code = (
        "import sys, ullage.cli\n"
        "code = ullage.cli.main(sys.argv[1:])\n"
        "print('these:', *sorted(sys.modules))\n"
        "sys.exit(code)"
    )
    return modules_of(run_python(code, *arguments, "--root", root))


@pytest.fixture
def stocked(root):
    with ullage.ImageService.open(root, registry=ullage.SimulatedRegistry()) as store:
        store.pull_image("app:1")
    return root


@pytest.mark.parametrize("command", ["images", "df", "df -v", "history", "inspect app:1"])
def test_a_command_that_looks_does_without_sqlalchemy(command, stocked):
    """
    Which takes longer to load than all else that it does. What a look-up loads is written down: each is milliseconds.
    """
    heavy, own = commanded(stocked, *command.split())

    assert heavy == {"click"}
    assert own <= LOOKING | (INSPECTING if command.startswith("inspect") else set())


def test_a_service_that_looks_loads_no_more_than_a_command(stocked):
    code = (
        "import sys, ullage\n"
        "with ullage.ImageService.open(sys.argv[1], read_only=True) as images:\n"
        "    assert images.image_status('app:1') in images.list_images()\n"
        "print('these:', *sorted(sys.modules))"
    )

    heavy, own = modules_of(run_python(code, stocked))

    assert heavy == set()
    assert own <= LOOKING


def test_a_service_loads_neither_layers_nor_archives_nor_http_until_it_needs_them(stocked):
    """
    Neither does the pull of what is here.
    """
    code = (
        "import sys, ullage\n"
        "with ullage.ImageService.open(sys.argv[1]) as images:\n"
        "    images.list_images()\n"
        "    assert images.pull_image('app:1').repo_tags\n"
        "print('these:', *sorted(sys.modules))"
    )

    heavy, own = modules_of(run_python(code, stocked))

    assert heavy == set()
    assert {name for name in own if not name.startswith("repository.")} <= LOOKING | CHANGING


def test_a_pull_loads_neither_migrations_nor_what_unpacks_layers(tmp_path):
    with FaultRegistry() as registry:
        ImageBuilder(registry, "app").layer({"etc/a": b"a"}).push("1")

        heavy, own = commanded(tmp_path / "new", "pull", f"{registry.host}/app:1")

    assert heavy == {"click", "sqlalchemy", "urllib3"}
    assert not {name for name in own if name.startswith(("archive.", "layer."))} - {
        "archive.place",
        "layer.chain",
    }
    assert not {"check", "doctor", "migrate", "push", "releases", "salvage", "unpacker"} & own


# Public names


@pytest.mark.parametrize("name", ullage.__all__)
def test_every_public_name_is_there(name):
    assert getattr(ullage, name) is not None
    assert name in dir(ullage)


def test_the_names_for_type_checkers_are_the_public_names():
    tree = ast.parse((PROJECT / "src" / "ullage" / "__init__.py").read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in checking.body for alias in node.names}

    assert imported | {"__version__"} == set(ullage.__all__)


#: Packages whose names are loaded when they are first used.
LAZY = ("archive", "layer", "registry", "repository", "schema")


@pytest.mark.parametrize("package", LAZY)
def test_the_names_of_a_package_are_those_for_type_checkers(package):
    """
    And none is a module's, which would stand in its place once it was imported.
    """
    folder = PROJECT / "src" / "ullage" / package
    tree = ast.parse((folder / "__init__.py").read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in checking.body for alias in node.names}
    module = importlib.import_module(f"ullage.{package}")

    assert module.__all__ == sorted(homes)
    assert not set(homes) & {path.stem for path in folder.glob("*.py")}
    for name, home in homes.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("package", ["ullage", *(f"ullage.{name}" for name in LAZY)])
def test_what_is_not_public_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        importlib.import_module(package).Nonsense  # noqa: B018 -- looking is the test


# The form of modules


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_a_noun_with_one_idea(path):
    """
    At most so long, with a docstring, and with `__all__`, whose names it has.
    """
    text = path.read_text()
    tree = ast.parse(text)

    assert ast.get_docstring(tree), "no docstring"
    assert len(text.splitlines()) <= MODULE_LINES or name_of(path) in LONG_MODULES
    if path.name not in ("__init__.py", "__main__.py"):
        module = importlib.import_module("ullage." + name_of(path).removesuffix(".py").replace("/", "."))
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_function_fits_on_a_screen(path):
    long = {
        f"{name_of(path)}:{node.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    }

    assert long <= set(LONG_FUNCTIONS)


def test_the_exceptions_to_length_are_still_needed():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}

    assert {name for name in LONG_MODULES if lengths.get(name, 0) <= MODULE_LINES} == set()


def test_nothing_speaks_of_the_machine_that_it_was_written_on():
    kinds = {".py", ".md", ".toml", ".ini", ".mako", ""}
    files = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not files:
        pytest.skip("no git checkout: nobody can say which files are the project's")
    words = ("/work" + "/", "/tmp" + "/probe", "pypi" + ".org")

    assert [
        (file, word)
        for file in files
        if Path(file).suffix in kinds and (PROJECT / file).is_file()
        for word in words
        if word in (PROJECT / file).read_text()
    ] == []


# The wheel


def test_the_wheel_works_in_an_environment_of_its_own(tmp_path):
    """
    It carries the migrations and the type marker, brings the command, makes a store with them, and upgrades old ones.
    """
    wheels, home = tmp_path / "wheels", tmp_path / "venv"
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Built from a copy: a build leaves things beside the sources. Built and installed with what is here: no network.
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((PROJECT / name).read_bytes())
    for folder in ("src", "migrations"):
        for path in (PROJECT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and "egg-info" not in str(path):
                target = copy / path.relative_to(PROJECT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())

    _run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", wheels, copy)
    (wheel,) = wheels.iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"ullage/{name_of(path)}" for path in SOURCES} <= names
    assert {f"ullage/cri/{name}" for name in ("protos.binpb", "cri.proto", "health.proto")} <= names
    assert {"ullage/py.typed", "ullage/migrations/env.py", "ullage/migrations/script.py.mako"} <= names
    assert {
        f"ullage/migrations/versions/{path.name}"
        for path in (PROJECT / "migrations" / "versions").glob("*.py")
    } <= names
    assert "ullage/migrations/head.sql" in names
    assert not any(name.startswith(("tests", "src", "migrations")) for name in names)
    # What is built of the sources that are given out has it as well.
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    _run(sys.executable, "-c", build, tmp_path, cwd=copy)
    (sources,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sources) as packed:
        assert "migrations/head.sql" in {name.partition("/")[2] for name in packed.getnames()}

    _run(sys.executable, "-m", "venv", "--without-pip", home)
    _run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    (packages,) = (home / "lib").glob("python*/site-packages")
    # The dependencies are those of the tests; ullage itself is not, since a path in a .pth file is only a path.
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    where = _run(python, "-c", "import ullage; print(ullage.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(packages)
    assert _run(home / "bin" / "ullage", "--version").strip() == f"ullage {ullage.__version__}"
    _run(home / "bin" / "ullage", "quota", "--max", "1MB", "--root", tmp_path / "store")
    said = _run(
        python,
        "-c",
        "import sys; from ullage import ImageService\n"
        "with ImageService.open(sys.argv[1], read_only=True) as images: print(images.usage().max_bytes)",
        tmp_path / "store",
        cwd=tmp_path,
    )
    assert said == "1000000\n"
    # And it carries a store on: that of each revision that was released.
    for revision in kept():
        old = unpacked(revision, tmp_path / revision)
        _run(home / "bin" / "ullage", "--root", old, "db", "upgrade")
        assert schema_of(old) == GOLDEN.read_text()
        # Trees are kept as rows alone, without their directories: that is mended, and nothing else is wrong.
        _run(home / "bin" / "ullage", "--root", old, "check", "--digests", "--repair")


def _run(*command, cwd=None):
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done
    return done.stdout


def test_each_decision_has_a_number_of_its_own():
    pages = sorted((PROJECT / "docs" / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        assert page.read_text(encoding="utf-8").startswith(f"# {page.name[:4]}: ")
