"""
The client of every registry of the OCI distribution specification 1.1.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ullage.errors import InvalidReference, PullCancelled
from ullage.registry.answers import MAX_ERROR_BYTES
from ullage.registry.auth import Authorizer
from ullage.registry.credentials import CredentialFiles
from ullage.registry.endpoint import Origin, base_url
from ullage.registry.hosts import Defaults, Host, hosts_of
from ullage.registry.identity import Credentials, credentials_for
from ullage.registry.patience import Patience
from ullage.registry.peer import Peer
from ullage.registry.repo import RegistryRepo
from ullage.registry.request import Group
from ullage.registry.route import TLS
from ullage.registry.target import RegistryTarget

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from ullage.model import AuthConfig
    from ullage.reference import Reference
    from ullage.registry.transport import Transport

__all__ = ["RegistryClient"]

_USER_AGENT: Final = "ullage"
#: Repos whose tokens are remembered between pulls.
_MAX_AUTHORIZERS: Final = 64
_USUAL_FILES: Final = CredentialFiles()


class RegistryClient:
    """
    The connections and tokens of one store. Thread-safe.

    Args:
        plain_http: speak HTTP to registries, as they do in laboratories. Without it only a registry on this
            machine (localhost, 127.0.0.0/8, ::1) may answer so, where it does not speak TLS.
        hosts_dir: a directory of containerd's ``hosts.toml`` files, read at each pull.
        credentials: where to look for them when a pull brings none and a registry asks; by default where
            podman and docker keep theirs. None or False: nowhere.
        tls_ca: a file of authorities to trust beside the machine's own.
        insecure_skip_verify: believe every certificate.
        connect_timeout_seconds: for a connection, and for its TLS handshake.
        read_timeout_seconds: how long a registry may be silent, and over how much waiting its pace is measured.
        min_bytes_per_second: what is slower than this does not serve.
        attempts: how often to ask, at most, where asking again may help.
        retry_seconds: no attempt begins later than this after the first one. It is also the longest
            Retry-After that is obeyed.
        backoff_seconds: between the first two attempts; it doubles.
        user_agent: who we say we are.
    """

    def __init__(  # noqa: PLR0913  each is a setting of its own, by name, with a default
        self,
        *,
        plain_http: bool = False,
        hosts_dir: str | os.PathLike[str] | None = None,
        credentials: CredentialFiles | Literal[False] | None = _USUAL_FILES,
        tls_ca: str | os.PathLike[str] | None = None,
        insecure_skip_verify: bool = False,
        connect_timeout_seconds: float = 10.0,
        read_timeout_seconds: float = 30.0,
        min_bytes_per_second: float = 1024.0,
        attempts: int = 5,
        retry_seconds: float = 60.0,
        backoff_seconds: float = 0.25,
        user_agent: str | None = None,
    ) -> None:
        self._hosts_dir = None if hosts_dir is None else Path(hosts_dir)
        self._defaults = Defaults(
            plain_http, TLS(() if tls_ca is None else (str(tls_ca),), skip_verify=insecure_skip_verify)
        )
        self._credentials = credentials or None
        self._connect_timeout_seconds = connect_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._min_bytes_per_second = min_bytes_per_second
        self._patience = Patience(attempts, retry_seconds, backoff_seconds)
        self._user_agent = user_agent or _USER_AGENT
        self._lock = threading.Lock()
        self._closed = False
        self._transport: Transport | None = None
        self._authorizers: OrderedDict[tuple[Host, str, str, AuthConfig | None, str], Authorizer] = (
            OrderedDict()
        )
        self._plain: set[str] = set()

    def repo(self, reference: Reference, *, auth: AuthConfig | None = None) -> RegistryRepo:
        """
        The repo that *reference* names, to be asked as *auth*. Sends nothing yet.

        Raises:
            AuthenticationFailed: *auth* is malformed.
            InvalidConfiguration: there is a hosts.toml for it that we cannot obey.
            InvalidReference: its domain is no address, such as one with port 99999.
        """
        hosts = self._hosts(reference.domain, reference.name)
        return RegistryRepo(
            tuple(self._peer(host, reference.domain, reference.path, auth) for host in hosts),
            name=f"{reference.domain}/{reference.path}",
            patience=self._patience,
        )

    def target(self, reference: Reference, *, auth: AuthConfig | None = None) -> RegistryTarget:
        """
        The repo that *reference* names, to be written to as *auth*. Sends nothing yet.

        It is the registry itself, whatever mirrors there are.

        Raises: as `repo`.
        """
        host = self._hosts(reference.domain, reference.name)[-1]
        return RegistryTarget(
            self._peer(host, reference.domain, reference.path, auth, actions="pull,push"),
            path=reference.path,
            name=f"{reference.domain}/{reference.path}",
            patience=self._patience,
        )

    def verify(self, domain: str, auth: AuthConfig) -> bool:
        """
        Whether the registry of *domain* lets *auth* in, asked of the registry itself.

        Returns:
            False where it lets anybody in, and so has not looked.

        Raises:
            AuthenticationFailed: it does not.
            RegistryUnavailable: no answer.
        """
        host = self._hosts(domain, domain)[-1]
        peer = self._peer(host, domain, "", auth)
        doing = f"logging in to {domain}"
        answer = peer.send("GET", "", doing, {}, group=Group(), patience=self._patience)
        if answer.status != HTTPStatus.OK:
            raise peer.refusal(answer, answer.read_all(MAX_ERROR_BYTES))
        answer.finish()
        return "Authorization" in answer.request.headers

    def close(self) -> None:
        """
        Close what connections are idle; those in use follow when their streams end.
        """
        with self._lock:
            self._closed = True
            transport = self._transport
        if transport is not None:
            transport.close()

    def _hosts(self, domain: str, name: str) -> tuple[Host, ...]:
        try:
            Origin.of(base_url(domain, plain_http=False))
        except ValueError as error:
            # The grammar of references takes any digits for a port.
            raise InvalidReference(f"no registry can be at {domain}", reference=name) from error
        return hosts_of(domain, self._hosts_dir, self._defaults)

    def _peer(
        self, host: Host, domain: str, path: str, auth: AuthConfig | None, *, actions: str = "pull"
    ) -> Peer:
        key = (host, domain, path, auth, actions)
        with self._lock:
            authorizer = self._authorizers.get(key)
            if authorizer is None:
                authorizer = self._authorizers[key] = self._authorizer(host, domain, path, auth, actions)
            self._authorizers.move_to_end(key)
            if len(self._authorizers) > _MAX_AUTHORIZERS:
                self._authorizers.popitem(last=False)
        return Peer(host, authorizer, self._connect, domain=domain, path=path, plain=self._plain)

    def _authorizer(
        self, host: Host, domain: str, path: str, auth: AuthConfig | None, actions: str
    ) -> Authorizer:
        # Credentials without a host's name are for the registry of the image: no mirror gets to see them.
        name = host.name if host.is_mirror else domain
        given = credentials_for(auth, name, unless_named=not host.is_mirror)
        files = self._credentials

        def find(check: Callable[[], None]) -> Credentials:
            # What was brought along for one host says nothing of its mirrors.
            if given or files is None or (given.withheld and not host.is_mirror):
                return given
            return files.find(name, path, check=check) or given

        authorizer = Authorizer(find, path=path, actions=actions, own_scope=host.own_scope)
        if given.registry_token:
            authorizer.at_once(given)
        return authorizer

    def _connect(self) -> Transport:
        # urllib3 takes 60 ms to load: a store that pulls nothing does without.
        from ullage.registry.transport import Transport  # noqa: PLC0415

        with self._lock:
            if self._closed:
                raise PullCancelled("the registry client was closed")
            if self._transport is None:
                self._transport = Transport(
                    connect_timeout_seconds=self._connect_timeout_seconds,
                    read_timeout_seconds=self._read_timeout_seconds,
                    min_bytes_per_second=self._min_bytes_per_second,
                    user_agent=self._user_agent,
                )
            return self._transport

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
