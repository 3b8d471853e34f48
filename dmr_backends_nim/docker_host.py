"""Where the Docker Engine listens: ``DOCKER_HOST``, else Docker's current context, else its usual sockets.

The order and the files are those of the Docker CLI: ``config.json`` names the context in ``currentContext``, and
``contexts/meta/<sha256 of its name>/meta.json`` tells its address.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

__all__ = ["DockerHost", "find_docker"]

_SYSTEM: Final = Path("/var/run/docker.sock")
_MAX_FILE: Final = 4 * 1024 * 1024
_REMEDY: Final = (
    "a NIM is reached on this machine's loopback interface, so the Docker Engine has to be here, on a unix socket: "
    "set DOCKER_HOST=unix:///PATH"
)


@attrs.frozen
class DockerHost:
    """The engine's socket, and who said so. ``problem`` is why there is none that could be used."""

    socket: Path | None
    said_by: str = ""
    problem: str = ""

    def __str__(self) -> str:
        where = f"unix://{self.socket}" if self.socket is not None else "nowhere"
        return f"{where} ({self.said_by})" if self.said_by else where


def find_docker(environment: Mapping[str, str]) -> DockerHost:
    """The engine that ``environment`` points to. Looks at files, and never raises."""
    if host := environment.get("DOCKER_HOST", "").strip():
        return _parsed(host, "DOCKER_HOST")
    config = Path(environment.get("DOCKER_CONFIG") or Path(environment.get("HOME") or "/") / ".docker")
    name = environment.get("DOCKER_CONTEXT", "").strip() or _text(_read(config / "config.json"), "currentContext")
    if name and name != "default":
        said_by = f"the Docker context {name!r}"
        meta = config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
        endpoints = _read(meta).get("Endpoints")
        docker = endpoints.get("docker") if isinstance(endpoints, dict) else None
        if host := _text(docker, "Host"):
            return _parsed(host, said_by)
        return DockerHost(None, said_by, f"{said_by} has no address; `docker context ls` lists those there are")
    rootless = Path(environment.get("XDG_RUNTIME_DIR") or "/nonexistent") / "docker.sock"
    return DockerHost(_SYSTEM if _SYSTEM.exists() or not rootless.exists() else rootless)


def _parsed(host: str, said_by: str) -> DockerHost:
    path = host.removeprefix("unix://")
    if path != host and path.startswith("/"):
        return DockerHost(Path(path), said_by)
    scheme = host.partition("://")[0] if "://" in host else host
    return DockerHost(None, said_by, f"{said_by} says {scheme[:40]}://…, which is not supported: {_REMEDY}")


def _read(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty where it cannot be read, which Docker's own tools tell better than we could."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(found: object, name: str) -> str:
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""
