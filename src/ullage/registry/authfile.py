"""
Files of credentials, as docker and podman keep them: where they are, and what is in them for whom.

    {"auths": {"quay.io/org": {"auth": "<base64 of user:password>"}},
     "credHelpers": {"gcr.io": "gcloud"}, "credsStore": "desktop"}

A key is a host, or a host and the beginning of a repo's path (podman's way);
docker has also written URLs, of which the host counts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ullage.errors import AuthenticationFailed, InvalidConfiguration
from ullage.model import AuthConfig
from ullage.registry.endpoint import registry_name
from ullage.registry.identity import Credentials, credentials_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["AuthFile", "HUB_KEY", "lasting_file", "names_for", "normal_key", "usual_files"]

#: What docker calls Docker Hub, to its helpers and in its file.
HUB_KEY: Final = "https://index.docker.io/v1/"
_LEGACY: Final = ".dockercfg"
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024


def usual_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """
    Where to look, in that order: containers-auth.json(5) has it, for podman, skopeo and buildah.

    A file that REGISTRY_AUTH_FILE names is the only one.
    """
    if named := environment.get("REGISTRY_AUTH_FILE"):
        return (Path(named),)
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    home = _home(environment)
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")  # noqa: PTH118
    return (
        Path(runtime, "containers/auth.json")
        if environment.get("XDG_RUNTIME_DIR")
        else Path(runtime, "auth.json"),
        Path(config, "containers/auth.json"),
        _docker_file(environment),
        Path(home, _LEGACY),
    )


def lasting_file(environment: Mapping[str, str]) -> Path:
    """
    Where a login goes that nobody has a place for yet: where docker has it, and podman and skopeo find it.

    Podman's own first file does not outlive a reboot.
    """
    named = environment.get("REGISTRY_AUTH_FILE")
    return Path(named) if named else _docker_file(environment)


def _docker_file(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("DOCKER_CONFIG") or Path(_home(environment), ".docker"), "config.json")


def _home(environment: Mapping[str, str]) -> str:
    return environment.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  answers "~" where Path raises


def names_for(domain: str, path: str) -> Iterator[str]:
    """
    The keys under which credentials for a repo may stand, the longest first.

    >>> list(names_for("quay.io", "org/app"))
    ['quay.io/org/app', 'quay.io/org', 'quay.io']
    """
    host = registry_name(domain)
    parts = path.split("/") if path else []
    for count in range(len(parts), -1, -1):
        yield "/".join((host, *parts[:count]))


def normal_key(key: str) -> str:
    """
    A key as `names_for` spells it: ``https://quay.io/v2/`` is ``quay.io``.
    """
    if "://" in key:
        return registry_name(key)
    host, slash, path = key.strip().rstrip("/").partition("/")
    return f"{registry_name(host)}{slash}{path}"


@dataclass(frozen=True, slots=True)
class AuthFile:
    """
    One file, read. A file that is not there is one with nothing in it.
    """

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> AuthFile:
        """
        Raises:
            InvalidConfiguration: it cannot be read, or is no such file.
        """
        try:
            with path.open("rb") as opened:
                raw = opened.read(_MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, {})
        except OSError as error:
            raise InvalidConfiguration(f"cannot read {path}: {error.strerror}", path=str(path)) from error
        if len(raw) > _MAX_FILE_BYTES:
            raise InvalidConfiguration(f"{path}: longer than {_MAX_FILE_BYTES} bytes", path=str(path))
        try:
            # An empty file is what `touch` leaves.
            content = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError) as error:
            line = getattr(error, "lineno", None)
            where = f"{path}:{line}" if line else str(path)
            # `from None`: the library's error carries the whole document.
            raise InvalidConfiguration(f"{where}: not JSON", path=str(path), line=line) from None
        if not isinstance(content, dict):
            raise InvalidConfiguration(f"{path}: not a JSON object", path=str(path))
        if path.name == _LEGACY:
            content = {"auths": content}
        for name in ("auths", "credHelpers"):
            if not isinstance(content.get(name) or {}, dict):
                raise InvalidConfiguration(f"{path}: {name} is not a JSON object", path=str(path))
        return cls(path, content)

    @property
    def store(self) -> str:
        """
        The helper that keeps what no other helper keeps; '' for none.
        """
        store = self.content.get("credsStore") or ""
        if not isinstance(store, str):
            raise InvalidConfiguration(f"{self.path}: credsStore is not a string", path=str(self.path))
        return store

    def helper(self, name: str) -> tuple[str, str] | None:
        """
        The helper that is responsible for *name*, and its key there.
        """
        found = self._find("credHelpers", name)
        if found is None:
            return None
        key, helper = found
        if not isinstance(helper, str) or not helper:
            raise InvalidConfiguration(
                f"{self.path}: the helper of {key} is not a string", path=str(self.path)
            )
        return helper, key

    def key(self, name: str) -> str | None:
        """
        How *name* is spelled in the file; None where it is not in it.
        """
        found = self._find("auths", name)
        return None if found is None else found[0]

    def credentials(self, name: str) -> Credentials | None:
        """
        What stands in the file itself for *name*; None for nothing, or nothing but its name.
        """
        found = self._find("auths", name)
        if found is None:
            return None
        key, entry = found
        if not isinstance(entry, dict):
            raise InvalidConfiguration(f"{self.path}: {key} is not a JSON object", path=str(self.path))
        fields = {
            ours: value
            for ours, theirs in (
                ("username", "username"),
                ("password", "password"),
                ("auth", "auth"),
                ("identity_token", "identitytoken"),
                ("registry_token", "registrytoken"),
            )
            if isinstance(value := entry.get(theirs), str)
        }
        try:
            known = credentials_for(AuthConfig(**fields), name)
        except AuthenticationFailed as error:
            raise InvalidConfiguration(
                f"{self.path}: {key}: {error.message}",
                path=str(self.path),
                hint="log in again, or take the entry out",
            ) from None
        if not known:
            return None
        return Credentials(
            known.username,
            known.password,
            known.identity_token,
            known.registry_token,
            source=str(self.path),
        )

    def _find(self, table: str, name: str) -> tuple[str, Any] | None:
        entries = self.content.get(table) or {}
        if name in entries:
            return name, entries[name]
        return next(((key, value) for key, value in entries.items() if normal_key(key) == name), None)
