"""
Who we are to one registry.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ullage.errors import AuthenticationFailed
from ullage.registry.endpoint import same_registry

if TYPE_CHECKING:
    from ullage.model import AuthConfig

__all__ = ["SENDABLE", "Credentials", "credentials_for", "decode_basic"]

# What may stand in a header. Anything else would be refused by http.client in a message that quotes it.
SENDABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    What one registry may see. ``withheld`` says that there was something, for another.

    ``source`` is where they are from, for people: '' for those that came with
    the pull. A ``username`` beside an ``identity_token`` is whose it is.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    withheld: bool = False
    source: str = field(default="", compare=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.identity_token or self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    @property
    def secrets(self) -> tuple[str, ...]:
        basic = self.basic.removeprefix("Basic ") if self.username else ""
        return tuple(filter(None, (self.password, self.identity_token, self.registry_token, basic)))


def credentials_for(auth: AuthConfig | None, domain: str, *, unless_named: bool = True) -> Credentials:
    """
    What of *auth* the registry of *domain* may see.

    A registry token goes before an identity token, that before a user name and
    password, and those before ``auth``: so Docker and containers/image read it.
    Where *auth* does not name a host it is meant for the registry of the image;
    a mirror is not that (*unless_named* is False then).

    Raises:
        AuthenticationFailed: *auth* is not what it claims to be.
    """
    if auth is None:
        return Credentials()
    if not auth.server_address and not unless_named:
        return Credentials(withheld=bool(_chosen(auth)))
    if auth.server_address and not same_registry(auth.server_address, domain):
        return Credentials(withheld=True)
    return _chosen(auth)


def _chosen(auth: AuthConfig) -> Credentials:
    if auth.registry_token:
        if not SENDABLE.fullmatch(auth.registry_token):
            raise AuthenticationFailed("registry_token is no bearer token: it has characters that none has")
        return Credentials(registry_token=auth.registry_token)
    if auth.identity_token:
        return Credentials(username=auth.username, identity_token=auth.identity_token)
    if auth.username:
        return Credentials(username=auth.username, password=auth.password)
    if auth.auth:
        username, password = decode_basic(auth.auth)
        return Credentials(username=username, password=password)
    if auth.password:
        raise AuthenticationFailed("there is a password, and no user name to it")
    return Credentials()


def decode_basic(text: str) -> tuple[str, str]:
    """
    User name and password from their base64 form.

    Raises:
        AuthenticationFailed: *text* is none.
    """
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
