"""
What a host asks of us, and what we answer: the Authorization header.

The flow is that of the distribution project's token specification: a request
is answered by 401 and a challenge, the realm in it hands out a short-lived
token, and the request is sent again with that.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ullage.errors import AuthenticationFailed
from ullage.registry.answers import said
from ullage.registry.challenge import Challenge, parse_challenges
from ullage.registry.endpoint import Origin, is_local
from ullage.registry.tokens import Counter, Token, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ullage.registry.answers import Errors
    from ullage.registry.identity import Credentials
    from ullage.registry.patience import Patience
    from ullage.registry.request import Group
    from ullage.registry.route import Route
    from ullage.registry.transport import Transport

__all__ = ["Authorizer", "Line", "Refusal"]

_MAX_PARAMETER_CHARACTERS: Final = 2048


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A 401: to which request, by whom, and what came with it.
    """

    doing: str
    url: str
    origin: Origin
    from_here: bool
    challenges: str
    errors: Errors


@dataclass(frozen=True, slots=True)
class Line:
    """
    With what an authorizer may ask, when it has to.
    """

    transport: Transport
    group: Group
    patience: Patience
    route: Route


class Authorizer:
    """
    The Authorization header for one repo at one host, shared by all its requests.

    Threads that find the token gone stale wait for the one that renews it.

    Args:
        find: our credentials, looked up when they are asked for: a host that
            asks for none costs no file and no helper. It is given something to
            call while it waits.
        path: the repo; '' where it is the registry itself that we want to enter.
        actions: what to do there: ``pull``, or ``pull,push``.
        own_scope: whether the repo is called at the host as it is here. Else
            what to ask a token for is what the host says.
    """

    def __init__(
        self,
        find: Callable[[Callable[[], None]], Credentials],
        *,
        path: str,
        actions: str = "pull",
        own_scope: bool = True,
    ) -> None:
        self._find = find
        self._path = path
        self._actions = actions
        self._own_scope = own_scope
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._basic: str | None = None
        self._route: Route | None = None
        self._finding = threading.Lock()
        self._found: tuple[float, Credentials] | None = None
        #: Whom the host serves here; None for anybody, which is what a token that was sold to anybody says, too.
        self.served: Credentials | None = None
        #: The last ones: tokens come and go for as long as a service runs.
        self._secrets: deque[str] = deque(maxlen=16)

    @property
    def secrets(self) -> tuple[str, ...]:
        """
        What must not appear in any message.
        """
        return tuple(self._secrets)

    def header(self, line: Line) -> str | None:
        """
        What to send with a request now; None before the host has asked for anything.
        """
        with self._lock:
            if self._basic is not None:
                return self._basic
            if self._token is not None and not self._token.fresh:
                line = replace(line, route=self._route or line.route)
                self._token = self._buy(self._token.wanted, self._known(line), line)
            return self._token.header if self._token else None

    def at_once(self, given: Credentials) -> None:
        """
        Send the token in *given* before it is asked for: it was given to us for this host.
        """
        self._hide(given.registry_token)
        self._basic = f"Bearer {given.registry_token}"
        self.served = given

    def respond(self, refused: Refusal, *, used: str | None, tried: set[str], line: Line) -> str:
        """
        The header to try after a 401 to a request that was sent with *used*.

        *tried* are the schemes that were tried for this request just now; what
        is returned adds its own.

        Raises:
            AuthenticationFailed: there is nothing better to offer.
        """
        challenges = parse_challenges(refused.challenges)
        bearer = next(
            (each for each in challenges if each.scheme == "bearer" and each.parameters.get("realm")), None
        )
        known = self._known(line)
        basic = known.basic if known.username and not known.identity_token else None
        if not any(each.scheme == "basic" for each in challenges) or "basic" in tried or used == basic:
            basic = None
        if known.registry_token:
            header = f"Bearer {known.registry_token}"
            if used != header:
                return header
        elif bearer is not None and "bearer" not in tried:
            tried.add("bearer")
            try:
                return self._bearer(bearer, refused, known, used, line)
            except AuthenticationFailed:
                # It offers both, and its token server has no use for us.
                if basic is None:
                    raise
        if basic is not None:
            tried.add("basic")
            with self._lock:
                self._basic = basic
                self.served = known
            return basic
        raise AuthenticationFailed(
            f"{refused.doing}: {_why(known, challenges, used)}{said(refused.errors)}",
            url=refused.url,
            status=HTTPStatus.UNAUTHORIZED.value,
            registry_errors=refused.errors,
        )

    def _bearer(
        self, bearer: Challenge, refused: Refusal, known: Credentials, used: str | None, line: Line
    ) -> str:
        wanted = self._wanted(bearer, refused)
        if Origin.of(wanted.realm) != refused.origin:
            line = replace(line, route=line.route.onward(not_here=not refused.from_here))
        with self._lock:
            self._route = line.route
            # Another thread may have renewed it while this request was on its way.
            if (
                self._token is None
                or self._token.header == used
                or self._token.wanted != wanted
                or not self._token.fresh
            ):
                self._token = self._buy(wanted, known, line)
            self._basic = None
            return self._token.header

    def _buy(self, wanted: Wanted, known: Credentials, line: Line) -> Token:
        """
        Under the lock: threads that need the token wait here rather than ask as well.
        """
        verb = "push to" if "push" in self._actions else "pull"
        purpose = f"{verb} {self._path}" if self._path else "log in"
        counter = Counter(line.transport, line.group, line.patience, line.route, purpose)
        token = counter.buy(wanted, known, refused=_refused(known))
        self._hide(token.header.removeprefix("Bearer "))
        self.served = known or None
        return token

    def _known(self, line: Line) -> Credentials:
        """
        Our credentials as they are now; threads that need them at one time look once, since a helper may ask a person.
        """
        needed_at = time.monotonic()
        with self._finding:
            if self._found is None or self._found[0] < needed_at:
                known = self._find(line.group.check)
                self._hide(*known.secrets)
                self._found = (time.monotonic(), known)
            return self._found[1]

    def _hide(self, *secrets: str) -> None:
        self._secrets.extend(each for each in secrets if each not in self._secrets)

    def _wanted(self, bearer: Challenge, refused: Refusal) -> Wanted:
        """
        Whom to ask for a token, and for what.

        The realm may be at another host: who runs a registry says who sells its
        tokens, and Docker, containerd and podman ask there too. But never over
        HTTP for a registry over TLS, and never on this machine for one that is
        not.

        We ask for the right to do what we are about to do and no more, whatever the challenge says
        of this repo; a scope that speaks of another one is asked for beside
        it, since registries exist that serve a repo under a second name.
        """
        realm = bearer.parameters["realm"][:_MAX_PARAMETER_CHARACTERS]
        try:
            there = Origin.of(realm)
        except ValueError as error:
            raise _bad_realm(refused, str(error)) from error
        if there.scheme == "http" and refused.origin.scheme == "https":
            raise _bad_realm(refused, "it is not asked over TLS, as the registry is")
        if is_local(there.host) and not (refused.from_here or is_local(refused.origin.host)):
            raise _bad_realm(refused, "it is on this machine, and the registry is not")
        others = bearer.parameters.get("scope", "")[:_MAX_PARAMETER_CHARACTERS].split()
        service = bearer.parameters.get("service", "")[:_MAX_PARAMETER_CHARACTERS]
        if not self._path or (others and not self._own_scope):
            return Wanted(realm, service, tuple(others))
        own = f"repository:{self._path}:{self._actions}"
        foreign = (each for each in others if not each.startswith(f"repository:{self._path}:"))
        return Wanted(realm, service, (own, *foreign))


def _bad_realm(refused: Refusal, why: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"{refused.doing}: the registry sends us to a token server that we do not ask: {why}",
        url=refused.url,
        status=HTTPStatus.UNAUTHORIZED.value,
        hint="the registry's owner has to put its realm right",
    )


def _why(known: Credentials, challenges: tuple[Challenge, ...], used: str | None) -> str:
    asked = {each.scheme for each in challenges}
    if known.withheld or (known and used is not None):
        return _refused(known)
    if known.identity_token or known.registry_token:
        return "the registry asks for a user name and a password, not for a token"
    if not asked:
        return "the registry answered 401 without saying what it asks for"
    if not asked & {"basic", "bearer"}:
        return f"the registry asks for {', '.join(sorted(asked))[:100]}, which we do not speak"
    return _refused(known)


def _refused(known: Credentials) -> str:
    """
    What a 401 means, given what we have to offer.
    """
    if known.withheld:
        return "the registry asks for credentials, and those given are for another host"
    if not known:
        return "the registry asks for credentials"
    return f"the registry refused the credentials{f' from {known.source}' if known.source else ''}"
