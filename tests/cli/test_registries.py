"""
``login``, ``logout``, and the options that say how registries are reached.
"""

from __future__ import annotations

import json
import ssl
import stat

import pytest

from support.images import ImageBuilder
from support.registry import FaultRegistry


@pytest.fixture
def guarded():
    with FaultRegistry(auth="token", username="alice", password="wonderland") as registry:
        ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        yield registry


def config(ullage):
    return ullage.home / ".docker/config.json"


def test_who_logs_in_can_pull_until_logging_out(ullage, guarded):
    done = ullage.run("login", guarded.host, "-u", "alice", "--password-stdin", input=b"wonderland\n")

    assert done.stdout == ""
    assert done.stderr == f"logged in to {guarded.host}: kept in {config(ullage)}\n"
    assert stat.S_IMODE(config(ullage).stat().st_mode) == 0o600
    assert ullage.run("pull", f"{guarded.host}/app:1").lines[0].startswith("sha256:")
    said = ullage.run("logout", guarded.host).stderr
    assert said == f"logged out of {guarded.host}: removed from {config(ullage)}\n"
    ullage.fail("pull", "--policy=always", f"{guarded.host}/app:1", code=11)
    assert ullage.run("logout", guarded.host).stderr == f"not logged in to {guarded.host}\n"


def test_a_wrong_password_is_not_kept(ullage, guarded):
    message = ullage.fail(
        "login", guarded.host, "-u", "alice", "--password-stdin", input=b"hunter2\n", code=11
    )

    assert "the registry refused the credentials" in message
    assert "hunter2" not in message
    assert not config(ullage).exists()


def test_a_registry_that_does_not_ask_is_warned_about(ullage, registry):
    done = ullage.run("login", registry.host, "-u", "alice", "--password-stdin", input=b"x\n")

    assert done.stderr.splitlines()[0].startswith("warning: ")


def test_a_file_may_be_named(ullage, guarded, tmp_path):
    file = tmp_path / "auth.json"
    arguments = ["login", guarded.host, "-u", "alice", "--password-stdin", "--authfile", file]
    ullage.run(*arguments, input=b"wonderland\n")

    assert list(json.loads(file.read_text())["auths"]) == [guarded.host]
    ullage.run("pull", f"{guarded.host}/app:1", env={"REGISTRY_AUTH_FILE": str(file)})
    ullage.run("logout", guarded.host, "--authfile", file)
    assert json.loads(file.read_text()) == {"auths": {}}


@pytest.mark.parametrize("arguments", [["-u", "alice"], []])
def test_without_a_terminal_nobody_is_asked(arguments, ullage, guarded):
    assert "no terminal to ask" in ullage.fail("login", guarded.host, *arguments, code=2)


@pytest.mark.parametrize("host", ["", "a b", "user@r.example"])
def test_what_is_no_host_is_refused(host, ullage):
    ullage.fail("login", host, "-u", "alice", "--password-stdin", input=b"x\n", code=2)


def test_a_file_that_is_none_is_left_alone(ullage, guarded):
    config(ullage).parent.mkdir(parents=True)
    config(ullage).write_text("{half")

    ullage.fail("login", guarded.host, "-u", "alice", "--password-stdin", input=b"wonderland\n", code=6)

    assert config(ullage).read_text() == "{half"


@pytest.mark.parametrize("by", ["option", "environment"])
def test_mirrors_are_named_by_an_option_or_the_environment(by, ullage, registry, tmp_path):
    image = ImageBuilder(registry, "app").push("1")
    (tmp_path / "certs.d/r.example").mkdir(parents=True)
    (tmp_path / "certs.d/r.example/hosts.toml").write_text(f'server = "{registry.url}"')
    named = {"env": {"ULLAGE_HOSTS_DIR": str(tmp_path / "certs.d")}} if by == "environment" else {}
    option = [] if by == "environment" else ["--hosts-dir", tmp_path / "certs.d"]

    assert ullage.run("pull", "r.example/app:1", *option, **named).lines == [image.image_id]


def test_a_hosts_toml_that_cannot_be_obeyed_is_named_with_its_line(ullage, tmp_path):
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default/hosts.toml").write_text("\nserver = 5\n")

    message = ullage.fail("pull", "r.example/app:1", "--hosts-dir", tmp_path, code=6)

    assert message.startswith(f"{tmp_path}/_default/hosts.toml:2: ")


def test_certificates_are_vouched_for_or_believed(ullage, tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FaultRegistry(ssl_context=context) as registry:
        image = ImageBuilder(registry, "app").push("1")
        ullage.fail("pull", image.reference, code=13)
        for option in (["--tls-ca", tmp_path / "ca.pem"], ["--insecure-skip-verify"]):
            ullage.run("pull", "--policy=always", image.reference, *option)
        ullage.fail("pull", "--policy=always", image.reference, "--tls-ca", tmp_path / "none.pem", code=6)


def test_a_registry_on_this_machine_needs_no_option(ullage, registry):
    image = ImageBuilder(registry, "app").push("1")

    assert ullage.run("pull", image.reference).lines == [image.image_id]
