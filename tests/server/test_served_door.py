"""
Who may read, over what.
"""

from __future__ import annotations

import base64

import pytest
import trustme

from support.asking import ask
from ullage import AuthConfig, AuthenticationFailed, ImageServer, InvalidConfiguration, RegistryClient
from ullage.server.door import Door

NAME = "ghcr.io/team/app"


@pytest.fixture
def readers(tmp_path):
    path = tmp_path / "readers"
    path.write_text("# who may read\nalice:s3cret:with colons\n\nbob:pässword\ntok3n\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def guarded(store, pulled, readers):
    with ImageServer(store, credentials=readers, hold_seconds=0.1) as server:
        yield server


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


KNOWN = [
    basic("alice", "s3cret:with colons"),
    basic("bob", "pässword"),
    "Bearer tok3n",
    "bearer  tok3n",
    basic("whoever", "tok3n"),
    basic("", "tok3n"),
]
UNKNOWN = [
    "",
    basic("alice", "s3cret"),
    basic("bob", "s3cret:with colons"),
    basic("alice", ""),
    basic("# who may read", ""),
    "Bearer alice:s3cret:with colons",
    "Bearer ",
    "Bearer tok3n2",
    "Basic tok3n",
    "Basic " + base64.b64encode(b"\xff\xfe").decode(),
    "Digest tok3n",
]


def test_who_is_known_may_read(guarded, pulled):
    for authorization in KNOWN:
        for path in ("/v2/", f"/v2/{NAME}/manifests/1", f"/v2/{NAME}/blobs/{pulled.config.digest}"):
            assert ask(guarded, path, Authorization=authorization).status == 200, authorization


def test_who_is_not_known_learns_nothing(guarded):
    for authorization in UNKNOWN:
        for path in ("/v2/", f"/v2/{NAME}/manifests/1", "/v2/_catalog", "/nowhere"):
            got = ask(guarded, path, **({"Authorization": authorization} if authorization else {}))

            assert (got.status, got.codes) == (401, ["UNAUTHORIZED"]), (authorization, path)
            assert got.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    ("auth", "may"),
    [
        (AuthConfig(username="alice", password="s3cret:with colons"), True),
        (AuthConfig(registry_token="tok3n"), True),
        (AuthConfig(username="x", password="tok3n"), True),
        (AuthConfig(username="alice", password="guess"), False),
        (None, False),
    ],
)
def test_our_own_client_is_let_in(auth, may, guarded, open_store, tmp_path, template, pulled):
    client = RegistryClient(plain_http=True, credentials=False, attempts=1)
    other = open_store(tmp_path / "other", registry=client)
    reference = f"{guarded.host}/{NAME}:1"
    if may:
        assert other.pull_image(reference, auth=auth).image_id == pulled.image_id
    else:
        with pytest.raises(AuthenticationFailed):
            other.pull_image(reference, auth=auth)


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (b"a:b\n", 0o644, "others may read it"),
        (b"a:b\n", 0o640, "others may read it"),
        (b"# nobody\n", 0o600, "nobody can enter"),
        (b"", 0o600, "nobody can enter"),
        (b"a:b\n:c\n", 0o600, ":2: a line is"),
        (b"a:\n", 0o600, ":1: a line is"),
        (b"\xff\n", 0o600, "not UTF-8"),
    ],
)
def test_a_file_that_lets_in_the_wrong_people_is_refused(text, mode, why, tmp_path):
    path = tmp_path / "readers"
    path.write_bytes(text)
    path.chmod(mode)

    with pytest.raises(InvalidConfiguration, match=why):
        Door.read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidConfiguration, match="No such file"):
        Door.read(tmp_path / "readers")


@pytest.fixture
def certificate(tmp_path):
    """
    Files with a certificate for 127.0.0.1, its key, and who vouches for it.
    """
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    for name, blobs in (("cert", made.cert_chain_pems), ("key", [made.private_key_pem])):
        (tmp_path / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in blobs))
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


def test_a_store_is_served_over_tls(certificate, store, pulled, open_store, tmp_path):
    with ImageServer(
        store, tls_cert=certificate / "cert.pem", tls_key=certificate / "key.pem", hold_seconds=0.1
    ) as server:
        assert server.url.startswith("https://")
        layer = pulled.layers[1]
        assert ask(server, f"/v2/{NAME}/blobs/{layer.digest}").body == layer.raw
        assert ask(server, f"/v2/{NAME}/blobs/{layer.digest}", Range="bytes=7-9").body == layer.raw[7:10]
        client = RegistryClient(tls_ca=certificate / "ca.pem", credentials=False, attempts=1)
        other = open_store(tmp_path / "other", registry=client)
        assert other.pull_image(f"{server.host}/{NAME}:1").image_id == pulled.image_id


@pytest.mark.parametrize(
    ("cert", "key", "why"),
    [
        ("nowhere.pem", None, "nowhere.pem: No such file"),
        ("cert.pem", "nowhere.pem", "nowhere.pem: No such file"),
        ("ca.pem", None, "ca.pem: no certificate with its key|ca.pem: "),
        (None, "key.pem", "no certificate"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused(cert, key, why, certificate, store):
    paths = {
        name: None if each is None else certificate / each
        for name, each in (("tls_cert", cert), ("tls_key", key))
    }

    with pytest.raises(InvalidConfiguration, match=why):
        ImageServer(store, **paths)
