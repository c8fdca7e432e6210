"""
Whose credentials an image was fetched with, so that it can be told who may use it. No credential is kept.

What is recorded is a hash of the credentials and of the registry that they were good for, made with a key that lies
beside the database and not in it: whoever has the database alone can neither guess a password nor see that two are one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Final

from ullage.keyfile import read_key, read_or_make_key
from ullage.registry import credentials_for, registry_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ullage.model import AuthConfig
    from ullage.registry import Credentials

__all__ = ["EVERYBODY", "AccessKey"]

#: What is recorded where no credentials were asked for: whoever asked would have been served.
EVERYBODY: Final = ""


class AccessKey:
    """
    The key of one store, read when it is needed and made when there is none.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / "access.key"

    def record_of(self, domain: str, used: Credentials | None) -> str:
        """
        What to record of a pull from the registry of *domain* that was served to *used*.

        Raises:
            InvalidConfiguration: the key cannot be had.
        """
        return _hash(read_or_make_key(self._path), domain, used) if used else EVERYBODY

    def fits(self, records: Iterable[tuple[str, str]], auth: AuthConfig | None) -> bool:
        """
        Whether one of *records*, each of a repo and what was recorded, is of *auth*, or of everybody.

        Raises:
            AuthenticationFailed: *auth* is not what it claims to be.
            InvalidConfiguration: the key cannot be read.
        """
        listed = list(records)
        if any(record == EVERYBODY for _, record in listed):
            return True
        key = read_key(self._path) if auth is not None else None
        if key is None:
            return False
        for repo, record in listed:
            domain = repo.partition("/")[0]
            offered = credentials_for(auth, domain)
            if offered and hmac.compare_digest(record, _hash(key, domain, offered)):
                return True
        return False


def _hash(key: bytes, domain: str, credentials: Credentials) -> str:
    said = [
        registry_name(domain),
        credentials.username,
        credentials.password,
        credentials.identity_token,
        credentials.registry_token,
    ]
    return hmac.new(key, json.dumps(said).encode(), hashlib.sha256).hexdigest()
