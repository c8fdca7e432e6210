"""
Credentials that nobody brought along: found where docker and podman keep them.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ullage.errors import InvalidConfiguration
from ullage.registry.authfile import HUB_KEY, AuthFile, names_for, usual_files
from ullage.registry.endpoint import registry_name
from ullage.registry.helpers import Helper, HelperMissing
from ullage.registry.identity import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["CredentialFiles"]

_log = logging.getLogger(__name__)

_HELPER_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """
    The files to look into, each time anew.

    Args:
        paths: these files, in this order; None for the usual ones, as the environment says at that time.
        helper_timeout_seconds: how long a helper may take.
    """

    paths: tuple[Path, ...] | None = None
    helper_timeout_seconds: float = _HELPER_SECONDS

    def find(self, domain: str, path: str = "", *, check: Callable[[], None] | None = None) -> Credentials:
        """
        The credentials for a repo: of the first file that has any, those with the longest name.

        In a file, at each name, a helper of its own goes before what stands in
        the file; at the host's name ``credsStore`` goes between the two.

        Raises:
            InvalidConfiguration: a file on the way is not one of these.
            AuthenticationFailed: the helper that has the credentials does not give them.
        """
        for path_of_file in self.paths if self.paths is not None else usual_files(os.environ):
            try:
                file = AuthFile.read(path_of_file)
            except InvalidConfiguration as error:
                if self.paths is not None or not isinstance(error.__cause__, PermissionError):
                    raise
                # Another user's home, under sudo: no reason to refuse an image that anybody may pull.
                _log.warning("credentials are not looked for there: %s", error)
                continue
            found = self._find(file, domain, path, check)
            if found is not None:
                return found
        return Credentials()

    def _find(
        self, file: AuthFile, domain: str, path: str, check: Callable[[], None] | None
    ) -> Credentials | None:
        for name in names_for(domain, path):
            if (named := file.helper(name)) is not None:
                helper, key = named
                if (found := self._ask(helper, file, (key, server_name(name)), check)) is not None:
                    return found
            if name == registry_name(domain) and file.store and named is None:
                try:
                    found = self._ask(file.store, file, (server_name(name),), check)
                except HelperMissing:
                    # Left behind by a program that is gone. That matters only to who has logged in with it:
                    # then the file has an entry with nothing in it.
                    if file.key(name) is not None and file.credentials(name) is None:
                        raise
                    found = None
                if found is not None:
                    return found
            if (found := file.credentials(name)) is not None:
                return found
        return None

    def _ask(
        self, name: str, file: AuthFile, servers: tuple[str, ...], check: Callable[[], None] | None
    ) -> Credentials | None:
        helper = Helper(name, source=str(file.path), timeout_seconds=self.helper_timeout_seconds, check=check)
        for server in dict.fromkeys(servers):
            if (found := helper.get(server)) is not None:
                return found
        return None


def server_name(name: str) -> str:
    """
    What helpers call a host: its name, but for Docker Hub.
    """
    return HUB_KEY if name == "docker.io" else name
