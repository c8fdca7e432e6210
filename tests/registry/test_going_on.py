"""
A body that breaks off, stalls or crawls goes on where it stopped: how often, and for how many bytes.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from support import registry as faults
from support.images import ImageBuilder, noise
from support.registry import FaultRegistry
from ullage.errors import ContentError, PullCancelled, RegistryUnavailable, SizeMismatch
from ullage.model import AuthConfig
from ullage.reference import Reference
from ullage.registry import RegistryClient
from ullage.registry.patience import Patience

if TYPE_CHECKING:
    from ullage.digest import Digest

CONTENT = noise(300_000)
SIZE = len(CONTENT)


@pytest.fixture
def blob(registry) -> Digest:
    return registry.add_blob(CONTENT)


def read_all(repo, blob, offset=0, size=SIZE):
    with repo.open_blob(blob, size=size, offset=offset) as stream:
        return b"".join(iter(stream.read, b""))


def ranges(registry):
    return [each.range for each in registry.requests]


def if_ranges(registry):
    return [each.headers.get("if-range", "") for each in registry.asked]


def strong(digest):
    return f'"{digest}"'


@pytest.mark.parametrize(
    "fault",
    [faults.truncate(100_000), faults.stall(100_000), faults.chunked_break(100_000)],
    ids=["truncated", "stalled", "in chunks"],
)
def test_a_body_that_breaks_off_goes_on_where_it_stopped(fault, hasty_repo, blob, registry):
    broken = registry.inject("*", fault, times=1)

    assert read_all(hasty_repo, blob) == CONTENT

    broken.release()
    assert ranges(registry) == ["", "bytes=100000-"]
    assert registry.requests[1].bytes_sent == SIZE - 100_000, "no byte twice"


def test_a_reset_loses_no_byte(repo, blob, registry):
    """
    What a reset drops of what had arrived is fetched again, so the range may begin before the break.
    """
    registry.inject("*", faults.reset(100_000), times=1)

    assert read_all(repo, blob) == CONTENT
    assert registry.count("GET") == 2


def test_the_rest_is_asked_for_on_condition_that_it_is_of_the_same_bytes(repo, blob, registry):
    registry.inject("*", faults.truncate(100_000), times=1)

    assert read_all(repo, blob) == CONTENT

    assert if_ranges(registry) == ["", strong(blob)]


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "bare"])
def test_a_validator_that_says_nothing_of_bytes_is_no_condition(etag, repo, blob, registry):
    registry.inject("*", lambda hit: _with_etag(hit, etag), times=1)

    assert read_all(repo, blob) == CONTENT

    assert ranges(registry) == ["", "bytes=100000-"]
    assert if_ranges(registry) == ["", ""]


def test_where_the_bytes_are_others_now_they_come_from_the_start(repo, blob, registry):
    """
    The registry answers 200 with all of it: nothing is spliced, what was read is skipped, and the digest decides.
    """
    registry.inject("*", lambda hit: _with_etag(hit, '"another"'), times=1)

    assert read_all(repo, blob) == CONTENT

    assert ranges(registry) == ["", "bytes=100000-"]
    assert registry.requests[1].status == 200


def test_a_registry_without_range_starts_over_and_the_reader_does_not_notice(repo, blob, registry):
    registry.inject("*", faults.no_range())
    registry.inject("*", faults.truncate(100_000), times=1)

    assert read_all(repo, blob) == CONTENT

    assert registry.requests[1].bytes_sent == SIZE


def test_a_break_while_skipping_is_a_break(repo, blob, registry):
    registry.inject("*", faults.no_range())
    registry.inject("*", faults.truncate(50_000), times=1)
    registry.inject("*", faults.truncate(100_000), times=1)

    assert read_all(repo, blob) == CONTENT
    assert registry.count("GET") == 3


def test_a_body_that_stops_again_and_again_is_given_up_after_five_attempts(repo, blob, registry):
    registry.inject("*", faults.truncate(10))

    with pytest.raises(RegistryUnavailable, match=f"after 50 of {SIZE} bytes"):
        read_all(repo, blob)

    assert ranges(registry) == ["", "bytes=10-", "bytes=20-", "bytes=30-", "bytes=40-"]


def test_a_body_that_gets_on_may_break_as_often_as_it_likes(registry):
    """
    Every mebibyte is progress, after which earlier breaks do not count.
    """
    content = noise(9 << 20)
    blob = registry.add_blob(content)
    registry.inject("*", faults.truncate(1 << 20))
    with RegistryClient(plain_http=True, attempts=2, backoff_seconds=0) as client:
        repo = client.repo(Reference.parse(f"{registry.host}/app:1"))

        assert read_all(repo, blob, size=len(content)) == content

    assert registry.count("GET") == 9


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_refusal_between_two_halves_is_waited_out(code, repo, blob, registry):
    registry.inject("*", faults.status(code, headers={"Retry-After": "0"}), times=2)
    registry.inject("*", faults.truncate(100_000), times=1)

    assert read_all(repo, blob) == CONTENT
    assert [each.status for each in registry.requests] == [200, code, code, 206]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.status(404), ContentError),
        (faults.longer(), SizeMismatch),
        (faults.status(503, headers={"Retry-After": "600"}), RegistryUnavailable),
        (faults.raw(b"junk"), RegistryUnavailable),
    ],
)
def test_what_does_not_pass_ends_it_at_once(fault, expected, repo, blob, registry):
    registry.inject("*", faults.no_range())
    registry.inject("*", fault)
    registry.inject("*", faults.truncate(100_000), times=1)

    with pytest.raises(expected):
        read_all(repo, blob)

    assert registry.count("*") == 2


def test_a_token_that_ends_between_two_halves_is_renewed(client):
    with FaultRegistry(auth="token", username="alice", password="wonderland") as registry:
        blob = registry.add_blob(CONTENT)
        broken = registry.inject("*/blobs/*", _revoke_and_break, times=2)
        repo = client.repo(Reference.parse(f"{registry.host}/app:1"), auth=AuthConfig("alice", "wonderland"))

        assert read_all(repo, blob) == CONTENT

    assert broken.hits == 2
    assert [each.status for each in registry.requests] == [401, 200, 200, 401, 200, 206]


def test_a_body_that_crawls_is_left_for_another_attempt(registry, blob):
    """
    A byte now and then is no progress: what counts is bytes for the time that was waited.
    """
    crawling = registry.inject("*", faults.drip(1, 0.02), times=1)
    started = time.monotonic()
    with RegistryClient(
        plain_http=True, read_timeout_seconds=0.2, min_bytes_per_second=1000, backoff_seconds=0
    ) as client:
        repo = client.repo(Reference.parse(f"{registry.host}/app:1"))

        assert read_all(repo, blob) == CONTENT

    crawling.release()
    assert time.monotonic() - started < 2
    assert registry.count("GET") == 2


def test_the_pace_that_is_wanted_can_be_set(registry, blob):
    registry.inject("*", faults.drip(20_000, 0.02))
    for pace, enough in ((10_000, True), (100_000_000, False)):
        with RegistryClient(
            plain_http=True, read_timeout_seconds=0.1, min_bytes_per_second=pace, attempts=1
        ) as client:
            repo = client.repo(Reference.parse(f"{registry.host}/app:1"))
            if enough:
                assert read_all(repo, blob) == CONTENT
            else:
                with pytest.raises(RegistryUnavailable, match=f"too slow: .* below {pace} bytes/s"):
                    read_all(repo, blob)


@pytest.mark.parametrize("which", ["stream", "repo"])
def test_an_abort_ends_the_wait_before_the_rest(which, blob, registry):
    refused = registry.inject("*", faults.status(503, headers={"Retry-After": "30"}))
    registry.inject("*", faults.truncate(100_000), times=1)
    started = time.monotonic()
    with RegistryClient(plain_http=True) as client:
        repo = client.repo(Reference.parse(f"{registry.host}/app:1"))
        with repo.open_blob(blob, size=SIZE) as stream:
            ended = stream if which == "stream" else repo
            aborter = threading.Thread(target=lambda: (refused.wait_reached(), ended.abort()))
            aborter.start()
            with pytest.raises(PullCancelled):
                b"".join(iter(stream.read, b""))
            aborter.join(5)

    assert time.monotonic() - started < 5


def test_an_aborted_stream_leaves_the_others_alone(repo, blob):
    with repo.open_blob(blob, size=SIZE) as first, repo.open_blob(blob, size=SIZE) as second:
        first.abort()

        assert b"".join(iter(second.read, b"")) == CONTENT
        with pytest.raises(PullCancelled):
            first.read()


def test_a_pull_needs_no_second_call_for_a_body_that_breaks_off(store, registry):
    image = ImageBuilder(registry, "app").noise_layer(700_000).push("1")
    layer = image.layers[0]
    registry.inject(f"*/blobs/{layer.digest}", faults.truncate(300_000), times=1)

    assert store.pull_image(image.reference).size == image.size

    asked = [each for each in registry.requests if each.path.endswith(layer.digest)]
    assert [(each.range, each.bytes_sent) for each in asked] == [
        ("", 300_000),
        ("bytes=300000-", layer.size - 300_000),
    ]


# ---------------------------------------------------------------------- patience


def test_the_wait_doubles_and_is_jittered():
    retries = Patience(attempts=6, retry_seconds=60, backoff_seconds=1).retries()
    waits = [retries.wait_seconds() for _ in range(6)]

    assert all(2**n / 2 <= waits[n] <= 2**n for n in range(4))
    assert waits[4] <= 10, "no longer than ten seconds"
    assert waits[5] is None


def test_what_a_server_asks_for_comes_on_top():
    retries = Patience(attempts=6, retry_seconds=60, backoff_seconds=1).retries()

    assert 20.5 <= retries.wait_seconds(20) <= 21
    assert retries.wait_seconds(59.9) is None


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"retry_seconds": -1}, {"backoff_seconds": -1}])
def test_patience_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="patience"):
        RegistryClient(**wrong)


def _with_etag(hit, etag):
    hit.connection.close_connection = True
    reply = hit.reply()
    kept = {name: value for name, value in reply.headers.items() if name != "ETag"}
    reply = faults.replace(reply, headers=kept | ({"ETag": etag} if etag else {}))
    hit.head(reply, 100_000)
    hit.send(CONTENT[:100_000])


def _revoke_and_break(hit):
    reply = hit.reply()
    if reply.status == 401:
        return reply
    faults.truncate(100_000)(hit)
    hit.registry.guard.revoke()
    return None
