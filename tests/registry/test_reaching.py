"""
Plain HTTP on this machine, certificates of all kinds, and connections that are given up in the making.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time

import pytest

from support import registry as faults
from support.images import ImageBuilder, noise
from support.registry import FaultRegistry
from ullage.errors import ImageError, InvalidConfiguration, PullCancelled, RegistryUnavailable
from ullage.model import AuthConfig
from ullage.reference import Reference
from ullage.registry import RegistryClient
from ullage.registry.endpoint import may_speak_http

LAYER = noise(200_000)

trustme = pytest.importorskip("trustme")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def server_context(authority, *names, clients=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def tls(authority):
    with FaultRegistry(ssl_context=server_context(authority)) as registry:
        yield registry


def push(*registries):
    for registry in registries:
        image = ImageBuilder(registry, "app").raw_layer(LAYER).push("1")
    return image


def manifest(client, registry):
    return client.repo(Reference.parse(f"{registry.host}/app:1")).get_manifest("1").raw


def hosts_toml(directory, domain, text):
    (directory / domain).mkdir(parents=True)
    (directory / domain / "hosts.toml").write_text(text)


# ---------------------------------------------------------------------- plain HTTP


@pytest.mark.parametrize(
    ("domain", "may"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:5000", True),
        ("[::1]:5000", True),
        ("a.localhost", False),
        ("localhost.example", False),
        ("10.0.0.1:5000", False),
        ("0.0.0.0:5000", False),
        ("169.254.1.1", False),
        ("r.example", False),
        ("r.example:5000", False),
        ("localhost:x", False),
    ],
)
def test_only_this_machine_may_speak_http_without_being_told(domain, may):
    assert may_speak_http(domain) is may


def test_a_registry_on_this_machine_that_speaks_no_tls_is_asked_in_plain_http(registry):
    image = push(registry)
    with RegistryClient() as client:
        for _ in range(2):
            assert manifest(client, registry) == image.manifest.raw

    # One greeting in TLS, which it could not read, and then one connection for good.
    assert registry.connections == 2
    assert len(registry.requests) == 2


def test_a_registry_on_this_machine_that_speaks_tls_is_asked_over_tls(tls, ca_file):
    image = push(tls)
    with RegistryClient(tls_ca=ca_file) as client:
        assert manifest(client, tls) == image.manifest.raw

    assert tls.connections == 1


def test_a_bad_certificate_on_this_machine_is_no_reason_for_plain_http(tls):
    with RegistryClient() as client:
        with pytest.raises(RegistryUnavailable, match="certificate"):
            manifest(client, tls)
        assert client._plain == set()


def test_a_host_elsewhere_is_never_asked_in_plain_http(registry, tmp_path):
    """
    Its name leads to this machine by hosts.toml alone; to us it is elsewhere.
    """
    hosts_toml(tmp_path, "r.example", f'server = "https://{registry.host}"')
    with (
        RegistryClient(hosts_dir=tmp_path) as client,
        pytest.raises(RegistryUnavailable, match="no trusted TLS connection") as caught,
    ):
        client.repo(Reference.parse("r.example/app:1")).get_manifest("1")

    assert "--plain-http" in caught.value.hint
    assert registry.requests == []


def test_a_registry_that_cannot_be_asked_in_either_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"

    with RegistryClient() as client, pytest.raises(RegistryUnavailable, match="Connection refused"):
        client.repo(Reference.parse(f"{host}/app:1")).get_manifest("1")


def test_credentials_work_in_plain_http_on_this_machine():
    with FaultRegistry(auth="token", username="alice", password="wonderland") as registry:
        image = push(registry)
        with RegistryClient() as client:
            repo = client.repo(
                Reference.parse(f"{registry.host}/app:1"), auth=AuthConfig("alice", "wonderland")
            )
            assert repo.get_manifest("1").raw == image.manifest.raw


# ---------------------------------------------------------------------- certificates


def test_an_authority_of_ones_own_is_trusted_beside_the_machines(tls, ca_file):
    image = push(tls)

    with RegistryClient(tls_ca=ca_file) as client:
        assert manifest(client, tls) == image.manifest.raw


def test_every_certificate_is_believed_when_that_is_asked_for(tls, recwarn):
    image = push(tls)

    with RegistryClient(insecure_skip_verify=True) as client:
        assert manifest(client, tls) == image.manifest.raw

    assert not recwarn.list


def test_each_host_has_its_own_authorities(authority, tmp_path, ca_file):
    other = trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    with (
        FaultRegistry(ssl_context=server_context(authority)) as one,
        FaultRegistry(ssl_context=server_context(other)) as two,
    ):
        image = push(one, two)
        certs = tmp_path / "certs.d"
        hosts_toml(certs, one.host, f'ca = "{ca_file}"')
        hosts_toml(certs, two.host, f'ca = ["{tmp_path}/other.pem"]')
        with RegistryClient(hosts_dir=certs) as client:
            assert manifest(client, one) == manifest(client, two) == image.manifest.raw
        (certs / two.host / "hosts.toml").write_text(f'ca = "{ca_file}"')
        with (
            RegistryClient(hosts_dir=certs) as client,
            pytest.raises(RegistryUnavailable, match="certificate"),
        ):
            manifest(client, two)


def test_to_believe_one_host_is_not_to_believe_the_others(tls, authority, tmp_path):
    with FaultRegistry(ssl_context=server_context(authority)) as other:
        image = push(tls, other)
        hosts_toml(tmp_path, tls.host, "skip_verify = true")
        with RegistryClient(hosts_dir=tmp_path) as client:
            assert manifest(client, tls) == image.manifest.raw
            with pytest.raises(RegistryUnavailable, match="certificate"):
                manifest(client, other)


@pytest.fixture
def identity(authority, tmp_path):
    """
    A certificate for a client, in the three forms of hosts.toml.
    """
    mine = authority.issue_cert("client@example.org")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    mine.private_key_pem.write_to_path(tmp_path / "client.key")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "client.cert")
    return tmp_path


@pytest.mark.parametrize(
    "form", ['"{0}/both.pem"', '["{0}/both.pem"]', '[["{0}/client.cert", "{0}/client.key"]]']
)
def test_a_registry_that_wants_a_certificate_is_shown_it(form, identity, authority, ca_file):
    with FaultRegistry(ssl_context=server_context(authority, clients=authority)) as registry:
        image = push(registry)
        certs = identity / "certs.d"
        hosts_toml(certs, registry.host, f'ca = "{ca_file}"\nclient = {form.format(identity)}\n')
        with RegistryClient(hosts_dir=certs) as client:
            assert manifest(client, registry) == image.manifest.raw
        with RegistryClient(tls_ca=ca_file, attempts=1) as client, pytest.raises(RegistryUnavailable):
            manifest(client, registry)


def test_dockers_layout_of_certificates_is_as_good(identity, authority, ca_file):
    with FaultRegistry(ssl_context=server_context(authority, clients=authority)) as registry:
        image = push(registry)
        directory = identity / "certs.d" / registry.host
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(ca_file.read_bytes())
        (directory / "client.cert").write_bytes((identity / "client.cert").read_bytes())
        (directory / "client.key").write_bytes((identity / "client.key").read_bytes())
        with RegistryClient(hosts_dir=identity / "certs.d") as client:
            assert manifest(client, registry) == image.manifest.raw


def test_a_redirect_keeps_the_authority_and_shows_no_certificate(identity, authority, ca_file):
    """
    A registry's storage is vouched for by the same authority as a rule; who we are is for the registry alone.
    """
    seen = []

    class Storage(FaultRegistry):
        def answer(self, connection, asked):
            seen.append(connection.socket.getpeercert())
            super().answer(connection, asked)

    wants = server_context(authority, clients=authority)
    accepts = server_context(authority, clients=authority)
    accepts.verify_mode = ssl.CERT_OPTIONAL
    with FaultRegistry(ssl_context=wants) as registry, Storage(ssl_context=accepts) as storage:
        image = push(registry, storage)
        registry.inject("*", faults.redirect(f"{storage.url}/v2/app/manifests/1"))
        certs = identity / "certs.d"
        hosts_toml(certs, registry.host, f'ca = "{ca_file}"\nclient = "{identity}/both.pem"\n')
        with RegistryClient(hosts_dir=certs) as client:
            assert manifest(client, registry) == image.manifest.raw

    assert seen in ([{}], [None])


@pytest.mark.parametrize(
    ("settings", "content"),
    [
        ("ca", None),
        ("ca", ""),
        ("ca", "junk"),
        ("client", None),
        ("client", ""),
        ("client", "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n"),
    ],
)
def test_a_certificate_that_is_none_is_named(settings, content, tls, tmp_path):
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    hosts_toml(tmp_path, tls.host, f'{settings} = "{file}"')

    with RegistryClient(hosts_dir=tmp_path) as client, pytest.raises(InvalidConfiguration) as caught:
        manifest(client, tls)

    assert caught.value.path == str(file)
    assert "hunter2" not in str(caught.value)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tls, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    )
    (tmp_path / "both.pem").write_bytes(key)
    hosts_toml(tmp_path, tls.host, f'client = "{tmp_path}/both.pem"')

    with RegistryClient(hosts_dir=tmp_path) as client, pytest.raises(InvalidConfiguration):
        manifest(client, tls)


def test_a_file_that_is_renewed_is_read_again(tls, ca_file, tmp_path):
    image = push(tls)
    trustme.CA().cert_pem.write_to_path(tmp_path / "renewed.pem")
    with RegistryClient(tls_ca=tmp_path / "renewed.pem") as client:
        with pytest.raises(RegistryUnavailable, match="certificate"):
            manifest(client, tls)
        (tmp_path / "renewed.pem").write_bytes(ca_file.read_bytes())

        assert manifest(client, tls) == image.manifest.raw


# ---------------------------------------------------------------------- given up in the making


@contextlib.contextmanager
def full_listener():
    """
    A port on which nobody answers a connection.
    """
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener


@contextlib.contextmanager
def silent_listener():
    """
    A port that accepts, and then says nothing to a TLS greeting.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("stage", ["connecting", "shaking hands"])
def test_an_abort_ends_a_connection_in_the_making(stage, wait_until):
    waits = full_listener() if stage == "connecting" else silent_listener()
    outcome = []
    with waits as listener, RegistryClient(connect_timeout_seconds=30) as client:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        repo = client.repo(Reference.parse(f"{host}/app:1"))

        def fetch():
            try:
                repo.get_manifest("1")
            except ImageError as error:
                outcome.append(error)

        fetcher = threading.Thread(target=fetch)
        fetcher.start()
        wait_until(lambda: any(each._socket for each in tuple(repo._group._exchanges)))
        started = time.monotonic()
        repo.abort()
        fetcher.join(10)
        assert not fetcher.is_alive()
        assert time.monotonic() - started < 1

    assert [type(each) for each in outcome] == [PullCancelled]


def test_a_pull_that_is_cancelled_while_it_connects_ends_at_once(open_store):
    cancel = threading.Event()
    with full_listener() as listener:
        store = open_store(registry=RegistryClient(connect_timeout_seconds=30))
        timer = threading.Timer(0.2, cancel.set)
        timer.start()
        started = time.monotonic()
        with pytest.raises(PullCancelled):
            store.pull_image(f"127.0.0.1:{listener.getsockname()[1]}/app:1", cancel=cancel)
        timer.join()

    assert time.monotonic() - started < 2


# ---------------------------------------------------------------------- what is in other people's logs


def test_a_signature_in_a_url_is_in_no_log(client, registry, caplog):
    caplog.set_level(logging.DEBUG)
    with FaultRegistry() as storage:
        image = push(registry, storage)
        layer = image.layers[0]
        registry.inject(
            "*/blobs/*", faults.redirect(f"{storage.url}/v2/app/blobs/{layer.digest}?sig=hunter2&x=1")
        )
        repo = client.repo(Reference.parse(image.reference.replace(storage.host, registry.host)))
        with repo.open_blob(layer.digest, size=layer.size) as stream:
            assert b"".join(iter(stream.read, b"")) == LAYER

    assert storage.asked[0].query == {"sig": ["hunter2"], "x": ["1"]}
    assert layer.digest in caplog.text, "urllib3 does log"
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("location", "path", "query"),
    [
        ("/v2/a b?x=y z", "/v2/a%20b", {"x": ["y z"]}),
        ("/v2/%41?sig=a%2Bb%3D", "/v2/%41", {"sig": ["a+b="]}),
        ("//HOST//v2/x?a=/b?c", "/v2/x", {"a": ["/b?c"]}),
        ("/v2/ü", "/v2/%C3%BC", {}),
    ],
)
def test_a_location_is_asked_for_as_it_is_meant(location, path, query, client, registry):
    registry.inject("*", faults.answer(b"{}"))
    registry.inject("*", lambda hit: _raw_redirect(hit, location.replace("HOST", registry.host)), times=1)

    client.repo(Reference.parse(f"{registry.host}/app:1")).get_manifest("1")

    assert (registry.asked[1].path, registry.asked[1].query) == (path, query)


def _raw_redirect(hit, location):
    hit.registry.log(hit.asked, 307, 0)
    hit.send(b"HTTP/1.1 307 x\r\nContent-Length: 0\r\nLocation: " + location.encode() + b"\r\n\r\n")
