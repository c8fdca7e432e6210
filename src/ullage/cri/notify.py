"""
Telling systemd how a service is doing: sd_notify(3), the few lines of it that are needed.
"""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify"]


def notify(state: str) -> None:
    """
    Send *state*, such as ``READY=1``; nothing happens where nobody asked to be told.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        # A name that begins with @ is of the abstract namespace.
        sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
