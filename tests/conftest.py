"""
Fixtures that more than one folder of tests uses.
"""

from __future__ import annotations

import pytest

from support.registry import FaultRegistry


@pytest.fixture
def registry():
    """
    A real registry on loopback that can be told to misbehave.
    """
    with FaultRegistry() as registry:
        yield registry
