"""
Credential helpers: programs that keep secrets where a file would not.

The protocol is docker's (docker/docker-credential-helpers): ``docker-credential-NAME get``
reads the server's name from stdin and answers with a JSON object on stdout, or
exits with another code than 0 and the reason on stdout.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Final

from ullage.errors import AuthenticationFailed
from ullage.registry.answers import document
from ullage.registry.endpoint import printable
from ullage.registry.identity import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Helper", "HelperMissing"]

_TICK_SECONDS: Final = 0.05
#: The user name that says: the secret is a refresh token.
_IDENTITY: Final = "<token>"
_NOTHING: Final = "credentials not found"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


class HelperMissing(AuthenticationFailed):
    """
    There is no such program.
    """


class Helper:
    """
    The program ``docker-credential-NAME``.

    Args:
        source: the file that names it, for people.
        check: called while it runs; what it raises ends the program.
    """

    def __init__(
        self, name: str, *, source: str, timeout_seconds: float, check: Callable[[], None] | None = None
    ) -> None:
        self._program = f"docker-credential-{name}"
        self._name = name
        self._source = source
        self._timeout_seconds = timeout_seconds
        self._check = check

    def get(self, server: str) -> Credentials | None:
        """
        What it keeps for *server*; None for nothing.

        Raises:
            AuthenticationFailed: it failed, or took too long, or answered nonsense.
        """
        code, said = self._run("get", server)
        if code != 0:
            if said.decode(errors="replace").strip().startswith(_NOTHING):
                return None
            raise self._failed(server, said)
        content = document(said)
        username, secret = content.get("Username"), content.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str):
            # Not quoted: what it says in place of an answer may be half of a secret.
            raise AuthenticationFailed(
                f"{self._program} did not answer as a credential helper does", hint=self._hint()
            )
        if not secret:
            return None
        source = f"{self._program} ({self._source})"
        if username == _IDENTITY:
            return Credentials(identity_token=secret, source=source)
        return Credentials(username=username, password=secret, source=source)

    def store(self, server: str, username: str, secret: str) -> None:
        """
        Raises:
            AuthenticationFailed: it does not take them.
        """
        content = {"ServerURL": server, "Username": username, "Secret": secret}
        code, said = self._run("store", json.dumps(content))
        if code != 0:
            raise self._failed(server, said.replace(secret.encode(), "…".encode()))

    def erase(self, server: str) -> None:
        """
        Raises:
            AuthenticationFailed: it does not let go.
        """
        code, said = self._run("erase", server)
        if code != 0 and not said.decode(errors="replace").strip().startswith(_NOTHING):
            raise self._failed(server, said)

    def _run(self, action: str, said: str) -> tuple[int, bytes]:
        program = shutil.which(self._program) if _NAME.fullmatch(self._name) else None
        if program is None:
            raise HelperMissing(
                f"there is no program {printable(self._program, 200)}, which {self._source} says has the credentials",
                hint=f"install it, or take it out of {self._source}",
            )
        try:
            process = subprocess.Popen(  # noqa: S603  the user's own file names it
                [program, action], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise AuthenticationFailed(
                f"cannot run {self._program}: {error.strerror}", hint=self._hint()
            ) from error
        until = time.monotonic() + self._timeout_seconds
        with process:
            try:
                waiting: bytes | None = said.encode()
                while True:
                    try:
                        output, _ = process.communicate(waiting, timeout=_TICK_SECONDS)
                    except subprocess.TimeoutExpired:
                        waiting = None  # `communicate` remembers it
                        if self._check is not None:
                            self._check()
                        if time.monotonic() > until:
                            raise AuthenticationFailed(
                                f"{self._program} gave no answer within {self._timeout_seconds:g} s",
                                hint=self._hint(),
                            ) from None
                    else:
                        return process.returncode, output
            finally:
                process.kill()

    def _failed(self, server: str, said: bytes) -> AuthenticationFailed:
        reason = printable(said.decode(errors="replace").strip().partition("\n")[0], 200)
        return AuthenticationFailed(
            f"{self._program} failed for {server}{f': {reason}' if reason else ''}", hint=self._hint()
        )

    def _hint(self) -> str:
        return f"try `echo SERVER | {self._program} get`, or take the helper out of {self._source}"
