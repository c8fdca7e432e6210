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
    A client that loses patience soon, so that no test waits for long.
    """
    with RegistryClient(plain_http=True, connect_timeout_seconds=2.0, read_timeout_seconds=0.25) as client:
        yield client


@pytest.fixture
def repo(client, registry):
    """
    The repo ``app`` of the registry, asked by nobody in particular.
    """
    return client.repo(Reference.parse(f"{registry.host}/app:1"))


@pytest.fixture
def patient_repo(registry):
    """
    The same repo, asked by a client that would wait for a minute.
    """
    with RegistryClient(plain_http=True, read_timeout_seconds=60.0) as client:
        yield client.repo(Reference.parse(f"{registry.host}/app:1"))
