"""
``ullage serve-cri`` from outside: its socket, its signals, systemd's protocols, its figures.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from support.cri import CriClient, code_of
from support.images import ImageBuilder
from support.registry import stall
from support.store import check_root, query

COMMAND = Path(sys.executable).with_name("ullage")


class Server:
    """
    One process. ``said`` is what it said; `end` is a signal and the exit code.
    """

    def __init__(self, process):
        self.process = process
        self.said = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.said.append(line.decode().rstrip())
            if line.startswith((b"serving ", b"error: ")):
                self._ready.set()
        self._ready.set()

    def wait_ready(self):
        assert self._ready.wait(30), self.said
        return self

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        code = self.process.wait(30)
        self._reader.join()
        self.process.stderr.close()
        return code


@pytest.fixture
def command(root, tmp_path):
    """
    Starts the command on the store of this test; what still runs is killed, and the store checked to the byte.
    """
    started = []

    def start(*arguments, wrapped=(), environment=None, **options):
        process = subprocess.Popen(
            [*wrapped, COMMAND, "--root", root, "serve-cri", *map(str, arguments)],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **options,
        )
        started.append(Server(process))
        return started[-1].wait_ready()

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.wait()
    check_root(root)


def test_the_socket_is_its_owners_alone_and_gone_after_sigterm(command, tmp_path, image):
    path = tmp_path / "cri.sock"
    server = command("--socket", f"unix://{path}", "--plain-http")

    found = path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    with CriClient(path) as client:
        assert client.pull(image.reference) == image.image_id

    assert server.end() == 0
    assert not path.exists()
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".ullage-")] == []
    assert server.said[-1] == "ended"
    assert any(line.startswith(f"INFO pull {image.reference}: OK in ") for line in server.said)


def test_a_dead_servers_socket_is_replaced_and_a_living_ones_is_not(command, tmp_path):
    path = tmp_path / "cri.sock"
    first = command("--socket", path)
    first.process.kill()
    first.wait()
    assert path.exists()

    second = command("--socket", path, "--socket-mode", "0666")
    assert stat.S_IMODE(path.lstat().st_mode) == 0o666
    third = command("--socket", path)

    assert third.wait() == 9
    assert third.said[0].startswith(f"error: somebody serves at {path} already")
    with CriClient(path) as client:
        assert client.version().runtime_name == "ullage"
    assert second.end() == 0


def test_without_a_socket_there_is_nothing_to_serve_on(command):
    server = command()

    assert server.wait() == 2
    assert server.said[0] == "error: --socket PATH is needed: systemd handed over none"


def test_a_second_server_shares_the_store_and_its_work(command, tmp_path, registry, image):
    paths = [tmp_path / "one.sock", tmp_path / "two.sock"]
    servers = [command("--socket", path, "--plain-http") for path in paths]

    with CriClient(paths[0]) as one, CriClient(paths[1]) as two:
        one.pull(image.reference)
        assert two.list() == one.list()
        two.remove(image.reference)
        assert one.list() == []

        big = ImageBuilder(registry, "big").noise_layer(500_000).push("1")
        pulls = [client.start_pull(big.reference) for client in (one, two) for _ in range(4)]
        assert {each.result(30).image_ref for each in pulls} == {big.image_id}
        assert registry.count("GET", f"*/blobs/{big.layers[0].digest}") == 1
    assert [each.end() for each in servers] == [0, 0]


def test_sigterm_lets_a_pull_end_and_takes_no_more_calls(command, tmp_path, registry, wait_until):
    path = tmp_path / "cri.sock"
    image = ImageBuilder(registry, "slow").noise_layer(1000).push("1")
    stalled = registry.inject(f"*/blobs/{image.layers[0].digest}", stall())
    server = command("--socket", path, "--plain-http")

    with CriClient(path) as client, CriClient(path) as late:
        assert late.health() == 1
        watch = client.watch_health()
        assert next(watch) == 1
        pull = client.start_pull(image.reference)
        stalled.wait_reached()
        server.process.send_signal(signal.SIGTERM)
        assert next(watch) == 2
        wait_until(lambda: code_of(late.version)[0] == "UNAVAILABLE")
        registry.heal()

        assert pull.result(20).image_ref == image.image_id
    assert server.wait() == 0


def test_a_second_signal_does_not_wait(command, tmp_path, root, registry):
    path = tmp_path / "cri.sock"
    image = ImageBuilder(registry, "slow").noise_layer(1000).push("1")
    stalled = registry.inject(f"*/blobs/{image.layers[0].digest}", stall())
    server = command("--socket", path, "--plain-http", "--drain", "3000")

    with CriClient(path) as client:
        pull = client.start_pull(image.reference)
        stalled.wait_reached()
        watch = client.watch_health()
        assert next(watch) == 1
        server.process.send_signal(signal.SIGTERM)
        assert next(watch) == 2  # it heard the first one
        assert server.end(signal.SIGINT) == 128 + signal.SIGINT
        assert pull.code().name in ("CANCELLED", "UNAVAILABLE")

    assert query(root, "SELECT * FROM leases") == []


def test_systemd_hands_over_the_socket_and_is_told_when_it_is_served(command, tmp_path, image):
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(tmp_path / "notify"))
    notified.settimeout(20)
    listener = socket.socket(socket.AF_UNIX)
    path = tmp_path / "activated.sock"
    listener.bind(str(path))
    listener.listen(16)
    script = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&{listener.fileno()}; exec "$@"'

    with notified, listener, CriClient(path) as early:
        # A client that comes before the server waits in the queue of the socket.
        pull = early.start_pull(image.reference)
        server = command(
            "--plain-http",
            wrapped=("bash", "-c", script, "bash"),
            environment={"NOTIFY_SOCKET": str(tmp_path / "notify")},
            pass_fds=(listener.fileno(),),
        )

        assert notified.recv(100).startswith(b"READY=1")
        assert pull.result(20).image_ref == image.image_id
        with CriClient(path) as client:
            assert [each.id for each in client.list()] == [image.image_id]
        assert server.end() == 0
        assert notified.recv(100) == b"STOPPING=1"
        # The socket is systemd's, for the next server.
        assert path.exists()


def test_the_figures_are_at_a_port_of_this_machine(command, tmp_path):
    server = command("--socket", tmp_path / "cri.sock", "--metrics", "127.0.0.1:0")
    (url,) = (line.removeprefix("figures at ") for line in server.said if line.startswith("figures at "))

    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()

    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "ullage_storage_limit_bytes 10737418240\n" in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url.replace("/metrics", "/"), timeout=10)
    assert server.end() == 0


def test_the_figures_are_in_a_file(command, tmp_path, image):
    file = tmp_path / "ullage.prom"
    server = command("--socket", tmp_path / "cri.sock", "--metrics", file, "--plain-http")
    assert "ullage_images 0\n" in file.read_text()
    with CriClient(tmp_path / "cri.sock") as client:
        client.pull(image.reference)

    assert server.end() == 0

    text = file.read_text()
    assert "ullage_images 1\n" in text
    assert 'ullage_pulls_total{code="OK"} 1\n' in text
    assert f"ullage_pull_bytes_total {image.size}\n" in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(tmp_path.glob(".ullage*")) == []


def test_mirrors_of_hosts_toml_serve_public_names(command, tmp_path, registry):
    image = ImageBuilder(registry, "pause").noise_layer(100).push("3.10")
    hosts = tmp_path / "hosts" / "registry.k8s.io"
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(
        f'server = "http://127.0.0.1:1"\n[host."{registry.url}"]\ncapabilities = ["pull", "resolve"]\n'
    )
    path = tmp_path / "cri.sock"
    server = command(
        "--socket", path, "--hosts-dir", tmp_path / "hosts", "--pinned-image", "registry.k8s.io/pause"
    )

    with CriClient(path) as client:
        assert client.pull("registry.k8s.io/pause:3.10") == image.image_id
        (listed,) = client.list()
    assert list(listed.repo_tags) == ["registry.k8s.io/pause:3.10"]
    assert listed.pinned
    assert server.end() == 0
