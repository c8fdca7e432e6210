"""
Mirrors and settings of hosts: containerd's hosts.toml, read and obeyed.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import registry as faults
from support.images import ImageBuilder, noise
from support.registry import FaultRegistry
from ullage.errors import (
    AccessDenied,
    AuthenticationFailed,
    ContentError,
    DigestMismatch,
    InvalidConfiguration,
    ManifestUnknown,
    RegistryUnavailable,
)
from ullage.model import AuthConfig
from ullage.reference import Reference
from ullage.registry import RegistryClient
from ullage.registry.hosts import Defaults, hosts_of
from ullage.registry.route import TLS

DOMAIN = "registry.example"
LAYER = noise(300_000)


@pytest.fixture
def certs_d(tmp_path):
    """
    Writes a hosts.toml for a host; the directory of them all.
    """
    return CertsD(tmp_path / "certs.d")


class CertsD:
    def __init__(self, path):
        self.path = path

    def write(self, text, host=DOMAIN):
        file = self.path / host / "hosts.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def hosts(self, domain=DOMAIN, defaults=None):
        return hosts_of(domain, self.path, defaults or Defaults())

    def client(self, **options):
        return RegistryClient(hosts_dir=self.path, backoff_seconds=0.01, credentials=None, **options)


@pytest.fixture
def origin():
    with FaultRegistry() as registry:
        yield registry


@pytest.fixture
def mirror():
    with FaultRegistry() as registry:
        yield registry


@pytest.fixture
def mirrored(certs_d, mirror, origin):
    """
    A registry with a mirror, and a client that knows of both.
    """
    certs_d.write(f'server = "{origin.url}"\n[host."{mirror.url}"]\n')
    with certs_d.client(connect_timeout_seconds=0.5, read_timeout_seconds=0.3) as client:
        yield client


def push(*registries, name="app"):
    for registry in registries:
        image = ImageBuilder(registry, name).raw_layer(LAYER).push("1")
    return image


def repo_of(client, name="app", auth=None):
    return client.repo(Reference.parse(f"{DOMAIN}/{name}:1"), auth=auth)


def fetch_all(repo, image):
    """
    What a pull does; the layer.
    """
    head = repo.head_manifest("1")
    assert repo.get_manifest(head.digest if head else "1").raw == image.manifest.raw
    return read_all(repo, image.layers[0])


def read_all(repo, blob, offset=0):
    with repo.open_blob(blob.digest, size=blob.size, offset=offset) as stream:
        return b"".join(iter(stream.read, b""))


# ---------------------------------------------------------------------- which file


@pytest.mark.parametrize(
    ("domain", "directories", "expected"),
    [
        ("registry.example", ["registry.example", "_default"], "registry.example"),
        ("registry.example", ["other.example", "_default"], "_default"),
        (
            "registry.example:5000",
            ["registry.example_5000_", "registry.example:5000"],
            "registry.example_5000_",
        ),
        ("registry.example:5000", ["registry.example:5000", "_default"], "registry.example:5000"),
        ("registry.example:5000", ["registry.example", "_default"], "_default"),
        ("docker.io", ["docker.io", "registry-1.docker.io"], "docker.io"),
    ],
)
def test_the_directory_is_the_hosts_with_its_port_else_the_default(domain, directories, expected, certs_d):
    for number, each in enumerate(directories):
        certs_d.write(f'server = "https://n{number}.example"', each)

    (host,) = certs_d.hosts(domain)

    assert host.name == f"n{directories.index(expected)}.example"


@pytest.mark.parametrize(
    ("domain", "name", "url"),
    [
        ("registry.example", "registry.example", "https://registry.example/v2"),
        ("docker.io", "docker.io", "https://registry-1.docker.io/v2"),
        ("registry.example:5000", "registry.example:5000", "https://registry.example:5000/v2"),
    ],
)
@pytest.mark.parametrize("directory", ["none", "empty", "another's"])
def test_without_a_file_the_registry_is_asked(domain, name, url, directory, certs_d):
    if directory == "another's":
        certs_d.write('server = "https://x.example"', "else.example")
    if directory == "empty":
        certs_d.write("", domain)

    (host,) = certs_d.hosts(domain)

    assert (host.name, host.base_url, host.is_mirror) == (name, url, False)
    assert host.capabilities == {"pull", "resolve", "push", "referrers"}


# ---------------------------------------------------------------------- what is in it


def test_hosts_come_in_their_order_and_the_server_last(certs_d):
    certs_d.write(
        """
        server = "https://origin.example"
        [host."https://b.example"]
        [host."http://a.example:5000"]
        capabilities = ["pull"]
        [host."c.example/prefix"]
        capabilities = ["Pull", "resolve", "push"]
        [host."https://d.example/v2/upstream"]
        override_path = true
        """
    )

    assert [
        (each.name, each.base_url, "resolve" in each.capabilities, each.is_mirror) for each in certs_d.hosts()
    ] == [
        ("b.example", "https://b.example:443/v2", True, True),
        ("a.example:5000", "http://a.example:5000/v2", False, True),
        ("c.example", "https://c.example:443/prefix/v2", True, True),
        ("d.example", "https://d.example:443/v2/upstream", True, True),
        ("origin.example", "https://origin.example:443/v2", True, True),
    ]


def test_without_a_server_it_is_the_registry_with_what_stands_beside_it(certs_d):
    file = certs_d.write(
        'ca = "ca.pem"\ncapabilities = ["push"]\n[host."https://a.example"]\n[header]\nx-a = "1"\n'
    )

    mirror, registry = certs_d.hosts()

    assert registry.base_url == f"https://{DOMAIN}/v2"
    assert registry.capabilities == {"pull", "resolve", "push", "referrers"}
    assert not registry.is_mirror
    assert registry.route.tls == TLS(ca=(str(file.parent / "ca.pem"),))
    assert registry.headers == (("x-a", "1"),)
    assert (mirror.route.tls, mirror.headers) == (TLS(), ())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"c.pem"', (("DIR/c.pem", ""),)),
        ('["c.pem", "/d.pem"]', (("DIR/c.pem", ""), ("/d.pem", ""))),
        ('[["c.pem", "c.key"], ["/d.pem", ""]]', (("DIR/c.pem", "DIR/c.key"), ("/d.pem", ""))),
    ],
)
def test_certificates_to_show_have_three_forms(value, expected, certs_d):
    file = certs_d.write(f"client = {value}\nskip_verify = true\n")

    (host,) = certs_d.hosts()

    pairs = tuple(tuple(path.replace("DIR", str(file.parent)) for path in pair) for pair in expected)
    assert host.route.tls == TLS(client=pairs, skip_verify=True)


def test_what_a_file_does_not_say_is_as_the_client_says(certs_d):
    certs_d.write(
        '[host."https://a.example"]\nca = "/a.pem"\nskip_verify = false\n[host."https://b.example"]\n'
    )
    defaults = Defaults(plain_http=True, tls=TLS(ca=("/own.pem",), skip_verify=True))

    a, b, registry = certs_d.hosts(defaults=defaults)

    assert a.route.tls == TLS(ca=("/own.pem", "/a.pem"))
    assert b.route.tls == registry.route.tls == defaults.tls
    assert (b.base_url, registry.base_url) == ("https://b.example:443/v2", f"http://{DOMAIN}/v2")


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1.0), ("500ms", 0.5), ("1m30s", 90.0), ("1.5s", 1.5), ("1h", 3600.0)]
)
def test_a_dial_timeout_is_a_duration_of_go(text, seconds, certs_d):
    certs_d.write(f'dial_timeout = "{text}"')

    assert certs_d.hosts()[0].route.connect_timeout_seconds == seconds


def test_without_a_file_certificates_lie_beside_as_docker_has_them(certs_d):
    directory = certs_d.path / DOMAIN
    directory.mkdir(parents=True)
    for name in ("ca.crt", "client.cert", "client.key", "readme"):
        (directory / name).touch()

    (host,) = certs_d.hosts()

    assert host.route.tls == TLS(
        ca=(f"{directory}/ca.crt",), client=((f"{directory}/client.cert", f"{directory}/client.key"),)
    )


def test_what_newer_files_say_beside_is_left_to_those_who_know_it(certs_d):
    certs_d.write('from_the_future = 1\n[host."https://a.example"]\nso_is = {this = true}\n')

    assert len(certs_d.hosts()) == 2


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a = 1\nserver = \n", 2, "Invalid value"),
        ("server = 5\n", 1, "server is a URL"),
        ('\nserver = "ftp://x.example"\n', 2, "neither http nor https"),
        ('server = "https://user:hunter2@x.example"', 1, "holds no credentials"),
        ('server = "https://x.example:port"', 1, "malformed"),
        ("host = 5\n", 1, "host holds tables"),
        ("[host]\na = 5\n", 1, "host holds tables"),
        ('[host."https://a.example"]\ncapabilities = ["fly"]\n', 2, "no capability of a host: fly"),
        (
            '[host."https://a.example"]\n[host."https://b.example"]\n\ncapabilities = 5\n',
            4,
            "capabilities is",
        ),
        ('[host."https://a.example"]\nskip_verify = "yes"\n', 2, "skip_verify is true or false"),
        ('[host."https://a.example"]\noverride_path = 1\n', 2, "override_path is true or false"),
        ('ca = [1]\n[host."https://a.example"]\nca = "ok"\n', 1, "ca is a string"),
        ('client = [["a", "b", "c"]]', 1, "client is a path"),
        ("client = {a = 1}", 1, "client is a path"),
        ('dial_timeout = "soon"', 1, "dial_timeout is a duration"),
        ("dial_timeout = 5", 1, "dial_timeout is a duration"),
        ('dial_timeout = "0s"', 1, "dial_timeout is a duration"),
        ('proxy = "socks4://x.example"', 1, "neither http, https nor socks5"),
        ("proxy = 5", 1, "proxy is a URL"),
        ("header = 5", 1, "header is a table"),
        ("[header]\nx-a = 5\n", 2, "header x-a is"),
        ('[header]\nx-a = "a\\r\\nx-b: c"\n', 2, "cannot be sent"),
        ('[header]\n"x a" = "a"\n', 2, "cannot be sent"),
        ('[host."https://"]\n', 1, "no host"),
        ("a = " + "[" * 10_000, None, "."),
    ],
)
def test_a_file_that_cannot_be_obeyed_is_named_with_its_line(text, line, why, certs_d):
    """
    Where containerd goes on without the file: it may be what keeps a pull off the internet.
    """
    file = certs_d.write(text)

    with pytest.raises(InvalidConfiguration, match=why) as caught:
        certs_d.hosts()

    assert (caught.value.path, caught.value.line) == (str(file), line)
    assert str(caught.value).startswith(f"{file}:{line}: " if line else f"{file}: ")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"a = \xff", b"#" * 2_000_000], ids=["not text", "too long"])
def test_a_file_that_is_no_text_is_refused(raw, certs_d):
    certs_d.write("").write_bytes(raw)

    with pytest.raises(InvalidConfiguration, match=r"not UTF-8|longer than"):
        certs_d.hosts()


def test_a_client_says_so_before_it_sends_anything(certs_d, origin):
    certs_d.write("server = ")

    with certs_d.client() as client, pytest.raises(InvalidConfiguration):
        repo_of(client)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet='[]{}=".,\n#ahostserverclientcacapabilities \\:/12', max_size=120))
def test_any_file_is_obeyed_or_refused(tmp_path, text):
    certs_d = CertsD(tmp_path)
    certs_d.write(text)

    with contextlib.suppress(InvalidConfiguration):
        assert certs_d.hosts()


# ---------------------------------------------------------------------- whom to ask


def test_a_mirror_that_has_it_serves_all_of_it(mirrored, mirror, origin):
    image = push(mirror)
    repo = repo_of(mirrored)

    assert fetch_all(repo, image) == LAYER

    assert origin.asked == []
    assert dict(repo.served_by) == {image.digest: mirror.host, image.layers[0].digest: mirror.host}


def test_a_mirror_is_told_whose_content_is_meant_and_the_registry_is_not(mirrored, mirror, origin, certs_d):
    image = push(origin)

    fetch_all(repo_of(mirrored), image)

    assert all(each.query == {"ns": [DOMAIN]} for each in mirror.asked)
    certs_d.write(f'[host."{mirror.url}"]\n', host=origin.host)
    with certs_d.client(plain_http=True) as client:
        client.repo(Reference.parse(f"{origin.host}/app:1")).get_manifest("1")
    assert origin.asked[-1].query == {}


@pytest.mark.parametrize(
    "fault",
    [
        faults.status(404),
        faults.status(401),
        faults.status(401, headers={"WWW-Authenticate": 'Basic realm="x"'}),
        faults.status(403),
        faults.status(400),
        faults.status(429, headers={"Retry-After": "0"}),
        faults.status(500),
        faults.status(503),
        faults.reset(),
        faults.raw(b"junk"),
        faults.stall(),
        faults.redirect("file:///etc/passwd"),
    ],
    ids=["404", "401", "basic", "403", "400", "429", "500", "503", "reset", "junk", "stall", "file:"],
)
def test_a_mirror_that_fails_is_passed_over_and_asked_once(fault, mirrored, mirror, origin):
    image = push(mirror, origin)
    injected = mirror.inject("*", fault)
    repo = repo_of(mirrored)

    assert fetch_all(repo, image) == LAYER

    injected.release()
    assert set(repo.served_by.values()) == {origin.host}
    # A HEAD is asked again as a GET where it is refused; resolving, a manifest and a blob are three questions.
    assert len(mirror.asked) <= 4


def test_a_mirror_that_is_down_is_passed_over_once_and_for_all(certs_d, origin):
    image = push(origin)
    with FaultRegistry() as gone:
        certs_d.write(f'server = "{origin.url}"\n[host."{gone.url}"]\n')
    with certs_d.client() as client:
        repo = repo_of(client)
        assert fetch_all(repo, image) == LAYER
        assert repo._down == {repo._peers[0]}


def test_mirrors_are_asked_in_their_order(certs_d, mirror, origin):
    image = push(origin)
    with FaultRegistry() as second:
        push(second)
        certs_d.write(f'server = "{origin.url}"\n[host."{mirror.url}"]\n[host."{second.url}"]\n')
        with certs_d.client() as client:
            repo = repo_of(client)
            assert fetch_all(repo, image) == LAYER
            assert set(repo.served_by.values()) == {second.host}
    assert mirror.asked
    assert origin.asked == []


def test_a_mirror_that_may_not_resolve_gives_content_and_no_digest(certs_d, mirror, origin):
    image = push(mirror, origin)
    certs_d.write(f'server = "{origin.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull"]\n')
    with certs_d.client() as client:
        assert fetch_all(repo_of(client), image) == LAYER

    assert [(each.method, each.path) for each in origin.asked] == [("HEAD", "/v2/app/manifests/1")]
    assert [each.path.split("/")[3] for each in mirror.asked] == ["manifests", "blobs"]


def test_a_host_that_may_only_resolve_gives_no_content(certs_d, mirror, origin):
    image = push(mirror, origin)
    certs_d.write(f'server = "{origin.url}"\n[host."{mirror.url}"]\ncapabilities = ["resolve"]\n')
    with certs_d.client() as client:
        assert fetch_all(repo_of(client), image) == LAYER

    assert [(each.method, each.path) for each in mirror.asked] == [("HEAD", "/v2/app/manifests/1")]


def test_where_no_host_may_do_it_nobody_is_asked(certs_d, origin):
    certs_d.write(f'server = "{origin.url}"\ncapabilities = ["push"]')

    with certs_d.client() as client, pytest.raises(RegistryUnavailable, match="no host with the capability"):
        repo_of(client).head_manifest("1")

    assert origin.asked == []


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.status(404), ManifestUnknown),
        (faults.status(403), AccessDenied),
        (faults.status(401), AuthenticationFailed),
        (faults.status(500), RegistryUnavailable),
    ],
)
def test_where_all_fail_it_is_the_registrys_word_that_counts(fault, expected, mirrored, mirror, origin):
    mirror.inject("*", faults.status(502, "UPSTREAM", "the mirror is ill"))
    origin.inject("*", fault)

    with pytest.raises(expected) as caught:
        repo_of(mirrored).get_manifest("1")

    assert type(caught.value) is expected
    assert caught.value.url.startswith(origin.url)
    assert f"(before it, {mirror.host} failed: " in str(caught.value)
    assert "the mirror is ill" in caught.value.message


def test_only_the_registry_is_asked_again(mirrored, mirror, origin):
    image = push(mirror, origin)
    mirror.inject("*", faults.status(503))
    origin.inject("*/blobs/*", faults.status(503, headers={"Retry-After": "0"}), times=2)

    assert fetch_all(repo_of(mirrored), image) == LAYER

    assert mirror.count("GET", "*/blobs/*") == 1
    assert origin.count("GET", "*/blobs/*") == 3


def test_a_manifest_that_a_mirror_has_wrong_comes_from_the_registry(mirrored, mirror, origin):
    image = push(mirror, origin)
    mirror.inject("*/manifests/sha256:*", faults.wrong_bytes())
    repo = repo_of(mirrored)

    assert repo.get_manifest(image.digest).raw == image.manifest.raw

    assert repo.served_by[image.digest] == origin.host


def test_a_blob_that_a_mirror_has_in_another_size_comes_from_the_registry(mirrored, mirror, origin):
    image = push(mirror, origin)
    mirror.inject("*/blobs/*", faults.shorter())

    assert read_all(repo_of(mirrored), image.layers[0]) == LAYER


def test_a_mirror_whose_bytes_are_wrong_is_not_asked_again(mirrored, mirror, origin):
    image = push(mirror, origin)
    layer = image.layers[0]
    mirror.inject("*/blobs/*", faults.wrong_bytes())
    repo = repo_of(mirrored)

    assert read_all(repo, layer) != LAYER
    assert repo.distrust(layer.digest)
    assert read_all(repo, layer) == LAYER
    assert not repo.distrust(layer.digest), "there is nobody else"


def test_a_pull_survives_a_mirror_that_lies(open_store, certs_d, mirror, origin):
    image = push(mirror, origin)
    mirror.inject("*/blobs/*", faults.wrong_bytes())
    certs_d.write(f'server = "{origin.url}"\n[host."{mirror.url}"]\n')

    store = open_store(registry=certs_d.client())

    assert store.pull_image(f"{DOMAIN}/app:1").image_id == image.image_id


@pytest.mark.parametrize("fault", [faults.wrong_bytes(), faults.wrong_bytes(300), faults.shorter()])
def test_a_first_pull_survives_a_mirror_whose_manifest_is_another_than_it_says(
    fault, open_store, certs_d, mirror, origin
):
    """
    It is asked for by its tag, and held to the digest that comes with it.
    """
    image = push(mirror, origin)
    mirror.inject("*/manifests/*", fault)
    certs_d.write(f'server = "{origin.url}"\n[host."{mirror.url}"]\n')

    store = open_store(registry=certs_d.client())

    assert store.pull_image(f"{DOMAIN}/app:1").image_id == image.image_id
    assert origin.count("GET", "*/manifests/*") == 1


def test_a_pull_whose_registry_lies_fails_as_ever(open_store, certs_d, origin):
    push(origin)
    origin.inject("*/blobs/*", faults.wrong_bytes())
    certs_d.write(f'server = "{origin.url}"')

    with pytest.raises(DigestMismatch):
        open_store(registry=certs_d.client()).pull_image(f"{DOMAIN}/app:1")


def test_a_body_that_a_mirror_breaks_off_goes_on_there(mirrored, mirror, origin):
    image = push(mirror, origin)
    mirror.inject("*/blobs/*", faults.truncate(100_000), times=1)
    repo = repo_of(mirrored)

    assert fetch_all(repo, image) == LAYER

    assert [each.range for each in mirror.requests if "/blobs/" in each.path] == ["", "bytes=100000-"]
    assert origin.asked == []


def test_a_body_that_a_mirror_does_not_get_on_with_goes_on_elsewhere(mirrored, mirror, origin):
    image = push(mirror, origin)
    mirror.inject("*/blobs/*", faults.truncate(0))
    mirror.inject("*/blobs/*", faults.truncate(100_000), times=1)
    repo = repo_of(mirrored)

    assert fetch_all(repo, image) == LAYER

    assert [each.range for each in origin.requests] == ["bytes=100000-"]
    assert repo.served_by[image.layers[0].digest] == origin.host


def test_a_blob_that_nobody_has_is_the_manifests_fault(mirrored, mirror, origin):
    image = push(mirror)
    mirror.inject("*/blobs/*", faults.status(404))

    with pytest.raises(ContentError, match="names a blob that the registry does not have"):
        read_all(repo_of(mirrored), image.layers[0])


# ---------------------------------------------------------------------- what is sent


def test_headers_go_to_the_host_they_are_for_and_not_on_with_a_redirect(certs_d, mirror, origin):
    image = push(mirror, origin)
    certs_d.write(
        f'server = "{origin.url}"\n[host."{mirror.url}"]\n[host."{mirror.url}".header]\nx-key = ["a", "b"]\n'
    )
    mirror.inject("*/blobs/*", faults.redirect(f"{origin.url}/v2/app/blobs/{image.layers[0].digest}"))
    with certs_d.client() as client:
        assert fetch_all(repo_of(client), image) == LAYER

    assert all(each.headers["x-key"] == "a, b" for each in mirror.asked)
    assert origin.asked
    assert not any("x-key" in each.headers for each in origin.asked)


def test_a_path_may_stand_for_the_api(certs_d, origin):
    image = push(origin, name="proxy/hub/app")
    certs_d.write(f'server = "{origin.url}/v2/proxy/hub"\noverride_path = true')

    with certs_d.client() as client:
        assert repo_of(client).get_manifest("1").raw == image.manifest.raw

    assert origin.asked[0].path == "/v2/proxy/hub/app/manifests/1"


def test_where_a_path_stands_for_the_api_a_token_is_for_what_the_host_says(certs_d):
    with FaultRegistry(auth="token", anonymous=True) as registry:
        push(registry, name="proxy/hub/app")
        certs_d.write(f'server = "{registry.url}/v2/proxy/hub"\noverride_path = true')

        with certs_d.client() as client:
            assert repo_of(client).get_manifest("1").raw

    assert registry.asked[1].query["scope"] == ["repository:proxy/hub/app:pull"]


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_credentials_for_a_registry_are_not_for_its_mirrors(auth, certs_d, origin):
    alice = AuthConfig("alice", "wonderland")
    with FaultRegistry(auth=auth, username="alice", password="wonderland") as greedy:
        image = push(greedy, origin)
        certs_d.write(f'[host."{greedy.url}"]\n', host=origin.host)
        with certs_d.client() as client:
            repo = client.repo(Reference.parse(f"{origin.host}/app:1"), auth=alice)
            assert fetch_all(repo, image) == LAYER

        assert greedy.asked
        assert not any("authorization" in each.headers for each in greedy.asked)


def test_credentials_that_name_a_mirror_are_for_it_alone(certs_d, origin):
    alice = AuthConfig("alice", "wonderland")
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as private:
        image = push(private, origin)
        auth = AuthConfig("alice", "wonderland", server_address=private.host)
        certs_d.write(f'server = "{origin.url}"\n[host."{private.url}"]\n')
        origin.inject("*", faults.status(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
        with certs_d.client() as client:
            assert fetch_all(repo_of(client, auth=auth), image) == LAYER
            private.inject("*", faults.status(500))
            with pytest.raises(AuthenticationFailed):
                repo_of(client, auth=auth).get_manifest("1")

    assert not any("authorization" in each.headers for each in origin.asked)
    assert alice.username == "alice"


def test_a_server_that_is_another_host_is_one_to_credentials(certs_d):
    """
    It may be a mirror of everything, under ``_default``: a password for ghcr.io is not for that.
    """
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as registry:
        push(registry)
        certs_d.write(f'server = "{registry.url}"', "_default")
        with certs_d.client() as client, pytest.raises(AuthenticationFailed, match="are for another host"):
            repo_of(client, auth=AuthConfig("alice", "wonderland")).get_manifest("1")

    assert not any("authorization" in each.headers for each in registry.asked)


def test_a_new_file_is_obeyed_by_the_next_pull(mirrored, mirror, origin, certs_d):
    push(mirror, origin)
    repo_of(mirrored).get_manifest("1")
    certs_d.write(f'server = "{origin.url}"')
    repo_of(mirrored).get_manifest("1")

    assert (len(mirror.asked), len(origin.asked)) == (1, 1)


def test_a_dial_timeout_is_kept(certs_d, origin):
    image = push(origin)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        certs_d.write(
            f'server = "{origin.url}"\n[host."http://127.0.0.1:{address[1]}"]\ndial_timeout = "100ms"\n'
        )
        started = time.monotonic()
        with certs_d.client(connect_timeout_seconds=10) as client:
            assert fetch_all(repo_of(client), image) == LAYER
        assert time.monotonic() - started < 3
        for filler in fillers:
            filler.close()


def test_the_path_of_a_file_may_be_a_string():
    with RegistryClient(hosts_dir="/nowhere") as client:
        assert client._hosts_dir == Path("/nowhere")
