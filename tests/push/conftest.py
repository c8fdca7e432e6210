"""
Two registries on loopback: one to pull from, and one to push to.
"""

from __future__ import annotations

import pytest

from support.images import ImageBuilder
from support.pushes import PushRegistry


@pytest.fixture
def there():
    """
    The registry that is pushed to.
    """
    with PushRegistry() as registry:
        yield registry


@pytest.fixture
def image(registry):
    builder = ImageBuilder(registry, "team/app").layer({"etc/motd": b"hello"}).noise_layer(200_000)
    return builder.push("1")


@pytest.fixture
def pulled(store, image):
    store.pull_image(image.reference)
    return image


@pytest.fixture
def small_chunks(monkeypatch):
    """
    What takes 64 MiB takes 40 kB here, and a piece is 15 kB.
    """
    monkeypatch.setattr("ullage.sending.CHUNKED_BYTES", 40_000)
    monkeypatch.setattr("ullage.sending.CHUNK_BYTES", 15_000)
