"""
Proxies: for whom one is asked, and what it gets to see.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trustme

from support import registry as faults
from support.images import ImageBuilder, noise
from support.proxy import Proxy, SocksProxy
from support.registry import FaultRegistry
from ullage.errors import InvalidConfiguration, RegistryUnavailable
from ullage.reference import Reference
from ullage.registry import RegistryClient
from ullage.registry.endpoint import Origin, is_local
from ullage.registry.proxies import proxy_for

LAYER = noise(300_000)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def origin(url):
    return Origin.of(url)


# ---------------------------------------------------------------------- for whom


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("https://r.example", {}, None),
        ("https://r.example", {"https_proxy": "http://p:3128"}, "http://p:3128"),
        ("https://r.example", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("https://r.example", {"HTTPS_PROXY": "http://up:1", "https_proxy": "http://low:1"}, "http://low:1"),
        ("https://r.example", {"https_proxy": " ", "HTTPS_PROXY": "http://p"}, "http://p:80"),
        ("https://r.example", {"http_proxy": "http://p:3128"}, None),
        ("http://r.example", {"http_proxy": "http://p:3128"}, "http://p:3128"),
        ("http://r.example", {"https_proxy": "http://p:3128"}, None),
        ("https://r.example", {"ALL_PROXY": "http://p:3128"}, "http://p:3128"),
        ("http://r.example", {"all_proxy": "p:3128"}, "http://p:3128"),
        ("https://r.example", {"all_proxy": "http://a:1", "https_proxy": "http://b:1"}, "http://b:1"),
        ("https://r.example", {"https_proxy": "https://p"}, "https://p:443"),
        ("https://r.example", {"https_proxy": "socks5://p"}, "socks5://p:1080"),
        ("https://r.example", {"all_proxy": "socks5h://u:p@[::1]:9"}, "socks5://[::1]:9"),
        ("https://127.0.0.1", {"all_proxy": "socks5://p"}, None),
        ("https://r.example", {"https_proxy": "http://[::1]:3128/"}, "http://[::1]:3128"),
        ("http://r.example", {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, None),
        ("http://r.example", {"http_proxy": "http://p:1", "REQUEST_METHOD": "GET"}, "http://p:1"),
        ("http://localhost:5000", {"http_proxy": "http://p:1"}, None),
        ("http://127.0.0.1:5000", {"http_proxy": "http://p:1"}, None),
        ("http://127.9.9.9", {"http_proxy": "http://p:1"}, None),
        ("https://[::1]:5000", {"https_proxy": "http://p:1"}, None),
    ],
)
def test_the_environment_says_which_proxy(url, environment, expected):
    proxy = proxy_for(origin(url), environment)

    assert (proxy and proxy.url) == expected


@pytest.mark.parametrize(
    ("no_proxy", "url", "exempt"),
    [
        ("*", "https://r.example", True),
        ("r.example", "https://r.example", True),
        ("r.example", "https://a.r.example", True),
        ("r.example", "https://ar.example", False),
        ("R.Example", "https://r.example", True),
        (".r.example", "https://a.r.example", True),
        (".r.example", "https://r.example", False),
        ("*.r.example", "https://a.r.example", True),
        ("*.r.example", "https://r.example", False),
        ("r.example.", "https://r.example", True),
        ("other.example, r.example", "https://r.example", True),
        (" , ,", "https://r.example", False),
        ("r.example:443", "https://r.example", True),
        ("r.example:5000", "https://r.example", False),
        ("r.example:5000", "https://r.example:5000", True),
        ("10.0.0.1", "https://10.0.0.1", True),
        ("10.0.0.1", "https://10.0.0.2", False),
        ("10.0.0.0/8", "https://10.9.9.9:5000", True),
        ("10.0.0.0/8", "https://11.0.0.1", False),
        ("10.1.2.3/8", "https://10.9.9.9", True),
        ("2001:db8::/32", "https://[2001:db8::5]", True),
        ("2001:db8::5", "https://[2001:db8::5]", True),
        ("[2001:db8::5]:443", "https://[2001:db8::5]", True),
        ("[2001:db8::5]:5000", "https://[2001:db8::5]", False),
        ("10.0.0.0/8", "https://r.example", False),
        ("10.0.0.0/99", "https://10.0.0.1", False),
        ("0.1", "https://10.0.0.1", False),
        ("example", "https://r.example", True),
        ("xample", "https://r.example", False),
    ],
)
def test_no_proxy_means_what_go_means_by_it(no_proxy, url, exempt):
    for name in ("no_proxy", "NO_PROXY"):
        environment = {"https_proxy": "http://p:1", name: no_proxy}
        assert (proxy_for(origin(url), environment) is None) == exempt


@pytest.mark.parametrize(
    "proxy",
    [
        "socks4://p:1",
        "socks://p:1",
        "socks5://user:" + "hunter2" * 40 + "@p",
        "ftp://p",
        "http://",
        "http://[",
        "http://p:x",
        "http://user:hunter2@p:x",
        "http://user:hunter2@p/path",
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(proxy):
    with pytest.raises(InvalidConfiguration, match="HTTPS_PROXY") as caught:
        proxy_for(origin("https://r.example"), {"HTTPS_PROXY": proxy})

    assert "hunter2" not in f"{caught.value}{caught.value.path}"


# ---------------------------------------------------------------------- through one


def pull_all(client, image, domain="r.example"):
    repo = client.repo(Reference.parse(f"{domain}/app:1"))
    repo.head_manifest("1")
    assert repo.get_manifest("1").raw == image.manifest.raw
    layer = image.layers[0]
    with repo.open_blob(layer.digest, size=layer.size) as stream:
        assert b"".join(iter(stream.read, b"")) == LAYER


def push(registry):
    return ImageBuilder(registry, "app").raw_layer(LAYER).push("1")


def test_a_registry_in_plain_http_is_asked_through_the_proxy(registry, monkeypatch):
    image = push(registry)
    with Proxy({"r.example:80": registry.host}) as proxy, RegistryClient(plain_http=True) as client:
        monkeypatch.setenv("http_proxy", proxy.url)
        pull_all(client, image)

    assert proxy.asked[0] == "HEAD http://r.example:80/v2/app/manifests/1 HTTP/1.1"
    assert registry.asked[0].headers["host"] == "r.example:80"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def server_context(authority, *names):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_registry_over_tls_is_asked_through_a_tunnel(scheme, authority, ca_file, monkeypatch):
    context = server_context(authority, "127.0.0.1") if scheme == "https" else None
    with FaultRegistry(ssl_context=server_context(authority, "r.example")) as registry:
        image = push(registry)
        with Proxy({"r.example:443": registry.host}, ssl_context=context) as proxy:
            monkeypatch.setenv("https_proxy", proxy.url)
            with RegistryClient(tls_ca=ca_file, backoff_seconds=0.01) as client:
                pull_all(client, image)

        assert {each.rpartition(" ")[0] for each in proxy.asked} == {"CONNECT r.example:443"}, (
            "and nothing else"
        )


def test_a_proxy_in_hosts_toml_goes_before_the_environments(registry, tmp_path, monkeypatch):
    image = push(registry)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Proxy({"m.example:80": registry.host}) as proxy:
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example/hosts.toml").write_text(
            f'server = "http://m.example"\nproxy = "{proxy.url}"\n'
        )
        with RegistryClient(hosts_dir=tmp_path) as client:
            pull_all(client, image)

    assert proxy.asked


@pytest.mark.parametrize("plain", [True, False])
def test_the_credentials_of_a_proxy_are_for_the_proxy(plain, authority, ca_file, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    context = None if plain else server_context(authority, "r.example")
    with FaultRegistry(ssl_context=context) as registry:
        image = push(registry)
        leads_to = {"r.example:80": registry.host, "r.example:443": registry.host}
        with Proxy(leads_to, username="bob", password="p@ss word") as proxy:
            url = proxy.url.replace("://", "://bob:p%40ss%20word@")
            monkeypatch.setenv("all_proxy", url)
            with RegistryClient(plain_http=plain, tls_ca=ca_file) as client:
                pull_all(client, image)
            monkeypatch.setenv("all_proxy", url.replace("word", "hunter2"))
            with (
                RegistryClient(plain_http=plain, tls_ca=ca_file, attempts=1) as client,
                pytest.raises(RegistryUnavailable) as caught,
            ):
                pull_all(client, image)

    assert not any("proxy-authorization" in each.headers for each in registry.asked)
    assert "407" in str(caught.value)
    for secret in ("p@ss", "p%40ss", "hunter2"):
        assert secret not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caplog.text}"


def test_a_proxy_that_is_down_is_named_as_such(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{port}")

    for plain in (True, False):
        with (
            RegistryClient(plain_http=plain) as client,
            pytest.raises(RegistryUnavailable, match="the proxy does not connect: Connection refused"),
        ):
            client.repo(Reference.parse("r.example/app:1")).get_manifest("1")


def test_a_proxy_that_cannot_be_used_ends_a_pull(monkeypatch):
    monkeypatch.setenv("https_proxy", "socks4://127.0.0.1:1")

    with RegistryClient() as client, pytest.raises(InvalidConfiguration, match=r"\$https_proxy"):
        client.repo(Reference.parse("r.example/app:1")).get_manifest("1")


# ---------------------------------------------------------------------- through SOCKS


@pytest.mark.parametrize("domain", ["r.example", "203.0.113.7", "[2001:db8::7]"])
def test_a_socks_proxy_connects_and_resolves_the_names(domain, registry, monkeypatch):
    image = push(registry)
    asked = f"{domain.strip('[]')}:80"
    with SocksProxy({asked: registry.host}) as proxy, RegistryClient(plain_http=True) as client:
        monkeypatch.setenv("all_proxy", proxy.url)
        pull_all(client, image, domain=domain)

    assert set(proxy.asked) == {asked}
    assert {each.headers["host"] for each in registry.asked} == {domain}


def test_tls_through_a_socks_proxy_is_with_the_registry(tmp_path, monkeypatch):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("r.example").configure_cert(context)
    with (
        FaultRegistry(ssl_context=context) as registry,
        SocksProxy({"r.example:443": registry.host}, username="alice", password="wönder:land") as proxy,
        RegistryClient(tls_ca=tmp_path / "ca.pem") as client,
    ):
        image = push(registry)
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//alice:w%C3%B6nder%3Aland@"))
        pull_all(client, image)

    assert set(proxy.asked) == {"r.example:443"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"reply": 2}, "its rules do not allow it"),
        ({"reply": 5}, "the connection was refused"),
        ({"reply": 77}, "it answered 77"),
        ({"username": "alice", "password": "wonderland"}, "it wants credentials"),
    ],
)
def test_a_socks_proxy_that_says_no_is_quoted(options, why, monkeypatch):
    with SocksProxy({}, **options) as proxy, RegistryClient(plain_http=True) as client:
        monkeypatch.setenv("all_proxy", proxy.url)
        with pytest.raises(RegistryUnavailable, match=f"the proxy does not connect: {why}"):
            client.repo(Reference.parse("r.example/app:1")).get_manifest("1")


def test_a_socks_proxy_that_refuses_credentials_gives_none_away(monkeypatch):
    with SocksProxy({}, username="alice", password="wonderland") as proxy, RegistryClient() as client:
        monkeypatch.setenv("all_proxy", proxy.url.replace("//", "//alice:hunter2@"))
        with pytest.raises(RegistryUnavailable, match="it refused the credentials in its URL") as caught:
            client.repo(Reference.parse("r.example/app:1")).get_manifest("1")

    assert "hunter2" not in f"{caught.value}{caught.value.hint}{caught.value.url}"


class _Deaf(Proxy):
    def _answer(self, client):
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_what_speaks_no_socks_is_found_out(monkeypatch):
    with _Deaf({}) as proxy, RegistryClient(plain_http=True) as client:
        monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{proxy.port}")
        with pytest.raises(RegistryUnavailable, match="the proxy does not connect: it does not speak SOCKS"):
            client.repo(Reference.parse("r.example/app:1")).get_manifest("1")


def test_a_socks_proxy_that_is_silent_is_given_up(monkeypatch):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        RegistryClient(plain_http=True, connect_timeout_seconds=0.2, attempts=1) as client,
    ):
        monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(RegistryUnavailable, match="in time"):
            client.repo(Reference.parse("r.example/app:1")).get_manifest("1")


def test_a_socks_proxy_that_is_down_is_named_as_such(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{port}")

    with (
        RegistryClient(plain_http=True) as client,
        pytest.raises(RegistryUnavailable, match="the proxy does not connect: Connection refused"),
    ):
        client.repo(Reference.parse("r.example/app:1")).get_manifest("1")


# ---------------------------------------------------------------------- where a server elsewhere must not send us


def named_loopback():
    """
    A name of this machine's hosts file that leads to loopback and does not look like it.
    """
    with Path("/etc/hosts").open(encoding="utf-8") as lines:
        for line in lines:
            address, *names = line.partition("#")[0].split()[:9] or [""]
            if address in {"127.0.0.1", "127.0.1.1", "::1"}:
                for name in names:
                    if not is_local(name):
                        return name
    return None


@pytest.fixture
def public(registry, monkeypatch):
    """
    A registry that is elsewhere: only through the proxy there is a way to it.
    """
    with Proxy({"r.example:80": registry.host}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with RegistryClient(plain_http=True, attempts=1) as client:
            yield client.repo(Reference.parse("r.example/app:1"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]", "0.0.0.0", "169.254.169.254"])
def test_a_registry_elsewhere_does_not_send_us_to_this_machine(host, public, registry):
    with FaultRegistry() as victim:
        port = victim.host.rpartition(":")[2]
        registry.inject("*", faults.redirect(f"http://{host}:{port}/secret"))

        with pytest.raises(RegistryUnavailable, match="from another machine to this one"):
            public.get_manifest("1")

        assert victim.connections == 0


@pytest.mark.skipif(named_loopback() is None, reason="no name in /etc/hosts but localhost leads to loopback")
@pytest.mark.parametrize("what", ["redirect", "realm"])
def test_a_name_that_leads_here_is_found_out_when_it_is_resolved(what, public, registry, monkeypatch):
    """
    The connection is refused, not the name: whoever answers for the name cannot answer differently twice.
    """
    monkeypatch.setenv("no_proxy", named_loopback())
    with FaultRegistry() as victim:
        url = f"http://{named_loopback()}:{victim.host.rpartition(':')[2]}/secret"
        challenge = {"WWW-Authenticate": f'Bearer realm="{url}"'}
        registry.inject(
            "*", faults.redirect(url) if what == "redirect" else faults.status(401, headers=challenge)
        )

        with pytest.raises(RegistryUnavailable, match="its name leads to this machine"):
            public.get_manifest("1")

        assert victim.connections == 0


@pytest.mark.skipif(named_loopback() is None, reason="no name in /etc/hosts but localhost leads to loopback")
def test_a_connection_of_ours_to_this_machine_is_not_for_who_sends_us_there(public, registry, monkeypatch):
    monkeypatch.setenv("no_proxy", named_loopback())
    with FaultRegistry() as victim, RegistryClient(plain_http=True, attempts=1) as client:
        image = push(victim)
        host = f"{named_loopback()}:{victim.host.rpartition(':')[2]}"
        assert client.repo(Reference.parse(f"{host}/app:1")).get_manifest("1").raw == image.manifest.raw
        registry.inject("*", faults.redirect(f"http://{host}/v2/app/manifests/1"))

        with pytest.raises(RegistryUnavailable, match="its name leads to this machine"):
            client.repo(Reference.parse("r.example/app:1")).get_manifest("1")

        assert len(victim.asked) == 1


@pytest.mark.skipif(named_loopback() is None, reason="no name in /etc/hosts but localhost leads to loopback")
def test_a_registry_on_this_machine_may_send_us_anywhere_on_it(registry):
    image = push(registry)
    host = f"{named_loopback()}:{registry.host.rpartition(':')[2]}"
    registry.inject(
        "*/blobs/*", faults.redirect(f"{registry.url}/v2/other/blobs/{image.layers[0].digest}"), times=1
    )

    with RegistryClient(plain_http=True) as client:
        pull_all(client, image, domain=host)
