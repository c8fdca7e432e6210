"""
Logging in and out: what is asked of the registry, and what is left in which file.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from support import registry as faults
from support.helpers import HelperProgram, path_with
from support.images import ImageBuilder
from support.registry import FaultRegistry
from ullage.errors import AuthenticationFailed, InvalidConfiguration, InvalidReference, RegistryUnavailable
from ullage.reference import Reference
from ullage.registry import CredentialFiles, RegistryClient
from ullage.registry.identity import Credentials
from ullage.registry.login import log_in, remove_credentials, store_credentials

HUB = "https://index.docker.io/v1/"


def auth_of(username, password):
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def docker(home):
    return home / ".docker/config.json"


@pytest.fixture(params=["basic", "token"])
def guarded(request):
    with FaultRegistry(auth=request.param, username="alice", password="wonderland") as registry:
        ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        yield registry


def content(path):
    return json.loads(path.read_text())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------------- logging in


def test_who_logs_in_can_pull(guarded, docker):
    with RegistryClient(plain_http=True, backoff_seconds=0.01) as client:
        done = log_in(client, guarded.host, "alice", "wonderland")

        assert client.repo(Reference.parse(f"{guarded.host}/app:1")).get_manifest("1").raw

    assert done == (guarded.host, str(docker), True)
    assert content(docker) == {"auths": {guarded.host: auth_of("alice", "wonderland")}}
    assert (mode(docker), mode(docker.parent)) == (0o600, 0o700)


def test_what_is_asked_to_log_in_is_the_registry_itself(guarded, client):
    log_in(client, guarded.host, "alice", "wonderland")

    assert {each.path for each in guarded.requests} <= {"/v2/", "/token"}
    if guarded.guard.sells_tokens:
        assert guarded.asked[1].query == {"service": [guarded.host], "account": ["alice"]}


def test_what_a_registry_refuses_is_not_kept(guarded, docker, client):
    with pytest.raises(AuthenticationFailed, match="the registry refused the credentials"):
        log_in(client, guarded.host, "alice", "looking-glass")

    assert not docker.exists()


def test_a_registry_that_lets_anybody_in_has_not_looked(registry, docker, client):
    assert log_in(client, registry.host, "alice", "x") == (registry.host, str(docker), False)


@pytest.mark.parametrize(
    "fault", [faults.status(500), faults.status(404), faults.reset(), faults.raw(b"junk")]
)
def test_a_registry_that_does_not_answer_keeps_nothing(fault, registry, docker, client):
    registry.inject("*", fault)

    with pytest.raises(RegistryUnavailable):
        log_in(client, registry.host, "alice", "x")

    assert not docker.exists()


@pytest.mark.parametrize(
    "host", ["", "http://", "a b", "user@r.example", "r.example:x", "r.example?x", "a\nb"]
)
def test_what_is_no_host_is_refused(host, client):
    with pytest.raises(InvalidReference):
        log_in(client, host, "alice", "x")


def test_nobody_cannot_log_in(client):
    with pytest.raises(AuthenticationFailed, match="no user name"):
        log_in(client, "r.example", "", "x")


# ---------------------------------------------------------------------- keeping


def test_what_else_is_in_the_file_stays(docker):
    docker.parent.mkdir(parents=True)
    docker.write_text(
        '{"auths": {"s.example": {"auth": "x"}}, "psFormat": "ü", "nested": {"b": [1, null], "a": 2}}'
    )

    store_credentials("r.example", "alice", "x")

    assert content(docker) == {
        "auths": {"s.example": {"auth": "x"}, "r.example": auth_of("alice", "x")},
        "psFormat": "ü",
        "nested": {"b": [1, None], "a": 2},
    }
    assert list(content(docker)) == ["auths", "psFormat", "nested"]
    assert mode(docker) == 0o600, "whatever it was before"
    assert [each.name for each in docker.parent.iterdir()] == ["config.json"]


def test_a_second_login_replaces_the_first_under_its_own_key(docker):
    docker.parent.mkdir(parents=True)
    docker.write_text(json.dumps({"auths": {"https://r.example/v2/": auth_of("old", "x")}}))

    store_credentials("r.example", "new", "y")

    assert content(docker)["auths"] == {"https://r.example/v2/": auth_of("new", "y")}


@pytest.mark.parametrize("host", ["docker.io", HUB, "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_stands_under_the_name_that_docker_gives_it(host, docker):
    store_credentials(host, "alice", "x")

    assert list(content(docker)["auths"]) == [HUB]
    assert CredentialFiles().find("docker.io", "library/alpine") == Credentials("alice", "x")


def test_a_namespace_has_its_own(docker):
    store_credentials("quay.io", "host", "x")
    store_credentials("quay.io/org", "org", "x")

    assert CredentialFiles().find("quay.io", "org/app").username == "org"
    assert CredentialFiles().find("quay.io", "other/app").username == "host"


def test_an_entry_that_would_hide_the_new_one_is_replaced_where_it_is(tmp_path, docker):
    podman = tmp_path / "run/containers/auth.json"
    podman.parent.mkdir(parents=True)
    podman.write_text(json.dumps({"auths": {"r.example": auth_of("old", "x")}}))

    assert store_credentials("r.example", "new", "y") == str(podman)

    assert CredentialFiles().find("r.example").username == "new"
    assert not docker.exists()


@pytest.mark.parametrize("variable", ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG"])
def test_the_environment_names_the_file(variable, tmp_path, monkeypatch):
    file = tmp_path / "x/config.json"
    monkeypatch.setenv(variable, str(file if variable == "REGISTRY_AUTH_FILE" else file.parent))

    assert store_credentials("r.example", "alice", "x") == str(file)


def test_the_caller_names_the_file(tmp_path):
    assert store_credentials("r.example", "alice", "x", tmp_path / "mine.json") == str(tmp_path / "mine.json")


def test_a_link_stays_a_link(docker, tmp_path):
    docker.parent.mkdir(parents=True)
    (tmp_path / "dotfiles.json").write_text("{}")
    docker.symlink_to(tmp_path / "dotfiles.json")

    store_credentials("r.example", "alice", "x")

    assert docker.is_symlink()
    assert content(tmp_path / "dotfiles.json")["auths"]


def test_a_file_that_is_none_is_left_as_it_is(docker):
    docker.parent.mkdir(parents=True)
    docker.write_text("{half")

    with pytest.raises(InvalidConfiguration):
        store_credentials("r.example", "alice", "x")

    assert docker.read_text() == "{half"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(InvalidConfiguration, match=r"cannot write .*/file/auth\.json"):
        store_credentials("r.example", "alice", "x", tmp_path / "file/auth.json")


@pytest.mark.parametrize("settings", [{"credsStore": "test"}, {"credHelpers": {"r.example": "test"}}])
def test_where_a_helper_is_configured_the_file_holds_no_secret(settings, docker, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    helper = HelperProgram(tmp_path / "bin", "test")
    docker.parent.mkdir(parents=True)
    docker.write_text(json.dumps(settings))

    assert store_credentials("r.example", "alice", "wonderland") == "docker-credential-test"

    assert helper.kept == {"r.example": ["alice", "wonderland"]}
    assert content(docker) == {**settings, "auths": {"r.example": {}}}
    assert CredentialFiles().find("r.example") == Credentials("alice", "wonderland")


def test_a_helper_that_does_not_take_it_is_no_login(docker, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    HelperProgram(tmp_path / "bin", "test", prelude="print('no room for wonderland'); sys.exit(1)")
    docker.parent.mkdir(parents=True)
    docker.write_text('{"credsStore": "test"}')

    with pytest.raises(AuthenticationFailed, match="no room for") as caught:
        store_credentials("r.example", "alice", "wonderland")

    assert "wonderland" not in str(caught.value)
    assert content(docker) == {"credsStore": "test"}


# ---------------------------------------------------------------------- logging out


def test_who_logs_out_is_in_no_file(tmp_path, docker):
    other = tmp_path / "run/containers/auth.json"
    for path in (docker, other):
        path.parent.mkdir(parents=True)
        path.write_text(
            json.dumps(
                {
                    "auths": {
                        "r.example": auth_of("a", "x"),
                        "https://r.example/v2/": auth_of("b", "y"),
                        "s.example": auth_of("c", "z"),
                    },
                    "kept": 1,
                }
            )
        )

    assert remove_credentials("r.example") == (str(other), str(docker))

    for path in (docker, other):
        assert content(path) == {"auths": {"s.example": auth_of("c", "z")}, "kept": 1}
        assert mode(path) == 0o600
    assert remove_credentials("r.example") == ()
    assert CredentialFiles().find("r.example") == Credentials()


def test_who_logs_out_of_one_file_stays_in_the_others(tmp_path, docker):
    store_credentials("r.example", "alice", "x")
    mine = tmp_path / "mine.json"
    store_credentials("r.example", "alice", "x", mine)

    assert remove_credentials("r.example", mine) == (str(mine),)

    assert content(docker)["auths"]


@pytest.mark.parametrize("settings", [{"credsStore": "test"}, {"credHelpers": {"r.example": "test"}}])
def test_a_helper_forgets_too(settings, docker, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    helper = HelperProgram(tmp_path / "bin", "test", {"s.example": ("b", "y")})
    docker.parent.mkdir(parents=True)
    docker.write_text(json.dumps(settings))
    store_credentials("r.example", "alice", "x")

    assert remove_credentials("r.example") == ("docker-credential-test",)

    assert helper.kept == {"s.example": ["b", "y"]}
    assert content(docker)["auths"] == {}
    assert remove_credentials("r.example") == ()


def test_who_never_logged_in_leaves_no_file(docker):
    assert remove_credentials("r.example") == ()
    assert not docker.exists()


def test_the_written_file_is_what_skopeo_reads(tmp_path):
    """
    The form of docker's own: base64 of user:password, whatever is in the password.
    """
    file = tmp_path / "auth.json"
    store_credentials("r.example", "alice", "won:der\nländ", file)

    assert CredentialFiles((file,)).find("r.example") == Credentials("alice", "won:der\nländ")
    assert os.fspath(Path(file)) in str(CredentialFiles((file,)).find("r.example").source)
