"""
A store is at exactly one revision, whole, whoever opens it and whatever goes wrong (I12).
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from support.populated import populated
from support.registry import FaultRegistry
from support.schema import GOLDEN, schema_of
from support.store import check_root, query, usage
from support.worker import environment, run_python, workers
from ullage import (
    ImageService,
    SchemaTooNew,
    SimulatedRegistry,
    StoreCorrupt,
    StoreError,
    StoreReadOnly,
)
from ullage.database import Database
from ullage.schema import HEAD_REVISION, REVISIONS

PROJECT = Path(__file__).parent.parent.parent


def alembic(root, *arguments):
    """
    What the developer's command prints, run as a developer runs it.
    """
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-x", f"root={root}", *arguments],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def execute(root, script):
    with closing(sqlite3.connect(root / "ullage.db")) as connection:
        connection.executescript(script)


# ---------------------------------------------------------------------- the schema


def test_the_schema_is_the_golden_one(root):
    """
    When this fails on purpose: ``make schema``, and review the difference.
    """
    assert schema_of(root) == GOLDEN.read_text()


def test_every_table_is_strict_and_every_constraint_has_a_name(root):
    tables = query(
        root, "SELECT name, strict FROM pragma_table_list WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
    )
    assert [name for name, strict in tables if not strict] == ["alembic_version"]
    for name, sql in query(
        root, "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name <> 'alembic_version'"
    ):
        for line in sql.splitlines() if sql else ():
            if any(word in line.split("--")[0] for word in (" CHECK ", " UNIQUE ", " REFERENCES ")):
                assert "CONSTRAINT " in line, f"{name}: {line}"


def test_the_revisions_that_we_know_are_those_that_there_are():
    config = Config()
    config.set_main_option("script_location", str(PROJECT / "migrations"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)

    assert [each.revision for each in scripts.walk_revisions()][::-1] == list(REVISIONS)


def test_alembic_finds_nothing_to_migrate(root):
    assert "No new upgrade operations detected" in alembic(root, "check")


def test_the_script_of_an_upgrade_runs_in_the_shell(tmp_path):
    script = alembic(tmp_path, "upgrade", "head", "--sql")
    (tmp_path / "shell").mkdir()
    shell = shutil.which("sqlite3")

    if shell is None:
        execute(tmp_path / "shell", script)
    else:
        subprocess.run(
            [shell, "-bail", tmp_path / "shell" / "ullage.db"],
            input=script,
            text=True,
            check=True,
            capture_output=True,
            timeout=30,
        )

    assert schema_of(tmp_path / "shell") == GOLDEN.read_text()
    assert query(tmp_path / "shell", "SELECT version_num FROM alembic_version") == [(HEAD_REVISION,)]


def test_down_and_up_again_is_the_same_schema(root):
    alembic(root, "downgrade", "base")
    left = query(root, "SELECT name FROM sqlite_schema WHERE name NOT GLOB 'sqlite_*'")
    alembic(root, "upgrade", "head")

    assert left == [("alembic_version",)]
    assert schema_of(root) == GOLDEN.read_text()


def _at(folder, revision):
    folder.mkdir()
    alembic(folder, "upgrade", revision)
    return folder


def _statements(root):
    rows = query(root, "SELECT name, sql FROM sqlite_schema WHERE name NOT GLOB 'sqlite_*'")
    return {name: sql for name, sql in rows if sql and name != "alembic_version"}


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_a_downgrade_leaves_the_very_schema_that_the_revision_makes(revision, root, tmp_path):
    alembic(root, "downgrade", revision)

    assert _statements(root) == _statements(_at(tmp_path / "fresh", revision))
    assert query(root, "PRAGMA user_version") == [(REVISIONS.index(revision) + 1,)]


def test_trees_are_forgotten_by_a_downgrade_and_their_room_is_free(tmp_path):
    """
    With everything there is in the store: what the earlier revision knows stays to the byte.
    """
    folder = tmp_path / "store"
    with FaultRegistry() as registry, populated(folder, registry):
        copy = tmp_path / "copy"
        copy.mkdir()
        query(folder, "VACUUM INTO ?", str(copy / "ullage.db"))
    kept = ("images", "manifests", "blobs", "manifest_blobs", "repo_tags", "leases", "lease_blobs", "ingests")
    before = {table: query(copy, f"SELECT * FROM {table}") for table in kept}
    (trees,) = query(
        copy,
        "SELECT sum(space_bytes), (SELECT sum(reserved_bytes) FROM tree_ingests) FROM trees WHERE state = 'ready'",
    )
    (used,) = query(copy, "SELECT used_bytes, reserved_bytes FROM storage_usage")
    assert min(trees) > 0

    alembic(copy, "downgrade", "0001")
    left = query(copy, "SELECT used_bytes, reserved_bytes FROM storage_usage")
    drift = query(
        copy, "SELECT * FROM accounting_drift UNION ALL SELECT invariant, problem, object FROM problems"
    )
    alembic(copy, "upgrade", "head")

    assert left == [(used[0] - trees[0], used[1] - trees[1])]
    assert drift == []
    assert query(copy, "SELECT name FROM accounting_drift UNION ALL SELECT problem FROM problems") == []
    assert {table: query(copy, f"SELECT * FROM {table}") for table in kept} == before
    assert query(copy, "SELECT tree_count, tree_bytes, tree_inodes FROM storage_usage") == [(0, 0, 0)]


def test_a_store_that_a_developer_made_with_alembic_is_a_store(tmp_path):
    alembic(tmp_path, "upgrade", "head")

    with ImageService.open(tmp_path, registry=SimulatedRegistry()) as store:
        assert store.usage().max_bytes == ImageService.DEFAULT_MAX_STORAGE
        store.pull_image("nginx")

    check_root(tmp_path)


# ---------------------------------------------------------------------- opening


def test_eight_processes_may_open_a_fresh_root_at_once(tmp_path):
    with workers(tmp_path / "fresh", 8, max_storage=1000) as every:
        for number, worker in enumerate(every):
            worker.call("register_image", f"app{number}:1", size=1)
        seen = [worker.call("image_count") for worker in every]

    assert seen == [8] * 8
    assert query(tmp_path / "fresh", "SELECT max_bytes FROM store") == [(1000,)]
    assert schema_of(tmp_path / "fresh") == GOLDEN.read_text()
    check_root(tmp_path / "fresh")


def test_a_store_at_head_is_opened_without_alembic(root):
    printed = run_python(
        "import sys\nfrom ullage import ImageService\nImageService.open(sys.argv[1]).close()\n"
        "print([name for name in sys.modules if name.startswith(('alembic', 'mako'))])",
        root,
    )

    assert printed.strip() == "[]"


def test_an_empty_file_becomes_a_store(tmp_path):
    """
    Whoever made it died first.
    """
    (tmp_path / "ullage.db").touch()

    with ImageService.open(tmp_path, max_storage=77) as store:
        assert store.usage().max_bytes == 77

    check_root(tmp_path)


def test_an_empty_file_is_no_store_to_look_at(tmp_path):
    (tmp_path / "ullage.db").touch()

    with pytest.raises(StoreReadOnly):
        ImageService.open(tmp_path, read_only=True)

    assert (tmp_path / "ullage.db").stat().st_size == 0


# ---------------------------------------------------------------------- what goes wrong


def test_a_failing_upgrade_leaves_the_previous_revision_whole(root, tmp_path):
    """
    Two revisions are pending, and the second fails halfway: neither is there.
    """
    with ImageService.open(root, registry=SimulatedRegistry()) as store:
        store.pull_image("nginx")
    shutil.copytree(
        PROJECT / "migrations", tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__")
    )
    last = int(HEAD_REVISION)
    for number, body in (
        (last + 1, 'op.execute("CREATE TABLE two (id INTEGER) STRICT")'),
        (
            last + 2,
            'op.execute("DROP VIEW problems"); op.execute("DELETE FROM images"); op.execute("SELECT nothing")',
        ),
    ):
        (tmp_path / "migrations" / "versions" / f"{number:04}_next.py").write_text(
            f"from alembic import op\nrevision = '{number:04}'\ndown_revision = '{number - 1:04}'\n"
            f"branch_labels = depends_on = None\ndef upgrade():\n    {body}\n"
        )
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    config.set_main_option("path_separator", "os")
    database = Database(root / "ullage.db", gate=root / "gate")

    def upgrade():
        with database.rebuild() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    with pytest.raises(StoreError, match="nothing"):
        upgrade()
    database.close()

    assert schema_of(root) == GOLDEN.read_text()
    assert query(root, "SELECT version_num FROM alembic_version") == [(HEAD_REVISION,)]
    with ImageService.open(root) as store:
        assert store.image_status("nginx") is not None
    check_root(root)


_FULL_DISK = """
import resource, sys
from ullage import ImageService, StoreError, DiskFull
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    ImageService.open(sys.argv[1])
except (StoreError, DiskFull) as error:
    print("refused:", type(error).__name__)
"""


@pytest.mark.parametrize("limit", [0, 4096, 40_000])
def test_a_store_that_cannot_be_made_is_made_the_next_time(limit, tmp_path):
    """
    The kernel lets no file grow past the limit, as on a full disk.
    """
    printed = run_python(_FULL_DISK, tmp_path / "root", limit)

    assert printed.startswith("refused:")
    with ImageService.open(tmp_path / "root"):
        assert schema_of(tmp_path / "root") == GOLDEN.read_text()
    check_root(tmp_path / "root")


@pytest.mark.parametrize("revision", ["0099", "9999", "abcdef012345", "0000", ""])
def test_a_revision_that_we_do_not_know_is_too_new(revision, root):
    execute(root, f"UPDATE alembic_version SET version_num = '{revision}'")
    before = schema_of(root)

    for read_only in (False, True):
        with pytest.raises(SchemaTooNew) as raised:
            ImageService.open(root, read_only=read_only)
        assert raised.value.revision == revision

    assert schema_of(root) == before
    assert query(root, "SELECT version_num FROM alembic_version") == [(revision,)]


@pytest.mark.parametrize(
    "script",
    [
        "PRAGMA application_id = 1",
        "PRAGMA application_id = 0",
        "DELETE FROM alembic_version",
        "DROP TABLE alembic_version",
    ],
)
def test_a_store_that_was_made_unrecognisable_is_corrupt(script, root):
    execute(root, script)

    with pytest.raises(StoreCorrupt):
        ImageService.open(root)


def test_the_database_of_another_application_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / "ullage.db")) as connection:
        connection.executescript("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")
    before = (tmp_path / "ullage.db").read_bytes()

    with pytest.raises(StoreCorrupt, match="another application") as raised:
        ImageService.open(tmp_path)

    assert raised.value.hint
    assert (tmp_path / "ullage.db").read_bytes() == before


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_left_alone(content, tmp_path):
    (tmp_path / "ullage.db").write_bytes(content)

    for read_only in (False, True):
        with pytest.raises(StoreCorrupt, match="no database"):
            ImageService.open(tmp_path, read_only=read_only)

    assert (tmp_path / "ullage.db").read_bytes() == content


def test_a_directory_in_the_place_of_the_database(tmp_path):
    (tmp_path / "ullage.db").mkdir()

    with pytest.raises(StoreError):
        ImageService.open(tmp_path)


def test_a_damaged_database_is_corrupt(root):
    with ImageService.open(root, registry=SimulatedRegistry()) as store:
        for number in range(300):
            store.register_image(f"app{number}:1", size=1)
    size = (root / "ullage.db").stat().st_size
    with (root / "ullage.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))

    with pytest.raises(StoreCorrupt), ImageService.open(root) as store:
        store.list_images()


def test_the_limit_is_kept_by_a_store_that_is_opened_without_one(tmp_path):
    ImageService.open(tmp_path, max_storage=5).close()
    ImageService.open(tmp_path).close()

    assert usage(tmp_path)["max_bytes"] == 5


@pytest.mark.parametrize("size", [1, 100, 511])
def test_a_file_too_short_to_be_a_database_is_not_written_over(tmp_path, size):
    """
    SQLite itself takes it for an empty one.
    """
    (tmp_path / "ullage.db").write_bytes(b"x" * size)

    with pytest.raises(StoreCorrupt):
        ImageService.open(tmp_path)

    assert (tmp_path / "ullage.db").read_bytes() == b"x" * size
