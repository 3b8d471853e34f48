"""NVIDIA NIMs: which models they are, and what a request for one carries along.

``NGC_API_KEY``, and this user's login to the registry, go with requests for NIMs and with no others; over a unix socket,
the loopback interface or TLS, and over nothing else.
"""

from __future__ import annotations

import os
from typing import Final

from dmr_cli.client.endpoint import Endpoint
from dmr_cli.client.errors import InvalidInputError

__all__ = ["has_key", "is_nim", "load_headers", "pull_headers"]

_DEFAULT_PREFIX: Final = "nvcr.io/nim/"
_KEY: Final = "NGC_API_KEY"
_KEY_LIMIT: Final = 4096


def is_nim(model: str) -> bool:
    """Whether ``model`` is the name of a NIM. ``DMR_NIM_PREFIX`` says where they are, as it does to the service."""
    prefix = os.environ.get("DMR_NIM_PREFIX", "").strip() or _DEFAULT_PREFIX
    return model.strip().lower().startswith(prefix if prefix.endswith("/") else prefix + "/")


def has_key() -> bool:
    """Whether there is an NGC API key to send along."""
    return bool(os.environ.get(_KEY, "").strip())


def load_headers(endpoint: Endpoint, model: str) -> dict[str, str]:
    """What a request that may start ``model`` carries.

    Raises:
        InvalidInputError: the key would be sent where others can read it, or is none.
    """
    if not is_nim(model) or not has_key():
        return {}
    if not endpoint.is_private:
        raise InvalidInputError(
            f"NGC_API_KEY is not sent to {endpoint.url}: anybody in between could read it. Use https://, a unix socket or "
            "a service on this machine, or unset NGC_API_KEY and set it where the service runs"
        )
    key = os.environ[_KEY].strip()
    if len(key) > _KEY_LIMIT or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInputError("NGC_API_KEY is set to something that cannot be a key: copy it again")
    return {"X-Engine-Key": key}


def pull_headers(endpoint: Endpoint, model: str) -> dict[str, str]:
    """What a request to pull ``model`` carries: the same, and this user's login to the registry it comes from.

    Raises:
        InvalidInputError: as :func:`load_headers`.
    """
    if not is_nim(model):
        return {}
    headers = load_headers(endpoint, model)
    if endpoint.is_private:
        from dmr_cli.client.docker_login import registry_auth  # noqa: PLC0415 - only NIMs need it

        auth = registry_auth(model.strip().partition("/")[0].lower())
        headers |= {"X-Registry-Auth": auth} if auth else {}
    return headers
