"""
Tokens: what is asked of a token server, and what its answer says.

The distribution project's token specification has a GET with Basic credentials,
and an OAuth2 POST; not every server knows both. The GET is the older and the
wider known; a refresh token can only be traded in by POST.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from ullage.errors import AuthenticationFailed
from ullage.registry.answers import (
    MAX_ERROR_BYTES,
    TRANSIENT,
    document,
    refusal,
    registry_errors,
    retry_after_seconds,
    said,
)
from ullage.registry.endpoint import shown
from ullage.registry.identity import SENDABLE
from ullage.registry.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.registry.identity import Credentials
    from ullage.registry.patience import Patience
    from ullage.registry.request import Group
    from ullage.registry.route import Route
    from ullage.registry.transport import Answer, Transport

__all__ = ["Counter", "Token", "Wanted"]

_CLIENT_ID: Final = "ullage"
_MAX_TOKEN_BYTES: Final = 256 * 1024
#: The token specification's default where the answer does not say.
_TOKEN_SECONDS: Final = 60.0
_MAX_TOKEN_SECONDS: Final = 24 * 3600.0
#: A token is renewed this long before its end, so that it does not end on the way.
_LEEWAY_SECONDS: Final = 5.0
#: The server knows this form of the request not at all: the other one may be known.
_NO_SUCH_FORM: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})


class Wanted(NamedTuple):
    """
    A token server, for which service, and the scopes to ask for.
    """

    realm: str
    service: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """
    What was bought, and until when (of `time.monotonic`) to use it.
    """

    wanted: Wanted
    header: str = field(repr=False)
    expires: float

    @property
    def fresh(self) -> bool:
        return time.monotonic() < self.expires


@dataclass(frozen=True, slots=True)
class Counter:
    """
    Where tokens are bought: with what to send, to whom we belong, and how patiently.
    """

    transport: Transport
    group: Group
    patience: Patience
    route: Route
    purpose: str

    def buy(self, wanted: Wanted, known: Credentials, *, refused: str) -> Token:
        """
        A token from the realm.

        Args:
            refused: what a 401 means, given what we have to offer.

        Raises:
            AuthenticationFailed: it gives us none.
            RegistryUnavailable: no answer.
        """
        asked_at = time.monotonic()
        requests = tuple(self._requests(wanted, known))
        for request in requests:
            answer = self.transport.fetch(request, group=self.group, patience=self.patience)
            if answer.status not in _NO_SUCH_FORM or request is requests[-1]:
                break
            answer.finish()
        body = answer.read_all(_MAX_TOKEN_BYTES if answer.status == HTTPStatus.OK else MAX_ERROR_BYTES)
        where = shown(wanted.realm)
        if answer.status != HTTPStatus.OK:
            raise _refusal(answer, body, where=where, known=known, refused=refused)
        content = document(body)
        token = content.get("token") or content.get("access_token")
        if not isinstance(token, str) or not SENDABLE.fullmatch(token):
            raise AuthenticationFailed(
                f"{answer.request.doing}: the token server's answer holds no token",
                url=where,
                status=answer.status,
            )
        return Token(wanted, f"Bearer {token}", asked_at + _lifetime_seconds(content))

    def _requests(self, wanted: Wanted, known: Credentials) -> Iterator[Request]:
        """
        The form to try first, and perhaps another.
        """
        if known.identity_token:
            yield self._post(wanted, {"grant_type": "refresh_token", "refresh_token": known.identity_token})
            yield self._get(wanted, known)
            return
        yield self._get(wanted, known)
        if known.username:
            yield self._post(
                wanted,
                {"grant_type": "password", "username": known.username, "password": known.password},
            )

    def _get(self, wanted: Wanted, known: Credentials) -> Request:
        query: list[tuple[str, str]] = [("scope", each) for each in wanted.scopes]
        if wanted.service:
            query.insert(0, ("service", wanted.service))
        if known.username:
            query.append(("account", known.username))
        url = wanted.realm.partition("#")[0]
        if query:
            url += ("&" if "?" in url else "?") + urlencode(query)
        headers = {"Authorization": known.basic} if known.username or known.identity_token else {}
        return Request("GET", url, self._doing(wanted), headers, route=self.route)

    def _post(self, wanted: Wanted, grant: dict[str, str]) -> Request:
        form = {**grant, "service": wanted.service, "scope": " ".join(wanted.scopes), "client_id": _CLIENT_ID}
        return Request(
            "POST",
            wanted.realm.partition("#")[0],
            self._doing(wanted),
            {"Content-Type": "application/x-www-form-urlencoded"},
            urlencode(form).encode("ascii"),
            self.route,
        )

    def _doing(self, wanted: Wanted) -> str:
        return f"asking {urlsplit(wanted.realm).hostname} for a token to {self.purpose}"


def _refusal(
    answer: Answer, body: bytes | None, *, where: str, known: Credentials, refused: str
) -> Exception:
    errors = registry_errors(body, secrets=known.secrets)
    if answer.status in TRANSIENT or answer.status == HTTPStatus.FORBIDDEN:
        return refusal(
            answer.status,
            doing=answer.request.doing,
            url=where,
            errors=errors,
            retry_after_seconds=retry_after_seconds(answer.header("Retry-After")),
        )
    why = f"the token server answered {answer.status}"
    if answer.status == HTTPStatus.UNAUTHORIZED:
        why = refused
    return AuthenticationFailed(
        f"{answer.request.doing}: {why}{said(errors)}",
        url=where,
        status=answer.status,
        registry_errors=errors,
    )


def _lifetime_seconds(content: dict[str, Any]) -> float:
    """
    How long to use a token. What the server calls ``issued_at`` is by its clock, which need not be ours.
    """
    stated = content.get("expires_in")
    seconds = _TOKEN_SECONDS
    if isinstance(stated, int | float) and not isinstance(stated, bool) and stated > 0:
        # The smaller of the two first: an integer of 400 digits is no float.
        seconds = float(min(_MAX_TOKEN_SECONDS, stated))
    return seconds - min(_LEEWAY_SECONDS, seconds / 4)
