"""
The bytes of a blob: from the start, from the middle, to the end and no further.
"""

from __future__ import annotations

import threading

import pytest

from support import registry as faults
from support.images import noise
from ullage.digest import Digest
from ullage.errors import (
    AccessDenied,
    AuthenticationFailed,
    ContentError,
    PullCancelled,
    RegistryUnavailable,
    SizeMismatch,
)

CONTENT = noise(300_000)
SIZE = len(CONTENT)


@pytest.fixture
def blob(registry) -> Digest:
    return registry.add_blob(CONTENT)


def read_all(stream):
    with stream:
        return b"".join(iter(stream.read, b""))


def test_a_blob_comes_whole(repo, blob):
    with repo.open_blob(blob, size=SIZE) as stream:
        assert stream.offset == 0
        assert read_all(stream) == CONTENT


def test_a_blob_comes_from_a_file(repo, registry, tmp_path):
    (tmp_path / "blob").write_bytes(CONTENT)
    blob = registry.add_blob(tmp_path / "blob")

    assert read_all(repo.open_blob(blob, size=SIZE)) == CONTENT
    assert read_all(repo.open_blob(blob, size=SIZE, offset=SIZE - 5)) == CONTENT[-5:]


def test_a_blob_of_no_bytes_ends_at_once(repo, registry):
    blob = registry.add_blob(b"")

    assert read_all(repo.open_blob(blob, size=0)) == b""


def test_a_read_is_never_longer_than_asked(repo, blob):
    with repo.open_blob(blob, size=SIZE) as stream:
        sizes = [len(data) for data in iter(lambda: stream.read(1000), b"")]

    assert max(sizes) <= 1000
    assert sum(sizes) == SIZE


def test_after_the_last_byte_the_connection_is_kept(repo, blob, registry):
    for _ in range(3):
        left = SIZE
        with repo.open_blob(blob, size=SIZE) as stream:
            while left:
                left -= len(stream.read(left))

    assert registry.connections == 1


def test_a_stream_that_is_closed_early_gives_its_connection_up(repo, blob, registry):
    with repo.open_blob(blob, size=SIZE) as stream:
        stream.read(10)

    assert read_all(repo.open_blob(blob, size=SIZE)) == CONTENT
    assert registry.connections == 2


@pytest.mark.parametrize("offset", [1, 1000, SIZE - 1])
def test_a_blob_goes_on_from_an_offset(offset, repo, blob, registry):
    with repo.open_blob(blob, size=SIZE, offset=offset) as stream:
        assert stream.offset == offset
        assert read_all(stream) == CONTENT[offset:]

    assert registry.requests[-1].range == f"bytes={offset}-"
    assert registry.requests[-1].bytes_sent == SIZE - offset


def test_a_registry_without_range_starts_over(repo, blob, registry):
    registry.inject("*", faults.no_range())

    with repo.open_blob(blob, size=SIZE, offset=1000) as stream:
        assert stream.offset == 0
        assert read_all(stream) == CONTENT

    assert registry.count("GET", "*/blobs/*") == 1


@pytest.mark.parametrize(
    "fault",
    [
        faults.wrong_range(500),
        faults.headers(content_range=None),
        faults.headers(content_range="bytes 1000-1999/*"),
        faults.headers(content_range=f"bytes 1000-{SIZE - 1}/{SIZE + 1}"),
        faults.headers(content_range="bytes " + "9" * 5000 + "-1/2"),
        faults.headers(content_range="\xe9"),
        faults.status(416),
    ],
    ids=["another start", "no range", "a part", "another total", "huge", "junk", "416"],
)
def test_a_range_that_was_not_asked_for_starts_over(fault, repo, blob, registry):
    registry.inject("*", fault, times=1)

    with repo.open_blob(blob, size=SIZE, offset=1000) as stream:
        assert stream.offset == 0
        assert read_all(stream) == CONTENT


def test_a_range_of_unknown_total_is_taken(repo, blob, registry):
    registry.inject("*", faults.headers(content_range=f"bytes 1000-{SIZE - 1}/*"))

    with repo.open_blob(blob, size=SIZE, offset=1000) as stream:
        assert stream.offset == 1000
        assert read_all(stream) == CONTENT[1000:]


def test_a_partial_answer_that_nobody_asked_for_is_refused(repo, blob, registry):
    registry.inject("*", faults.wrong_range(0))

    with pytest.raises(RegistryUnavailable, match="answered 206"):
        repo.open_blob(blob, size=SIZE)


@pytest.mark.parametrize(
    ("fault", "actual"), [(faults.longer(b"12345"), SIZE + 5), (faults.shorter(3), SIZE - 3)]
)
def test_a_length_that_is_not_the_size_is_refused_unread(fault, actual, repo, blob, registry):
    registry.inject("*", fault)

    with pytest.raises(SizeMismatch) as caught:
        repo.open_blob(blob, size=SIZE)

    assert caught.value.expected_bytes == SIZE
    assert caught.value.actual_bytes == actual


def test_a_longer_body_without_a_length_is_the_readers_to_notice(repo, blob, registry):
    registry.inject("*", faults.chunked(b"more"))

    assert read_all(repo.open_blob(blob, size=SIZE)) == CONTENT + b"more"


def test_a_blob_in_chunks_comes_whole(repo, blob, registry):
    registry.inject("*", faults.chunked(chunk_bytes=999))

    assert read_all(repo.open_blob(blob, size=SIZE)) == CONTENT


def test_a_blob_in_chunks_of_one_byte_is_no_bomb(repo, registry):
    blob = registry.add_blob(CONTENT[:20_000])
    registry.inject("*", faults.chunked(chunk_bytes=1))

    assert read_all(repo.open_blob(blob, size=20_000)) == CONTENT[:20_000]


def test_a_body_that_ends_with_its_connection_comes_whole(repo, blob, registry):
    registry.inject("*", faults.until_close())

    assert read_all(repo.open_blob(blob, size=SIZE)) == CONTENT


def test_a_missing_blob_is_the_manifests_fault(repo, registry):
    missing = Digest("sha256:" + "0" * 64)

    with pytest.raises(ContentError, match="names a blob that the registry does not have") as caught:
        repo.open_blob(missing, size=5)

    assert type(caught.value) is ContentError
    assert missing in str(caught.value)
    assert "BLOB_UNKNOWN" in str(caught.value)


@pytest.mark.parametrize("offset", [0, 10])
@pytest.mark.parametrize(
    ("code", "expected"),
    [(401, AuthenticationFailed), (403, AccessDenied), (410, ContentError), (500, RegistryUnavailable)],
)
def test_each_refusal_of_a_blob_has_its_exception(code, expected, offset, repo, blob, registry):
    registry.inject("*", faults.status(code))

    with pytest.raises(expected) as caught:
        repo.open_blob(blob, size=SIZE, offset=offset)

    assert type(caught.value) is expected


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_a_body_that_breaks_off_for_good_says_where(after, repo, blob, registry):
    registry.inject("*", faults.truncate(0))
    registry.inject("*", faults.truncate(after), times=1)

    with pytest.raises(RegistryUnavailable, match=f"after {after} of {SIZE} bytes"):
        read_all(repo.open_blob(blob, size=SIZE))


def test_the_rest_of_a_body_that_breaks_off_says_where_in_the_blob(repo, blob, registry):
    registry.inject("*", faults.truncate(0))
    registry.inject("*", faults.truncate(50), times=1)

    with pytest.raises(RegistryUnavailable, match=f"after 1050 of {SIZE} bytes"):
        read_all(repo.open_blob(blob, size=SIZE, offset=1000))


def test_resets_without_end_are_unavailable(repo, blob, registry):
    registry.inject("*", faults.reset(0))

    with pytest.raises(RegistryUnavailable):
        read_all(repo.open_blob(blob, size=SIZE))


def test_an_abort_wakes_a_read_that_waits(repo, blob, registry):
    stalled = registry.inject("*", faults.stall(after=10))
    outcome = []

    def read():
        try:
            read_all(stream)
        except PullCancelled as error:
            outcome.append(error)

    stream = repo.open_blob(blob, size=SIZE)
    reader = threading.Thread(target=read)
    reader.start()
    stalled.wait_reached()
    stream.abort()
    reader.join(5)

    assert not reader.is_alive()
    assert outcome


def test_an_abort_of_the_repo_ends_what_waits_for_a_head_and_all_that_follows(repo, blob, registry):
    stalled = registry.inject("*", faults.stall())
    outcome = []

    def fetch():
        try:
            repo.get_manifest("1")
        except PullCancelled as error:
            outcome.append(error)

    fetcher = threading.Thread(target=fetch)
    fetcher.start()
    stalled.wait_reached()
    repo.abort()
    fetcher.join(5)

    assert not fetcher.is_alive()
    assert outcome
    with pytest.raises(PullCancelled):
        repo.open_blob(blob, size=SIZE)


def test_an_abort_that_comes_late_leaves_the_next_request_alone(repo, blob):
    first = repo.open_blob(blob, size=SIZE)
    assert read_all(first) == CONTENT

    with repo.open_blob(blob, size=SIZE) as second:
        first.abort()
        assert read_all(second) == CONTENT


def test_after_an_abort_a_read_does_not_return_what_is_buffered(repo, blob):
    with repo.open_blob(blob, size=SIZE) as stream:
        stream.read(10)
        stream.abort()

        with pytest.raises(PullCancelled):
            stream.read(10)


def test_eight_streams_at_once_keep_eight_connections(repo, blob, registry):
    def read_twice():
        for _ in range(2):
            barrier.wait(5)
            results.append(read_all(repo.open_blob(blob, size=SIZE)) == CONTENT)

    barrier = threading.Barrier(8)
    results = []
    threads = [threading.Thread(target=read_twice) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert results == [True] * 16
    assert registry.connections <= 8


def test_a_client_that_is_closed_sends_nothing_more(client, repo, blob, registry):
    read_all(repo.open_blob(blob, size=SIZE))
    client.close()

    with pytest.raises(PullCancelled, match="closed"):
        repo.open_blob(blob, size=SIZE)

    assert registry.count() == 1
