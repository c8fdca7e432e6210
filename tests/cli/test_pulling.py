"""
``ullage pull``: what it prints where, and what it exits with.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import subprocess
import termios

import pytest

from support import registry as faults
from support.images import ImageBuilder, json_of, noise, push_index
from support.registry import FaultRegistry
from ullage import ImageStatus, Platform

PLAIN = "--plain-http"
#: A partial blob of more than this is kept for the next pull.
RESUMABLE = 64 * 1024


def test_a_pull_prints_the_id_and_talks_beside_it(ullage, image, registry):
    first = ullage.run("pull", image.reference, PLAIN)

    assert first.lines == [image.image_id]
    assert f"{image.reference}: pulling" in first.stderr
    assert len(first.stderr.splitlines()) == 1 + len(image.blobs) + 1

    asked = len(registry.requests)
    second = ullage.run("pull", image.reference, PLAIN)

    assert second.lines == [image.image_id]
    assert second.stderr.endswith("is here, nothing was asked of the registry\n")
    assert len(registry.requests) == asked


def test_always_asks_and_fetches_nothing_that_is_here(ullage, pulled, registry):
    sent = registry.blob_bytes_sent

    done = ullage.run("pull", "--policy", "always", pulled.reference, PLAIN)

    assert done.stderr.endswith("is here and up to date\n")
    assert registry.blob_bytes_sent == sent


def test_quiet_leaves_only_the_id_and_json_the_whole_status(ullage, image):
    quiet = ullage.run("pull", image.reference, PLAIN, "--quiet")
    assert (quiet.stderr, quiet.lines) == ("", [image.image_id])

    status = ullage.run("pull", image.reference, PLAIN, "-q", "--json").json
    assert list(status) == [each.name for each in dataclasses.fields(ImageStatus)]
    assert status["repo_tags"] == [image.reference]
    assert status["spec"] == {"image_name": image.name, "tag": "1", "digest": ""}
    assert status["size"] == image.size
    assert status["uid"] == 1000
    assert status["pulled_at"].endswith("Z")


def test_a_platform_is_chosen(ullage, registry):
    arm = ImageBuilder(registry, "app", platform="linux/arm64").layer({"a": b"arm"})
    riscv = ImageBuilder(registry, "app", platform="linux/riscv64").layer({"a": b"riscv"})
    images = push_index(registry, "app", [arm, riscv], "1")

    done = ullage.run("pull", "--platform", "linux/riscv64", images[1].reference, PLAIN, "--json")
    assert done.json["image_id"] == images[1].image_id
    assert done.json["platform"] == "linux/riscv64"

    reference = f"{registry.host}/app@{images[0].digest}"
    assert "s390x" in ullage.fail("pull", "--platform", "linux/s390x", reference, PLAIN, code=16)
    assert ullage.fail("pull", "--platform", "li nux/", reference, PLAIN, code=2)


def test_after_a_failure_the_other_images_are_pulled(ullage, image, registry):
    absent, worse = f"{registry.host}/app:absent", "UPPER/case"

    done = ullage.run("pull", absent, worse, image.reference, PLAIN, code=12)

    assert done.lines == [image.image_id]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert absent in errors[0]
    assert worse in errors[1]


# Credentials


def test_credentials_come_from_the_command_line_or_from_stdin(ullage):
    with FaultRegistry(auth="token", username="alice", password="won:der") as registry:
        image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        other = ImageBuilder(registry, "other").layer({"a": b"b"}).push("1")

        assert ullage.fail("pull", image.reference, PLAIN, code=11)
        said = ullage.fail("pull", image.reference, PLAIN, "--creds", "alice:wrong-one", code=11)
        assert "wrong-one" not in said
        ullage.run("pull", image.reference, PLAIN, "--creds", "alice:won:der")
        ullage.run(
            "pull", other.reference, PLAIN, "--creds", "alice", "--creds-stdin", input=b"won:der\nmore\n"
        )


def test_a_password_is_asked_for_on_the_terminal(ullage):
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as registry:
        image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        terminal, side = os.openpty()

        def take_the_terminal():
            os.setsid()
            fcntl.ioctl(side, termios.TIOCSCTTY, 0)

        process = ullage.start(
            "pull",
            image.reference,
            PLAIN,
            "--creds",
            "alice",
            stdin=side,
            stderr=side,
            preexec_fn=take_the_terminal,
        )
        os.close(side)
        said = b""
        while b"Password for alice" not in said:
            said += os.read(terminal, 1000)
        os.write(terminal, b"wonderland\n")
        out = process.stdout.read()

        assert process.wait() == 0
        assert out.decode().split() == [image.image_id]
        os.close(terminal)
        process.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--creds", "alice", "app"), "no terminal to ask"),
        (("--creds", ":pw", "app"), "needs a user"),
        (("--creds-stdin", "app"), "needs --creds"),
        (("--creds", "a:b", "--creds-stdin", "app"), "two passwords"),
        (("--creds", "a:b", "one.example/app", "two.example/app"), "for one registry"),
    ],
)
def test_credentials_that_make_no_sense_are_a_usage_error(ullage, arguments, said):
    assert said in ullage.fail("pull", *arguments, code=2)


# What goes wrong at the registry


def _index_to_itself(registry):
    # An index cannot hold its own digest: the fault answers with the same index for whatever it names.
    entry = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": "sha256:" + "0" * 64,
        "size": 999,
    }
    body = json_of({"schemaVersion": 2, "mediaType": entry["mediaType"], "manifests": [entry]}).ljust(999)
    registry.inject("*/manifests/*", faults.answer(body, headers={"content-type": entry["mediaType"]}))


def _manifest(body):
    return lambda registry: registry.inject(
        "*/manifests/*",
        faults.answer(body, headers={"content-type": "application/vnd.oci.image.manifest.v1+json"}),
    )


REFUSALS = {
    "401": (lambda registry: registry.inject("*", faults.status(401)), 11),
    "403": (lambda registry: registry.inject("*", faults.status(403)), 18),
    "404": (lambda registry: registry.inject("*/manifests/*", faults.status(404)), 12),
    "wrong bytes": (lambda registry: registry.inject("*/blobs/*", faults.wrong_bytes()), 21),
    "longer": (lambda registry: registry.inject("*/blobs/*", faults.longer()), 22),
    "shorter": (lambda registry: registry.inject("*/blobs/*", faults.shorter()), 22),
    "no json": (_manifest(b"<html>"), 23),
    "deep json": (_manifest(b'{"schemaVersion":2,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), 23),
    "a manifest over 4 MiB": (_manifest(b" " * (4 * 2**20 + 1)), 23),
    "an index of itself": (_index_to_itself, 21),
    "another media type": (
        lambda registry: registry.inject("*/manifests/*", faults.headers(content_type="text/html")),
        25,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_registry_that_fails_is_one_line_and_one_code_and_leaves_nothing(ullage, image, registry, name):
    fault, code = REFUSALS[name]
    fault(registry)

    assert ullage.fail("pull", image.reference, PLAIN, code=code)
    usage = ullage.usage()
    assert (usage["used_bytes"], usage["reserved_bytes"], usage["image_count"]) == (0, 0, 0)


def test_what_a_registry_says_cannot_move_the_cursor(ullage, image, registry):
    registry.inject("*", faults.status(404, "MANIFEST_UNKNOWN", "gone\n\x1b[2Jerror: all is well"))

    message = ullage.fail("pull", image.reference, PLAIN, code=12)

    assert "\x1b" not in message


def test_a_registry_that_is_not_there_is_unavailable(ullage):
    assert ullage.fail("pull", "127.0.0.1:1/app:1", PLAIN, code=13)


def test_a_pull_ends_at_its_deadline(ullage, image, registry):
    stalled = registry.inject("*/manifests/*", faults.stall())

    assert "deadline" in ullage.fail("pull", image.reference, PLAIN, "--timeout", "0.2", code=19)
    stalled.release()


def test_never_does_not_ask(ullage, image, registry):
    assert ullage.fail("pull", "--policy", "never", image.reference, PLAIN, code=3)
    assert registry.requests == []


def test_a_limit_refuses_with_the_numbers_and_exactly_enough_is_enough(ullage, image, registry):
    ullage.run("quota", "--max", image.size - 1)
    sent = registry.blob_bytes_sent
    message = ullage.fail("pull", image.reference, PLAIN, code=14)
    assert message.startswith(
        f"storage limit exceeded: needed {image.size} bytes, available {image.size - 1}"
    )
    assert registry.blob_bytes_sent == sent

    ullage.run("quota", "--max", image.size)
    ullage.run("pull", image.reference, PLAIN)
    assert ullage.usage()["available_bytes"] == 0


# Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_pull_leaves_nothing_behind(ullage, image, registry, number):
    # Once before the manifest is here, once in the middle of a layer.
    pattern, after = (
        ("*/manifests/*", None) if number == signal.SIGTERM else (f"*/{image.layers[1].digest}", 500)
    )
    stalled = registry.inject(pattern, faults.stall(after=after))
    process = ullage.start("pull", image.reference, PLAIN, preexec_fn=lambda: _default(number))
    stalled.wait_reached()

    process.send_signal(number)
    out, talk = process.communicate(timeout=20)
    stalled.release()

    assert process.returncode == 128 + number
    assert out == b""
    assert talk.decode().splitlines()[-1] == f"error: interrupted by {number.name}"
    usage = ullage.usage()
    assert (usage["used_bytes"], usage["reserved_bytes"], usage["image_count"]) == (0, 0, 0)
    assert list((ullage.root / "ingest").iterdir()) == []


def test_what_had_come_of_a_large_blob_is_gone_on_with(ullage, registry, wait_until):
    content = noise(4 * RESUMABLE)
    large = ImageBuilder(registry, "large").raw_layer(content).push("1")
    stalled = registry.inject("*/blobs/*", faults.stall(after=2 * RESUMABLE), times=None)
    registry.inject(f"*/{large.config.digest}", lambda hit: hit.reply())
    process = ullage.start("pull", large.reference, PLAIN, preexec_fn=lambda: _default(signal.SIGINT))
    stalled.wait_reached()
    partial = ullage.root / "ingest" / large.layers[0].digest.encoded
    wait_until(lambda: partial.exists() and partial.stat().st_size == 2 * RESUMABLE)

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    registry.heal()

    assert process.returncode == 130
    assert ullage.usage()["reserved_bytes"] == 2 * RESUMABLE
    ullage.run("pull", large.reference, PLAIN)
    assert [each.range for each in registry.requests if each.path.endswith(large.layers[0].digest)] == [
        "",
        f"bytes={2 * RESUMABLE}-",
    ]
    usage = ullage.usage()
    assert (usage["used_bytes"], usage["reserved_bytes"]) == (large.size, 0)


def _default(number):
    # A test runner in the background of a shell hands down an ignored SIGINT.
    signal.signal(number, signal.SIG_DFL)


# Terminals


def test_a_terminal_shows_bars_on_stderr_alone(ullage, image):
    terminal, side = os.openpty()
    ullage.environment["TERM"] = "xterm"
    with ullage.start("pull", image.reference, PLAIN, stderr=side) as process:
        os.close(side)
        talk = b""
        try:
            while piece := os.read(terminal, 4096):
                talk += piece
        except OSError:
            pass  # that is how the end of a terminal reads
        out = process.stdout.read()

    assert process.returncode == 0
    assert out.decode().split() == [image.image_id]
    assert b"\x1b[" in talk
    assert image.reference.encode() in talk
    os.close(terminal)


def test_a_dumb_terminal_and_a_pipe_get_lines(ullage, image):
    terminal, side = os.openpty()
    ullage.environment["TERM"] = "dumb"
    with ullage.start("pull", image.reference, PLAIN, stderr=side, stdout=subprocess.DEVNULL) as process:
        os.close(side)
        assert process.wait() == 0
    assert b"\x1b" not in os.read(terminal, 4096)
    os.close(terminal)


def test_what_refers_to_an_image_is_listed_planned_pulled_and_named(ullage, image, registry):
    registry.inject("*/referrers/*", faults.referrers())
    signature = (
        ImageBuilder(registry, image.repo)
        .artifact("application/vnd.example.signature")
        .raw_layer(b"signed", media_type="application/vnd.example.signature")
        .manifest_fields(subject=image.manifest.descriptor)
        .push()
    )
    name = f"{image.name}@{signature.digest}"

    plans = ullage.run("pull", image.reference, PLAIN, "--with-referrers", "--dry-run").stdout
    assert name in plans
    assert registry.count("GET", "*/blobs/*") == 0
    ullage.run("pull", image.reference, PLAIN)
    inspected = ullage.run("inspect", "--referrers", image.reference, PLAIN).json
    (listed,) = inspected["referrers"]
    assert (listed["reference"], listed["subject"], listed["image_id"]) == (name, image.digest, None)
    assert "referrers" not in ullage.run("inspect", image.reference).json

    done = ullage.run("pull", image.reference, PLAIN, "--with-referrers")

    assert done.lines == [image.image_id, signature.image_id]
    assert f"{signature.digest[7:19]} refers to it: application/vnd.example.signature" in done.stderr
    (listed,) = ullage.run("inspect", "--referrers", image.reference, PLAIN).json["referrers"]
    assert listed["image_id"] == signature.digest
    ullage.fail("pull", image.reference, "--with-referrers", "--policy", "never", code=2)
    ullage.fail("pull", "oci:layout", "--with-referrers", code=2)


def test_every_platform_is_pulled(ullage, registry):
    here = str(Platform.of_host().normalised())
    builders = [
        ImageBuilder(registry, "app", platform=each).layer({"a": each.encode()})
        for each in (here, "linux/s390x")
    ]
    images = push_index(registry, "app", builders, "1")

    assert ullage.run("pull", images[0].reference, PLAIN, "--platform", "all").lines == [images[0].image_id]

    assert set(ullage.run("images", "-q").lines) == {each.image_id for each in images}
