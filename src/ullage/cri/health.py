"""
gRPC's health service: whether the store can be asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from ullage.cri.messages import Malformed, decode, message
from ullage.errors import ImageError

if TYPE_CHECKING:
    from ullage.service import ImageService

__all__ = ["Health"]

_REQUEST: Final = "grpc.health.v1.HealthCheckRequest"
_ANSWER: Final = "grpc.health.v1.HealthCheckResponse"
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_SERVICES: Final = frozenset({"", "runtime.v1.ImageService", "runtime.v1.RuntimeService"})
#: How often a watcher's answer is looked at anew.
_LOOK_SECONDS: Final = 1.0


class Health(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """
    Serving while the store answers, until the server drains.
    """

    def __init__(self, service: ImageService) -> None:
        self._service = service
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """
        From now on the answer is no, and watchers are told.
        """
        self._draining.set()

    def service(self, handler_call_details: Any) -> Any:  # noqa: ANN401 -- grpc has no types
        if handler_call_details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(self._check)
        if handler_call_details.method == "/grpc.health.v1.Health/Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch)
        return None

    async def _check(self, data: bytes, context: Any) -> bytes:  # noqa: ANN401
        name = await self._named(data, context)
        if name not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _encoded(await self._now())

    async def _watch(self, data: bytes, context: Any) -> None:  # noqa: ANN401
        name = await self._named(data, context)
        before = None
        while True:
            is_last = self._draining.is_set()  # asked first: what is looked at meanwhile is not the last word
            now = await self._now() if name in _SERVICES else _SERVICE_UNKNOWN
            if now != before:
                await context.write(_encoded(now))
                before = now
            if is_last:
                return
            try:
                await asyncio.wait_for(self._draining.wait(), _LOOK_SECONDS)
            except TimeoutError:
                continue

    async def _named(self, data: bytes, context: Any) -> str:  # noqa: ANN401
        try:
            name: str = decode(_REQUEST, data).service
        except Malformed as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        return name

    async def _now(self) -> int:
        if self._draining.is_set():
            return _NOT_SERVING
        try:
            await asyncio.to_thread(self._service.usage)
        except ImageError:
            return _NOT_SERVING
        return _SERVING


def _encoded(status: int) -> bytes:
    encoded: bytes = message(_ANSWER)(status=status).SerializeToString()
    return encoded
