"""
Credentials that nobody brought along: where they are looked for, and to whom they go.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import time
import traceback
import warnings
from pathlib import Path

import pytest

from support.helpers import HelperProgram, path_with
from support.images import ImageBuilder
from support.registry import FaultRegistry
from ullage.errors import AuthenticationFailed, InvalidConfiguration, PullCancelled
from ullage.model import AuthConfig
from ullage.reference import Reference
from ullage.registry import CredentialFiles, RegistryClient
from ullage.registry.authfile import names_for, normal_key, usual_files
from ullage.registry.identity import Credentials

HUB = "https://index.docker.io/v1/"


def auth_of(username, password):
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """
    A user's home, and nothing of the machine's own settings.
    """
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def write(tmp_path):
    """
    Writes a file of credentials; the files that look there alone.
    """

    def write(content, path=tmp_path / "auth.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return CredentialFiles((path,))

    return write


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """
    A folder on the PATH for helpers.
    """
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    return tmp_path / "bin"


# ---------------------------------------------------------------------- which files


def test_podmans_files_come_first_and_dockers_last(home, monkeypatch):
    assert usual_files(os.environ) == (
        Path(f"/run/containers/{os.getuid()}/auth.json"),
        home / ".config/containers/auth.json",
        home / ".docker/config.json",
        home / ".dockercfg",
    )
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/mine")
    monkeypatch.setenv("DOCKER_CONFIG", "/d")
    assert usual_files(os.environ) == (
        Path("/run/user/7/containers/auth.json"),
        Path("/etc/mine/containers/auth.json"),
        Path("/d/config.json"),
        home / ".dockercfg",
    )
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/mine.json")
    assert usual_files(os.environ) == (Path("/mine.json"),)


def test_the_first_file_with_an_entry_counts(home, write):
    podman, docker = home / ".config/containers/auth.json", home / ".docker/config.json"
    write({"auths": {"b.example": auth_of("podman", "p")}}, podman)
    write({"auths": {"a.example": auth_of("docker", "d"), "b.example": auth_of("docker", "d")}}, docker)
    files = CredentialFiles()

    assert files.find("a.example") == Credentials("docker", "d")
    assert files.find("b.example") == Credentials("podman", "p")
    assert files.find("c.example") == Credentials()
    assert files.find("b.example").source == str(podman)


def test_dockers_old_file_has_no_other_table(home, write):
    write({HUB: auth_of("old", "o")}, home / ".dockercfg")

    assert CredentialFiles().find("docker.io") == Credentials("old", "o")


# ---------------------------------------------------------------------- which entry


@pytest.mark.parametrize(
    ("key", "domain", "path", "found"),
    [
        ("r.example", "r.example", "app", True),
        ("r.example", "r.example", "", True),
        ("r.example/", "r.example", "app", True),
        ("R.example", "r.example", "app", True),
        ("r.example:443", "r.example", "app", True),
        ("r.example:5000", "r.example:5000", "app", True),
        ("r.example", "r.example:5000", "app", False),
        ("r.example:5000", "r.example", "app", False),
        ("https://r.example", "r.example", "app", True),
        ("https://r.example/v1/", "r.example", "app", True),
        ("http://r.example/v2/", "r.example", "app", True),
        ("r.example/org", "r.example", "org/app", True),
        ("r.example/org/app", "r.example", "org/app", True),
        ("r.example/org", "r.example", "organ/app", False),
        ("r.example/org/app", "r.example", "org", False),
        ("r.example/org", "r.example", "", False),
        ("evil.example/r.example", "r.example", "app", False),
        ("r.example.evil.example", "r.example", "app", False),
        ("https://evil.example/r.example", "r.example", "app", False),
        ("https://r.example@evil.example", "r.example", "app", False),
        (HUB, "docker.io", "library/alpine", True),
        ("docker.io", "docker.io", "library/alpine", True),
        ("index.docker.io", "docker.io", "library/alpine", True),
        ("registry-1.docker.io", "docker.io", "library/alpine", True),
        ("docker.io/org", "docker.io", "org/app", True),
        ("[::1]:5000", "[::1]:5000", "app", True),
    ],
)
def test_a_key_is_a_host_or_the_beginning_of_a_repo(key, domain, path, found, write):
    files = write({"auths": {key: auth_of("alice", "wonderland")}})

    assert files.find(domain, path) == (Credentials("alice", "wonderland") if found else Credentials())


def test_the_longest_key_counts_whatever_the_order(write):
    entries = {
        name: auth_of(name, "x") for name in ("r.example/a", "r.example", "r.example/a/b/c", "r.example/a/b")
    }

    files = write({"auths": entries})

    assert files.find("r.example", "a/b/c").username == "r.example/a/b/c"
    assert files.find("r.example", "a/b/d").username == "r.example/a/b"
    assert files.find("r.example", "a/x").username == "r.example/a"
    assert files.find("r.example", "x").username == "r.example"


def test_a_key_that_is_spelled_as_the_host_goes_before_one_that_means_it(write):
    files = write({"auths": {HUB: auth_of("url", "x"), "docker.io": auth_of("name", "x")}})

    assert files.find("docker.io").username == "name"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, Credentials()),
        ({"auth": ""}, Credentials()),
        ({"auth": None, "email": "a@b"}, Credentials()),
        ({"username": "alice", "password": "x"}, Credentials("alice", "x")),
        (auth_of("alice", "x:y"), Credentials("alice", "x:y")),
        ({"identitytoken": "i"}, Credentials(identity_token="i")),
        ({"registrytoken": "r"}, Credentials(registry_token="r")),
    ],
)
def test_an_entry_holds_a_password_or_a_token(entry, expected, write):
    assert write({"auths": {"r.example": entry}}).find("r.example") == expected


def test_names_and_keys_meet():
    assert list(names_for("docker.io", "library/alpine")) == [
        "docker.io/library/alpine",
        "docker.io/library",
        "docker.io",
    ]
    assert [normal_key(each) for each in (HUB, "docker.io/org/", "https://quay.io/v2/")] == [
        "docker.io",
        "docker.io/org",
        "quay.io",
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{\n  'auths': {}\n}", 2),
        ("[1]", None),
        ('{"auths": 5}', None),
        ('{"credHelpers": [1]}', None),
        ('{"auths": {"r.example": 5}}', None),
        ('{"auths": {"r.example": {"auth": "hunter2!"}}}', None),
        ('{"auths": {"r.example": {"auth": "aHVudGVyMg=="}}}', None),
        ('{"credHelpers": {"r.example": 5}}', None),
        ('{"credsStore": 5}', None),
        ("[" * 100_000, None),
        ('{"auths": {"x": "hunter2', 1),
    ],
)
def test_a_file_that_is_none_is_named_and_not_quoted(content, line, write, tmp_path):
    files = write(content)

    with pytest.raises(InvalidConfiguration) as caught:
        files.find("r.example")

    assert (caught.value.path, caught.value.line) == (str(tmp_path / "auth.json"), line)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_an_empty_file_is_one_with_nothing_in_it(write):
    assert write("\n").find("r.example") == Credentials()


# ---------------------------------------------------------------------- helpers


def test_a_helper_is_asked_for_its_host_as_docker_asks(programs, write):
    helper = HelperProgram(programs, "test", {"r.example": ("alice", "wonderland"), HUB: ("hub", "h")})
    files = write({"credHelpers": {"r.example": "test", "docker.io": "test"}})

    assert files.find("r.example", "app") == Credentials("alice", "wonderland")
    assert files.find("docker.io", "library/alpine") == Credentials("hub", "h")
    assert files.find("r.example").source == f"docker-credential-test ({files.paths[0]})"
    assert helper.asked == ["get r.example", "get docker.io", f"get {HUB}", "get r.example"]


def test_the_user_name_token_says_that_the_secret_is_a_refresh_token(programs, write):
    HelperProgram(programs, "test", {"r.example": ("<token>", "rabbit-hole")})

    assert write({"credHelpers": {"r.example": "test"}}).find("r.example") == Credentials(
        identity_token="rabbit-hole"
    )


def test_a_helper_for_one_host_goes_before_the_file_and_the_store(programs, write):
    HelperProgram(programs, "one", {"r.example": ("one", "1")})
    store = HelperProgram(programs, "store", {"r.example": ("store", "2"), "s.example": ("store", "2")})
    files = write(
        {
            "credHelpers": {"r.example": "one"},
            "credsStore": "store",
            "auths": {
                "r.example": auth_of("file", "3"),
                "s.example": auth_of("file", "3"),
                "t.example": auth_of("file", "3"),
            },
        }
    )

    assert files.find("r.example").username == "one"
    assert files.find("s.example").username == "store"
    assert files.find("t.example").username == "file", "the store has nothing for it"
    assert store.asked == ["get s.example", "get t.example"]


def test_a_helper_that_has_nothing_leaves_it_to_the_next_file(programs, write, tmp_path):
    HelperProgram(programs, "test")
    first = write({"credHelpers": {"r.example": "test"}})
    second = write({"auths": {"r.example": auth_of("file", "x")}}, tmp_path / "second.json")

    assert CredentialFiles(first.paths + second.paths).find("r.example").username == "file"


def test_a_helper_that_is_not_installed_matters_to_its_own_host_alone(programs, write):
    files = write({"credHelpers": {"r.example": "gone"}, "auths": {"s.example": auth_of("file", "x")}})

    assert files.find("s.example").username == "file"
    with pytest.raises(AuthenticationFailed, match="no program docker-credential-gone") as caught:
        files.find("r.example")
    assert "take it out of" in caught.value.hint


def test_a_store_that_is_not_installed_matters_to_who_logged_in_with_it(programs, write):
    """
    Docker Desktop leaves such files behind: public images are pulled all the same.
    """
    files = write({"credsStore": "desktop", "auths": {"r.example": {}, "s.example": auth_of("file", "x")}})

    assert files.find("public.example") == Credentials()
    assert files.find("s.example").username == "file"
    with pytest.raises(AuthenticationFailed, match="no program docker-credential-desktop"):
        files.find("r.example")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "-x", "a b", "x\n"])
def test_a_helpers_name_is_no_path(name, programs, write):
    HelperProgram(programs, "evil")
    files = write({"credHelpers": {"r.example": name}})

    with pytest.raises((AuthenticationFailed, InvalidConfiguration)):
        files.find("r.example")


@pytest.mark.parametrize(
    ("prelude", "why"),
    [
        ("print('hunter2'); sys.exit(0)", "did not answer as a credential helper"),
        ('print(\'{"Username": "hunter2"}\'); sys.exit(0)', "did not answer as a credential helper"),
        ("print('[1]'); sys.exit(0)", "did not answer as a credential helper"),
        ("print('the keyring is locked'); sys.exit(1)", "failed for r.example: the keyring is locked"),
        ("sys.exit(3)", "failed for r.example"),
        ("time.sleep(20)", "no answer within 0.2 s"),
    ],
)
def test_a_helper_that_fails_is_named_and_not_quoted(prelude, why, programs, write):
    HelperProgram(programs, "test", prelude=prelude)
    files = CredentialFiles(write({"credHelpers": {"r.example": "test"}}).paths, helper_timeout_seconds=0.2)
    started = time.monotonic()
    if "0.2 s" not in why:
        files = CredentialFiles(files.paths)

    with pytest.raises(AuthenticationFailed, match=why) as caught:
        files.find("r.example")

    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert "docker-credential-test" in str(caught.value)
    assert time.monotonic() - started < 3


def test_a_helper_that_cannot_be_run_is_named(programs, write):
    HelperProgram(programs, "test")
    (programs / "docker-credential-test").write_text("#!/nonexistent\n")

    with pytest.raises(AuthenticationFailed, match="cannot run docker-credential-test"):
        write({"credHelpers": {"r.example": "test"}}).find("r.example")


# ---------------------------------------------------------------------- what a pull does with them


@pytest.fixture(params=["basic", "token"])
def guarded(request):
    with FaultRegistry(auth=request.param, username="alice", password="wonderland") as registry:
        ImageBuilder(registry, "org/app").layer({"a": b"a"}).push("1")
        yield registry


def ask(registry, files, auth=None, name="org/app:1"):
    with RegistryClient(plain_http=True, credentials=files, backoff_seconds=0.01) as client:
        return client.repo(Reference.parse(f"{registry.host}/{name}"), auth=auth).get_manifest("1")


def test_a_pull_finds_them(guarded, write):
    assert ask(guarded, write({"auths": {f"{guarded.host}/org": auth_of("alice", "wonderland")}})).raw


def test_a_pull_finds_them_where_podman_and_docker_keep_them(guarded, home, write):
    write({"auths": {guarded.host: auth_of("alice", "wonderland")}}, home / ".docker/config.json")

    with RegistryClient(plain_http=True) as client:
        assert client.repo(Reference.parse(f"{guarded.host}/org/app:1")).get_manifest("1").raw


@pytest.mark.parametrize("none", [None, False])
def test_a_client_can_be_told_not_to_look(none, guarded, home, write):
    write({"auths": {guarded.host: auth_of("alice", "wonderland")}}, home / ".docker/config.json")

    with pytest.raises(AuthenticationFailed):
        ask(guarded, none)


def test_what_a_pull_brings_along_goes_before_any_file(guarded, write):
    files = write({"auths": {guarded.host: auth_of("mallory", "x")}})

    assert ask(guarded, files, AuthConfig("alice", "wonderland")).raw
    with pytest.raises(AuthenticationFailed, match=r"refused the credentials from .*auth\.json"):
        ask(guarded, files)


def test_an_empty_auth_config_is_none(guarded, write):
    """
    The kubelet sends one where there is no secret.
    """
    assert ask(guarded, write({"auths": {guarded.host: auth_of("alice", "wonderland")}}), AuthConfig()).raw


def test_credentials_for_another_host_are_withheld_and_no_others_looked_for(guarded, write):
    files = write({"auths": {guarded.host: auth_of("alice", "wonderland")}})

    with pytest.raises(AuthenticationFailed, match="for another host"):
        ask(guarded, files, AuthConfig("bob", "x", server_address="elsewhere.example"))


def test_a_registry_that_asks_for_nothing_costs_no_file_and_no_helper(registry, programs, write):
    image = ImageBuilder(registry, "org/app").push("1")
    helper = HelperProgram(programs, "test", {registry.host: ("alice", "wonderland")})

    assert ask(registry, write({"credHelpers": {registry.host: "test"}})).raw == image.manifest.raw
    assert ask(registry, write("not JSON")).raw == image.manifest.raw

    assert helper.asked == []
    assert not any("authorization" in each.headers for each in registry.asked)


def test_a_helper_gives_a_pull_its_refresh_token(programs, write):
    with FaultRegistry(auth="token", identity_token="rabbit-hole") as registry:
        ImageBuilder(registry, "org/app").push("1")
        HelperProgram(programs, "test", {registry.host: ("<token>", "rabbit-hole")})

        assert ask(registry, write({"credsStore": "test"})).raw

    assert [each.method for each in registry.asked] == ["GET", "POST", "GET"]


def test_a_registry_token_in_a_file_is_shown_when_it_is_asked_for(write):
    with FaultRegistry(auth="token") as registry:
        ImageBuilder(registry, "org/app").push("1")
        registry.guard.grant("tea-party", "repository:org/app:pull")

        assert ask(registry, write({"auths": {registry.host: {"registrytoken": "tea-party"}}})).raw

    assert "authorization" not in registry.asked[0].headers


def test_a_login_while_the_client_runs_is_seen_by_the_next_pull(guarded, write):
    files = write({})
    with RegistryClient(plain_http=True, credentials=files) as client:
        with pytest.raises(AuthenticationFailed):
            client.repo(Reference.parse(f"{guarded.host}/org/app:1")).get_manifest("1")
        write({"auths": {guarded.host: auth_of("alice", "wonderland")}})

        assert client.repo(Reference.parse(f"{guarded.host}/org/app:1")).get_manifest("1").raw


def test_a_new_password_while_the_client_runs_is_seen(write):
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as registry:
        ImageBuilder(registry, "org/app").push("1")
        files = write({"auths": {registry.host: auth_of("alice", "wonderland")}})
        with RegistryClient(plain_http=True, credentials=files) as client:
            repo = client.repo(Reference.parse(f"{registry.host}/org/app:1"))
            repo.get_manifest("1")
            registry.guard._password = "looking-glass"
            write({"auths": {registry.host: auth_of("alice", "looking-glass")}})

            assert repo.get_manifest("1").raw


def test_a_mirror_gets_its_own_entry_and_not_the_registrys(tmp_path, write):
    with (
        FaultRegistry(auth="basic", username="mirror", password="m") as mirror,
        FaultRegistry(auth="basic", username="origin", password="o") as origin,
    ):
        image = ImageBuilder(mirror, "app").push("1")
        ImageBuilder(origin, "app").push("1")
        (tmp_path / "certs.d/r.example").mkdir(parents=True)
        (tmp_path / "certs.d/r.example/hosts.toml").write_text(
            f'server = "{origin.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull"]\n'
        )
        files = write({"auths": {mirror.host: auth_of("mirror", "m"), origin.host: auth_of("origin", "o")}})
        with RegistryClient(hosts_dir=tmp_path / "certs.d", credentials=files) as client:
            repo = client.repo(Reference.parse("r.example/app:1"))
            assert repo.head_manifest("1").digest == image.digest
            assert repo.get_manifest(image.digest).raw == image.manifest.raw

    assert {each.headers.get("authorization", "") for each in mirror.asked} == {
        "",
        Credentials("mirror", "m").basic,
    }
    assert {each.headers.get("authorization", "") for each in origin.asked} == {
        "",
        Credentials("origin", "o").basic,
    }


def test_an_abort_ends_a_helper_that_is_slow(guarded, programs, write):
    HelperProgram(programs, "slow", prelude="time.sleep(20)")
    files = write({"credHelpers": {guarded.host: "slow"}})
    outcome = []
    with RegistryClient(plain_http=True, credentials=files) as client:
        repo = client.repo(Reference.parse(f"{guarded.host}/org/app:1"))

        def fetch():
            try:
                repo.get_manifest("1")
            except PullCancelled as error:
                outcome.append(error)

        refused = guarded.inject("/v2/*", lambda hit: hit.reply())
        fetcher = threading.Thread(target=fetch)
        fetcher.start()
        refused.wait_reached()
        repo.abort()
        fetcher.join(5)

    assert not fetcher.is_alive()
    assert outcome


def test_layers_in_parallel_ask_a_helper_once(guarded, programs, write):
    """
    It may ask a person for the password of the keyring.
    """
    blob = guarded.add_blob(b"layer")
    helper = HelperProgram(
        programs, "slow", {guarded.host: ("alice", "wonderland")}, prelude="time.sleep(0.2)"
    )
    files = write({"credHelpers": {guarded.host: "slow"}})
    got = []
    with RegistryClient(plain_http=True, credentials=files) as client:
        repo = client.repo(Reference.parse(f"{guarded.host}/org/app:1"))

        def fetch():
            with repo.open_blob(blob, size=5) as stream:
                got.append(stream.read())

        threads = [threading.Thread(target=fetch) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

    assert got == [b"layer"] * 3
    assert helper.asked == [f"get {guarded.host}"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not read")
def test_a_home_that_is_not_ones_own_stops_no_public_image(home, write, tmp_path):
    write({"auths": {}}, home / ".docker/config.json")
    (home / ".docker").chmod(0o700)
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            for each in (tmp_path, *tmp_path.parents[:2]):
                each.chmod(0o755)
            home.chmod(0o755)
            os.setuid(65534)
            code = 0 if CredentialFiles().find("docker.io") == Credentials() else 2
        os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_helper_that_fails_ends_the_pull_with_its_reason(guarded, programs, write):
    HelperProgram(programs, "locked", prelude="print('the keyring is locked'); sys.exit(1)")

    with pytest.raises(AuthenticationFailed, match="the keyring is locked"):
        ask(guarded, write({"credHelpers": {guarded.host: "locked"}}))
