"""
What a client may cost: bytes as no library sends them, and clients that take their time.
"""

from __future__ import annotations

import http.client
import socket
import time

import pytest

from support.asking import ask, converse
from support.images import ImageBuilder
from ullage import ImageServer
from ullage.httpd import Limits

NAME = "ghcr.io/team/app"
HURRIED = Limits(
    connections=4, head_seconds=0.3, idle_seconds=0.3, silence_seconds=0.3, min_bytes_per_second=1e6
)


@pytest.fixture
def hurried(store, pulled):
    with ImageServer(store, hold_seconds=0.1, limits=HURRIED) as server:
        yield server


def status_of(answer):
    return int(answer.split(b" ")[1]) if answer else None


REQUESTS = [
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
    (b"\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
    (b"GET http://x/v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
    (b"GET /v2/ HTTP/1.0\r\n\r\n", 200),
    (b"GET /v2/ HTTP/1.1\r\n\r\n", 400),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    (b"GET /v2/ HTTP/2.0\r\nHost: x\r\n\r\n", 400),
    (b"get /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET  /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /v2/\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /v2/#x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /v2/ HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", 400),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    (b"PUT /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
    (b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"GET /v2/?" + b"a=b&" * 100 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
]


def test_what_is_not_quite_a_request_is_answered_and_ended(server):
    for request, status in REQUESTS:
        answer = converse(server, request)

        assert status_of(answer) == status, request[:80]
        assert status == 200 or b"Connection: close\r\n" in answer


def test_a_connection_is_kept_and_requests_may_follow_each_other_at_once(server, pulled):
    one = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
    with_body = b"PUT /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    last = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    answer = converse(server, one + with_body + one + last)

    assert [int(each[:3]) for each in answer.split(b"HTTP/1.1 ")[1:]] == [200, 405, 200, 200]


def test_a_body_that_waits_to_be_asked_for_is(server):
    answer = converse(
        server,
        b"PUT /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        b"hello",
    )

    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 405 ")


def test_a_head_that_drips_is_given_up(hurried):
    with socket.create_connection(("127.0.0.1", int(hurried.host.rpartition(":")[2])), timeout=5) as drip:
        drip.sendall(b"GET /v2/ HT")
        assert status_of(drip.recv(1000)) == 408
        while drip.recv(1000):
            pass


def test_who_says_nothing_is_let_go(hurried):
    assert converse(hurried) == b""
    assert converse(hurried, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_is_given_up(store, registry, wait_until):
    image = ImageBuilder(registry, "big").noise_layer(20_000_000).push("1")
    store.pull_image(image.reference)
    with ImageServer(store, hold_seconds=0.1, limits=HURRIED) as server:
        connection = http.client.HTTPConnection(server.host, timeout=10)
        layer = image.layers[0]
        connection.request("GET", f"/v2/{image.name.replace(':', '__')}/blobs/{layer.digest}")
        answer = connection.getresponse()

        wait_until(lambda: not server._open())

        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer.read()
        connection.close()


def test_one_connection_too_many_takes_the_place_of_one_that_waits(hurried):
    port = int(hurried.host.rpartition(":")[2])
    waiting = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(6)]
    try:
        assert ask(hurried, "/v2/").status == 200
    finally:
        for each in waiting:
            each.close()


def test_where_all_are_busy_one_more_is_turned_away(store, registry):
    """
    Busy are those whose answer nobody reads yet.
    """
    image = ImageBuilder(registry, "big").noise_layer(20_000_000).push("1")
    store.pull_image(image.reference)
    with ImageServer(store, hold_seconds=0.1, limits=Limits(connections=2)) as server:
        busy = [http.client.HTTPConnection(server.host, timeout=10) for _ in range(2)]
        for each in busy:
            path = f"/v2/{image.name.replace(':', '__')}/blobs/{image.layers[0].digest}"
            each.request("GET", path)
            each.getresponse()

        got = ask(server, "/v2/")

        assert (got.status, got.codes, got.headers["retry-after"]) == (503, ["TOOMANYREQUESTS"], "1")
        for each in busy:
            each.close()


def test_the_bytes_of_content_are_counted(server, pulled):
    layer = pulled.layers[1]
    ask(server, f"/v2/{NAME}/blobs/{layer.digest}")
    ask(server, f"/v2/{NAME}/blobs/{layer.digest}", "HEAD")
    ask(server, f"/v2/{NAME}/blobs/{layer.digest}", Range="bytes=0-9")

    until = time.monotonic() + 5
    while server.sent_bytes < layer.size + 10 and time.monotonic() < until:
        time.sleep(0.01)
    assert (server.requests, server.sent_bytes) == (3, layer.size + 10)
