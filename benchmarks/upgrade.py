"""
What an upgrade costs, as ratios in one run: `make bench-upgrade`.

A store of the first revision with a million blobs is brought to the newest, with its backup, beside what SQLite takes
to write the same file once (VACUUM INTO, synced) and beside a plain copy of it. And the most memory that it has.
"""

# ruff: noqa: E501 -- SQL reads by its lines

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from ratios import Command, Ratios

from ullage.schema import HEAD_REVISION, REVISIONS

PROJECT = Path(__file__).parent.parent
ULLAGE = str(Path(sys.executable).with_name("ullage"))
BLOBS_OF_AN_IMAGE = 100

# As pulls would have left it: each image has a manifest, a config and layers, and shares none.
_NOW = "'2026-11-01T00:00:00.000000Z'"
_FILL = f"""
CREATE TEMP TABLE n AS WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :blobs) SELECT i FROM n;
INSERT INTO blobs (digest, size, referenced, created_at) SELECT 'sha256:' || printf('%064x', i), 1000 + i, 1, {_NOW} FROM n;
INSERT INTO images (image_id, size, platform, config, spec_image_name, spec_tag, pulled_at, last_used_at)
  SELECT 'sha256:' || printf('%064x', i + 1), :each * (1000 + i) + :each * (:each - 1) / 2, 'linux/amd64',
    '{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"]}}}}', 'app' || i, '1', {_NOW}, {_NOW}
  FROM n WHERE i % :each = 0;
INSERT INTO manifests (digest, image_id, media_type, complete, created_at)
  SELECT 'sha256:' || printf('%064x', i), i / :each + 1, 'application/vnd.oci.image.manifest.v1+json', 1, {_NOW} FROM n WHERE i % :each = 0;
INSERT INTO manifest_blobs (manifest_id, position, blob_id, role, media_type)
  SELECT i / :each + 1, i % :each, i + 1, CASE i % :each WHEN 0 THEN 'manifest' WHEN 1 THEN 'config' ELSE 'layer' END,
    'application/vnd.oci.image.layer.v1.tar+gzip' FROM n;
INSERT INTO repo_tags (reference, image_id, manifest_id, digest, updated_at)
  SELECT 'registry.example/app' || i || ':1', i / :each + 1, i / :each + 1, 'sha256:' || printf('%064x', i), {_NOW} FROM n WHERE i % :each = 0;
UPDATE store SET blob_count = (SELECT count(*) FROM blobs), blob_bytes = (SELECT sum(size) FROM blobs),
  image_count = (SELECT count(*) FROM images), logical_bytes = (SELECT sum(size) FROM images), ledger = ledger + 1;
"""


def make_old(root: Path, blobs: int) -> None:
    """
    A store of the first revision. Its triggers are put aside while it is filled: they would take ten times as long.
    """
    root.mkdir()
    subprocess.run(
        [sys.executable, "-m", "alembic", "-x", f"root={root}", "upgrade", REVISIONS[0]],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    )
    with closing(sqlite3.connect(root / "ullage.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY rowid"
        ).fetchall()
        connection.execute(
            f"INSERT INTO store (uuid, created_at, max_bytes) VALUES ('5704e5ee-0000-4000-8000-000000000000', {_NOW}, {1 << 60})"
        )
        connection.execute("BEGIN")
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in _FILL.strip().rstrip(";").split(";\n"):
            connection.execute(
                statement, {"blobs": blobs, "each": BLOBS_OF_AN_IMAGE} if ":" in statement else {}
            )
        for _, sql in triggers:
            connection.execute(sql)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert connection.execute("SELECT count(*) FROM problems").fetchone() == (0,), "the store is no store"


def vacuum_into(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", [str(target)])
    sync(target)


def plain_copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    sync(target)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def peak_bytes(*command: str) -> int:
    """
    The most memory that *command* had.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return used.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().partition("\n")[0])
    parser.add_argument("--blobs", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ullage-bench-") as name:
        base = Path(name)
        make_old(base / "old", options.blobs)
        old, root, copy = base / "old" / "ullage.db", base / "root", base / "copy.db"

        def before() -> None:
            shutil.rmtree(root, ignore_errors=True)
            copy.unlink(missing_ok=True)
            root.mkdir()
            shutil.copyfile(old, root / "ullage.db")
            sync(root / "ullage.db")

        title = f"an upgrade from {REVISIONS[0]} to {HEAD_REVISION}, {options.blobs} blobs, {old.stat().st_size >> 20} MiB"
        upgrade = Command("ullage db upgrade", ((ULLAGE, "--root", str(root), "db", "upgrade"),))
        with Ratios(title, pairs=options.pairs) as ratios:
            ratios.compare(
                "with its backup, beside one VACUUM INTO",
                ours=upgrade,
                theirs=Command("VACUUM INTO", call=lambda: vacuum_into(root / "ullage.db", copy)),
                before=before,
            )
            ratios.compare(
                "with its backup, beside a copy of the file",
                ours=upgrade,
                theirs=Command("cp", call=lambda: plain_copy(root / "ullage.db", copy)),
                before=before,
            )
        if options.json:
            ratios.write(options.json)
        before()
        least = peak_bytes(ULLAGE, "--root", str(root), "db", "history")
        most = peak_bytes(ULLAGE, "--root", str(root), "db", "upgrade")
        again = peak_bytes(ULLAGE, "--root", str(root), "db", "downgrade", REVISIONS[0], "--yes")
        print(
            f"at most {most >> 20} MiB of memory, {again >> 20} MiB on the way back; "
            f"{least >> 20} MiB of them are the command itself"
        )


if __name__ == "__main__":
    main()
