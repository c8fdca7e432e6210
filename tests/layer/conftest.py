"""
What the tests of layers need of the machine.
"""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def root():
    """
    Owners, devices and capabilities take privilege.
    """
    if os.geteuid():
        pytest.skip("needs root")


@pytest.fixture
def tree(tmp_path):
    """
    An empty directory of mode 0755, with a sibling that nothing may touch.
    """
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "hello").write_text("secret")
    directory = tmp_path / "dest"
    directory.mkdir()
    directory.chmod(0o755)
    return directory
