"""This user's login to a registry, as ``docker login`` keeps it: in a credential helper, or in ``config.json``.

Order and fields are Docker's own: a helper for the registry, the helper for everything, then ``auths``. A file or helper
that is broken counts as having nothing, and is told of.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any, Final

from dmr_cli.client.terminal import write

__all__ = ["registry_auth"]

_CONFIG_LIMIT: Final = 4 * 1024 * 1024
_OUTPUT_LIMIT: Final = 64 * 1024
_PATIENCE: Final = 10.0
_TOKEN_USER: Final = "<token>"  # noqa: S105 - how helpers mark an identity token
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def registry_auth(registry: str) -> str:
    """The login to ``registry`` as ``X-Registry-Auth`` takes it (base64url of JSON); empty where there is none."""
    config = _config()
    helpers = _mapping(config.get("credHelpers"))
    for helper in (helpers.get(registry), config.get("credsStore")):
        if isinstance(helper, str) and helper:
            found = _ask(helper, registry)
            if found:
                return _encoded(registry, found[0], found[1])
    for server, value in _mapping(config.get("auths")).items():
        if _host(server) == registry:
            entry = _mapping(value)
            if token := entry.get("identitytoken"):
                return _encoded(registry, _TOKEN_USER, str(token))
            username, password = _decoded(entry.get("auth")) or (entry.get("username"), entry.get("password"))
            if username and password:
                return _encoded(registry, str(username), str(password))
    return ""


def _encoded(registry: str, username: str, password: str) -> str:
    found = {"serveraddress": registry}
    found |= {"identitytoken": password} if username == _TOKEN_USER else {"username": username, "password": password}
    return base64.urlsafe_b64encode(json.dumps(found).encode()).decode()


def _config() -> dict[str, Any]:
    directory = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")  # noqa: PTH111, PTH118 - pathlib costs start-up
    path = os.path.join(directory, "config.json")  # noqa: PTH118 - as above
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            return _mapping(json.loads(file.read(_CONFIG_LIMIT)))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        write(f"Warning: {path} cannot be read; going on without the logins in it\n", sys.stderr)
        return {}


def _ask(helper: str, registry: str) -> tuple[str, str] | None:
    """``docker-credential-HELPER get`` (docker-credential-helpers protocol)."""
    import subprocess  # noqa: PLC0415 - few have a helper

    program = f"docker-credential-{helper}"
    if not _NAME.issuperset(helper):
        return None
    try:
        done = subprocess.run(
            [program, "get"],
            input=registry.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
        found = _mapping(json.loads(done.stdout[:_OUTPUT_LIMIT])) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        write(f"Warning: {program} does not answer; going on without the logins it keeps\n", sys.stderr)
        return None
    username, password = found.get("Username"), found.get("Secret")
    return (username, password) if isinstance(username, str) and isinstance(password, str) and password else None


def _decoded(auth: object) -> tuple[str, str] | None:
    try:
        username, colon, password = base64.b64decode(str(auth), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (username, password.rstrip("\0")) if colon else None


def _host(server: str) -> str:
    return server.partition("://")[2].partition("/")[0] if "://" in server else server.partition("/")[0]


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
