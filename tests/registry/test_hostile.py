"""
Registries that are down, slow, broken or hostile: a typed error within bounded time.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import socket
import ssl
import threading
import time
import traceback
import warnings

import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import registry as faults
from support.images import ImageBuilder, noise
from support.registry import FaultRegistry
from ullage.errors import ImageError, InvalidReference, RegistryUnavailable
from ullage.reference import Reference
from ullage.registry import RegistryClient
from ullage.registry.answers import retry_after_seconds
from ullage.registry.faults import REASONS, unavailable

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").noise_layer(200_000).push("1")


def fetch_all(repo, image):
    """
    What a pull does: the manifest, then the layer.
    """
    repo.head_manifest("1")
    repo.get_manifest("1")
    layer = image.layers[0]
    with repo.open_blob(layer.digest, size=layer.size) as stream:
        return b"".join(iter(stream.read, b""))


# Every error of the library has a word of ours


def exceptions_of_urllib3():
    found = vars(urllib3.exceptions).values()
    return [
        each
        for each in found
        if isinstance(each, type)
        and issubclass(each, Exception)
        and not issubclass(each, Warning)
        and each.__module__ == urllib3.exceptions.__name__
        and each is not urllib3.exceptions.HTTPError
    ]


@pytest.mark.parametrize("kind", exceptions_of_urllib3(), ids=lambda kind: kind.__name__)
def test_every_error_of_urllib3_is_mapped(kind):
    assert any(issubclass(kind, mapped) for mapped, _ in REASONS)


@pytest.mark.parametrize("kind", exceptions_of_urllib3(), ids=lambda kind: kind.__name__)
def test_no_error_of_urllib3_lends_its_text(kind):
    error = kind.__new__(kind)
    error.args = ("https://user:hunter2@r.example/?sig=hunter2",)

    mapped = unavailable(error, "https://user:hunter2@r.example/x?sig=hunter2", doing="fetching")

    assert isinstance(mapped, RegistryUnavailable)
    assert mapped.url == "https://r.example/x"
    assert "hunter2" not in str(mapped)


# Not there


def test_a_refused_connection_is_unavailable(client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"

    with pytest.raises(RegistryUnavailable, match="Connection refused") as caught:
        client.repo(Reference.parse(f"{host}/app:1")).head_manifest("1")

    assert caught.value.url == f"http://{host}/v2/app/manifests/1"
    assert caught.value.status is None


def test_a_name_that_does_not_resolve_is_unavailable(client):
    with pytest.raises(RegistryUnavailable, match="does not resolve"):
        client.repo(Reference.parse("nobody.invalid/app:1")).get_manifest("1")


@pytest.mark.parametrize("domain", ["localhost:99999", "127.0.0.1:65536"])
def test_a_domain_that_is_no_address_is_an_invalid_reference(client, domain):
    with pytest.raises(InvalidReference, match=f"no registry can be at {domain}"):
        client.repo(Reference.parse(f"{domain}/app:1"))


@pytest.mark.parametrize("domain", ["localhost:0", "a" * 64 + ".invalid"])
def test_a_domain_that_cannot_be_asked_is_unavailable(client, domain):
    with pytest.raises(RegistryUnavailable):
        client.repo(Reference.parse(f"{domain}/app:1")).get_manifest("1")


def test_a_host_that_does_not_speak_tls_is_named_as_such(registry, tmp_path):
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text(f'server = "https://{registry.host}"')
    with (
        RegistryClient(read_timeout_seconds=0.5, hosts_dir=tmp_path) as client,
        pytest.raises(RegistryUnavailable, match="no trusted TLS connection") as caught,
    ):
        client.repo(Reference.parse("registry.example/app:1")).get_manifest("1")

    assert "--plain-http" in caught.value.hint


def test_a_host_that_never_accepts_is_given_up():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [_connect(address) for _ in range(4)]
        with (
            RegistryClient(plain_http=True, connect_timeout_seconds=0.1, attempts=2) as client,
            pytest.raises(RegistryUnavailable, match="no connection"),
        ):
            client.repo(Reference.parse(f"127.0.0.1:{address[1]}/app:1")).get_manifest("1")
        for each in fillers:
            each.close()


# Slow


@pytest.mark.parametrize(
    "fault",
    [
        faults.stall(),
        faults.stall(after=0),
        faults.stall(after=100),
        faults.drip_head(0.02),
        faults.drip(1, 0.02),
    ],
    ids=["no head", "no body", "half a body", "a slow head", "a slow body"],
)
@pytest.mark.parametrize("pattern", ["*/manifests/*", "*/blobs/*"])
def test_a_registry_that_stalls_or_drips_is_given_up(fault, pattern, hasty_repo, image, registry):
    registry.inject(pattern, fault, method="GET")
    started = time.monotonic()

    with pytest.raises(RegistryUnavailable, match=r"in time|too slow|no complete answer"):
        fetch_all(hasty_repo, image)

    assert time.monotonic() - started < 3


def test_a_slow_reader_is_not_taken_for_a_slow_registry(repo, image):
    layer = image.layers[0]
    with repo.open_blob(layer.digest, size=layer.size) as stream:
        first = stream.read(1000)
        time.sleep(0.3)
        rest = b"".join(iter(stream.read, b""))

    assert first + rest == layer.raw


def test_a_blob_that_keeps_its_pace_may_take_longer_than_any_timeout(registry):
    content = noise(40_000)
    digest = registry.add_blob(content)
    registry.inject("*", faults.drip(1000, 0.02))
    with RegistryClient(plain_http=True, read_timeout_seconds=0.15, attempts=1) as client:
        repo = client.repo(Reference.parse(f"{registry.host}/app:1"))
        with repo.open_blob(digest, size=len(content)) as stream:
            assert b"".join(iter(stream.read, b"")) == content


# Trying again


@pytest.mark.parametrize(
    "fault",
    [faults.status(code, headers={"Retry-After": "0"}) for code in (408, 429, 500, 502, 503, 504)]
    + [faults.status(503), faults.reset(), faults.raw(b"")],
    ids=["408", "429", "500", "502", "503", "504", "503 without a time", "reset", "hung up"],
)
@pytest.mark.parametrize("pattern", ["*/manifests/*", "*/blobs/*"])
def test_what_may_pass_is_tried_five_times(fault, pattern, repo, image, registry):
    registry.inject(pattern, fault, times=4)

    assert fetch_all(repo, image) == image.layers[0].raw


def test_what_does_not_pass_is_tried_five_times(repo, image, registry):
    registry.inject("*", faults.status(503, headers={"Retry-After": "0"}))

    with pytest.raises(RegistryUnavailable):
        repo.get_manifest("1")

    assert len(registry.requests) == 5


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("wait", ["61", "3600", "999999999", "Fri, 31 Dec 2199 23:59:59 GMT"])
def test_a_registry_that_asks_for_a_long_wait_is_not_waited_for(wait, code, repo, image, registry):
    registry.inject("*", faults.status(code, headers={"Retry-After": wait}))

    with pytest.raises(RegistryUnavailable, match="it asks to wait for") as caught:
        repo.get_manifest("1")

    assert caught.value.retry_after_seconds > 60
    assert len(registry.requests) == 1


@pytest.mark.parametrize("seconds", [1])
def test_a_registry_that_asks_for_a_short_wait_gets_it(seconds, image, registry):
    """
    A date has no fractions: whoever says the next second may mean now.
    """
    at = email.utils.formatdate(time.time() + seconds, usegmt=True)
    registry.inject("*", faults.status(429, headers={"Retry-After": at}), times=1)
    started = time.monotonic()

    with RegistryClient(plain_http=True, backoff_seconds=0) as client:
        assert client.repo(Reference.parse(image.reference)).get_manifest("1").raw == image.manifest.raw

    assert seconds - 1.1 < time.monotonic() - started < seconds + 1


def test_the_time_for_trying_again_is_limited_whatever_the_attempts(image, registry):
    registry.inject("*", faults.status(503))
    started = time.monotonic()

    with (
        RegistryClient(plain_http=True, attempts=1000, retry_seconds=0.3, backoff_seconds=0.02) as client,
        pytest.raises(RegistryUnavailable),
    ):
        client.repo(Reference.parse(image.reference)).get_manifest("1")

    assert time.monotonic() - started < 2
    assert 3 < len(registry.requests) < 20


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("9" * 5000, None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert retry_after_seconds(header) == seconds


@given(st.text())
def test_any_retry_after_is_a_number_or_nothing(header):
    seconds = retry_after_seconds(header)

    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("code", [400, 403, 404, 501])
def test_a_plain_no_is_taken_for_an_answer(code, repo, image, registry):
    registry.inject("*", faults.status(code))

    with pytest.raises(ImageError):
        repo.get_manifest("1")

    assert len(registry.requests) == 1


def test_a_connection_that_was_kept_and_is_gone_is_made_anew(repo, image, registry):
    registry.inject("*", faults.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), times=1)

    assert repo.get_manifest("1").raw == b"{}"
    assert repo.get_manifest("1").raw == image.manifest.raw


def test_a_forked_child_makes_connections_of_its_own(repo, image, registry):
    repo.get_manifest("1")

    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; a host that forks does it all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        fetched = False
        with contextlib.suppress(Exception):
            fetched = repo.get_manifest("1").raw == image.manifest.raw
        os._exit(0 if fetched else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert repo.get_manifest("1").raw == image.manifest.raw
    assert registry.connections == 2


def test_an_abort_ends_the_wait_between_attempts(repo, image, registry):
    refused = registry.inject("*", faults.status(503, headers={"Retry-After": "5"}))
    started = time.monotonic()
    aborter = threading.Thread(target=lambda: (refused.wait_reached(), repo.abort()))
    aborter.start()

    with pytest.raises(ImageError, match="aborted"):
        repo.get_manifest("1")

    aborter.join(5)
    assert time.monotonic() - started < 3


# Redirects


def test_five_redirects_are_followed_and_six_are_not(repo, image, registry):
    registry.inject("*/manifests/6", faults.redirect("/v2/app/manifests/5"))
    for number in range(5, 1, -1):
        registry.inject(f"*/manifests/{number}", faults.redirect(f"/v2/app/manifests/{number - 1}"))

    assert repo.get_manifest("6").raw == image.manifest.raw
    registry.inject("*/manifests/7", faults.redirect("/v2/app/manifests/6"))
    with pytest.raises(RegistryUnavailable, match="more than 5 redirects"):
        repo.get_manifest("7")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_loop_ends(code, repo, image, registry):
    registry.inject("*", faults.redirect("", code), times=1)
    registry.inject("*", faults.redirect("/v2/app/manifests/1", code))

    with pytest.raises(RegistryUnavailable, match="redirect"):
        repo.get_manifest("1")

    assert len(registry.requests) <= 6


@pytest.mark.parametrize(
    "location",
    [
        "",
        "file:///etc/passwd",
        "ftp://x/y",
        "http://[",
        "http://user:hunter2@x:y/",
        "\xff\xfe",
        "http:",
        "javascript:1",
    ],
)
def test_a_redirect_to_nowhere_is_refused(location, repo, image, registry):
    registry.inject("*", faults.redirect(location))

    with pytest.raises(ImageError) as caught:
        repo.get_manifest("1")

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "fault",
    [faults.status(403), faults.stall(), faults.truncate(0), faults.raw(b"junk"), faults.reset()],
    ids=["403", "stall", "truncate", "junk", "reset"],
)
def test_a_signature_in_a_redirect_appears_in_no_error(fault, hasty_repo, registry):
    with FaultRegistry() as storage:
        digest = storage.add_blob(b"layer")
        storage.inject("*", fault)
        registry.inject("*", faults.redirect(f"{storage.url}/v2/a/blobs/{digest}?sig=hunter2"))

        with pytest.raises(ImageError) as caught:
            _read(hasty_repo.open_blob(digest, size=5))

    assert storage.asked[0].query == {"sig": ["hunter2"]}
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in caught.value.url


# Bombs and junk


@pytest.mark.parametrize(
    "fault",
    [
        faults.endless(OK, b"X: " + b"x" * 60_000 + b"\r\n"),
        faults.endless(OK, b"x" * 65536),
        faults.endless(OK, b"X: y\r\n" * 10_000),
        faults.endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        faults.endless(b"", b"x" * 65536),
        faults.endless(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"Trailer: x\r\n" * 1000),
        faults.endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65536),
        faults.endless(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536),
    ],
    ids=[
        "long headers",
        "one header",
        "many headers",
        "continue",
        "status line",
        "trailers",
        "chunk size",
        "chunk extension",
    ],
)
@pytest.mark.parametrize("pattern", ["*/manifests/*", "*/blobs/*"])
def test_a_bomb_costs_little(fault, pattern, repo, image, registry):
    registry.inject(pattern, fault, method="GET")
    started = time.process_time()

    with pytest.raises(RegistryUnavailable):
        fetch_all(repo, image)

    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        OK + b"Content-Length: 5, 6\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Content-Length: 5\r\n\r\nhel",
    ],
)
def test_what_is_not_http_is_unavailable(data, repo, registry, capfd):
    registry.inject("*", faults.raw(data))

    with pytest.raises(RegistryUnavailable):
        repo.get_manifest("1")

    assert capfd.readouterr() == ("", "")


def test_lines_that_are_no_headers_are_passed_over_in_silence(repo, registry, caplog):
    registry.inject(
        "*", faults.raw(OK + b"Content-Type: a/b\r\nno header at all\r\nContent-Length: 2\r\n\r\n{}")
    )

    assert repo.get_manifest("1").media_type == "a/b"
    assert "no header" not in caplog.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    b"Content-Type",
                    b"Docker-Content-Digest",
                    b"Content-Length",
                    b"Content-Range",
                    b"Location",
                    b"WWW-Authenticate",
                    b"Retry-After",
                    b"Transfer-Encoding",
                    b"Connection",
                    b"Content-Encoding",
                ]
            ),
            st.binary(max_size=30)
            | st.sampled_from([b"chunked", b"bytes 0-1/2", b"0", b"1", b"Bearer realm=x", b"close"]),
        ),
        max_size=5,
    ),
    st.sampled_from([200, 206, 301, 307, 401, 403, 404, 416]),
    st.binary(max_size=40),
)
def test_any_answer_is_a_result_or_a_typed_error(headers, code, body):
    lines = b"".join(
        name + b": " + value.replace(b"\n", b"").replace(b"\r", b"") + b"\r\n" for name, value in headers
    )
    answer = b"HTTP/1.1 %d X\r\n%b\r\n%b" % (code, lines, body)
    digest = Reference.parse("a@sha256:" + "0" * 64).digest
    with (
        FaultRegistry() as registry,
        RegistryClient(plain_http=True, read_timeout_seconds=0.1, attempts=2, backoff_seconds=0) as client,
    ):
        registry.inject("*", faults.raw(answer))
        repo = client.repo(Reference.parse(f"{registry.host}/app:1"))
        for ask in (
            lambda: repo.head_manifest("1"),
            lambda: repo.get_manifest("1"),
            lambda: _read(repo.open_blob(digest, size=2)),
            lambda: _read(repo.open_blob(digest, size=2, offset=1)),
        ):
            with contextlib.suppress(ImageError):
                ask()


# TLS


@pytest.fixture(scope="module")
def authority():
    trustme = pytest.importorskip("trustme")
    return trustme.CA()


@pytest.fixture
def tls_registry(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FaultRegistry(ssl_context=context) as registry:
        yield registry


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_registry):
    with (
        RegistryClient(read_timeout_seconds=2.0) as client,
        pytest.raises(RegistryUnavailable, match="certificate") as caught,
    ):
        client.repo(Reference.parse(f"{tls_registry.host}/app:1")).get_manifest("1")

    assert "signed by an authority" in caught.value.hint
    assert tls_registry.requests == []


@pytest.fixture
def trusting(authority, tmp_path, monkeypatch):
    """
    A client on a machine that trusts the authority.
    """
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with RegistryClient(read_timeout_seconds=60.0) as client:
        yield client


def test_a_registry_over_tls_is_pulled_from(tls_registry, trusting):
    image = ImageBuilder(tls_registry, "app").noise_layer(200_000).push("1")
    repo = trusting.repo(Reference.parse(image.reference))

    assert fetch_all(repo, image) == image.layers[0].raw
    assert tls_registry.connections == 1


def test_a_certificate_for_another_name_is_refused(tls_registry, trusting):
    port = tls_registry.host.rpartition(":")[2]

    with pytest.raises(RegistryUnavailable, match="certificate"):
        trusting.repo(Reference.parse(f"localhost:{port}/app:1")).get_manifest("1")


def test_an_abort_wakes_a_read_over_tls_and_gives_no_ciphertext(tls_registry, trusting):
    image = ImageBuilder(tls_registry, "app").noise_layer(200_000).push("1")
    layer = image.layers[0]
    stalled = tls_registry.inject("*/blobs/*", faults.stall(after=1000))
    stream = trusting.repo(Reference.parse(image.reference)).open_blob(layer.digest, size=layer.size)
    got, errors = [], []

    def read():
        try:
            got.extend(iter(stream.read, b""))
        except ImageError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    stalled.wait_reached()
    stream.abort()
    reader.join(5)
    stream.close()

    assert not reader.is_alive()
    assert [type(each).__name__ for each in errors] == ["PullCancelled"]
    assert layer.raw.startswith(b"".join(got))


def test_a_redirect_from_tls_down_to_http_is_refused(tls_registry, trusting, registry):
    tls_registry.inject("*", faults.redirect(f"{registry.url}/v2/app/manifests/1"))

    with pytest.raises(RegistryUnavailable, match="down to http"):
        trusting.repo(Reference.parse(f"{tls_registry.host}/app:1")).get_manifest("1")

    assert registry.requests == []


def test_a_realm_that_is_not_over_tls_gets_no_credentials(tls_registry, trusting, registry):
    challenge = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'}
    tls_registry.inject("*", faults.status(401, headers=challenge))

    with pytest.raises(ImageError, match="not asked over TLS"):
        trusting.repo(Reference.parse(f"{tls_registry.host}/app:1")).get_manifest("1")

    assert registry.requests == []


def _connect(address):
    each = socket.socket()
    each.setblocking(False)
    each.connect_ex(address)
    return each


def _read(stream):
    with stream:
        return b"".join(iter(stream.read, b""))
