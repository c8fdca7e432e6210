"""
A server on a real Unix socket, and a raw client.
"""

from __future__ import annotations

import contextlib

import pytest

from support.cri import CriClient
from support.images import ImageBuilder
from ullage.cri import CriSettings, serve


@pytest.fixture
def serving(open_store, tmp_path):
    """
    Serves a store of this test once more, each time at a socket of its own; a client of it.
    """
    with contextlib.ExitStack() as stack:
        count = 0

        def start(service=None, *, store_options=None, **settings):
            nonlocal count
            count += 1
            service = service or open_store(**(store_options or {}))
            server = serve(
                service, tmp_path / f"cri-{count}.sock", settings=CriSettings(**settings), drain_seconds=0.0
            )
            stack.enter_context(server)
            client = stack.enter_context(CriClient(tmp_path / f"cri-{count}.sock"))
            client.server, client.service = server, service
            return client

        yield start


@pytest.fixture
def cri(serving):
    """
    A client of a server with the defaults.
    """
    return serving()


@pytest.fixture
def image(registry):
    """
    A small image in two layers on the registry, under one tag.
    """
    return ImageBuilder(registry, "app").layer({"etc/motd": b"hello"}).noise_layer(2000).push("1")
