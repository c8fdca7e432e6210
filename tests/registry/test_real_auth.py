"""
Debian's docker-registry behind TLS: with passwords, with certificates of clients, and with tokens that are signed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess

import pytest
import trustme

from support import tokenserver
from support.helpers import HelperProgram, path_with
from support.images import ImageBuilder
from support.registry import FaultRegistry
from ullage.errors import AccessDenied, AuthenticationFailed, RegistryUnavailable
from ullage.model import AuthConfig
from ullage.reference import Reference
from ullage.registry import CredentialFiles, RegistryClient
from ullage.registry.login import log_in, remove_credentials

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped: the tests run, and fail for want of the programs.
    pytest.mark.skipif(
        not (shutil.which("docker-registry") and shutil.which("skopeo")) and not os.environ.get("CI"),
        reason="apt install docker-registry skopeo",
    ),
]

#: alice:wonderland, bcrypt
HTPASSWD = "alice:$2b$04$B9hkvC1p8P73itrS8sCO.OXN9NcQBWP0/0m542glFPhpLMpRr52tG\n"
ALICE = AuthConfig("alice", "wonderland")
CONFIG = """
version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"{tls}}}
{auth}
"""


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def data(tmp_path_factory, authority):
    """
    What every registry of this module serves: copied once, by skopeo, to an open one.
    """
    root = tmp_path_factory.mktemp("data")
    with FaultRegistry() as ours:
        images = [
            ImageBuilder(ours, name).noise_layer(100_000).push("1") for name in ("org/app", "public/app")
        ]
        with docker_registry(root, root / "open") as host:
            for image in images:
                skopeo(
                    "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests",
                    f"docker://{image.reference}", f"docker://{host}/{image.repo}:1",
                )  # fmt: skip
    authority.cert_pem.write_to_path(root / "ca.pem")
    return root, images[0]


@contextlib.contextmanager
def docker_registry(root, settings, *, tls="", auth=""):
    """
    A docker-registry over *root* for as long as the block lasts; its host.
    """
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "config.yml").write_text(CONFIG.format(root=root / "storage", tls=tls, auth=auth))
    command = ["docker-registry", "serve", str(settings / "config.yml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = []
        listening = None
        while listening is None and (line := process.stdout.readline()):
            said.append(line)
            listening = re.search(r"listening on (127\.0\.0\.1:[0-9]+)", line)
        try:
            assert listening, "".join(said)
            yield listening[1]
        finally:
            process.terminate()
            process.communicate()


def skopeo(*arguments):
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def certified(authority, tmp_path):
    """
    The lines of a docker-registry's configuration that make it speak TLS.
    """
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    return f", tls: {{certificate: {tmp_path}/server.pem, key: {tmp_path}/server.key"


@pytest.fixture
def htpasswd(tmp_path):
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    return f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}"


def pull_all(client, host, image, auth=None, name="org/app"):
    repo = client.repo(Reference.parse(f"{host}/{name}:1"), auth=auth)
    head = repo.head_manifest("1")
    assert repo.get_manifest(head.digest).raw
    if name != image.repo:
        return
    assert head.digest == image.digest
    for blob in (image.config, *image.layers):
        for offset in (0, blob.size // 2):
            with repo.open_blob(blob.digest, size=blob.size, offset=offset) as stream:
                assert stream.offset == offset
                assert b"".join(iter(stream.read, b"")) == blob.raw[offset:]


def test_passwords_over_tls(data, certified, htpasswd, tmp_path):
    root, image = data
    with docker_registry(root, tmp_path, tls=f"{certified}}}", auth=htpasswd) as host:
        with RegistryClient(tls_ca=root / "ca.pem", credentials=None) as client:
            pull_all(client, host, image, ALICE)
            with pytest.raises(AuthenticationFailed):
                pull_all(client, host, image)
            with pytest.raises(AuthenticationFailed):
                pull_all(client, host, image, AuthConfig("alice", "hunter2"))
        with RegistryClient() as client, pytest.raises(RegistryUnavailable, match="certificate"):
            pull_all(client, host, image, ALICE)
        with RegistryClient(insecure_skip_verify=True) as client:
            pull_all(client, host, image, ALICE)


def test_certificates_of_clients(data, certified, authority, tmp_path):
    root, image = data
    mine = authority.issue_cert("client@example.org")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    tls = f"{certified}, clientcas: [{root}/ca.pem]}}"
    with docker_registry(root, tmp_path / "settings", tls=tls) as host:
        (tmp_path / "certs.d" / host).mkdir(parents=True)
        (tmp_path / "certs.d" / host / "hosts.toml").write_text(
            f'ca = "{root}/ca.pem"\nclient = "{tmp_path}/client.pem"\n'
        )
        with RegistryClient(hosts_dir=tmp_path / "certs.d") as client:
            pull_all(client, host, image)
        with RegistryClient(tls_ca=root / "ca.pem", attempts=1) as client, pytest.raises(RegistryUnavailable):
            pull_all(client, host, image)


@pytest.fixture
def token_registry(data, certified, authority, tmp_path):
    """
    A docker-registry whose tokens a token server signs: host and server.
    """
    root, _ = data
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with tokenserver.TokenServer(
        {"alice": "wonderland"}, tmp_path / "token.pem", ssl_context=context
    ) as server:
        auth = (
            f"auth: {{token: {{realm: '{server.url}', service: test, "
            f"issuer: {tokenserver.ISSUER}, rootcertbundle: {tmp_path}/token.pem}}}}"
        )
        with docker_registry(root, tmp_path / "settings", tls=f"{certified}}}", auth=auth) as host:
            yield host, server


@pytest.fixture
def client(data):
    with RegistryClient(tls_ca=data[0] / "ca.pem", credentials=None, backoff_seconds=0.01) as client:
        yield client


def test_tokens_for_a_password(data, token_registry, client):
    host, server = token_registry

    pull_all(client, host, data[1], ALICE)

    assert server.asked == [("GET", "alice")]
    assert server.scopes == [["repository:org/app:pull"]]


def test_tokens_for_nobody(data, token_registry, client):
    host, server = token_registry

    pull_all(client, host, data[1], name="public/app")
    with pytest.raises(AuthenticationFailed):
        pull_all(client, host, data[1])

    assert server.asked == [("GET", ""), ("GET", "")]


def test_tokens_for_a_refresh_token(data, token_registry, client):
    host, server = token_registry
    server.refresh_tokens["rabbit-hole"] = "alice"

    pull_all(client, host, data[1], AuthConfig(identity_token="rabbit-hole"))

    assert server.asked == [("POST", "alice")]


def test_tokens_where_only_post_is_known(data, token_registry, client):
    host, server = token_registry
    server.forms = ["POST"]

    pull_all(client, host, data[1], ALICE)

    assert server.asked == [("GET", "alice"), ("POST", "alice")]


def test_a_token_that_a_host_has_bought_itself(data, token_registry, client):
    host, server = token_registry
    token = server.token("alice", "test", ["repository:org/app:pull"])["token"]

    pull_all(client, host, data[1], AuthConfig(registry_token=token))

    assert server.asked == []


def test_no_tokens_for_a_wrong_password(data, token_registry, client):
    host, _ = token_registry

    with pytest.raises(AuthenticationFailed, match="refused the credentials") as caught:
        pull_all(client, host, data[1], AuthConfig("alice", "hunter2"))

    assert not isinstance(caught.value, AccessDenied)


@pytest.mark.parametrize("kept", ["file", "helper"])
def test_who_logs_in_can_pull_and_so_can_skopeo(kept, data, token_registry, tmp_path, monkeypatch):
    host, server = token_registry
    root, image = data
    file = tmp_path / "auth.json"
    if kept == "helper":
        monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
        HelperProgram(tmp_path / "bin", "test")
        file.write_text(json.dumps({"credHelpers": {host: "test"}}))
    files = CredentialFiles((file,))
    with RegistryClient(tls_ca=root / "ca.pem", credentials=files) as client:
        with pytest.raises(AuthenticationFailed):
            log_in(client, host, "alice", "hunter2", file=file)
        assert log_in(client, host, "alice", "wonderland", file=file).was_asked
        pull_all(client, host, image)

    seen = json.loads(
        skopeo("inspect", f"--authfile={file}", "--tls-verify=false", f"docker://{host}/org/app:1")
    )
    assert seen["Digest"] == image.digest
    assert remove_credentials(host, file)
    assert files.find(host, "org/app").username == ""
    assert server.asked


def test_a_mirror_of_debians_in_front_of_one(data, certified, htpasswd, tmp_path):
    """
    The mirror is open, the registry wants a password: what the mirror has costs none.
    """
    root, image = data
    with (
        docker_registry(root, tmp_path / "mirror") as mirror,
        docker_registry(root, tmp_path / "origin", tls=f"{certified}}}", auth=htpasswd) as origin,
    ):
        directory = tmp_path / "certs.d/r.example"
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(
            f'server = "https://{origin}"\nca = "{root}/ca.pem"\n'
            f'[host."http://{mirror}"]\ncapabilities = ["pull"]\n'
        )
        with RegistryClient(hosts_dir=tmp_path / "certs.d", credentials=None) as client:
            alice = AuthConfig("alice", "wonderland", server_address=origin)
            repo = client.repo(Reference.parse("r.example/org/app:1"), auth=alice)
            digest = repo.head_manifest("1").digest
            assert repo.get_manifest(digest).raw == image.manifest.raw

    assert dict(repo.served_by) == {image.digest: mirror}
