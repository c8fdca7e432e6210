"""
A token server for docker-registry: the distribution project's token specification, with real signatures.

It sells tokens by GET with Basic, and by OAuth2's POST for a password or a refresh token. Anonymous pulls are
for repos under ``public/``.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

if TYPE_CHECKING:
    import ssl
    from pathlib import Path
    from typing import Self

ISSUER = "ullage-tests"
_TOKEN_SECONDS = 300


class TokenServer:
    """
    ``url`` is the realm; ``asked`` has the method and the user of each request; ``refresh_tokens`` are by their user.
    """

    def __init__(
        self,
        users: dict[str, str],
        certificate: Path,
        *,
        ssl_context: ssl.SSLContext,
        forms: str = "GET POST",
    ) -> None:
        self.users = users
        self.refresh_tokens: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.scopes: list[list[str]] = []
        self.forms = forms.split()
        self._key = ec.generate_private_key(ec.SECP256R1())
        certified = _self_signed(self._key)
        certificate.write_bytes(certified.public_bytes(serialization.Encoding.PEM))
        self._x5c = base64.b64encode(certified.public_bytes(serialization.Encoding.DER)).decode()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                scheme, _, value = self.headers.get("Authorization", "").partition(" ")
                user: str | None = ""
                if scheme == "Basic":
                    user = server.who(*base64.b64decode(value).decode().partition(":")[::2])
                self._answer("GET", user, query)

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                user = None
                if form.get("grant_type") == ["password"]:
                    user = server.who(form["username"][0], form["password"][0])
                elif form.get("grant_type") == ["refresh_token"]:
                    user = server.refresh_tokens.get(form["refresh_token"][0])
                self._answer("POST", user, form)

            def _answer(self, method: str, user: str | None, asked: dict[str, list[str]]) -> None:
                scopes = [one for each in asked.get("scope", []) for one in each.split()]
                server.asked.append((method, user or ""))
                server.scopes.append(scopes)
                status, content = 200, server.token(user or "", asked.get("service", [""])[0], scopes)
                if method not in server.forms:
                    status, content = 404, {"errors": [{"code": "NOT_FOUND"}]}
                elif user is None:
                    status, content = 401, {"errors": [{"code": "UNAUTHORIZED", "message": "who?"}]}
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.socket = ssl_context.wrap_socket(
            self._http.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._http.server_address[1]}/token"

    def who(self, username: str, password: str) -> str | None:
        return username if self.users.get(username) == password else None

    def token(self, user: str, service: str, scopes: list[str]) -> dict[str, Any]:
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = [
                each for each in actions.split(",") if user or (each == "pull" and name.startswith("public/"))
            ]
            if granted:
                access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": service,
            "exp": now + _TOKEN_SECONDS,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        head = {"typ": "JWT", "alg": "ES256", "x5c": [self._x5c]}
        message = f"{_encoded(json.dumps(head).encode())}.{_encoded(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(message.encode(), ec.ECDSA(hashes.SHA256())))
        signed = f"{message}.{_encoded(r.to_bytes(32) + s.to_bytes(32))}"
        return {"token": signed, "access_token": signed, "expires_in": _TOKEN_SECONDS}

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join(5)
        self._http.server_close()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
