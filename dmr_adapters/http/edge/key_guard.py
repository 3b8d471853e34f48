"""One bearer key for everything but the probes of health.

It comes as ``Authorization: Bearer KEY`` (RFC 6750), or as ``x-api-key``, which is how Anthropic's SDK sends it. Over
the unix socket none is asked for: its mode lets in this user alone, who can read and replace the key's file as well.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from dmr_adapters.http.edge.dialect import refuse
from dmr_core.domain.api_key import ApiKeyHash
from dmr_core.errors import ApiKeyError

__all__ = ["KeyGuard"]

_OPEN: Final = frozenset({"/healthz", "/readyz"})
_MAX_KEY: Final = 512
_MAX_KEYS: Final = 2
_CHALLENGE: Final = {"www-authenticate": 'Bearer realm="dmr"'}
_MISSING: Final = "this service asks for a key: send it as 'Authorization: Bearer KEY'; dmr reads it from DMR_API_KEY"
_WRONG: Final = "the key is not the one this service asks for: see DMR_API_KEY, and `dmr key create`"


class KeyGuard:
    """Lets requests through that bring the key."""

    def __init__(self, app: ASGIApp, key: ApiKeyHash) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["path"] in _OPEN or not scope.get("server"):
            await self._app(scope, receive, send)
            return
        presented = _presented(scope)
        if any(self._key.opens(key) for key in presented):
            await self._app(scope, receive, send)
            return
        error = ApiKeyError(_WRONG if presented else _MISSING)
        await refuse(scope, error, _CHALLENGE)(scope, receive, send)


def _presented(scope: Scope) -> list[bytes]:
    """The keys that came along. Clients that have two settings for one key send two."""
    found = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            found.append(key.strip() if scheme.lower() == b"bearer" else b"")
        elif name == b"x-api-key":
            found.append(value.strip())
    return [key for key in found[:_MAX_KEYS] if 0 < len(key) <= _MAX_KEY]
