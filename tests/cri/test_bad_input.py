"""
What no client should send, and clients that behave as none should: a status or a closed connection, and a server that
goes on.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.cri import CriClient, code_of, crowd, runtime
from support.images import ImageBuilder
from support.registry import stall
from support.store import snapshot

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = struct.pack(">I", 0)[1:] + b"\x04\x00" + struct.pack(">I", 0)


@pytest.fixture
def well(cri, root):
    """
    A server that answers after the test as it did before, with nothing changed in its store.
    """
    before = snapshot(root)
    yield cri
    assert cri.version().runtime_name == "ullage"
    assert cri.list() == []
    assert snapshot(root) == before


def path_of(cri):
    return str(cri.server._path)


@pytest.mark.parametrize(
    "name",
    [
        " ",
        "-",
        "UPPER",
        "a" * 1_000_000,
        "a/" * 500_000,
        "registry.example/app@sha256:" + "0" * 1_000_000,
        "registry.example:99999/app:1",
        "app:" + "t" * 129,
        "../../etc/passwd",
        "app\0:1",
        "app\n:1",
        "аpp:1",  # noqa: RUF001 -- that is the test
        "'; DROP TABLE images; --",
    ],
    ids=lambda name: name[:30].encode("unicode_escape").decode(),
)
def test_bad_references_are_invalid_arguments_for_every_verb(well, name):
    for call in (well.pull, well.status, well.remove, well.list):
        code, words = code_of(call, name)
        # What has a form that a store might know is absent; what has none is refused; a pull refuses either.
        assert code == "INVALID_ARGUMENT" or (code == "OK" and call != well.pull), (call, code, words)
        assert len(words) <= 1500


def test_other_fields_of_a_megabyte_are_answered(well):
    long = "x" * 1_000_000

    assert well.status("app", annotations={long: long}, user_specified_image=long) is None
    code, words = code_of(well.status, "app", runtime_handler=long)
    assert (code, len(words) < 500) == ("INVALID_ARGUMENT", True)
    assert (
        code_of(well.status, "app", annotations={str(at): long for at in range(5)})[0] == "RESOURCE_EXHAUSTED"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # a length is missing
        b"\x0a\x05ab",  # fewer bytes than it says
        b"\x08\x01",  # a number where a message belongs: passed over as unknown, so nothing is named
        b"\x0a\x02\x0a\xff",
        b"\xff" * 100,
        b"\x0a\x04\x0a\x02\xff\xfe",  # a string that is no UTF-8
        os.urandom(2000),
        b"\x0b" * 200_000,  # groups in groups
    ],
    ids=range(8),
)
def test_bytes_that_are_no_request_are_refused(well, data):
    assert code_of(well.raw, "ImageService/PullImage", data)[0] == "INVALID_ARGUMENT"
    for method in ("ListImages", "ImageStatus", "RemoveImage"):
        assert code_of(well.raw, f"ImageService/{method}", data)[0] in ("INVALID_ARGUMENT", "OK")
    stream = well.channel.unary_stream("/runtime.v1.ImageService/StreamImages")(data, timeout=10)
    assert code_of(list, stream)[0] in ("INVALID_ARGUMENT", "OK")


def test_fields_that_we_do_not_know_are_passed_over(cri, image):
    unknown = b"\xfa\x3f\x03new" + b"\x80\x3f\x07"
    request = runtime("PullImageRequest", image=runtime("ImageSpec", image=image.reference))

    cri.raw("ImageService/PullImage", request.SerializeToString() + unknown)

    assert cri.raw("ImageService/ListImages", unknown) == cri.raw("ImageService/ListImages", b"") != b""


@pytest.mark.parametrize("method", ["ImageService/Nothing", "RuntimeService/RunPodSandbox", "Other/Version"])
def test_a_method_that_is_not_served_is_unimplemented(well, method):
    assert code_of(well.raw, method, b"")[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        PREFACE[:10],
        PREFACE + EMPTY_SETTINGS + b"\x00\x40",  # half the head of a frame
        PREFACE
        + EMPTY_SETTINGS
        + b"\x00\x00\x10\x01\x04\x00\x00\x00\x01"
        + b"\x82",  # half a frame of headers
        PREFACE + EMPTY_SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(100),
        os.urandom(5000),
    ],
    ids=range(8),
)
def test_half_a_frame_or_none_at_all_harms_nobody(well, data):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path_of(well))
        client.sendall(data)
        # Others are served while it stays, and when it goes.
        assert well.version().runtime_name == "ullage"


def test_clients_that_never_read_hold_up_nobody(cri, root):
    """
    Each asks for a list of more than the socket holds, and reads nothing of it.
    """
    crowd(root, 2000)
    request = runtime("StreamImagesRequest").SerializeToString()
    stalled = []
    channels = [CriClient(path_of(cri)) for _ in range(20)]
    for each in channels:
        call = each.channel.unary_stream("/runtime.v1.ImageService/StreamImages")(request, timeout=60)
        stalled.append((call, next(call)))  # it began, and nobody takes the rest

    started = time.monotonic()
    assert len(cri.list()) == 2000
    assert cri.status("registry.example/many:7").size == 1
    assert time.monotonic() - started < 5

    for call, _ in stalled:
        call.cancel()
    for each in channels:
        each.close()


def test_a_client_that_takes_nothing_of_a_stream_is_sent_away(serving, root, wait_until):
    cri = serving(stalled_seconds=0.2)
    crowd(root, 4000)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path_of(cri))
        client.sendall(PREFACE + EMPTY_SETTINGS + _request(b"/runtime.v1.ImageService/StreamImages"))

        sent_away = 'ullage_cri_requests_total{method="StreamImages",code="DEADLINE_EXCEEDED"} 1\n'
        wait_until(lambda: sent_away in cri.server.metrics.text(cri.service))


def _request(path):
    """
    HTTP/2: a call of *path* with an empty message.
    """

    def literal(name, value):
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = (
        b"\x83\x86"
        + literal(b":path", path)
        + literal(b":authority", b"localhost")
        + literal(b"content-type", b"application/grpc")
        + literal(b"te", b"trailers")
    )

    def frame(kind, flags, payload):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", 1) + payload

    return frame(1, 4, headers) + frame(0, 1, bytes(5))


def test_many_clients_at_once_are_all_answered(cri, root):
    """
    As many as the machine's hundred threads make: the thousand are in benchmarks/cri_load.py.
    """
    count = int(os.environ.get("ULLAGE_CRI_CLIENTS", "150"))
    crowd(root, 50)
    barrier = threading.Barrier(count)

    def client(number):
        with CriClient(path_of(cri), timeout=60) as own:
            barrier.wait(60)
            return len(own.list()), own.status(f"registry.example/many:{number % 60}") is not None

    with ThreadPoolExecutor(count) as executor:
        answers = list(executor.map(client, range(count)))

    assert answers == [(50, number % 60 < 50) for number in range(count)]


def test_pulls_that_wait_hold_up_no_list_and_no_status(serving, registry, image):
    cri = serving(parallel_pulls=2)
    cri.pull(image.reference)
    slow = [ImageBuilder(registry, f"slow{n}").noise_layer(100, str(n)).push("1") for n in range(4)]
    registry.inject("/v2/slow*/blobs/*", stall())
    pulls = [cri.start_pull(each.reference) for each in slow]

    for _ in range(20):
        assert cri.status(image.reference).id == image.image_id
        assert len(cri.list()) == 1
        cri.fs_info()

    assert not any(each.done() for each in pulls)
    registry.heal()
    assert [each.result(20).image_ref for each in pulls] == [each.image_id for each in slow]


def test_a_client_that_goes_away_ends_its_pull_and_the_next_goes_on_from_there(
    cri, root, registry, wait_until
):
    big = ImageBuilder(registry, "big").noise_layer(3_000_000).push("1")
    stalled = registry.inject(f"*/blobs/{big.layers[0].digest}", stall(after=2_000_000), times=1)
    with CriClient(path_of(cri)) as other:
        pull = other.start_pull(big.reference)
        stalled.wait_reached()
        wait_until(lambda: (root / "ingest" / big.layers[0].digest.encoded).stat().st_size >= 1_900_000)
        pull.cancel()

    wait_until(lambda: "ullage_pulls_in_progress 0" in cri.server.metrics.text(cri.service))
    wait_until(lambda: not snapshot(root).rows["leases"])
    partial = cri.service.usage().reserved_bytes
    assert partial >= 1_900_000

    assert cri.pull(big.reference) == big.image_id
    asked = [each.range for each in registry.requests if each.path.endswith(big.layers[0].digest)]
    assert asked == ["", f"bytes={partial}-"]
