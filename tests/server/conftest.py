"""
A store with images in it, served on loopback.
"""

from __future__ import annotations

import pytest

from support.images import ImageBuilder
from ullage import ImageServer


@pytest.fixture
def image(registry):
    builder = ImageBuilder(registry, "team/app").layer({"etc/motd": b"hello"}).noise_layer(200_000)
    return builder.push("1")


@pytest.fixture
def pulled(store, image):
    """
    That image in the store, as ``ghcr.io/team/app:1`` alone.
    """
    store.pull_image(image.reference)
    store.tag_image(image.reference, "ghcr.io/team/app:1")
    store.untag_image(image.reference)
    store.untag_image(image.repo_digest)
    return image


@pytest.fixture
def server(store):
    """
    The store, served. What it held is let go before the store is checked.
    """
    with ImageServer(store, hold_seconds=0.1) as server:
        yield server
