"""
Secrets planted everywhere, and everything that can be seen searched for them.
"""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
import traceback
import urllib.parse
from pathlib import Path

import pytest

from support import registry as faults
from support.helpers import HelperProgram, path_with
from support.images import ImageBuilder
from support.proxy import Proxy
from support.registry import FaultRegistry
from ullage.errors import ImageError
from ullage.model import AuthConfig
from ullage.registry import CredentialFiles, RegistryClient

#: One for each place; none of them is a part of another.
PASSWORD, IDENTITY, REGISTRY, FILED, HELPED, PROXIED, HEADED, SIGNED, BOUGHT = (
    f"planted-{name}"
    for name in [
        "password",
        "identity",
        "registry",
        "filed",
        "helped",
        "proxied",
        "headed",
        "signed",
        "bought",
    ]
)
SECRETS = (PASSWORD, IDENTITY, REGISTRY, FILED, HELPED, PROXIED, HEADED, SIGNED, BOUGHT)


def forms(secret):
    """
    How a secret may look: as it is, quoted, in base64 with the user it goes with.
    """
    pairs = (f"{user}:{secret}".encode() for user in ("alice", "bob"))
    return (
        secret,
        urllib.parse.quote(secret),
        *(base64.b64encode(each).decode().rstrip("=") for each in pairs),
    )


def assert_clean(text):
    found = [each for each in SECRETS if any(form in text for form in forms(each))]
    assert found == []


def auth_of(kind):
    return {
        "password": AuthConfig("alice", PASSWORD),
        "auth": AuthConfig(auth=base64.b64encode(f"alice:{PASSWORD}".encode()).decode()),
        "identity": AuthConfig(identity_token=IDENTITY),
        "registry": AuthConfig(registry_token=REGISTRY),
        "filed": None,
        "helped": None,
    }[kind]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """
    A registry behind a proxy with a password, a header that is secret, storage with signed URLs, files and helpers.
    """
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    with (
        FaultRegistry(auth="token", username="alice", password=PASSWORD, identity_token=IDENTITY) as registry,
        FaultRegistry() as storage,
        Proxy(
            {"r.example:80": registry.host, "s.example:80": storage.host}, username="bob", password=PROXIED
        ) as proxy,
    ):
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", f"://bob:{PROXIED}@"))
        (tmp_path / "certs.d/r.example").mkdir(parents=True)
        (tmp_path / "certs.d/r.example/hosts.toml").write_text(
            f'server = "http://r.example"\n[header]\nx-key = "{HEADED}"\n'
        )
        yield World(registry, storage, tmp_path)


class World:
    def __init__(self, registry, storage, tmp_path):
        self.registry, self.storage, self.path = registry, storage, tmp_path
        self.image = ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        for blob in (self.image.config, *self.image.layers):
            storage.add_blob(blob.raw)
        registry.guard._url = "http://r.example"
        registry.guard.grant(REGISTRY, "repository:app:pull")
        registry.guard.grant(BOUGHT, "repository:app:pull")
        registry.inject("/token", self._sell)
        registry.inject("*/blobs/*", self._redirect)

    def _sell(self, hit):
        reply = hit.reply()
        return reply if reply.status != 200 else faults.answer(b'{"token": "%b"}' % BOUGHT.encode())(hit)

    def _redirect(self, hit):
        reply = hit.reply()
        target = f"http://s.example{hit.asked.path}?sig={SIGNED}"
        return reply if reply.status == 401 else faults.Reply(307, {"Location": target})

    def client(self, kind):
        file = self.path / "auth.json"
        content = {
            "filed": {
                "auths": {"r.example": {"auth": base64.b64encode(f"alice:{PASSWORD}".encode()).decode()}}
            },
            "helped": {"credHelpers": {"r.example": "test"}},
        }.get(kind, {"auths": {"r.example": {"auth": base64.b64encode(f"bob:{FILED}".encode()).decode()}}})
        file.write_text(json.dumps(content))
        if kind == "helped":
            HelperProgram(self.path / "bin", "test", {"r.example": ("alice", PASSWORD)})
        return RegistryClient(
            hosts_dir=self.path / "certs.d",
            credentials=CredentialFiles((file,)),
            attempts=2,
            read_timeout_seconds=0.5,
            backoff_seconds=0.01,
        )


@pytest.mark.parametrize("kind", ["password", "auth", "identity", "registry", "filed", "helped"])
def test_a_pull_that_goes_well_leaves_no_secret(kind, world, open_store, root, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    events = []
    client = world.client(kind)
    store = open_store(registry=client)

    status = store.pull_image("r.example/app:1", auth=auth_of(kind), on_progress=events.append)

    assert status.image_id == world.image.image_id
    assert any(each.query == {"sig": [SIGNED]} for each in world.storage.asked), (
        "it was sent where it belongs"
    )
    assert any(HEADED in each.headers.values() for each in world.registry.asked)
    assert_clean(f"{caplog.text}{capfd.readouterr()}{events!r}{status!r}{client!r}{store!r}{auth_of(kind)!r}")
    for file in root.rglob("*"):
        if file.is_file():
            assert_clean(file.read_bytes().decode("latin-1"))


FAULTS = {
    "401": ("/v2/*", faults.status(401, "UNAUTHORIZED", "no")),
    "403 that echoes": (
        "/v2/*",
        lambda hit: faults.error_reply(403, "DENIED", repr(sorted(hit.asked.headers.items()))),
    ),
    "500 that echoes": (
        "/v2/*",
        lambda hit: faults.error_reply(500, "OOPS", repr(sorted(hit.asked.headers.items()))),
    ),
    "token 401 that echoes": (
        "/token",
        lambda hit: faults.error_reply(401, "NO", f"{hit.asked.headers} {hit.asked.body.decode()}"),
    ),
    "token that is none": ("/token", faults.answer(b'{"token": "planted-bought x"}')),
    "reset": ("/v2/*", faults.reset()),
    "junk": ("/v2/*", faults.raw(b"junk")),
    "token reset": ("/token", faults.reset()),
    "redirect nowhere": ("/v2/*", faults.redirect(f"http://user:{PASSWORD}@[/x?sig={SIGNED}")),
    "redirect to a file": ("/v2/*", faults.redirect(f"file:///x?sig={SIGNED}")),
}


@pytest.mark.parametrize("kind", ["password", "identity", "registry", "filed", "helped"])
@pytest.mark.parametrize("what", FAULTS)
def test_a_pull_that_fails_gives_no_secret_away(what, kind, world, open_store, root, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    pattern, fault = FAULTS[what]
    world.registry.inject(pattern, fault)
    store = open_store(registry=world.client(kind))

    try:
        store.pull_image("r.example/app:1", auth=auth_of(kind))
    except ImageError as error:
        facts = {name: value for name, value in vars(error).items() if name != "__notes__"}
        told = (
            f"{error.message} {error.hint} {facts!r} {error!r} {''.join(traceback.format_exception(error))}"
        )
    else:
        # A registry token needs no token server.
        assert kind == "registry"
        assert pattern == "/token"
        told = ""

    assert_clean(f"{told}{caplog.text}{capfd.readouterr()}")
    for file in root.rglob("*"):
        if file.is_file():
            assert_clean(file.read_bytes().decode("latin-1"))


@pytest.mark.parametrize("code", [403, 404, 503])
def test_storage_that_refuses_a_signature_does_not_give_it_away(code, world, open_store, caplog):
    caplog.set_level(logging.DEBUG)
    world.storage.inject("*", lambda hit: faults.error_reply(code, "NO", f"bad: {hit.asked.query}"))
    store = open_store(registry=world.client("password"))

    with pytest.raises(ImageError) as caught:
        store.pull_image("r.example/app:1", auth=auth_of("password"))

    assert_clean("".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + caplog.text)


@pytest.mark.parametrize("password", [PASSWORD, "wrong-" + PASSWORD])
def test_the_command_prints_no_secret(password, tmp_path):
    with FaultRegistry(auth="token", username="alice", password=PASSWORD) as registry:
        image = ImageBuilder(registry, "app").push("1")
        said = ""
        for arguments in (
            ["login", registry.host, "-u", "alice", "--password-stdin"],
            ["pull", image.reference],
            ["pull", image.reference, "--policy", "always", "--creds", "alice", "--creds-stdin"],
            ["inspect", image.reference],
            ["logout", registry.host],
        ):
            done = subprocess.run(
                [Path(sys.executable).with_name("ullage"), *arguments],
                input=f"{password}\n",
                env={
                    "PATH": "/usr/bin:/bin",
                    "HOME": str(tmp_path),
                    "ULLAGE_ROOT": f"{tmp_path}/store",
                    "ULLAGE_DEBUG": "1",
                },
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            said += done.stdout + done.stderr
            assert done.returncode in ({0} if password == PASSWORD else {0, 3, 11}), said

    assert_clean(said)
    assert not any(PASSWORD in file.read_text("latin-1") for file in tmp_path.rglob("*") if file.is_file())
