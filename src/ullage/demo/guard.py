"""
Who may pull from the registry on loopback, and the tokens that it sells.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import threading
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal
from urllib.parse import parse_qs

from ullage.httpd import Asked, Reply, error_reply, json_reply

__all__ = ["Auth", "Guard"]

Auth = Literal["none", "basic", "token"]


class Guard:
    """
    The door of one registry. ``issued`` counts the tokens it sold, ``token_seconds`` is how long one lasts.
    """

    def __init__(
        self,
        auth: Auth,
        *,
        url: str,
        username: str,
        password: str,
        anonymous: bool,
        identity_token: str,
        token_seconds: float,
    ) -> None:
        self.token_seconds = token_seconds
        self.issued = 0
        self._auth, self._anonymous = auth, anonymous
        self._url, self._host = url, url.partition("://")[2]
        self._username, self._password, self._identity_token = username, password, identity_token
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[float, frozenset[str]]] = {}

    @property
    def sells_tokens(self) -> bool:
        return self._auth == "token"

    def grant(self, token: str, *scopes: str) -> None:
        """
        Make *token* good for *scopes*, for ever.
        """
        with self._lock:
            self._tokens[token] = (float("inf"), frozenset(scopes))

    def revoke(self) -> None:
        """
        Forget every token: the next request with one is answered by 401.
        """
        with self._lock:
            self._tokens.clear()

    def refuse(
        self, asked: Asked, repo: str | None, *, actions: tuple[str, ...] = ("pull",), also: str = ""
    ) -> Reply | None:
        """
        A 401 with its challenge; None when the request may pass.

        It is for *actions* in *repo*, and for pulling from the repo *also*.
        """
        if self._auth == "none":
            return None
        scheme, _, value = asked.headers.get("authorization", "").partition(" ")
        if self._auth == "basic":
            if scheme.lower() == "basic" and self._knows(value):
                return None
            return error_reply(
                HTTPStatus.UNAUTHORIZED,
                "UNAUTHORIZED",
                "authentication required",
                {"WWW-Authenticate": f'Basic realm="{self._host}"'},
            )
        scopes = [f"repository:{repo}:{','.join(actions)}"] if repo else []
        scopes += [f"repository:{also}:pull"] if also else []
        needed = {f"repository:{repo}:{each}" for each in actions} if repo else set()
        needed |= {f"repository:{also}:pull"} if also else set()
        with self._lock:
            expires, granted = self._tokens.get(value, (0.0, frozenset()))
        valid = scheme.lower() == "bearer" and time.monotonic() < expires
        if valid and needed <= granted:
            return None
        challenge = f'Bearer realm="{self._url}/token",service="{self._host}"'
        challenge += f',scope="{" ".join(scopes)}"' if scopes else ""
        challenge += f',error="{"insufficient_scope" if valid else "invalid_token"}"' if value else ""
        return error_reply(
            HTTPStatus.UNAUTHORIZED,
            "UNAUTHORIZED",
            "authentication required",
            {"WWW-Authenticate": challenge},
        )

    def reply_token(self, asked: Asked) -> Reply:
        """
        The token endpoint: GET with Basic, or an OAuth2 refresh-token grant by POST.
        """
        form = parse_qs(asked.body.decode("latin-1")) if asked.method == "POST" else asked.query
        scheme, _, value = asked.headers.get("authorization", "").partition(" ")
        if asked.method == "POST":
            shown = form.get("refresh_token", [""])[0]
            known = form.get("grant_type") == ["refresh_token"] and bool(self._identity_token)
            known = known and hmac.compare_digest(shown.encode(), self._identity_token.encode())
        else:
            known = (scheme.lower() == "basic" and self._knows(value)) or (self._anonymous and not scheme)
        if not known:
            return error_reply(
                HTTPStatus.UNAUTHORIZED,
                "UNAUTHORIZED",
                "incorrect username or password",
                {"WWW-Authenticate": f'Basic realm="{self._host}"'},
            )
        granted = frozenset(
            f"{resource}:{action}"
            for each in form.get("scope", [])
            for one in each.split()
            for resource, _, actions in [one.rpartition(":")]
            for action in actions.split(",")
            if action in {"pull", "push"}
        )
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[token] = (time.monotonic() + self.token_seconds, granted)
            self.issued += 1
        return json_reply(
            {
                "token": token,
                "access_token": token,
                "expires_in": self.token_seconds if self.token_seconds % 1 else int(self.token_seconds),
                "issued_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def _knows(self, value: str) -> bool:
        expected = base64.b64encode(f"{self._username}:{self._password}".encode())
        return hmac.compare_digest(value.encode("latin-1"), expected)
