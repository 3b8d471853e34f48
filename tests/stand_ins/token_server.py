"""A token server as the registries of this world have them (distribution's token authentication specification).

It hands out RS256 tokens, whose certificate the registry trusts, to whoever logs in with Basic or with the OAuth2
grant ``password``; a token holds the access that was asked for. Signed by the ``openssl`` program.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import attrs

__all__ = ["Signer", "TokenServer", "token_server"]

ISSUER: Final = "stand-in-issuer"
SERVICE: Final = "stand-in-registry"
_LIFETIME: Final = 300


@attrs.frozen
class Signer:
    """A key, and the certificate that registries check its tokens with."""

    key: Path
    certificate: Path

    @classmethod
    def make(cls, directory: Path) -> Signer:
        """A fresh one, with its files in ``directory``."""
        made = cls(directory / "token.key", directory / "token.crt")
        subject = ["-subj", "/CN=stand-in token signer", "-days", "2"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject]
        subprocess.run(
            [*command, "-keyout", made.key, "-out", made.certificate], check=True, capture_output=True, timeout=30
        )
        return made

    def token(self, subject: str, access: list[dict[str, Any]]) -> str:
        """A token for ``access``: entries of type, name and actions."""
        lines = self.certificate.read_text().splitlines()
        chain = ["".join(line for line in lines if line and not line.startswith("-"))]
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": subject, "aud": SERVICE, "exp": now + _LIFETIME, "nbf": now - 10, "iat": now}
        claims |= {"jti": f"{time.monotonic_ns():x}", "access": access}
        header = {"typ": "JWT", "alg": "RS256", "x5c": chain}
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            input=signed.encode(),
            capture_output=True,
            check=True,
            timeout=30,
        )
        return f"{signed}.{_encoded(done.stdout)}"


@attrs.define
class TokenServer:
    """One that runs. ``given`` and ``refused`` count its answers."""

    signer: Signer
    login: tuple[str, str]
    port: int = 0
    given: int = 0
    refused: int = 0

    def settings(self, scheme: str = "http") -> str:
        """The registry's side, as YAML for its configuration."""
        return (
            "auth:\n  token:\n"
            f"    realm: {scheme}://127.0.0.1:{self.port}/token\n    service: {SERVICE}\n"
            f"    issuer: {ISSUER}\n    rootcertbundle: {self.signer.certificate}\n"
        )

    def answer(self, user: str | None, password: str | None, scopes: list[str]) -> tuple[int, dict[str, Any]]:
        """What one request gets."""
        if (user, password) != self.login:
            self.refused += 1
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        access = []
        for scope in (part for text in scopes for part in text.split()):
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        self.given += 1
        token = self.signer.token(user or "", access)
        return 200, {"token": token, "access_token": token, "expires_in": _LIFETIME}


@contextmanager
def token_server(directory: Path, login: tuple[str, str]) -> Iterator[TokenServer]:
    """Run one on loopback; ``login`` is who it knows."""
    server = TokenServer(Signer.make(directory), login)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
            user, password = None, None
            if scheme.lower() == "basic":
                user, _, password = base64.b64decode(encoded).decode().partition(":")
            self._reply(*server.answer(user, password, query.get("scope", [])))

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
            first = {name: values[0] for name, values in form.items()}
            user, password = first.get("username"), first.get("password")
            if first.get("grant_type") != "password":
                user = password = None
            self._reply(*server.answer(user, password, form.get("scope", [])))

        def _reply(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def _encoded(content: bytes) -> str:
    """Base64 as JWTs have it (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
