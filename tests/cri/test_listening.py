"""
Where a server listens and where its figures go, in one process.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from support.cri import CriClient
from ullage import CannotServe
from ullage.cri import CriServer, serve
from ullage.cri.exposition import to_file, where
from ullage.cri.sockets import inherited, path_of


def test_a_host_serves_its_own_service_and_goes_on_with_it(store, tmp_path):
    with serve(store, f"unix://{tmp_path}/cri.sock") as server, CriClient(tmp_path / "cri.sock") as client:
        assert client.version().runtime_name == "ullage"
        assert client.health() == 1
        server.stop()
        server.stop()
        assert server.wait()

    assert store.list_images() == []
    assert list(tmp_path.glob("*cri.sock*")) == []


def test_a_path_may_be_as_long_as_an_address_holds_and_no_longer(store, tmp_path):
    directory = tmp_path / ("d" * (107 - len(str(tmp_path)) - len("//s")))
    directory.mkdir()
    assert len(str(directory / "s")) == 107

    with serve(store, directory / "s"), CriClient(directory / "s") as client:
        assert client.version().runtime_name == "ullage"
    with pytest.raises(CannotServe, match="108 bytes, limit 107"):
        serve(store, directory / "ss")


@pytest.mark.parametrize("address", ["", "unix://", "a\0b"])
def test_what_is_no_path_is_said(address):
    with pytest.raises(CannotServe):
        path_of(address)


def test_a_directory_that_is_not_there_is_not_made(store, tmp_path):
    with pytest.raises(CannotServe) as raised:
        serve(store, tmp_path / "nowhere" / "cri.sock")

    assert "RuntimeDirectory=" in raised.value.hint
    assert not (tmp_path / "nowhere").exists()


def test_what_is_no_socket_is_left_alone(store, tmp_path):
    path = tmp_path / "notes"
    path.write_text("mine")

    with pytest.raises(CannotServe, match="is there, and no socket"):
        serve(store, path)

    assert path.read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".ullage-")] == []


def test_a_socket_that_another_program_serves_is_left_alone(store, tmp_path):
    path = tmp_path / "cri.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)

        with pytest.raises(CannotServe, match="somebody serves"):
            serve(store, path)
    assert path.exists()

    with serve(store, path):
        pass


def test_of_servers_that_begin_at_once_one_gets_the_path(store, tmp_path):
    path = tmp_path / "cri.sock"
    servers = [CriServer(store, path, drain_seconds=0) for _ in range(6)]
    outcomes = []

    def start(server):
        try:
            outcomes.append(server.start())
        except CannotServe:
            outcomes.append(None)

    threads = [threading.Thread(target=start, args=(each,)) for each in servers]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    (winner,) = filter(None, outcomes)
    with winner, CriClient(path) as client:
        assert client.version().runtime_name == "ullage"


def test_a_server_removes_no_socket_but_its_own(store, tmp_path):
    path = tmp_path / "cri.sock"
    with serve(store, path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))

    assert path.exists()


def test_a_service_that_was_closed_is_an_error_of_each_call_and_not_healthy(serving):
    cri = serving()
    cri.service.close()

    assert cri.health() == 2
    conditions = {each.type: each for each in cri.runtime_status().status.conditions}
    assert not conditions["RuntimeReady"].status


def test_what_systemd_said_to_another_process_is_not_for_us():
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}

    assert inherited(environment) is None
    assert environment == {}
    with pytest.raises(CannotServe, match="2 sockets"):
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("127.0.0.1:9133", ("127.0.0.1", 9133)),
        (":9133", ("127.0.0.1", 9133)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:1", ("::1", 1)),
        ("/var/lib/ullage.prom", Path("/var/lib/ullage.prom")),
        ("./a:1", Path("a:1")),
        ("ullage.prom", Path("ullage.prom")),
    ],
)
def test_where_figures_go(text, meaning):
    assert where(text) == meaning


@pytest.mark.parametrize(
    "text", ["0.0.0.0:0", "192.0.2.1:9000", "example.org:9000", "127.0.0.1:99999", "[::]:1"]
)
def test_figures_are_for_this_machine_alone(text):
    with pytest.raises(CannotServe, match="loopback"):
        where(text)


def test_a_file_of_figures_is_replaced_whole_until_it_is_closed(tmp_path):
    file = tmp_path / "ullage.prom"
    numbers = iter(range(10_000))
    written = threading.Event()

    def figures():
        number = next(numbers)
        if number > 3:
            written.set()
        return f"{number}\n"

    shown = to_file(file, figures, every_seconds=0.01)
    assert written.wait(10)
    shown.close()

    assert file.read_text() == f"{next(numbers) - 1}\n"
    assert os.listdir(tmp_path) == [file.name]  # noqa: PTH208 -- hidden files too
    with pytest.raises(CannotServe):
        to_file(tmp_path / "nowhere" / "x", figures)
