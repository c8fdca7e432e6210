"""
``ullage db snapshot`` and ``ullage db salvage``: a database to take away, and one that is made anew.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing


def _images_in(path):
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        return connection.execute("SELECT count(*) FROM images").fetchone()[0]


def test_a_snapshot_is_written_to_a_file_or_to_stdout(ullage, pulled, tmp_path):
    said = ullage.run("db", "snapshot", tmp_path / "images.db", "--json").json
    with (tmp_path / "piped.db").open("wb") as file:
        process = ullage.start("db", "snapshot", "-", stdout=file)
        _, talk = process.communicate(timeout=60)

    assert said == {"file": str(tmp_path / "images.db"), "size": (tmp_path / "images.db").stat().st_size}
    assert (process.returncode, talk) == (0, b"")
    assert _images_in(tmp_path / "images.db") == _images_in(tmp_path / "piped.db") == 1


def test_a_snapshot_is_not_written_over_a_file_unasked(ullage, pulled, tmp_path):
    (tmp_path / "images.db").write_text("mine")

    assert "already" in ullage.fail("db", "snapshot", tmp_path / "images.db", code=30)
    assert (tmp_path / "images.db").read_text() == "mine"
    ullage.run("db", "snapshot", "--force", tmp_path / "images.db")
    assert _images_in(tmp_path / "images.db") == 1
    assert "no place" in ullage.fail("db", "snapshot", "-", "--json", code=2)


def test_a_snapshot_of_no_store(elsewhere, tmp_path):
    assert "no store" in elsewhere.fail("db", "snapshot", tmp_path / "images.db", code=30)
    assert not (tmp_path / "images.db").exists()


def test_a_salvage_says_what_it_recovered(ullage, pulled):
    os.truncate(ullage.root / "ullage.db", 5000)
    assert "damaged" in ullage.fail("images", code=32)
    hint = ullage.run("images", code=32).stderr

    done = ullage.run("db", "salvage")

    assert "ullage db salvage" in hint
    (line,) = done.lines
    assert line.startswith(f"recovered {pulled.image_id}: ")
    assert pulled.reference in line
    assert "1 images recovered" not in done.stderr
    assert "1 image recovered, nothing lost" in done.stderr
    assert "ullage.db.damaged-" in done.stderr
    assert [each["image_id"] for each in ullage.run("images", "--json").json_lines] == [pulled.image_id]


def test_a_salvage_that_lost_something_exits_with_32(ullage, pulled):
    layer = ullage.root / "blobs" / pulled.layers[0].digest.replace(":", "/")
    layer.unlink()
    (ullage.root / "ullage.db").unlink()

    said = ullage.run("db", "salvage", "--json", code=32).json

    assert said["images"] == []
    assert {name for name, _ in said["lost"]} == {
        pulled.manifest.digest,
        pulled.reference,
        f"{pulled.name}@{pulled.manifest.digest}",
    }
    assert said["unused_count"] == 3
    assert said["moved_aside"] is None
    ullage.run("check", "--repair")


def test_a_salvage_leaves_a_sound_database_alone(ullage, pulled):
    assert "not damaged" in ullage.fail("db", "salvage", code=30)
    assert "no store" in ullage.fail("--root", ullage.home / "nothing", "db", "salvage", code=30)
    ullage.run("db", "salvage", "--force")
    assert len(ullage.run("images", "--json").json_lines) == 1
