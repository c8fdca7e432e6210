"""
Serving holds what it serves: no pull breaks because somebody makes room.
"""

from __future__ import annotations

import http.client
import threading

import pytest

from support.asking import ask
from support.images import ImageBuilder
from ullage import ImageInUse, ImageServer
from ullage.httpd import Limits

NAME = "ghcr.io/team/app"


def test_what_is_read_is_held_and_let_go_after_a_while(server, store, pulled, wait_until):
    ask(server, f"/v2/{NAME}/manifests/1")

    with pytest.raises(ImageInUse):
        store.remove_image(f"{NAME}:1")

    wait_until(lambda: store.view("in_flight") == [] and not store._repository.tokens())
    store.remove_image(f"{NAME}:1")


def test_a_look_holds_nothing(server, store, pulled):
    ask(server, f"/v2/{NAME}/manifests/1", "HEAD")
    ask(server, f"/v2/{NAME}/tags/list")

    assert store._repository.tokens() == []


def test_many_readers_are_one_hold(store, pulled):
    with ImageServer(store, hold_seconds=60) as server:
        for _ in range(3):
            ask(server, f"/v2/{NAME}/manifests/1")
            ask(server, f"/v2/{NAME}/blobs/{pulled.layers[0].digest}")
        assert len(store._repository.tokens()) == 1

    assert store._repository.tokens() == []


def test_a_transfer_that_takes_long_is_held_until_its_end(store, registry, wait_until):
    image = ImageBuilder(registry, "big").noise_layer(8_000_000).push("1")
    store.pull_image(image.reference)
    with ImageServer(store, hold_seconds=0.05) as server:
        connection = http.client.HTTPConnection(server.host, timeout=10)
        layer = image.layers[0]
        connection.request("GET", f"/v2/{image.name.replace(':', '__')}/blobs/{layer.digest}")
        answer = connection.getresponse()
        first = answer.read(1000)
        threading.Event().wait(0.3)  # several times as long as what is not read stays held

        with pytest.raises(ImageInUse):
            store.remove_image(image.reference)

        assert first + answer.read() == layer.raw
        connection.close()
        wait_until(lambda: not store._repository.tokens())


def test_eviction_takes_what_nobody_reads(open_store, registry):
    served = ImageBuilder(registry, "served").noise_layer(100_000, "a").push("1")
    idle = ImageBuilder(registry, "idle").noise_layer(100_000, "b").push("1")
    new = ImageBuilder(registry, "new").noise_layer(100_000, "c").push("1")
    store = open_store(max_storage=250_000)
    store.pull_image(served.reference)
    store.pull_image(idle.reference)
    with ImageServer(store, hold_seconds=60) as server:
        ask(server, f"/v2/{served.name.replace(':', '__')}/manifests/1")

        store.pull_image(new.reference, evict=True)

        assert store.image_status(served.reference) is not None
        assert store.image_status(idle.reference) is None


def test_what_is_open_is_whole_whatever_becomes_of_the_image(open_store, root, registry):
    """
    A store that is opened to look cannot hold. What a client has begun to read it gets all the same.
    """
    image = ImageBuilder(registry, "big").noise_layer(8_000_000).push("1")
    owner = open_store()
    owner.pull_image(image.reference)
    path = f"/v2/{image.name.replace(':', '__')}/blobs/{image.layers[0].digest}"
    with ImageServer(open_store(read_only=True)) as server:
        connection = http.client.HTTPConnection(server.host, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        first = answer.read(1000)

        owner.remove_image(image.reference)

        assert first + answer.read() == image.layers[0].raw
        connection.close()
        assert ask(server, path).status == 404


def test_serving_is_a_use(server, store, pulled):
    before = store.image_status(f"{NAME}:1").last_used_at
    store._clock = lambda: before.replace(year=before.year + 1)

    ask(server, f"/v2/{NAME}/manifests/1")

    assert store.image_status(f"{NAME}:1").last_used_at > before


def test_the_end_waits_for_what_is_under_way(store, registry):
    image = ImageBuilder(registry, "big").noise_layer(8_000_000).push("1")
    store.pull_image(image.reference)
    server = ImageServer(store, limits=Limits(idle_seconds=30)).start()
    idle = http.client.HTTPConnection(server.host, timeout=10)
    idle.request("GET", "/v2/")
    idle.getresponse().read()
    reading = http.client.HTTPConnection(server.host, timeout=10)
    reading.request("GET", f"/v2/{image.name.replace(':', '__')}/blobs/{image.layers[0].digest}")
    answer = reading.getresponse()

    ending = threading.Thread(target=server.close, kwargs={"grace_seconds": 20})
    ending.start()

    assert idle.sock.recv(1) == b""
    assert answer.read() == image.layers[0].raw
    reading.close()
    idle.close()
    ending.join(10)
    assert not ending.is_alive()
