"""
gRPC's side of the verbs: bytes in, a thread, bytes out, a status code when it raises.

The event loop only waits. What reads, what writes and what pulls has threads of its own, so that sixteen pulls and a
writer that waits for its turn leave a list as quick as it was. A call that its client gave up is cancelled by gRPC, and
a pull is told so.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import grpc

from ullage.cri.images import Call, Images
from ullage.cri.messages import decode
from ullage.cri.runtime import Runtime
from ullage.cri.statuses import Refusal, refusal

if TYPE_CHECKING:
    import threading
    from collections.abc import Awaitable, Callable, Iterator

    from ullage.cri.metrics import Metrics
    from ullage.cri.settings import CriSettings
    from ullage.service import ImageService

__all__ = ["Handlers"]

_READERS: Final = 8
#: A list of many images is work; those who ask for one image do not wait behind it.
_LISTERS: Final = 2
_WRITERS: Final = 16
_ENDING: Final = "the server is about to end"
#: gRPC says "no deadline" as None or as a time beyond the end of the universe.
_NO_DEADLINE_SECONDS: Final = 10 * 365 * 86400.0


class _Verb(NamedTuple):
    request: str
    run: Callable[[Any, Call], Any]
    executor: Executor
    streams: bool = False
    pulls: bool = False


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """
    The handler of each method of the image and runtime services.
    """

    def __init__(self, service: ImageService, settings: CriSettings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._stalled_seconds = settings.stalled_seconds
        self._readers = ThreadPoolExecutor(_READERS, "ullage-cri-read")
        self._listers = ThreadPoolExecutor(_LISTERS, "ullage-cri-list")
        self._writers = ThreadPoolExecutor(_WRITERS, "ullage-cri-write")
        self._pullers = ThreadPoolExecutor(settings.parallel_pulls, "ullage-cri-pull")
        self._cancels: set[threading.Event] = set()
        self._active = 0
        self._draining = False
        images, runtime = Images(service, settings, metrics), Runtime(service, settings)
        read, write, listing = self._readers, self._writers, self._listers
        self._verbs = {
            f"/runtime.v1.{path}": verb
            for path, verb in {
                "ImageService/ListImages": _Verb("ListImagesRequest", images.list_images, listing),
                "ImageService/StreamImages": _Verb(
                    "StreamImagesRequest", images.stream_images, listing, streams=True
                ),
                "ImageService/ImageStatus": _Verb("ImageStatusRequest", images.image_status, read),
                "ImageService/PullImage": _Verb(
                    "PullImageRequest", images.pull_image, self._pullers, pulls=True
                ),
                "ImageService/RemoveImage": _Verb("RemoveImageRequest", images.remove_image, write),
                "ImageService/ImageFsInfo": _Verb("ImageFsInfoRequest", images.image_fs_info, read),
                "RuntimeService/Version": _Verb("VersionRequest", runtime.version, read),
                "RuntimeService/Status": _Verb("StatusRequest", runtime.status, read),
            }.items()
        }

    def service(self, handler_call_details: Any) -> Any:  # noqa: ANN401 -- grpc has no types
        verb = self._verbs.get(handler_call_details.method)
        if verb is None:
            return None
        if verb.streams:
            return grpc.unary_stream_rpc_method_handler(self._streaming(handler_call_details.method, verb))
        return grpc.unary_unary_rpc_method_handler(self._answering(handler_call_details.method, verb))

    def drain(self) -> None:
        """
        From now on calls are refused; those under way go on.
        """
        self._draining = True

    @property
    def idle(self) -> bool:
        """
        Whether no call is under way.
        """
        return not self._active

    def cancel_pulls(self) -> None:
        """
        End the pulls under way: their clients will not hear of them.
        """
        for each in list(self._cancels):
            each.set()

    def close(self) -> None:
        """
        Wait for what the threads still do. Blocks.
        """
        self.cancel_pulls()
        for each in (self._pullers, self._writers, self._listers, self._readers):
            each.shutdown(wait=True, cancel_futures=True)

    def _answering(self, method: str, verb: _Verb) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def answer(data: bytes, context: Any) -> bytes:  # noqa: ANN401
            with _Timed(self._metrics, method) as timed:
                encoded: bytes = await self._run(verb, data, context, timed)
                return encoded

        return answer

    def _streaming(self, method: str, verb: _Verb) -> Callable[[bytes, Any], Awaitable[None]]:
        async def stream(data: bytes, context: Any) -> None:  # noqa: ANN401
            with _Timed(self._metrics, method) as timed:
                encoded: Iterator[bytes] = await self._run(verb, data, context, timed)
                for each in encoded:
                    try:
                        await asyncio.wait_for(context.write(each), self._stalled_seconds)
                    except TimeoutError:
                        timed.code = grpc.StatusCode.DEADLINE_EXCEEDED.name
                        await context.abort(
                            grpc.StatusCode.DEADLINE_EXCEEDED,
                            f"the client took nothing for {self._stalled_seconds:g} s",
                        )

        return stream

    def _timely(self, said: Refusal, call: Call) -> Refusal:
        """
        Why a pull was cancelled, where it was not its client who did it.
        """
        if said.code is not grpc.StatusCode.CANCELLED:
            return said
        if call.deadline is not None and time.monotonic() >= call.deadline:
            return Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, said.details)
        return Refusal(grpc.StatusCode.UNAVAILABLE, _ENDING) if self._draining else said

    async def _run(self, verb: _Verb, data: bytes, context: Any, timed: _Timed) -> Any:  # noqa: ANN401
        if self._draining:
            timed.code = grpc.StatusCode.UNAVAILABLE.name
            await context.abort(grpc.StatusCode.UNAVAILABLE, _ENDING)
        left = context.time_remaining()
        deadline = None if left is None or left > _NO_DEADLINE_SECONDS else time.monotonic() + left
        call = Call(deadline)
        self._active += 1
        if verb.pulls:
            self._cancels.add(call.cancel)
            self._metrics.pulling(1)
        try:
            return await asyncio.get_running_loop().run_in_executor(verb.executor, _work, verb, data, call)
        except Exception as error:  # noqa: BLE001 -- the door: all that was raised ends here as a status
            said = self._timely(refusal(error), call)
            timed.code = said.code.name
            await context.abort(said.code, said.details)
        finally:
            # Cancelled, or done and nobody looks at it any more.
            call.cancel.set()
            self._active -= 1
            if verb.pulls:
                self._cancels.discard(call.cancel)
                self._metrics.pulling(-1)


def _work(verb: _Verb, data: bytes, call: Call) -> Any:  # noqa: ANN401
    answer = verb.run(decode(f"runtime.v1.{verb.request}", data), call)
    return answer if verb.streams else answer.SerializeToString()


class _Timed:
    """
    Counts one call when the block ends.
    """

    def __init__(self, metrics: Metrics, method: str) -> None:
        self._metrics = metrics
        self._method = method.rpartition("/")[2]
        self._started = time.monotonic()
        self.code = "OK"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self.code = "CANCELLED"
        self._metrics.called(self._method, self.code, time.monotonic() - self._started)
