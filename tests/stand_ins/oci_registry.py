"""A real registry: Debian's ``docker-registry`` (CNCF distribution) as a child process on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import aiohttp
import attrs
import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference
from dmr_core.testing.contracts.registry import Sample
from tests.conftest import require

__all__ = ["OciRegistryProcess", "docker_registry", "seed_over_http"]

_PROGRAM: Final = "docker-registry"
_READY_WITHIN: Final = 20.0
_STOPS_WITHIN: Final = 5.0
_CONFIG: Final = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}", secret: not-a-secret{http}}}
"""
_AUTH: Final = "auth:\n  htpasswd: {{realm: stand-in, path: {path}}}\n"


@attrs.frozen
class OciRegistryProcess:
    """A running registry. ``host`` is the registry part of a reference to it."""

    host: str

    @property
    def url(self) -> str:
        """Where its API begins."""
        return f"http://{self.host}/v2/"


@contextmanager
def docker_registry(
    directory: Path, *, login: tuple[str, str] | None = None, auth: str = "", http: str = ""
) -> Iterator[OciRegistryProcess]:
    """Run a registry with its data in ``directory``; with ``login`` it wants that user and password.

    ``auth`` is YAML for the end of its configuration, ``http`` for the end of its section of that name.
    """
    require("registry", available=shutil.which(_PROGRAM) is not None, reason=f"{_PROGRAM} is not on PATH")
    config = directory / "config.yml"
    for attempt in range(3):  # another process may take the port between choosing and listening
        port = _free_port()
        text = _CONFIG.format(root=directory / "data", port=port, http=http) + auth
        if login is not None:
            require("registry", available=shutil.which("htpasswd") is not None, reason="htpasswd is not on PATH")
            passwords = directory / "htpasswd"
            made = subprocess.run(["htpasswd", "-Bbn", *login], check=True, capture_output=True)
            passwords.write_bytes(made.stdout)
            text += _AUTH.format(path=passwords)
        config.write_text(text)
        with (directory / "log").open("ab") as log:
            process = subprocess.Popen([_PROGRAM, "serve", config], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            registry = OciRegistryProcess(f"127.0.0.1:{port}")
            if _ready(process, registry.url):
                yield registry
                return
            if attempt == 2:
                pytest.fail(f"{_PROGRAM} did not start: {(directory / 'log').read_text()[-2000:]}")
        finally:
            _stop(process)


async def seed_over_http(registry: OciRegistryProcess, reference: Reference, model: Sample) -> None:
    """Upload a model with plain requests, so that no test trusts the code it tests."""
    base = f"http://{registry.host}/v2/{reference.repository}"
    async with aiohttp.ClientSession() as client:
        for content in model.blobs:
            async with client.post(f"{base}/blobs/uploads/") as answer:
                place = answer.headers["Location"]
            params = {"digest": str(Digest.of(content))}
            async with client.put(place, params=params, data=content) as answer:
                assert answer.status == 201, await answer.text()
        headers = {"Content-Type": model.artifact.manifest.media_type}
        url = f"{base}/manifests/{reference.tag}"
        async with client.put(url, data=model.artifact.manifest_bytes, headers=headers) as answer:
            assert answer.status == 201, await answer.text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    opener = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + _READY_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(url, timeout=1):
                return True
        except URLError as exc:
            with_status = getattr(exc, "code", None)
            if hasattr(exc, "close"):
                exc.close()
            if with_status in (400, 401):  # it wants TLS, or a login: it runs
                return True
        except OSError:
            pass
        time.sleep(0.02)  # between polls, not instead of them
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOPS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOPS_WITHIN)
