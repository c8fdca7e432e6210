"""
The two verbs of CRI's RuntimeService that clients ask on connecting. Pods and containers are another runtime's.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Final

from ullage import __version__
from ullage.cri.messages import message
from ullage.errors import ImageError

if TYPE_CHECKING:
    from ullage.cri.images import Call
    from ullage.cri.settings import CriSettings
    from ullage.service import ImageService

__all__ = ["Runtime"]

#: What every runtime answers here, whatever the request says: the version of kubelet's side of the protocol.
_KUBELET_API_VERSION: Final = "0.1.0"


class Runtime:
    """
    The answers of one server.
    """

    def __init__(self, service: ImageService, settings: CriSettings) -> None:
        self._service = service
        self._settings = settings

    def version(self, _request: Any, _call: Call) -> Any:  # noqa: ANN401 -- messages
        return message("runtime.v1.VersionResponse")(
            version=_KUBELET_API_VERSION,
            runtime_name="ullage",
            runtime_version=__version__,
            runtime_api_version="v1",
        )

    def status(self, request: Any, _call: Call) -> Any:  # noqa: ANN401
        answer = message("runtime.v1.StatusResponse")()
        trouble = self._trouble()
        answer.status.conditions.add(
            type="RuntimeReady",
            status=not trouble,
            reason="StoreUnavailable" if trouble else "",
            message=trouble,
        )
        answer.status.conditions.add(
            type="NetworkReady",
            status=False,
            reason="ImageServiceOnly",
            message="this socket serves images; pods and their network are another runtime's",
        )
        for name in ("", *self._settings.runtime_handlers):
            answer.runtime_handlers.add(name=name)
        answer.features.SetInParent()
        if request.verbose:
            answer.info["config"] = json.dumps(
                {"root": str(self._service.root), **dataclasses.asdict(self._settings)}
            )
            if not trouble:
                answer.info["storage"] = json.dumps(dataclasses.asdict(self._service.usage()))
        return answer

    def _trouble(self) -> str:
        """
        Why the store cannot be asked; empty when it can.
        """
        try:
            self._service.usage()
        except ImageError as error:
            return error.message
        return ""
