"""Debian's registry in the four ways people run it: open, with a password file, with a token server, behind TLS."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import attrs

from dmr_core.domain.digest import Digest
from tests.conftest import require
from tests.stand_ins.oci_registry import docker_registry
from tests.stand_ins.token_server import TokenServer, token_server

__all__ = ["KINDS", "KnownRegistry", "known_registry"]

KINDS: Final = ("plain", "htpasswd", "token", "tls")
LOGIN: Final = ("me", "secret")
_PASSWORDS: Final = "me:$2y$05$hCe6PKskr3tFNc1yKWNW0.buEvThWw7iuqUxdGzN11LXXTMZ1bzyq\n"  # `htpasswd -Bbn me secret`
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"


@attrs.frozen
class KnownRegistry:
    """A registry, and what one needs to get in: a login, an authority to trust."""

    kind: str
    host: str
    authority: Path | None = None
    tokens: TokenServer | None = None

    @property
    def url(self) -> str:
        """Where its API begins."""
        return f"{'https' if self.authority else 'http'}://{self.host}/v2/"

    def docker_config(self) -> dict[str, Any]:
        """What ``docker login`` would have written for it."""
        if self.kind not in ("htpasswd", "token"):
            return {}
        return {"auths": {self.host: {"auth": base64.b64encode(":".join(LOGIN).encode()).decode()}}}

    def seed(self, repository: str, tag: str, blobs: list[bytes], manifest: bytes) -> None:
        """Put a model there with plain requests, so that no test trusts what it tests."""
        for content in blobs:
            start = self._send("POST", repository, "blobs/uploads/")
            place = start.headers["Location"]
            place += ("&" if "?" in place else "?") + f"digest={Digest.of(content)}"
            self._send("PUT", repository, place, content, "application/octet-stream")
        self._send("PUT", repository, f"manifests/{tag}", manifest, _MANIFEST)

    def manifest(self, repository: str, tag: str) -> bytes:
        """The manifest it serves under a tag."""
        answer = self._send("GET", repository, f"manifests/{tag}", accept=_MANIFEST)
        return bytes(answer.content)

    def _send(
        self,
        method: str,
        repository: str,
        path: str,
        content: bytes | None = None,
        media_type: str = "",
        accept: str = "*/*",
    ) -> _Answer:
        url = path if "://" in path else f"{self.url}{repository}/{path}"
        request = Request(url, data=content, method=method, headers={"Accept": accept})
        if media_type:
            request.add_header("Content-Type", media_type)
        if self.kind == "htpasswd":
            request.add_header("Authorization", "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode())
        if self.tokens is not None:
            access = [{"type": "repository", "name": repository, "actions": ["pull", "push"]}]
            request.add_header("Authorization", "Bearer " + self.tokens.signer.token("seed", access))
        trust = ssl.create_default_context(cafile=str(self.authority)) if self.authority else None
        with build_opener(ProxyHandler({}), HTTPSHandler(context=trust)).open(request, timeout=10) as answer:
            return _Answer(dict(answer.headers), answer.read())


@attrs.frozen
class _Answer:
    headers: dict[str, str]
    content: bytes


@contextmanager
def known_registry(kind: str, directory: Path) -> Iterator[KnownRegistry]:
    """Run a registry of this kind with its files in ``directory``."""
    directory.mkdir()
    if kind == "plain":
        with docker_registry(directory) as running:
            yield KnownRegistry(kind, running.host)
    elif kind == "htpasswd":
        passwords = directory / "passwords"
        passwords.write_text(_PASSWORDS)
        with docker_registry(directory, auth=f"auth:\n  htpasswd: {{realm: x, path: {passwords}}}\n") as running:
            yield KnownRegistry(kind, running.host)
    elif kind == "token":
        require_openssl()
        with (
            token_server(directory, LOGIN) as tokens,
            docker_registry(directory, auth=tokens.settings()) as running,
        ):
            yield KnownRegistry(kind, running.host, tokens=tokens)
    else:
        require_openssl()
        authority, certificate, key = _certificates(directory)
        with docker_registry(directory, http=f", tls: {{certificate: {certificate}, key: {key}}}") as running:
            # Not loopback by its name, as loopback is spoken to without TLS; Linux connects it to loopback.
            host = running.host.replace("127.0.0.1", "0.0.0.0")
            yield KnownRegistry(kind, host, authority=authority)


def require_openssl() -> None:
    """Skip, or fail, where nobody can make certificates."""
    require("openssl", available=shutil.which("openssl") is not None, reason="openssl is not on PATH")


def _certificates(directory: Path) -> tuple[Path, Path, Path]:
    """A private authority, and a certificate of it for this machine with its key."""
    ca, ca_key = directory / "ca.crt", directory / "ca.key"
    certificate, key, request = directory / "server.crt", directory / "server.key", directory / "server.csr"
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=IP:0.0.0.0,IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n")
    made = ["-newkey", "rsa:2048", "-nodes"]
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    signed: list[str | Path] = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
    for command in (
        ["req", "-x509", *made, "-subj", "/CN=private authority", "-days", "2", *usage, "-keyout", ca_key, "-out", ca],
        ["req", *made, "-subj", "/CN=registry", "-keyout", key, "-out", request],
        ["x509", "-req", "-in", request, *signed, "-out", certificate],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True, timeout=30)
    return ca, certificate, key
