"""
Who may read: passwords and tokens out of a file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ullage.errors import InvalidConfiguration
from ullage.httpd import error_reply

if TYPE_CHECKING:
    from ullage.httpd import Asked, Reply

__all__ = ["Door"]

_MAX_FILE_BYTES: Final = 1024 * 1024


class Door:
    """
    Lets in who shows one of the *secrets*: ``user:password``, or a token without a colon in it.

    A token is taken as a Bearer and as the password of whatever user, since most clients can only log in so. Only
    hashes are kept here, and every one of them is compared, whoever comes.
    """

    def __init__(self, secrets: tuple[str, ...]) -> None:
        if not secrets:
            raise ValueError("a door that nobody can enter")
        self._pairs = tuple(_hash(each) for each in secrets if ":" in each)
        self._tokens = tuple(_hash(each) for each in secrets if ":" not in each)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Door:
        """
        The secrets of a file: one a line; empty lines and those that begin with ``#`` are none.

        Raises:
            InvalidConfiguration: it cannot be read, has no secret in it, or others may read it.
        """
        file = Path(path)
        try:
            with file.open("rb") as opened:
                mode = os.fstat(opened.fileno()).st_mode
                raw = opened.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InvalidConfiguration(f"cannot read {file}: {error.strerror}", path=str(file)) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InvalidConfiguration(
                f"{file} holds passwords, and others may read it", path=str(file), hint=f"chmod 600 {file}"
            )
        try:
            lines = raw.decode().splitlines()
        except UnicodeDecodeError:
            raise InvalidConfiguration(f"{file}: not UTF-8", path=str(file)) from None
        secrets = []
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if len(raw) > _MAX_FILE_BYTES or not all(text.partition(":")[::2] if ":" in text else (text,)):
                raise InvalidConfiguration(
                    f"{file}:{number}: a line is USER:PASSWORD or a token", path=str(file), line=number
                )
            secrets.append(text)
        if not secrets:
            raise InvalidConfiguration(f"{file}: nobody can enter with it", path=str(file))
        return cls(tuple(secrets))

    def refuse(self, asked: Asked) -> Reply | None:
        """
        A 401; None when the request may pass.
        """
        scheme, _, value = asked.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _is_one_of(value.strip(), self._tokens):
            return None
        if scheme.lower() == "basic":
            pair = _decoded(value)
            known = _is_one_of(pair, self._pairs)
            if _is_one_of(pair.partition(":")[2], self._tokens) or known:
                return None
        return error_reply(
            HTTPStatus.UNAUTHORIZED,
            "UNAUTHORIZED",
            "authentication required",
            {"WWW-Authenticate": 'Basic realm="ullage", charset="UTF-8"'},
        )


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _is_one_of(shown: str, hashes: tuple[bytes, ...]) -> bool:
    hashed = _hash(shown)
    # All of them: how long it takes says nothing of which.
    return sum(hmac.compare_digest(hashed, each) for each in hashes) > 0


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
