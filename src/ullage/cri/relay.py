"""
From a socket that is listened on already to the server's own.

gRPC's Python binding opens what it listens on itself and cannot adopt a descriptor. So a socket that systemd hands over
is accepted from here, and what comes is passed on to a socket that only this process can reach. It costs a copy of each
message; what is listened on stays systemd's, and so does its queue from one server to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from pathlib import Path

__all__ = ["Relay"]

_CHUNK_BYTES: Final = 64 * 1024
#: After an accept that failed for want of descriptors.
_PAUSE_SECONDS: Final = 0.1


class Relay:
    """
    Accepts from *listener* and passes on to the socket at *target*, both ways, until it is closed.
    """

    def __init__(self, listener: socket.socket, target: Path) -> None:
        self._listener = listener
        self._target = target
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def stop_accepting(self) -> None:
        """
        What comes from now on waits in the queue of the listener for the next server.
        """
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting

    async def close(self) -> None:
        """
        End the connections that are left.
        """
        await self.stop_accepting()
        for each in list(self._tasks):
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            task = loop.create_task(self._pass_on(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, connection: socket.socket) -> None:
        writers: list[asyncio.StreamWriter] = []
        try:
            with contextlib.suppress(OSError):
                here = await asyncio.open_unix_connection(sock=connection, limit=_CHUNK_BYTES)
                writers.append(here[1])
                there = await asyncio.open_unix_connection(str(self._target), limit=_CHUNK_BYTES)
                writers.append(there[1])
                # HTTP/2 knows no half-closed connection: the first end is the end.
                directions = {
                    asyncio.ensure_future(_copy(here[0], there[1])),
                    asyncio.ensure_future(_copy(there[0], here[1])),
                }
                try:
                    await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in directions:
                        each.cancel()
                    await asyncio.gather(*directions, return_exceptions=True)
        finally:
            if not writers:
                connection.close()
            for writer in writers:
                writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
