"""
Fixtures that more than one folder of tests uses.
"""

from __future__ import annotations

import shutil
import signal
import time

import pytest

from support.registry import FaultRegistry
from support.store import check_root
from ullage import ImageService, RegistryClient

# Whoever starts the tests in the background of a script may have told them to ignore this; what they start is not to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def registry():
    """
    A real registry on loopback that can be told to misbehave.
    """
    with FaultRegistry() as registry:
        yield registry


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """
    An empty store, made once and copied by every test that needs one. Nobody opens it.
    """
    root = tmp_path_factory.mktemp("template") / "store"
    ImageService.open(root).close()
    return root


class OpenStores:
    """
    Opens the store of a test, as often as the test likes, and sees at the end that it is whole.

    ``limit_was_lowered`` is for a test that sets a limit below what is used.
    """

    def __init__(self, root):
        self.root = root
        self.limit_was_lowered = False
        self._open = []

    def __call__(self, root=None, *, read_timeout_seconds=10.0, **options):
        if "registry" not in options:
            options["registry"] = RegistryClient(
                plain_http=True,
                connect_timeout_seconds=2.0,
                read_timeout_seconds=read_timeout_seconds,
                backoff_seconds=0.01,
            )
        service = ImageService.open(self.root if root is None else root, **options)
        self._open.append(service)
        return service

    def close(self):
        for each in self._open:
            each.close()


@pytest.fixture
def root(tmp_path, template):
    """
    The directory of an empty store. The headroom is left out: it is made again.
    """
    return shutil.copytree(template, tmp_path / "store", ignore=shutil.ignore_patterns("headroom*"))


@pytest.fixture
def open_store(root):
    """
    Opens the store of this test once more; closed, and checked to the byte, when the test is over.
    """
    stores = OpenStores(root)
    yield stores
    stores.close()
    check_root(root, limit_was_lowered=stores.limit_was_lowered)


@pytest.fixture
def store(open_store):
    """
    A store that pulls from the loopback registry, patient with it.
    """
    return open_store()


@pytest.fixture
def impatient_store(open_store):
    """
    The same with a registry client that loses patience at once, for registries that stall.
    """
    return open_store(read_timeout_seconds=0.3)


@pytest.fixture
def wait_until():
    """
    Waits for a condition, ten seconds at most, and says what it was.
    """

    def wait(condition, *, seconds=10.0):
        until = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < until, "it did not come to that"
            time.sleep(0.005)
        return value

    return wait
