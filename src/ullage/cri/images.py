"""
The verbs of CRI's ImageService: a message in, a message out. They run on threads, and know no gRPC.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

from ullage.cri.answers import as_image, as_info, as_usage, chunks
from ullage.cri.messages import message
from ullage.cri.pins import Pins
from ullage.errors import ImageError, InvalidReference
from ullage.model import AuthConfig, PullPolicy, PullProgress
from ullage.reference import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.cri.metrics import Metrics
    from ullage.cri.settings import CriSettings
    from ullage.model import ImageStatus
    from ullage.service import ImageService

__all__ = ["Call", "Images"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """
    What a verb may know of its caller: when it gives up (of `time.monotonic`), and whether it has.
    """

    deadline: float | None = None
    cancel: Event = field(default_factory=Event)


class Images:
    """
    The answers of one server.
    """

    def __init__(self, service: ImageService, settings: CriSettings, metrics: Metrics) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._pins = Pins(settings.pinned_images)

    def list_images(self, request: Any, _call: Call) -> Any:  # noqa: ANN401 -- messages
        answer = message("runtime.v1.ListImagesResponse")()
        answer.images.extend(as_image(*each, self._pins) for each in self._filtered(request))
        return answer

    def stream_images(self, request: Any, _call: Call) -> Iterator[bytes]:  # noqa: ANN401
        """
        The messages of the stream, encoded, and all of one moment: a slow reader keeps no transaction open.
        """
        return iter(list(chunks(self._filtered(request), self._pins)))

    def image_status(self, request: Any, _call: Call) -> Any:  # noqa: ANN401
        answer = message("runtime.v1.ImageStatusResponse")()
        for status, on_disk_bytes in self._find(request.image):
            answer.image.CopyFrom(as_image(status, on_disk_bytes, self._pins))
            if request.verbose:
                answer.info.update(as_info(self._service, status))
        return answer

    def pull_image(self, request: Any, call: Call) -> Any:  # noqa: ANN401
        name = self._named(request.image)
        if not name:
            raise InvalidReference("no image is named", reference="")
        spec = ImageSpec.parse(name)
        auth = _auth(request.auth) if request.HasField("auth") else None
        # Nobody but a registry can say what a tag denotes now. A digest denotes what it always did; whether these
        # credentials give a right to it is another matter, and where that is not known the registry is asked.
        by_digest = spec.normalised().digest is not None
        known = by_digest and self._service.may_use(spec, auth)
        policy = PullPolicy.IF_NOT_PRESENT if known else PullPolicy.ALWAYS
        started = time.monotonic()
        outcome = "INTERNAL"
        fetched = _Fetched()
        try:
            status = self._service.pull_image(
                spec,
                auth=auth,
                platform=self._settings.platform,
                policy=policy,
                timeout=None if call.deadline is None else max(0.0, call.deadline - started),
                cancel=call.cancel,
                on_progress=fetched.note,
            )
            outcome = "OK"
        except ImageError as error:
            outcome = error.code
            raise
        finally:
            seconds = time.monotonic() - started
            self._metrics.pulled(outcome, seconds, fetched.bytes, fetched.evicted)
            _log.info(
                "pull %s: %s in %.3f s, %d bytes fetched", spec.reference(), outcome, seconds, fetched.bytes
            )
        return message("runtime.v1.PullImageResponse")(image_ref=status.image_id)

    def remove_image(self, request: Any, _call: Call) -> Any:  # noqa: ANN401
        name = self._named(request.image)
        if name:
            self._service.remove_image(name, missing_ok=True)
            _log.info("remove %.200s", name)
        return message("runtime.v1.RemoveImageResponse")()

    def image_fs_info(self, _request: Any, _call: Call) -> Any:  # noqa: ANN401
        usage = as_usage(self._service)
        # Containers are another runtime's; clients want an entry all the same, and that runtime's images are ours.
        return message("runtime.v1.ImageFsInfoResponse")(
            image_filesystems=[usage], container_filesystems=[usage]
        )

    def _find(self, spec: Any) -> list[tuple[ImageStatus, int]]:  # noqa: ANN401
        """
        The image that is named, with what it takes; none when nothing is named or it is not here.
        """
        name = self._named(spec)
        return self._service.on_disk(name) if name else []

    def _filtered(self, request: Any) -> list[tuple[ImageStatus, int]]:  # noqa: ANN401
        return (
            self._find(request.filter.image) if self._named(request.filter.image) else self._service.on_disk()
        )

    def _named(self, spec: Any) -> str:  # noqa: ANN401
        """
        Raises:
            InvalidReference: it is for a runtime handler that this server does not know.
        """
        handler = spec.runtime_handler
        if handler and handler not in self._settings.runtime_handlers:
            raise InvalidReference(
                f"unknown runtime handler: {handler[:100]}",
                reference=spec.image[:1000],
                hint="the server was not started with --runtime-handler of that name",
            )
        name: str = spec.image
        return name


@dataclass(slots=True)
class _Fetched:
    """
    What one pull fetched and what went for it, by its progress.
    """

    bytes: int = 0
    evicted: int = 0

    def note(self, progress: PullProgress) -> None:
        self.bytes = max(self.bytes, progress.received_bytes)
        self.evicted += len(progress.evicted)


def _auth(sent: Any) -> AuthConfig | None:  # noqa: ANN401
    auth = AuthConfig(
        username=sent.username,
        password=sent.password,
        server_address=sent.server_address,
        auth=sent.auth,
        identity_token=sent.identity_token,
        registry_token=sent.registry_token,
    )
    return None if auth == AuthConfig(server_address=auth.server_address) else auth
