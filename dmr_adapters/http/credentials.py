"""Keys and logins that come along with a request, in headers: they are kept in no body, recording or log.

``X-Registry-Auth`` is the Docker Engine API's header: base64url of a JSON object with ``username`` and ``password``, or
``identitytoken``, and ``serveraddress``, the registry they are for. ``X-Engine-Key`` is what the engine of the model wants.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final

import msgspec

from dmr_core.domain.secret import Login, Secret
from dmr_core.errors import InvalidRequestError
from dmr_core.ports.registry import Credentials

__all__ = ["ENGINE_KEY", "REGISTRY_AUTH", "engine_key", "pull_credentials"]

ENGINE_KEY: Final = b"x-engine-key"
REGISTRY_AUTH: Final = b"x-registry-auth"
_MAX_KEY: Final = 4096
_MAX_LOGIN: Final = 16 * 1024


class _Auth(msgspec.Struct):
    serveraddress: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


def engine_key(value: bytes) -> Secret:
    """The key in a header.

    Raises:
        InvalidRequestError: no key looks like this; does not say what it does look like.
    """
    text = value.decode("latin-1").strip()
    if not text or len(text) > _MAX_KEY or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidRequestError("X-Engine-Key: a key is at most 4096 printable ASCII characters without blanks")
    return Secret(text)


def pull_credentials(headers: Iterable[tuple[bytes, bytes]], token: str | None) -> Credentials | None:
    """What a request to pull brought along, if anything; ``token`` is the one in its body.

    Raises:
        InvalidRequestError: a header cannot be read.
    """
    key: Secret | None = None
    login: Login | None = None
    for name, value in headers:
        if name == ENGINE_KEY:
            key = engine_key(value)
        elif name == REGISTRY_AUTH:
            login = _login(value)
    if not token and key is None and login is None:
        return None
    return Credentials(token or "", login, key)


def _login(value: bytes) -> Login:
    try:
        if len(value) > _MAX_LOGIN:
            raise ValueError("too long")
        auth = msgspec.json.decode(base64.urlsafe_b64decode(value + b"=" * (-len(value) % 4)), type=_Auth)
        if not auth.serveraddress or not (auth.password or auth.identitytoken):
            raise ValueError("incomplete")
    except (ValueError, binascii.Error, msgspec.DecodeError, RecursionError):  # whose texts may hold parts of it
        raise InvalidRequestError(
            "X-Registry-Auth: base64url of a JSON object with serveraddress, username and password"
        ) from None
    return Login(auth.serveraddress, auth.username, Secret(auth.password), Secret(auth.identitytoken))
