"""
A client of registries that is none of ours: the standard library's, and a bare socket.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field


@dataclass
class Got:
    """
    Status, headers with lower-case names, and body of an answer.
    """

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def codes(self):
        return [each["code"] for each in self.json["errors"]]


def ask(server, path, method="GET", **headers):
    """
    One request by the standard library's client, on a connection of its own.
    """
    if server.url.startswith("https"):
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(server.host, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection(server.host, timeout=10)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): each for name, each in headers.items()}
        )
        answer = connection.getresponse()
        return Got(answer.status, {name.lower(): each for name, each in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def converse(server, *pieces, timeout=5.0):
    """
    Send bytes as they are, one after the other, and read until the server ends the connection.
    """
    host, _, port = server.host.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while data := connection.recv(65536):
            received += data
        return received
