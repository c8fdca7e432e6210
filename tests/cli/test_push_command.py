"""
``push`` from outside.
"""

from __future__ import annotations

import signal

import pytest

from support import registry as faults
from support.pushes import PushRegistry


@pytest.fixture
def there():
    with PushRegistry() as registry:
        yield registry


def test_it_prints_what_the_image_is_there(ullage, pulled, there):
    done = ullage.run("push", pulled.reference, f"{there.host}/org/app:2")

    assert done.lines == [f"{there.host}/org/app@{pulled.manifest.digest}"]
    assert f"{there.host}/org/app:2: pushing" in done.stderr
    assert "sent" in done.stderr
    assert there.manifest("org/app", "2")[0] == pulled.manifest.raw
    again = ullage.run("push", pulled.reference, f"{there.host}/org/app:2")
    assert f"{there.host}/org/app:2: nothing had to be sent, 3 were there" in again.stderr


def test_json_says_what_it_cost(ullage, pulled, there):
    done = ullage.run("push", pulled.reference, f"{there.host}/app:1", "--json", "-q")

    assert done.stderr == ""
    assert done.json == {
        "reference": f"{there.host}/app:1",
        "repo_digest": f"{there.host}/app@{pulled.manifest.digest}",
        "digest": pulled.manifest.digest,
        "media_type": pulled.manifest.media_type,
        "sent_blobs": 3,
        "sent_bytes": pulled.size - pulled.manifest.size,
        "mounted_blobs": 0,
        "present_blobs": 0,
    }


def test_who_may_not_push_is_told_so(ullage, pulled):
    with PushRegistry(auth="basic", username="alice", password="s3cret") as there:
        name = f"{there.host}/app:1"
        assert "asks for credentials" in ullage.fail("push", pulled.reference, name, code=11)

        ullage.run("push", pulled.reference, name, "--creds", "alice", "--creds-stdin", input=b"s3cret\n")

        assert there.tags("app") == {"1": pulled.manifest.digest}


def test_a_refusal_is_the_registrys_own_word(ullage, pulled, there):
    there.inject("*/manifests/*", faults.status(400, "MANIFEST_INVALID", "not like this"), method="PUT")

    said = ullage.fail("push", pulled.reference, f"{there.host}/app:1", code=40)

    assert "MANIFEST_INVALID: not like this" in said


def test_what_is_not_here_is_not_pushed(ullage, elsewhere, there):
    assert "no such image" in ullage.fail("push", "nothing", f"{there.host}/app:1", code=3)


@pytest.mark.parametrize("destination", ["app/UPPER", "app@sha256:0"])
def test_a_destination_that_does_not_parse_is_refused(destination, ullage, pulled):
    ullage.fail("push", pulled.reference, destination, code=2)


def test_ctrl_c_ends_it_and_leaves_the_tag(ullage, pulled, there):
    stall = there.inject("*/uploads/*", faults.stall(), method="PUT")
    process = ullage.start("push", pulled.reference, f"{there.host}/app:1")
    stall.wait_reached()

    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)

    there.heal()
    assert (process.returncode, out) == (130, b"")
    assert there.tags("app") == {}
    ullage.run("rm", pulled.reference)
