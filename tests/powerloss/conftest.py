"""
These tests run when they are asked for: ``pytest -m powerloss``, or ``make powerloss``.
"""

from __future__ import annotations


def pytest_configure(config):
    config.addinivalue_line("markers", "powerloss: cuts the power in a User-Mode Linux, for some minutes")


def pytest_collection_modifyitems(config, items):
    if "powerloss" in config.getoption("-m"):
        return
    left_out = [each for each in items if each.get_closest_marker("powerloss")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [each for each in items if each not in left_out]
