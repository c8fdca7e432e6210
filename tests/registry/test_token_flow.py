"""
Challenges, token servers and their two forms of request; what is tried after what.
"""

from __future__ import annotations

import base64
import threading
from urllib.parse import parse_qs

import pytest

from support import registry as faults
from support.images import ImageBuilder
from support.registry import FaultRegistry
from ullage.errors import AuthenticationFailed
from ullage.model import AuthConfig
from ullage.reference import Reference

ALICE = AuthConfig("alice", "wonderland")
BASIC = "Basic " + base64.b64encode(b"alice:wonderland").decode()


@pytest.fixture
def tokens():
    with FaultRegistry(
        auth="token", username="alice", password="wonderland", identity_token="rabbit-hole"
    ) as registry:
        ImageBuilder(registry, "app").layer({"a": b"a"}).push("1")
        yield registry


def ask(client, registry, auth=ALICE):
    return client.repo(Reference.parse(f"{registry.host}/app:1"), auth=auth).get_manifest("1")


def sell(token):
    """
    A token server that sells *token* to whoever asks.
    """
    return faults.answer(b'{"token": "%b"}' % token.encode())


def challenge(*headers):
    """
    A 401 with a WWW-Authenticate for each of *headers*, each on a line of its own.
    """

    def fault(hit):
        hit.registry.log(hit.asked, 401, 0)
        lines = "".join(f"WWW-Authenticate: {each}\r\n" for each in headers)
        hit.send(f"HTTP/1.1 401 x\r\nContent-Length: 0\r\n{lines}\r\n".encode())

    return fault


def test_a_registry_is_not_asked_at_its_door_so_it_may_challenge_where_it_likes(client, tokens):
    """
    Some answer 200 to GET /v2/ and 401 to the manifest; CRI-O fails there.
    """
    tokens.inject("/v2/", faults.answer(b"{}"))

    assert ask(client, tokens).raw

    assert tokens.count(pattern="/v2/") == 0


@pytest.mark.parametrize("code", [404, 405])
def test_a_token_server_without_get_is_asked_by_post(code, client, tokens):
    tokens.guard.grant("t", "repository:app:pull")
    tokens.inject("/token", sell("t"), method="POST")
    tokens.inject("/token", faults.status(code), method="GET")

    assert ask(client, tokens).raw

    assert [each.method for each in tokens.asked] == ["GET", "GET", "POST", "GET"]
    assert parse_qs(tokens.asked[2].body.decode()) == {
        "grant_type": ["password"],
        "username": ["alice"],
        "password": ["wonderland"],
        "service": [tokens.host],
        "scope": ["repository:app:pull"],
        "client_id": ["ullage"],
    }
    assert "authorization" not in tokens.asked[2].headers


@pytest.mark.parametrize("code", [404, 405])
def test_a_token_server_without_post_is_shown_a_refresh_token_by_get(code, client, tokens):
    tokens.guard.grant("t", "repository:app:pull")
    tokens.inject("/token", faults.status(code), method="POST")
    tokens.inject("/token", sell("t"), method="GET")

    assert ask(client, tokens, AuthConfig(username="alice", identity_token="rabbit-hole")).raw

    assert [each.method for each in tokens.asked] == ["GET", "POST", "GET", "GET"]
    pair = base64.b64encode(b"alice:rabbit-hole").decode()
    assert tokens.asked[2].headers["authorization"] == f"Basic {pair}"


@pytest.mark.parametrize("auth", [ALICE, AuthConfig(identity_token="rabbit-hole"), None])
def test_a_token_server_that_knows_neither_form_is_named(auth, client, tokens):
    tokens.inject("/token", faults.status(404))

    with pytest.raises(AuthenticationFailed, match="the token server answered 404"):
        ask(client, tokens, auth)

    assert tokens.count(pattern="/token") == (2 if auth else 1)


def test_where_both_are_offered_and_the_token_is_refused_the_password_is_shown(client):
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as registry:
        ImageBuilder(registry, "app").push("1")
        both = f'Bearer realm="{registry.url}/token", Basic realm="x"'
        registry.inject("/token", sell("no-good"))
        registry.inject("/v2/*", lambda hit: _unless_basic(hit, both))

        assert ask(client, registry).raw

    assert [each.status for each in registry.requests] == [401, 200, 401, 200]
    assert registry.asked[-1].headers["authorization"] == BASIC


@pytest.mark.parametrize("code", [400, 401, 403, 404])
def test_where_both_are_offered_and_no_token_is_sold_the_password_is_shown(code, client):
    with FaultRegistry(auth="basic", username="alice", password="wonderland") as registry:
        ImageBuilder(registry, "app").push("1")
        both = f'Bearer realm="{registry.url}/token", Basic realm="x"'
        registry.inject("/token", faults.status(code))
        registry.inject("/v2/*", lambda hit: _unless_basic(hit, both))

        assert ask(client, registry).raw
        before = len(registry.requests)
        assert ask(client, registry).raw

    assert len(registry.requests) == before + 1, "what worked is sent at once from then on"


def test_where_both_are_offered_and_both_refused_it_ends(client, tokens):
    both = f'Bearer realm="{tokens.url}/token", Basic realm="x"'
    tokens.inject("/v2/*", faults.status(401, headers={"WWW-Authenticate": both}))

    with pytest.raises(AuthenticationFailed, match="refused the credentials"):
        ask(client, tokens)

    assert tokens.count(pattern="/v2/*") == 3
    assert tokens.count(pattern="/token") == 1


@pytest.mark.parametrize(
    "headers",
    [
        ('Basic realm="x"', 'Bearer realm="TOKENS",service="s"'),
        ('Negotiate, Bearer realm="TOKENS" , service = "s"',),
        ("Negotiate abc==", "bearer realm=TOKENS,service=s"),
        ('Digest realm="a, Bearer b", nonce="x"', 'BEARER service="s", realm="TOKENS"'),
        ('Bearer service="first, without a realm"', 'Bearer realm="TOKENS",service="s"'),
    ],
)
def test_of_several_challenges_the_one_that_can_be_met_is(headers, client, tokens):
    tokens.inject(
        "/v2/*", challenge(*(each.replace("TOKENS", f"{tokens.url}/token") for each in headers)), times=1
    )

    assert ask(client, tokens).raw

    assert tokens.asked[1].query["service"] == ["s"]


def test_a_token_server_may_be_at_another_host(client, tokens):
    """
    Who runs a registry says who sells its tokens: docker.io's are sold at auth.docker.io.
    """
    with FaultRegistry(auth="token", username="alice", password="wonderland") as seller:
        elsewhere = f'Bearer realm="{seller.url}/token",service="s"'
        tokens.inject("/v2/*", challenge(elsewhere), times=1)
        tokens.guard.grant("t", "repository:app:pull")
        seller.inject("/token", sell("t"))

        assert ask(client, tokens).raw

        assert seller.asked[0].headers["authorization"] == BASIC


def test_a_token_server_that_redirects_elsewhere_takes_no_password_along(client, tokens):
    with FaultRegistry() as greedy:
        tokens.inject("/token", faults.redirect(f"{greedy.url}/token"))
        greedy.inject("/token", sell("t"))
        tokens.guard.grant("t", "repository:app:pull")

        assert ask(client, tokens).raw

        assert "authorization" not in greedy.asked[0].headers


def test_parallel_layers_renew_a_token_once(client, tokens):
    blob = tokens.add_blob(b"layer")
    repo = client.repo(Reference.parse(f"{tokens.host}/app:1"), auth=ALICE)
    repo.get_manifest("1")
    tokens.guard.revoke()
    barrier = threading.Barrier(6)
    got = []

    def fetch():
        barrier.wait(5)
        with repo.open_blob(blob, size=5) as stream:
            got.append(stream.read())

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert got == [b"layer"] * 6
    assert tokens.guard.issued == 2


def test_a_token_server_that_has_its_own_trouble_is_asked_again(client, tokens):
    tokens.inject("/token", faults.status(503, headers={"Retry-After": "0"}), times=2)

    assert ask(client, tokens).raw
    assert tokens.count(pattern="/token") == 3


def _unless_basic(hit, offered):
    if hit.asked.headers.get("authorization") == BASIC:
        return hit.reply()
    return faults.error_reply(401, "UNAUTHORIZED", "", {"WWW-Authenticate": offered})
