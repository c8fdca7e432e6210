"""
``check``, ``doctor``, eviction and plans, as the command line shows them.
"""

from __future__ import annotations

import dataclasses

import pytest

from support.images import ImageBuilder
from ullage.model import Finding, Problem, PullPlan

PLAIN = "--plain-http"


@pytest.fixture
def three(ullage, registry):
    """
    Three images, pulled one after the other.
    """
    images = [
        ImageBuilder(registry, f"app{number}").noise_layer(20_000, str(number)).push("1") for number in "123"
    ]
    ullage.run("pull", "-q", *(image.reference for image in images), PLAIN)
    return images


def test_check_finds_nothing_in_a_store_that_is_whole(ullage, pulled):
    done = ullage.run("check")
    assert (done.stdout, done.stderr) == ("", "no problems; --digests also hashes every blob\n")
    assert ullage.run("check", "--digests", "--json").stdout == ""
    ullage.run("doctor")
    findings = ullage.run("doctor", "--json").json_lines
    assert all(list(each) == [field.name for field in dataclasses.fields(Finding)] for each in findings)
    assert not any(each["level"] == "fail" for each in findings)


def test_check_names_what_is_wrong_and_mends_it(ullage, pulled):
    layer = ullage.root / "blobs" / "sha256" / pulled.layers[0].digest.encoded
    layer.chmod(0o644)
    layer.write_bytes(b"x" * pulled.layers[0].size)
    layer.chmod(0o444)

    assert ullage.run("check").stdout == ""
    (problem,) = ullage.run("check", "--digests", "--json", code=32).json_lines
    assert list(problem) == [field.name for field in dataclasses.fields(Problem)]
    assert problem["invariant"] == "I1"
    assert pulled.layers[0].digest in ullage.run("check", "--digests", code=32).stdout

    mended = ullage.run("check", "--digests", "--repair", PLAIN)
    assert "mended" in mended.stdout
    assert layer.read_bytes() == pulled.layers[0].raw


def test_without_a_store_nothing_is_wrong(elsewhere, tmp_path):
    for command in ("check", "doctor"):
        assert elsewhere.run(command).stdout == ""
    assert not (tmp_path / "elsewhere").exists()


def test_a_plan_says_what_would_happen_and_nothing_happens(ullage, pulled, registry):
    other = ImageBuilder(registry, "other").layer({"etc/motd": b"hello"}).noise_layer(5000, "x").push("1")
    sent = registry.blob_bytes_sent

    plan = ullage.run("pull", "--dry-run", "--json", other.reference, PLAIN).json

    assert list(plan) == [field.name for field in dataclasses.fields(PullPlan)]
    assert plan["present_bytes"] == pulled.layers[0].size
    assert plan["fits"] is True
    ullage.run("quota", "--max", pulled.size)
    refused = ullage.run("pull", "--dry-run", other.reference, PLAIN, code=14)
    assert "storage limit exceeded" in refused.stdout
    assert registry.blob_bytes_sent - sent <= other.config.size
    assert ullage.run("images", "-q").lines == [pulled.image_id]


def test_a_plan_without_a_store_makes_none(elsewhere, tmp_path, image):
    planned = elsewhere.run("pull", "--dry-run", "--json", image.reference, PLAIN).json

    assert planned["fetch_bytes"] == image.size
    assert not (tmp_path / "elsewhere").exists()


def test_a_pull_may_evict_and_spares_what_is_pinned(ullage, three, registry):
    ullage.run("pin", three[0].reference)
    limit = ullage.usage()["used_bytes"]
    ullage.run("quota", "--max", limit)
    fourth = ImageBuilder(registry, "app4").noise_layer(20_000, "4").push("1")

    assert ullage.fail("pull", fourth.reference, PLAIN, code=14)
    ullage.run("pull", "--evict", fourth.reference, PLAIN)

    assert ullage.run("images", "-q").lines == [image.image_id for image in (three[0], three[2], fourth)]


def test_a_lower_quota_may_evict(ullage, three):
    kept = three[2].size

    done = ullage.run("quota", "--max", kept, "--evict", "--min-free", "1M", "--json").json

    assert done["max_bytes"] == kept
    assert done["min_free_bytes"] == 1_000_000
    assert [image["repo_tags"] for image in done["evicted"]] == [[three[0].reference], [three[1].reference]]
    assert ullage.run("images", "-q").lines == [three[2].image_id]


def test_gc_evicts_by_watermarks_and_only_says_so_in_a_dry_run(ullage, three):
    ullage.run("quota", "--max", ullage.usage()["used_bytes"])
    arguments = ("gc", "--high", "90", "--low", "50", "--min-age", "0s")

    planned = ullage.run(*arguments, "--dry-run")
    assert planned.lines[-1].startswith("would free")
    assert len(ullage.run("images", "-q").lines) == 3

    freed = ullage.run(*arguments, "--json").json
    assert [image["repo_tags"] for image in freed["images"]] == [[three[0].reference], [three[1].reference]]
    assert ullage.run("images", "-q").lines == [three[2].image_id]


@pytest.mark.parametrize("age", ["x", "1w", "-5", "1e999", "", "nan"])
def test_an_age_that_is_none_is_a_usage_error(ullage, age):
    assert ullage.fail("gc", f"--max-age={age}", code=2)
    assert "above" in ullage.fail("gc", "--high", "10", "--low", "20", code=2)
