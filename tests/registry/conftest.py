"""
Fixtures of the registry client's tests.
"""

from __future__ import annotations

import pytest

from ullage.reference import Reference
from ullage.registry import RegistryClient


@pytest.fixture
def client():
    """
    A client as a store has it; no test waits for its timeouts.
    """
    with RegistryClient(plain_http=True, backoff_seconds=0.01) as client:
        yield client


@pytest.fixture
def repo(client, registry):
    """
    The repo ``app`` of the registry, asked by nobody in particular.
    """
    return client.repo(Reference.parse(f"{registry.host}/app:1"))


@pytest.fixture
def hasty():
    """
    A client that loses patience soon.
    """
    with RegistryClient(
        plain_http=True,
        connect_timeout_seconds=0.2,
        read_timeout_seconds=0.2,
        attempts=2,
        backoff_seconds=0.01,
    ) as client:
        yield client


@pytest.fixture
def hasty_repo(hasty, registry):
    return hasty.repo(Reference.parse(f"{registry.host}/app:1"))
