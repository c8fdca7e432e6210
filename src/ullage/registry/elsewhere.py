"""
Where a manifest says that a layer is, when the registry does not have it (``urls`` of OCI's and Docker's descriptors).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ullage.errors import ContentError
from ullage.registry.answers import TRANSIENT, refusal, retry_after_seconds
from ullage.registry.endpoint import Origin, is_local, shown
from ullage.registry.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ullage.errors import ImageError
    from ullage.registry.answers import Errors
    from ullage.registry.patience import Patience
    from ullage.registry.peer import Peer
    from ullage.registry.request import Group
    from ullage.registry.route import Route
    from ullage.registry.transport import Answer, Transport

__all__ = ["Elsewhere", "elsewhere"]

#: Of one layer: what a manifest names beyond these is not looked at.
_MAX_URLS: Final = 8


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """
    One URL that may have a layer. It is asked as a stranger: no credentials, no headers and no certificate of ours.
    """

    url: str = field(repr=False)
    name: str
    route: Route = field(repr=False)
    connect: Callable[[], Transport] = field(repr=False, compare=False)

    def send(
        self,
        method: str,
        path: str,  # noqa: ARG002  as a peer's: it is the URL that says where
        doing: str,
        headers: Mapping[str, str],
        *,
        group: Group,
        patience: Patience,
    ) -> Answer:
        """
        One request, as `Peer.send`.
        """
        request = Request(method, self.url, f"{doing} from {self.name}", dict(headers), route=self.route)
        return self.connect().fetch(request, group=group, patience=patience)

    def errors(self, answer: Answer, body: bytes | None) -> Errors:  # noqa: ARG002  as a peer's
        """
        Nothing: it is no registry, and speaks no registry's language.
        """
        return ()

    def refusal(self, answer: Answer, body: bytes | None) -> ImageError:  # noqa: ARG002  as a peer's
        """
        What to raise for *answer*.
        """
        if answer.status in TRANSIENT:
            return refusal(
                answer.status,
                doing=answer.request.doing,
                url=shown(answer.url),
                errors=(),
                retry_after_seconds=retry_after_seconds(answer.header("Retry-After")),
            )
        return ContentError(f"{answer.request.doing}: it answered {answer.status}")


def elsewhere(urls: Sequence[str], by: Peer) -> tuple[list[Elsewhere], list[str]]:
    """
    The URLs that may be asked, and why others may not. They came from *by*, the registry.

    A manifest elsewhere has as little business to send us to this machine as a redirect has. http is as good as
    https: nothing of ours travels, and what comes is held to its digest.
    """
    found: list[Elsewhere] = []
    refused: list[str] = []
    here = is_local(Origin.of(by.host.base_url).host)
    route = by.host.route.onward(not_here=not here)
    for url in urls[:_MAX_URLS]:
        try:
            origin = Origin.of(url)
        except ValueError as error:
            refused.append(f"a URL that is {error}")
            continue
        if is_local(origin.host) and not here:
            refused.append(f"{shown(url)} is on this machine, and the registry is not")
        elif "@" in url.partition("://")[2].partition("/")[0]:
            refused.append(f"{shown(url)} has credentials in it")
        else:
            host = f"[{origin.host}]" if ":" in origin.host else origin.host
            found.append(Elsewhere(url, f"{host}:{origin.port}", route, by.connect))
    return found, refused
