"""
Who we are to a registry: which credentials it sees, and the token that they buy.
"""

from __future__ import annotations

import base64
import threading
import time

import pytest

from support import registry as faults
from support.images import ImageBuilder
from support.registry import FaultRegistry
from ullage.errors import AccessDenied, AuthenticationFailed, RegistryUnavailable
from ullage.model import AuthConfig
from ullage.reference import Reference
from ullage.registry.identity import Credentials, credentials_for

ALICE = AuthConfig(username="alice", password="wonderland")
TOKENS = "/token"


@pytest.fixture(params=["basic", "token"])
def guarded(request):
    """
    A registry that alice may pull from, by one scheme and by the other.
    """
    with FaultRegistry(auth=request.param, username="alice", password="wonderland") as registry:
        ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        yield registry


@pytest.fixture
def tokens():
    """
    A registry that sells tokens: to alice, and to who has her refresh token.
    """
    with FaultRegistry(
        auth="token", username="alice", password="wonderland", identity_token="rabbit-hole"
    ) as registry:
        ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        yield registry


def repo_of(client, registry, auth=None, name="app:1"):
    return client.repo(Reference.parse(f"{registry.host}/{name}"), auth=auth)


def base64_of(text):
    return base64.b64encode(text.encode()).decode()


# What of an AuthConfig is used


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (None, Credentials()),
        (AuthConfig(), Credentials()),
        (ALICE, Credentials(username="alice", password="wonderland")),
        (AuthConfig(username="alice"), Credentials(username="alice")),
        (AuthConfig(auth=base64_of("alice:won:der")), Credentials(username="alice", password="won:der")),
        (AuthConfig(auth=base64_of("alice:x\0\0")), Credentials(username="alice", password="x")),
        (AuthConfig(auth=base64_of("alice:pä")), Credentials(username="alice", password="pä")),
        (AuthConfig(identity_token="i", username="alice"), Credentials("alice", identity_token="i")),
        (
            AuthConfig(registry_token="r", identity_token="i", username="alice"),
            Credentials(registry_token="r"),
        ),
        (AuthConfig("alice", "x", server_address="https://r.example/v2/"), Credentials("alice", "x")),
        (AuthConfig("alice", "x", server_address="other.example"), Credentials(withheld=True)),
        (AuthConfig(auth="not base64!", server_address="other.example"), Credentials(withheld=True)),
    ],
)
def test_an_auth_config_is_read_as_containerd_and_docker_read_it(auth, expected):
    assert credentials_for(auth, "r.example") == expected


@pytest.mark.parametrize(
    "auth",
    [
        AuthConfig(auth="hunter2!"),
        AuthConfig(auth=base64_of("hunter2")),
        AuthConfig(auth=base64_of(":hunter2")),
        AuthConfig(auth=base64.b64encode(b"\xffhunter2:\xff").decode()),
        AuthConfig(auth="hünter2"),
        AuthConfig(password="hunter2"),
        AuthConfig(registry_token="hunter2\r\nX-Evil: 1"),
        AuthConfig(registry_token="hunter2 ü"),
    ],
)
def test_a_malformed_auth_config_is_refused_and_not_quoted(auth, client, registry):
    with pytest.raises(AuthenticationFailed) as caught:
        repo_of(client, registry, auth)

    assert "unter2" not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert registry.requests == []


# The flow


def test_alice_pulls_and_mallory_does_not(client, guarded):
    assert repo_of(client, guarded, ALICE).get_manifest("1").raw

    for auth in (None, AuthConfig("alice", "hunter2"), AuthConfig("mallory", "wonderland")):
        with pytest.raises(AuthenticationFailed) as caught:
            repo_of(client, guarded, auth).get_manifest("1")
        assert caught.value.status == 401
        assert caught.value.registry_errors[0][0] == "UNAUTHORIZED"


def test_credentials_in_base64_are_as_good(client, guarded):
    auth = AuthConfig(auth=base64_of("alice:wonderland"))

    assert repo_of(client, guarded, auth).head_manifest("1")


def test_credentials_for_another_host_are_withheld(client, guarded):
    auth = AuthConfig("alice", "wonderland", server_address="elsewhere.example")

    with pytest.raises(AuthenticationFailed, match="those given are for another host"):
        repo_of(client, guarded, auth).get_manifest("1")

    assert not any("authorization" in each.headers for each in guarded.asked)


def test_credentials_for_this_host_are_used(client, guarded):
    auth = AuthConfig("alice", "wonderland", server_address=f"https://{guarded.host}/v2/")

    assert repo_of(client, guarded, auth).get_manifest("1").raw


def test_a_registry_that_asks_for_nothing_is_told_nothing(client, registry):
    ImageBuilder(registry, "app").push("1")

    repo_of(client, registry, ALICE).get_manifest("1")

    assert "authorization" not in registry.asked[0].headers


def test_once_basic_was_asked_for_it_is_sent_at_once(client):
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as registry:
        ImageBuilder(registry, "app").push("1")
        repo = repo_of(client, registry, ALICE)
        for _ in range(3):
            repo.get_manifest("1")

    assert [each.status for each in registry.requests] == [401, 200, 200, 200]


def test_a_token_is_asked_for_pulling_this_repo_and_nothing_else(client, tokens):
    repo_of(client, tokens, ALICE).get_manifest("1")

    assert [(each.method, each.path, each.status) for each in tokens.requests] == [
        ("GET", "/v2/app/manifests/1", 401),
        ("GET", TOKENS, 200),
        ("GET", "/v2/app/manifests/1", 200),
    ]
    assert tokens.asked[1].query == {
        "service": [tokens.host],
        "scope": ["repository:app:pull"],
        "account": ["alice"],
    }


def test_one_token_serves_every_request_of_a_repo_and_the_next_pull_too(client, tokens):
    for _ in range(3):
        repo = repo_of(client, tokens, ALICE)
        repo.head_manifest("1")
        repo.get_manifest("1")

    assert tokens.guard.issued == 1
    assert len(tokens.requests) == 1 + 1 + 6


def test_another_repo_and_other_credentials_get_their_own_token(client, tokens):
    ImageBuilder(tokens, "other/app").push("1")
    repo_of(client, tokens, ALICE).get_manifest("1")
    repo_of(client, tokens, ALICE, "other/app:1").get_manifest("1")

    with pytest.raises(AuthenticationFailed):
        repo_of(client, tokens).get_manifest("1")

    assert tokens.guard.issued == 2


def test_layers_in_parallel_share_one_token(client, tokens):
    digest = tokens.add_blob(b"layer")
    repo = repo_of(client, tokens, ALICE)
    barrier = threading.Barrier(6)
    got = []

    def fetch():
        barrier.wait(5)
        with repo.open_blob(digest, size=5) as stream:
            got.append(stream.read())

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert got == [b"layer"] * 6
    assert tokens.guard.issued == 1


def test_a_token_that_ends_is_renewed_before_it_is_refused(client, tokens):
    tokens.guard.token_seconds = 0.25
    repo = repo_of(client, tokens, ALICE)
    repo.get_manifest("1")
    time.sleep(0.2)
    repo.get_manifest("1")

    assert [each.status for each in tokens.requests] == [401, 200, 200, 200, 200]
    assert tokens.guard.issued == 2


def test_a_token_that_is_revoked_in_mid_pull_is_renewed(client, tokens):
    repo = repo_of(client, tokens, ALICE)
    repo.get_manifest("1")
    tokens.guard.revoke()

    assert repo.get_manifest("1").raw
    assert tokens.guard.issued == 2


def test_a_registry_that_refuses_every_token_is_left_after_one(client, tokens):
    tokens.inject("/v2/*", lambda hit: hit.reply(faults.replace(hit.asked, headers={})))

    with pytest.raises(AuthenticationFailed, match="the registry refused the credentials"):
        repo_of(client, tokens, ALICE).get_manifest("1")

    assert len(tokens.requests) == 3


def test_an_anonymous_token_is_bought_where_it_is_sold(client):
    with FaultRegistry(auth="token", anonymous=True) as registry:
        ImageBuilder(registry, "app").push("1")

        assert repo_of(client, registry).get_manifest("1").raw

    assert "authorization" not in registry.asked[1].headers
    assert "account" not in registry.asked[1].query


def test_an_identity_token_is_traded_in_by_post(client, tokens):
    auth = AuthConfig(identity_token="rabbit-hole")

    assert repo_of(client, tokens, auth).get_manifest("1").raw

    asked = tokens.asked[1]
    assert (asked.method, asked.path, asked.query) == ("POST", TOKENS, {})
    form = asked.body.decode()
    assert "grant_type=refresh_token" in form
    assert "refresh_token=rabbit-hole" in form
    assert "scope=repository%3Aapp%3Apull" in form
    assert "client_id=ullage" in form
    assert not any("rabbit-hole" in str(each.headers) for each in tokens.asked)


def test_a_wrong_identity_token_is_refused(client, tokens):
    with pytest.raises(AuthenticationFailed) as caught:
        repo_of(client, tokens, AuthConfig(identity_token="looking-glass")).get_manifest("1")

    assert caught.value.url == f"{tokens.url}/token"


def test_a_registry_token_is_sent_as_it_is_and_at_once(client, tokens):
    tokens.guard.grant("off-with-her-head", "repository:app:pull")

    assert repo_of(client, tokens, AuthConfig(registry_token="off-with-her-head")).get_manifest("1").raw

    assert len(tokens.requests) == 1
    assert tokens.asked[0].headers["authorization"] == "Bearer off-with-her-head"


def test_a_registry_token_that_is_refused_is_not_traded(client, tokens):
    with pytest.raises(AuthenticationFailed):
        repo_of(client, tokens, AuthConfig(registry_token="tea-party")).get_manifest("1")

    assert tokens.count(pattern=TOKENS) == 0


def test_bearer_goes_before_basic_in_one_header(client, tokens):
    both = f'Basic realm="x", Bearer realm="{tokens.url}/token",service="s"'
    tokens.inject("/v2/*", faults.status(401, headers={"WWW-Authenticate": both}), times=1)

    assert repo_of(client, tokens, ALICE).get_manifest("1").raw

    assert tokens.asked[1].query["service"] == ["s"]


def test_a_scope_for_another_repo_is_asked_for_beside_ours(client, tokens):
    challenge = (
        f'Bearer realm="{tokens.url}/token",scope="repository:real/name:pull repository:app:pull,push,delete"'
    )
    tokens.inject("/v2/*", faults.status(401, headers={"WWW-Authenticate": challenge}), times=1)

    repo_of(client, tokens, ALICE).get_manifest("1")

    assert tokens.asked[1].query["scope"] == ["repository:app:pull", "repository:real/name:pull"]


@pytest.mark.parametrize(
    "challenge", ["Negotiate", 'Digest realm="x", nonce="y"', 'Bearer service="no realm"', ""]
)
def test_a_challenge_that_we_cannot_meet_ends_it(challenge, client, tokens):
    tokens.inject("/v2/*", faults.status(401, headers={"WWW-Authenticate": challenge}))

    with pytest.raises(AuthenticationFailed):
        repo_of(client, tokens, ALICE).get_manifest("1")

    assert len(tokens.requests) == 1


@pytest.mark.parametrize(
    "realm", ["file:///etc/passwd", "/token", "ftp://x/", "http://[", "https://x:y/", "gopher:x"]
)
def test_a_realm_that_is_no_web_address_is_not_asked(realm, client, tokens):
    tokens.inject("/v2/*", faults.status(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}))

    with pytest.raises(AuthenticationFailed, match="token server that we do not ask"):
        repo_of(client, tokens, ALICE).get_manifest("1")


# Token servers that misbehave


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"[" * 100_000,
        b'{"token": ""}',
        b'{"token": 5}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nX-Evil: 1"}',
        b'{"token": "\\u00fc"}',
        b'{"token": "' + b"x" * 300_000 + b'"}',
    ],
    ids=range(10),
)
def test_an_answer_that_holds_no_token_is_refused(body, client, tokens):
    tokens.inject(TOKENS, faults.answer(body))

    with pytest.raises(AuthenticationFailed, match="holds no token"):
        repo_of(client, tokens, ALICE).get_manifest("1")


@pytest.mark.parametrize("expires", ["0", "-1", "true", "null", '"60"', "1e999", "NaN", "9" * 400, "[]"])
def test_a_lifetime_that_makes_no_sense_is_no_harm(expires, client, tokens):
    tokens.guard.grant("t", "repository:app:pull")
    tokens.inject(TOKENS, faults.answer(b'{"access_token": "t", "expires_in": %b}' % expires.encode()))
    repo = repo_of(client, tokens, ALICE)

    assert repo.get_manifest("1").raw
    assert repo.get_manifest("1").raw
    assert tokens.count(pattern=TOKENS) == 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (400, AuthenticationFailed),
        (401, AuthenticationFailed),
        (403, AccessDenied),
        (404, AuthenticationFailed),
        (429, RegistryUnavailable),
        (503, RegistryUnavailable),
    ],
)
def test_each_refusal_of_a_token_server_has_its_exception(code, expected, client, tokens):
    tokens.inject(TOKENS, faults.status(code, "WHY", "because", {"Retry-After": "100"}))

    with pytest.raises(expected) as caught:
        repo_of(client, tokens, ALICE).get_manifest("1")

    assert type(caught.value) is expected
    assert caught.value.status == code
    assert caught.value.registry_errors == (("WHY", "because"),)
    assert caught.value.url == f"{tokens.url}/token"


def test_a_token_server_that_stalls_holds_nobody_for_long(hasty, tokens):
    tokens.inject(TOKENS, faults.stall())

    with pytest.raises(RegistryUnavailable, match="for a token to pull app"):
        repo_of(hasty, tokens, ALICE).get_manifest("1")


# Redirects and secrets


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_a_blob_that_is_elsewhere_is_fetched_without_credentials(auth, client, registry):
    digest = registry.add_blob(b"layer")
    with FaultRegistry(auth=auth, username="alice", password="wonderland") as guarded:
        guarded.add_blob(b"layer")
        guarded.inject(
            "*/blobs/*", lambda hit: _redirect_if_known(hit, f"{registry.url}/v2/app/blobs/{digest}?sig=1")
        )

        with repo_of(client, guarded, ALICE).open_blob(digest, size=5) as stream:
            assert stream.read() == b"layer"

    assert guarded.asked[-1].headers["authorization"]
    assert [each.query for each in registry.asked] == [{"sig": ["1"]}]
    assert "authorization" not in registry.asked[0].headers


def test_a_redirect_back_home_does_not_bring_credentials_back(client, registry):
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as guarded:
        digest = guarded.add_blob(b"layer")
        guarded.inject("/v2/*", lambda hit: _redirect_if_known(hit, f"{registry.url}/away"), times=2)
        registry.inject("/away", faults.redirect(f"{guarded.url}/v2/app/blobs/{digest}"))

        with pytest.raises(AuthenticationFailed):
            repo_of(client, guarded, ALICE).open_blob(digest, size=5)

    assert "authorization" not in guarded.asked[2].headers


def test_a_redirect_within_the_registry_keeps_the_credentials(client):
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as guarded:
        digest = guarded.add_blob(b"layer")
        guarded.inject("/v2/app/*", lambda hit: _redirect_if_known(hit, f"/v2/moved/blobs/{digest}"))

        with repo_of(client, guarded, ALICE).open_blob(digest, size=5) as stream:
            assert stream.read() == b"layer"


def test_a_host_that_we_were_sent_to_gets_no_credentials_when_it_asks(client, tokens):
    challenge = f'Basic realm="give", Bearer realm="{tokens.url}/token"'
    with FaultRegistry() as registry, FaultRegistry() as greedy:
        registry.inject("*", faults.redirect(f"{greedy.url}/x"))
        greedy.inject("*", faults.status(401, headers={"WWW-Authenticate": challenge}))

        with pytest.raises(AuthenticationFailed):
            repo_of(client, registry, ALICE).get_manifest("1")

        assert len(greedy.asked) == 1
        assert "authorization" not in greedy.asked[0].headers
    assert tokens.requests == []


def test_a_registry_that_echoes_what_it_was_sent_gives_nothing_away(client, guarded, caplog):
    caplog.set_level("DEBUG")

    def echo(hit):
        sent = hit.asked.headers.get("authorization", "")
        return (
            hit.reply()
            if not sent
            else faults.error_reply(403, "DENIED", f"{sent} and wonderland are no good")
        )

    guarded.inject("/v2/*", echo)

    with pytest.raises(AccessDenied) as caught:
        repo_of(client, guarded, ALICE).get_manifest("1")

    sent = guarded.asked[-1].headers["authorization"].partition(" ")[2]
    message = f"{caught.value} {caught.value.registry_errors}"
    assert "are no good" in message
    assert "wonderland" not in message
    assert sent not in message
    assert "wonderland" not in caplog.text
    assert sent not in caplog.text


def test_nothing_that_holds_a_secret_prints_it(client, tokens):
    auth = AuthConfig(
        "alice", "wonderland", auth="wonderland", identity_token="wonderland", registry_token="wonderland"
    )
    repo = repo_of(client, tokens, ALICE)
    repo.get_manifest("1")

    for each in (
        auth,
        credentials_for(ALICE, "r.example"),
        repo,
        client,
        repo._peers[0]._authorizer,
        repo._peers[0]._authorizer._token,
    ):
        assert "wonderland" not in repr(each)
        assert "Bearer " not in repr(each)


def _redirect_if_known(hit, location):
    """
    The registry's own answer where it refuses, a redirect where it would serve.
    """
    reply = hit.reply()
    return reply if reply.status == 401 else faults.Reply(307, {"Location": location})
