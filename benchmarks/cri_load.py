"""
The CRI server under load: many clients that list, stream, ask, pull and remove at once, for a time.

    python benchmarks/cri_load.py --clients 64 --seconds 60

The server is `ullage serve-cri` in a process of its own, and so is the registry; clients are threads, each with a
connection of its own. At the end the latencies are printed, the server is ended, and `ullage check --digests` has to
find nothing. Exits with 1 when a call was refused, or when the store is not well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import grpc

from ullage.cri.messages import message
from ullage.demo.registry import LoopbackRegistry

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.images import ImageBuilder

COMMAND = Path(sys.executable).with_name("ullage")
#: How often each call is made, of a hundred.
MIX = {"status": 55, "list": 12, "stream": 3, "usage": 5, "pull": 15, "remove": 10}
IMAGES, SHARED_BYTES, OWN_BYTES = 24, 300_000, 60_000


def serve_images(connection):
    """
    A registry with images that share layers; it ends when nobody is left to tell.
    """
    with LoopbackRegistry() as registry:
        names = []
        for number in range(IMAGES):
            builder = ImageBuilder(registry, f"load{number}")
            builder.noise_layer(SHARED_BYTES, f"shared {number % 4}").noise_layer(OWN_BYTES, f"own {number}")
            names.append(builder.push("1").reference)
        connection.send(names)
        connection.recv()


class Client(threading.Thread):
    """
    One connection that makes calls until it is time.
    """

    def __init__(self, path, names, until, seed):
        super().__init__()
        self.random = random.Random(seed)
        self.path, self.names, self.until = path, names, until
        self.seconds = defaultdict(list)
        self.refused = Counter()

    def run(self):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"unix:{self.path}", options=options) as channel:
            while time.monotonic() < self.until:
                (kind,) = self.random.choices(list(MIX), MIX.values())
                started = time.monotonic()
                try:
                    self.call(channel, kind, self.random.choice(self.names))
                except grpc.RpcError as error:
                    self.refused[f"{kind}: {error.code().name} {error.details()}"] += 1
                else:
                    self.seconds[kind].append(time.monotonic() - started)

    def call(self, channel, kind, name):
        method, request = {
            "status": ("ImageStatus", {"image": {"image": name}}),
            "list": ("ListImages", {}),
            "stream": ("StreamImages", {}),
            "usage": ("ImageFsInfo", {}),
            "pull": ("PullImage", {"image": {"image": name}}),
            "remove": ("RemoveImage", {"image": {"image": name}}),
        }[kind]
        data = message(f"runtime.v1.{method}Request")(**request).SerializeToString()
        path = f"/runtime.v1.ImageService/{method}"
        if kind == "stream":
            for _ in channel.unary_stream(path)(data, timeout=60):
                pass
        else:
            channel.unary_unary(path)(data, timeout=60)


def percentile(values, share):
    return values[min(len(values) - 1, int(len(values) * share))] * 1000


def report(clients, seconds):
    print(f"{len(clients)} clients, {seconds} s; milliseconds")
    print(f"{'call':<8}{'count':>9}{'per s':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}")
    for kind in MIX:
        values = sorted(each for client in clients for each in client.seconds[kind])
        if values:
            shares = "".join(f"{percentile(values, share):>9.1f}" for share in (0.5, 0.9, 0.99, 1))
            print(f"{kind:<8}{len(values):>9}{len(values) / seconds:>9.1f}{shares}")
    refused = sum((client.refused for client in clients), Counter())
    for words, count in refused.most_common():
        print(f"refused {count} times: {words}")
    return sum(refused.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    here, there = multiprocessing.Pipe()
    registry = multiprocessing.get_context("spawn").Process(target=serve_images, args=(there,), daemon=True)
    registry.start()
    names = here.recv()
    with tempfile.TemporaryDirectory(prefix="ullage-load-") as directory:
        root, path = Path(directory, "store"), Path(directory, "cri.sock")
        server = subprocess.Popen(
            [COMMAND, "--root", root, "serve-cri", "--quiet", "--plain-http", "--socket", path]
        )
        try:
            while not path.exists():
                assert server.poll() is None, "the server ended"
                time.sleep(0.05)
            until = time.monotonic() + arguments.seconds
            clients = [
                Client(path, names, until, f"{arguments.seed} {number}")
                for number in range(arguments.clients)
            ]
            for each in clients:
                each.start()
            for each in clients:
                each.join()
        finally:
            server.send_signal(signal.SIGTERM)
            ended = server.wait(60)
        refused = report(clients, arguments.seconds)
        checked = subprocess.run(
            [COMMAND, "--root", root, "check", "--digests"], capture_output=True, text=True, check=False
        )
        print(f"the server exited with {ended}; check: {checked.stdout.strip() or checked.stderr.strip()}")
    here.send(None)
    registry.join(10)
    return int(bool(refused or ended or checked.returncode))


if __name__ == "__main__":
    sys.exit(main())
