"""
``ullage history``: what happened, for people and for programs.
"""

from __future__ import annotations

import re


def test_history_is_newest_first_and_says_who(ullage, pulled):
    ullage.run("tag", pulled.reference, "mine:1")
    ullage.run("rm", "mine:1")

    heads, removed, tagged, came = ullage.run("history").lines

    assert heads.split() == ["WHEN", "EVENT", "REFERENCE", "IMAGE", "ID", "BYTES", "DETAIL", "BY"]
    assert " removed " in removed
    assert " freed" in removed
    assert " tagged " in tagged
    assert " mine:1 " in tagged
    assert f" from {pulled.host} " in came
    assert re.search(r"ullage \(pid \d+\)$", came)


def test_history_as_json_has_the_fields_of_an_entry(ullage, pulled):
    (entry,) = ullage.run("history", "--json").json_lines

    assert set(entry) == {
        "id", "at", "event", "reference", "image_id", "previous_image_id", "received_bytes", "freed_bytes",
        "hosts", "owner", "pid", "detail",
    }  # fmt: skip
    assert (entry["event"], entry["reference"]) == ("pulled", pulled.reference)
    assert entry["hosts"] == [pulled.host]
    assert entry["received_bytes"] == pulled.size
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry["at"])


def test_history_of_one_image_and_of_one_that_is_gone(ullage, pulled):
    ullage.run("tag", pulled.reference, "mine:1")
    ullage.run("untag", "mine:1")
    ullage.run("rm", pulled.reference)

    def events(*arguments):
        return [entry["event"] for entry in ullage.run("history", "--json", *arguments).json_lines]

    assert events("mine:1") == ["untagged", "tagged"]
    assert events(pulled.image_id[7:19]) == ["removed", "untagged", "tagged", "pulled"]
    assert events("--limit", 2) == ["removed", "untagged"]
    assert events("--since", "1h") == events()
    assert events("--since", "2999-12-31") == []
    assert events("--since", "2000-01-01T00:00+01:00") == events()
    assert events("nothing:1") == []


def test_history_in_full_has_whole_ids_and_times(ullage, pulled):
    (_, line) = ullage.run("history", "--no-trunc").lines

    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d   pulled ", line)
    assert pulled.image_id in line


def test_a_reference_by_digest_is_shortened_as_ids_are(ullage, image):
    ullage.run("pull", "--plain-http", f"{image.name}@{image.manifest.digest}")

    line = ullage.run("history").lines[1]

    assert f"{image.name}@sha256:{image.manifest.digest[7:19]} " in line
    assert image.manifest.digest in ullage.run("history", "--no-trunc").stdout


def test_bad_input_of_history(ullage, elsewhere):
    assert "not a time" in ullage.fail("history", "--since", "yesterday", code=2)
    assert "not a time" in ullage.fail("history", "--since", "-5d", code=2)
    assert "limit" in ullage.fail("history", "--limit", "-1", code=2)
    assert ullage.run("history").stdout.splitlines()[1:] == []
    assert ullage.run("history", "--json").stdout == ""


def test_a_name_that_is_none_is_an_error(ullage):
    assert "NO NAME" in ullage.fail("history", "NO NAME", code=2)
