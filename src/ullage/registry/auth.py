"""
Who we are to a registry: which credentials, and the token that they buy.

The flow is that of the distribution project's token specification: a request
is answered by 401 and a challenge, the realm in it hands out a short-lived
token, and the request is sent again with that.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

from ullage.errors import AuthenticationFailed
from ullage.registry.answers import MAX_ERROR_BYTES, TRANSIENT, document, refusal, registry_errors, said
from ullage.registry.challenge import Challenge, parse_challenges
from ullage.registry.endpoint import Origin, is_local, same_registry, shown
from ullage.registry.request import Request

if TYPE_CHECKING:
    from ullage.model import AuthConfig
    from ullage.registry.answers import Errors
    from ullage.registry.request import Group
    from ullage.registry.transport import Transport

__all__ = ["Authorizer", "Credentials", "Refusal", "credentials_for"]

_CLIENT_ID: Final = "ullage"
_MAX_TOKEN_BYTES: Final = 256 * 1024
#: The token specification's default where the answer does not say.
_TOKEN_SECONDS: Final = 60.0
_MAX_TOKEN_SECONDS: Final = 24 * 3600.0
#: A token is renewed this long before its end, so that it does not end on the way.
_LEEWAY_SECONDS: Final = 5.0
_MAX_PARAMETER_CHARACTERS: Final = 2048

# What may stand in a header. Anything else would be refused by http.client in a message that quotes it.
_SENDABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    What of an AuthConfig goes to one registry. ``withheld`` says that there was something, for another.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    withheld: bool = False

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    @property
    def secrets(self) -> tuple[str, ...]:
        basic = self.basic.removeprefix("Basic ") if self.username else ""
        return tuple(filter(None, (self.password, self.identity_token, self.registry_token, basic)))


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A 401: to which request, and what came with it.
    """

    doing: str
    url: str
    challenges: str
    errors: Errors


@dataclass(frozen=True, slots=True)
class _Token:
    key: tuple[str, str, tuple[str, ...]]
    header: str = field(repr=False)
    expires: float

    @property
    def fresh(self) -> bool:
        return time.monotonic() < self.expires


def credentials_for(auth: AuthConfig | None, domain: str) -> Credentials:
    """
    What of *auth* the registry of *domain* may see.

    A registry token goes before an identity token, that before a user name and
    password, and those before ``auth``: so Docker and containers/image read it.

    Raises:
        AuthenticationFailed: *auth* is not what it claims to be.
    """
    if auth is None:
        return Credentials()
    if auth.server_address and not same_registry(auth.server_address, domain):
        return Credentials(withheld=True)
    return _credentials(auth)


def _credentials(auth: AuthConfig) -> Credentials:
    if auth.registry_token:
        if not _SENDABLE.fullmatch(auth.registry_token):
            raise AuthenticationFailed("registry_token is no bearer token: it has characters that none has")
        return Credentials(registry_token=auth.registry_token)
    if auth.identity_token:
        return Credentials(identity_token=auth.identity_token)
    if auth.username:
        return Credentials(username=auth.username, password=auth.password)
    if auth.auth:
        username, password = _decode(auth.auth)
        return Credentials(username=username, password=password)
    if auth.password:
        raise AuthenticationFailed("there is a password, and no user name to it")
    return Credentials()


def _decode(text: str) -> tuple[str, str]:
    try:
        decoded = base64.b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        # `from None`: the library's error may quote what it could not decode.
        raise AuthenticationFailed("auth is not the base64 form of username:password") from None
    username, colon, password = decoded.partition(":")
    if not colon or not username:
        raise AuthenticationFailed("auth is not the base64 form of username:password")
    # Docker's own tools have written trailing NULs; containerd strips them too.
    return username, password.strip("\0")


class Authorizer:
    """
    The Authorization header for one repo of one registry, shared by all its requests.

    Threads that find the token gone stale wait for the one that renews it.
    """

    def __init__(self, credentials: Credentials, *, origin: Origin, path: str) -> None:
        self._credentials = credentials
        self._origin = origin
        self._path = path
        self._lock = threading.Lock()
        self._token: _Token | None = None
        self._basic_asked = False

    @property
    def secrets(self) -> tuple[str, ...]:
        """
        What must not appear in any message.
        """
        token = self._token
        return (*self._credentials.secrets, *((token.header.removeprefix("Bearer "),) if token else ()))

    def header(self, transport: Transport, group: Group) -> str | None:
        """
        What to send with a request now; None before the registry has asked for anything.
        """
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        with self._lock:
            if self._basic_asked:
                return self._credentials.basic
            if self._token is not None and not self._token.fresh:
                self._token = self._fetch(self._token.key, transport, group)
            return self._token.header if self._token else None

    def respond(
        self, refused: Refusal, *, used: str | None, again: bool, transport: Transport, group: Group
    ) -> str:
        """
        The header to try after a 401 to a request that was sent with *used*.

        *again* says that *used* had itself been made in answer to a 401 just now.

        Raises:
            AuthenticationFailed: there is nothing better to offer.
        """
        challenges = parse_challenges(refused.challenges)
        bearer = next(
            (each for each in challenges if each.scheme == "bearer" and each.parameters.get("realm")), None
        )
        basic = any(each.scheme == "basic" for each in challenges)
        known = self._credentials
        if not again and bearer is not None and not known.registry_token:
            key = self._key(bearer, refused)
            with self._lock:
                # Another thread may have renewed it while this request was on its way.
                if (
                    self._token is None
                    or self._token.header == used
                    or self._token.key != key
                    or not self._token.fresh
                ):
                    self._token = self._fetch(key, transport, group)
                return self._token.header
        if not again and basic and known.username and used != known.basic:
            with self._lock:
                self._basic_asked = True
            return known.basic
        raise AuthenticationFailed(
            f"{refused.doing}: {self._why(challenges, used)}{said(refused.errors)}",
            url=refused.url,
            status=HTTPStatus.UNAUTHORIZED.value,
            registry_errors=refused.errors,
        )

    def _why(self, challenges: tuple[Challenge, ...], used: str | None) -> str:
        known = self._credentials
        asked = {each.scheme for each in challenges}
        if known.withheld or (known != Credentials() and used is not None):
            return self._refused
        if known.identity_token or known.registry_token:
            return "the registry asks for a user name and a password, not for a token"
        if not asked:
            return "the registry answered 401 without saying what it asks for"
        if not asked & {"basic", "bearer"}:
            return f"the registry asks for {', '.join(sorted(asked))[:100]}, which we do not speak"
        return self._refused

    @property
    def _refused(self) -> str:
        """
        What a 401 means, given what we have to offer.
        """
        if self._credentials.withheld:
            return "the registry asks for credentials, and those given are for another host"
        if self._credentials == Credentials():
            return "the registry asks for credentials"
        return "the registry refused the credentials"

    def _key(self, bearer: Challenge, refused: Refusal) -> tuple[str, str, tuple[str, ...]]:
        """
        Whom to ask for a token, and for what.

        We ask for the right to pull and no more, whatever the challenge says
        of this repo; a scope that speaks of another one is asked for beside
        it, since registries exist that serve a repo under a second name.
        """
        realm = bearer.parameters["realm"][:_MAX_PARAMETER_CHARACTERS]
        try:
            there = Origin.of(realm)
        except ValueError as error:
            raise self._bad_realm(refused, str(error)) from error
        if there.scheme == "http" and self._origin.scheme == "https":
            raise self._bad_realm(refused, "it is not asked over TLS, as the registry is")
        if is_local(there.host) and not is_local(self._origin.host):
            raise self._bad_realm(refused, "it is on this machine, and the registry is not")
        own = f"repository:{self._path}:pull"
        others = bearer.parameters.get("scope", "")[:_MAX_PARAMETER_CHARACTERS].split()
        foreign = (each for each in others if not each.startswith(f"repository:{self._path}:"))
        service = bearer.parameters.get("service", "")[:_MAX_PARAMETER_CHARACTERS]
        return realm, service, (own, *foreign)

    def _bad_realm(self, refused: Refusal, why: str) -> AuthenticationFailed:
        return AuthenticationFailed(
            f"{refused.doing}: the registry sends us to a token server that we do not ask: {why}",
            url=refused.url,
            status=HTTPStatus.UNAUTHORIZED.value,
            hint="the registry's owner has to put its realm right",
        )

    def _fetch(self, key: tuple[str, str, tuple[str, ...]], transport: Transport, group: Group) -> _Token:
        """
        A token from the realm. Under the lock: threads that need it wait here rather than ask as well.
        """
        realm, _, _ = key
        request = self._token_request(key)
        answer = transport.fetch(request, group=group)
        asked_at = time.monotonic()
        body = answer.read_all(_MAX_TOKEN_BYTES if answer.status == HTTPStatus.OK else MAX_ERROR_BYTES)
        where = shown(realm)
        if answer.status != HTTPStatus.OK:
            errors = registry_errors(body, secrets=self.secrets)
            if answer.status in TRANSIENT or answer.status == HTTPStatus.FORBIDDEN:
                raise refusal(answer.status, doing=request.doing, url=where, errors=errors)
            why = f"the token server answered {answer.status}"
            if answer.status == HTTPStatus.UNAUTHORIZED:
                why = self._refused
            raise AuthenticationFailed(
                f"{request.doing}: {why}{said(errors)}",
                url=where,
                status=answer.status,
                registry_errors=errors,
            )
        content = document(body)
        token = content.get("token") or content.get("access_token")
        if not isinstance(token, str) or not _SENDABLE.fullmatch(token):
            raise AuthenticationFailed(
                f"{request.doing}: the token server's answer holds no token", url=where, status=answer.status
            )
        return _Token(key, f"Bearer {token}", asked_at + _lifetime_seconds(content))

    def _token_request(self, key: tuple[str, str, tuple[str, ...]]) -> Request:
        realm, service, scopes = key
        known = self._credentials
        doing = f"asking {urlsplit(realm).hostname} for a token to pull {self._path}"
        if known.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": known.identity_token,
                "service": service,
                "scope": " ".join(scopes),
                "client_id": _CLIENT_ID,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return Request("POST", realm, doing, headers, urlencode(form).encode("ascii"))
        query: list[tuple[str, str]] = [("scope", each) for each in scopes]
        if service:
            query.insert(0, ("service", service))
        if known.username:
            query.append(("account", known.username))
        url = realm.partition("#")[0]
        url += ("&" if "?" in url else "?") + urlencode(query)
        return Request("GET", url, doing, {"Authorization": known.basic} if known.username else {})


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
