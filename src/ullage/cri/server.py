"""
The server: a socket, an event loop in a thread of its own, and an end that drains.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket as sockets
import tempfile
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from ullage.cri.handlers import Handlers
from ullage.cri.health import Health
from ullage.cri.metrics import Metrics
from ullage.cri.relay import Relay
from ullage.cri.settings import CriSettings
from ullage.cri.sockets import claim, path_of
from ullage.errors import CannotServe

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ullage.service import ImageService

__all__ = ["CriServer", "serve"]

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    # A reference of a megabyte gets an answer that says so.
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    # A list is as long as it is; who wants it in pieces asks for the stream.
    ("grpc.max_send_message_length", -1),
    # A client that is stopped, or does not read at all, does not answer a ping either: its connection ends.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # A connection that never says who it is.
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_concurrent_streams", 1024),
)
#: Calls at once, of all clients together; one more is told RESOURCE_EXHAUSTED.
_MAX_CALLS: Final = 4096
_LOOK_SECONDS: Final = 0.05
#: For what is on its way to a client when all calls have ended, and for those that were cancelled.
_LAST_SECONDS: Final = 1.0


class CriServer:
    """
    A CRI v1 image service on a Unix socket. `start` it, and `stop` it; or use it as a context manager.

    The service stays its owner's: the server does not close it, and others may use it meanwhile.

    Args:
        service: the store.
        socket: the path, or ``unix://`` and the path; or a Unix socket that is listening already.
        settings: how to answer.
        mode: of the socket at its path.
        drain_seconds: how long calls may go on after `stop`.
    """

    def __init__(
        self,
        service: ImageService,
        socket: str | os.PathLike[str] | sockets.socket,
        *,
        settings: CriSettings | None = None,
        mode: int = 0o600,
        drain_seconds: float = 10.0,
    ) -> None:
        self.metrics = Metrics()
        self._service = service
        self._path = None if isinstance(socket, sockets.socket) else path_of(os.fspath(socket))
        self._listener = socket if isinstance(socket, sockets.socket) else None
        self._settings = settings or CriSettings()
        self._mode = mode
        self._drain_seconds = drain_seconds
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def start(self) -> Self:
        """
        Serve, in a thread. When this returns, the socket is at its path and answers.

        Raises:
            CannotServe: the socket cannot be had.
        """
        assert self._thread is None, "a server is started once"
        self._thread = threading.Thread(target=self._run, name="ullage-cri", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def stop(self) -> None:
        """
        Take no more calls, let those under way go on for the time that was set, then cancel them. Safe to call twice.

        When this returns no thread of the server uses the service any more, and the socket is gone.
        """
        self.begin_to_stop()
        if self._thread is not None:
            self._thread.join()

    def begin_to_stop(self) -> None:
        """
        `stop` without waiting for it.
        """
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(stopping.set)
            except RuntimeError:
                return  # closed since we looked

    def hurry(self) -> None:
        """
        Do not let calls go on: cancel them now. Waits for nothing.
        """
        self._drain_seconds = 0.0
        self.begin_to_stop()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """
        Wait for the end of the server; whether it came.

        Raises:
            BaseException: what it ended with, where nobody asked it to.
        """
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            return False
        if self._failure is not None:
            raise self._failure
        return True

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 -- `start` raises it
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        handlers = Handlers(self._service, self._settings, self.metrics)
        health = Health(self._service)
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
        server.add_generic_rpc_handlers((handlers, health))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, handlers.close)
            stack.push_async_callback(server.stop, 0)
            relay = await self._listen(server, stack)
            self._ready.set()
            await self._stopping.wait()
            health.drain()
            handlers.drain()
            if relay is not None:
                await relay.stop_accepting()
            await self._drained(handlers)
            await server.stop(_LAST_SECONDS)

    async def _drained(self, handlers: Handlers) -> None:
        """
        Wait for the calls under way, until the time is up or somebody is in a hurry.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + self._drain_seconds
        while self._drain_seconds and clock() < until and not handlers.idle:  # noqa: ASYNC110 -- `hurry`
            await asyncio.sleep(_LOOK_SECONDS)
        handlers.cancel_pulls()

    async def _listen(self, server: Any, stack: AsyncExitStack) -> Relay | None:  # noqa: ANN401
        if self._path is not None:
            with claim(self._path) as claimed:
                _bind(server, claimed.address, str(self._path))
                await server.start()
                stack.callback(claimed.place(self._mode).remove)
            return None
        assert self._listener is not None, "one of the two"
        private = Path(tempfile.mkdtemp(prefix="ullage-cri-"))
        stack.callback(shutil.rmtree, private, ignore_errors=True)
        target = private / "socket"
        _bind(server, f"unix:{target}", str(target))
        await server.start()
        relay = Relay(self._listener, target)
        stack.push_async_callback(relay.close)
        relay.start()
        return relay


def serve(
    service: ImageService,
    socket: str | os.PathLike[str] | sockets.socket,
    *,
    settings: CriSettings | None = None,
    mode: int = 0o600,
    drain_seconds: float = 10.0,
) -> CriServer:
    """
    Serve *service* on a Unix socket, in a thread: the server, started. See `CriServer`.

    Raises:
        CannotServe: the socket cannot be had.
    """
    return CriServer(service, socket, settings=settings, mode=mode, drain_seconds=drain_seconds).start()


def _bind(server: Any, address: str, shown: str) -> None:  # noqa: ANN401
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotServe(f"cannot listen at {shown}: {error}", address=shown) from error
    if not port:
        raise CannotServe(f"cannot listen at {shown}", address=shown)
