"""
Log in and out: credentials that a registry has accepted, kept where every tool finds them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ullage.errors import AuthenticationFailed, InvalidConfiguration, InvalidReference
from ullage.model import AuthConfig
from ullage.registry.authfile import AuthFile, lasting_file, normal_key, usual_files
from ullage.registry.credentials import server_name
from ullage.registry.endpoint import Origin
from ullage.registry.helpers import Helper

if TYPE_CHECKING:
    from ullage.registry.client import RegistryClient

__all__ = ["LoggedIn", "log_in", "remove_credentials", "store_credentials"]

_HELPER_SECONDS: Final = 30.0

_HOST = re.compile(r"[A-Za-z0-9.:_\[\]-]+(?:/[A-Za-z0-9._/-]*)?")


class LoggedIn(NamedTuple):
    """
    For which host, where it is kept, and whether the registry has looked at it.
    """

    host: str
    kept_in: str
    was_asked: bool


def log_in(
    client: RegistryClient, host: str, username: str, password: str, *, file: Path | None = None
) -> LoggedIn:
    """
    Show the credentials to the registry, and keep them if it takes them.

    Raises:
        AuthenticationFailed: it does not, or there is no place to keep them.
        RegistryUnavailable: no answer.
        InvalidConfiguration: the file cannot be read or written.
        InvalidReference: *host* is no host.
    """
    name = _checked(host)
    if not username:
        raise AuthenticationFailed("there is no user name", hint="say who you are: --username NAME")
    was_asked = client.verify(name.partition("/")[0], AuthConfig(username=username, password=password))
    return LoggedIn(name, store_credentials(name, username, password, file), was_asked)


def store_credentials(host: str, username: str, password: str, file: Path | None = None) -> str:
    """
    Keep credentials for *host* (or ``host/namespace``) without asking anybody.

    They go to the helper that is responsible for it, else into *file*, which
    only its owner may read then; what else is in the file stays.

    Without *file* it is the first of the usual ones that has an entry for the host, so that no older entry
    hides the new one; else docker's, which podman and skopeo read as well.

    Returns:
        Where they are, for people.
    """
    name = _checked(host)
    found = AuthFile.read(_home_of(name) if file is None else file)
    helper = found.helper(name)
    program, key = helper if helper is not None else (found.store, "")
    auths = dict(found.content.get("auths") or {})
    entry_key = found.key(name) or server_name(name)
    if program:
        server = key if helper is not None else server_name(name)
        Helper(program, source=str(found.path), timeout_seconds=_HELPER_SECONDS).store(
            server, username, password
        )
        # As docker does: an empty entry says who is logged in, and where the rest is.
        auths[entry_key] = {}
    else:
        pair = f"{username}:{password}".encode()
        auths[entry_key] = {"auth": base64.b64encode(pair).decode("ascii")}
    _write(found.path, _updated(found, auths))
    return f"docker-credential-{program}" if program else str(found.path)


def remove_credentials(host: str, file: Path | None = None) -> tuple[str, ...]:
    """
    Forget the credentials for *host* in *file*, or wherever a pull would find them.

    Returns:
        Where they were; () where there were none.
    """
    name = _checked(host)
    removed: list[str] = []
    for path in usual_files(os.environ) if file is None else (file,):
        found = AuthFile.read(path)
        helper = found.helper(name)
        key = found.key(name)
        if helper is not None or (found.store and key is not None):
            program, server = helper if helper is not None else (found.store, server_name(name))
            keeper = Helper(program, source=str(path), timeout_seconds=_HELPER_SECONDS)
            if keeper.get(server) is not None:
                keeper.erase(server)
                removed.append(f"docker-credential-{program}")
        if key is not None:
            auths = {
                each: entry for each, entry in found.content["auths"].items() if normal_key(each) != name
            }
            if found.credentials(name) is not None:
                removed.append(str(path))
            _write(path, _updated(found, auths))
    return tuple(removed)


def _checked(host: str) -> str:
    name = normal_key(host)
    try:
        Origin.of(f"https://{name}")
        if _HOST.fullmatch(host.partition("://")[2] if "://" in host else host):
            return name
    except ValueError:
        pass  # said below
    raise InvalidReference(
        f"no registry can be at {host!r}",
        reference=host,
        hint="a registry is a host, such as ghcr.io or localhost:5000",
    )


def _home_of(name: str) -> Path:
    for path in usual_files(os.environ):
        found = AuthFile.read(path)
        if path.name.endswith(".json") and (found.key(name) is not None or found.helper(name) is not None):
            return path
    return lasting_file(os.environ)


def _updated(found: AuthFile, auths: dict[str, Any]) -> dict[str, Any]:
    if found.path.name == ".dockercfg":
        return auths
    return {**found.content, "auths": auths}


def _write(path: Path, content: dict[str, Any]) -> None:
    """
    Whole or not at all, and for its owner's eyes. A link stays a link: many keep their settings elsewhere.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    text = json.dumps(content, indent="\t", ensure_ascii=False) + "\n"
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
                opened.write(text)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise InvalidConfiguration(f"cannot write {path}: {error.strerror}", path=str(path)) from error
