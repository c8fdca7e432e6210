"""
One host that may have what a repo has: the registry, or a mirror of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from ullage.errors import RegistryUnavailable
from ullage.registry.answers import MAX_ERROR_BYTES, refusal, registry_errors, retry_after_seconds
from ullage.registry.auth import Line, Refusal
from ullage.registry.endpoint import Origin, shown
from ullage.registry.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ullage.errors import ImageError
    from ullage.registry.answers import Errors
    from ullage.registry.auth import Authorizer
    from ullage.registry.hosts import Host
    from ullage.registry.identity import Credentials
    from ullage.registry.patience import Patience
    from ullage.registry.request import Group, Stream
    from ullage.registry.transport import Answer, Transport

__all__ = ["Ours", "Peer"]

#: The first request, one with a token, and one with a password where the token was no good.
_SENDS = 3


@dataclass(frozen=True, slots=True)
class Ours:
    """
    What is asked, before it is known as whom: ``path`` is below the repo, or, with a slash at its start, of the host.
    """

    method: str
    path: str
    doing: str
    headers: Mapping[str, str] = field(repr=False)
    body: Stream | None = field(default=None, repr=False)


class Peer:
    """
    A host, and who we are to it. Thread-safe.

    Args:
        domain: whose content it is asked for.
        path: the repo; '' for the host itself.
        plain: names of hosts that were found to speak HTTP, shared by all peers of a client.
    """

    def __init__(
        self,
        host: Host,
        authorizer: Authorizer,
        connect: Callable[[], Transport],
        *,
        domain: str,
        path: str,
        plain: set[str],
    ) -> None:
        self.host = host
        self._authorizer = authorizer
        self.connect = connect
        self._domain = domain
        self._path = path
        self._plain = plain

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def served(self) -> Credentials | None:
        """
        Whom it serves when we ask: somebody with these credentials, or anybody.
        """
        return self._authorizer.served

    def send(
        self,
        method: str,
        path: str,
        doing: str,
        headers: Mapping[str, str],
        *,
        group: Group,
        patience: Patience,
        body: Stream | None = None,
    ) -> Answer:
        """
        One request, with a token where one is asked for. Any status but 401 is the caller's.

        Raises:
            AuthenticationFailed: credentials are missing or refused.
            RegistryUnavailable: no answer.
        """
        ours = Ours(method, path, doing, headers, body)
        try:
            return self._send(ours, group=group, patience=patience)
        except RegistryUnavailable as error:
            if self.name in self._plain or not self.host.may_be_plain or not _is_plain(error, self.name):
                raise
        # On this machine, and it does not speak TLS: Docker, podman and containerd ask again in plain HTTP.
        self._plain.add(self.name)
        try:
            return self._send(ours, group=group, patience=patience)
        except RegistryUnavailable as error:
            if error.status is None:
                self._plain.discard(self.name)
            raise

    def errors(self, answer: Answer, body: bytes | None) -> Errors:
        """
        The registry's own words in *body*, without what they might quote: credentials, headers, a signed query.
        """
        hidden = [value for _, value in self.host.headers]
        if answer.origin != Origin.of(self._url("")):
            query = urlsplit(answer.url).query
            hidden += [value for _, value in parse_qsl(query)]
            hidden += [value for each in query.split("&") for value in each.partition("=")[2:]]
        return registry_errors(body, secrets=(*self._authorizer.secrets, *hidden))

    def refusal(self, answer: Answer, body: bytes | None) -> ImageError:
        """
        What to raise for *answer*, where the caller has no better word.
        """
        return refusal(
            answer.status,
            doing=answer.request.doing,
            url=shown(answer.url),
            errors=self.errors(answer, body),
            retry_after_seconds=retry_after_seconds(answer.header("Retry-After")),
        )

    def _send(self, ours: Ours, *, group: Group, patience: Patience) -> Answer:
        url = self._url(ours.path)
        line = Line(self.connect(), group, patience, self.host.route)
        used = self._authorizer.header(line)
        tried: set[str] = set()
        for _ in range(_SENDS):
            sent = {
                **dict(self.host.headers),
                **ours.headers,
                **({"Authorization": used} if used else {}),
            }
            request = Request(ours.method, url, ours.doing, sent, ours.body, self.host.route)
            answer = line.transport.fetch(request, group=group, patience=patience)
            if answer.status != HTTPStatus.UNAUTHORIZED:
                return answer
            body = answer.read_all(MAX_ERROR_BYTES)
            origin = Origin.of(url)
            if answer.origin != origin:
                # Another host, to which a redirect led: it gets no credentials, whatever it asks.
                raise self.refusal(answer, body)
            refused = Refusal(
                ours.doing,
                shown(url),
                origin,
                answer.from_here,
                answer.header("WWW-Authenticate"),
                self.errors(answer, body),
            )
            used = self._authorizer.respond(refused, used=used, tried=tried, line=line)
        raise self.refusal(answer, body)

    def send_to(
        self,
        url: str,
        method: str,
        doing: str,
        headers: Mapping[str, str],
        *,
        group: Group,
        patience: Patience,
        body: Stream | None = None,
        from_here: bool = False,
    ) -> Answer:
        """
        One request to where this host has sent us, *from_here* if it is on this machine.

        With credentials where it is the host itself. Elsewhere it is as after a redirect: nothing of ours but bytes.

        Raises: as `send`.
        """
        base = self._url("").rpartition("/")[0]
        if Origin.of(url) == Origin.of(base):
            path = url.partition("://")[2]
            path = path[path.index("/") :] if "/" in path else "/"
            return self.send(method, path, doing, headers, group=group, patience=patience, body=body)
        route = self.host.route.onward(not_here=not from_here)
        request = Request(method, url, doing, headers, body, route)
        return self.connect().fetch(request, group=group, patience=patience)

    def _url(self, path: str) -> str:
        base = self.host.base_url
        if self.name in self._plain:
            base = f"http://{base.partition('://')[2]}"
        if path.startswith("/"):
            # The host's own words for a place on it.
            scheme, _, rest = base.partition("://")
            return f"{scheme}://{rest.partition('/')[0]}{path}"
        url = f"{base}/{self._path}/{path}" if self._path else f"{base}/"
        # As containerd does it: a mirror of many registries has to know whose content is meant.
        mark = "&" if "?" in url else "?"
        return f"{url}{mark}{urlencode({'ns': self._domain})}" if self.host.is_mirror else url


def _is_plain(error: RegistryUnavailable, name: str) -> bool:
    # urllib3 is loaded by now: there was a request.
    from ullage.registry.faults import speaks_plain_http, was_refused  # noqa: PLC0415

    has_port = ":" in name.rpartition("]")[2]
    return speaks_plain_http(error) or (was_refused(error) and not has_port)
