"""Which pages may call the service, and what browsers are told about it (Fetch standard, CORS).

A browser sends ``Origin`` with whatever a page of another origin asks for, and with every request that could change
something. The exceptions are plain GETs by ``<img>``, ``<script>`` and the like: those it marks with ``Sec-Fetch-Site``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmr_adapters.http.edge.dialect import refuse
from dmr_adapters.http.edge.hosts import HostPolicy, host_name
from dmr_core.errors import ForbiddenError

__all__ = ["OriginGuard", "OriginPolicy"]

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "[::1]"})  # noqa: S104 - compared, not bound
_FOREIGN: Final = frozenset({b"cross-site", b"same-site"})
_VARY: Final = (b"vary", b"Origin")
_PREFLIGHT_VARY: Final = (b"vary", b"Origin, Access-Control-Request-Headers, Access-Control-Request-Private-Network")
_METHODS: Final = b"GET, HEAD, POST, PATCH, DELETE"
_PREFLIGHT_LIFE: Final = b"600"
_MAX_ASKED: Final = 4096


class OriginPolicy:
    """Pages of this machine, and the operator's: exact origins, ``http://host:*`` for any port, or ``*`` for all."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        entries = {entry.rstrip("/").lower() for entry in allowed}
        self._all = "*" in entries
        self._exact = frozenset(entry for entry in entries if not entry.endswith(":*"))
        self._any_port = frozenset(entry[:-2] for entry in entries if entry.endswith(":*"))

    def allows(self, origin: str) -> bool:
        """Whether a page of ``origin`` may call; ``null``, which any sandboxed frame has, must be named."""
        if self._all:
            return True
        origin = origin.lower()
        if origin in self._exact:
            return True
        scheme, separator, rest = origin.partition("://")
        name = host_name(rest)
        if not separator or not _is_port(rest[len(name) :]):
            return False
        return f"{scheme}://{name}" in self._any_port or (scheme in ("http", "https") and name in _LOCAL)


class OriginGuard:
    """Refuses other pages and rebound names before anything else sees the request, and answers preflights."""

    def __init__(self, app: ASGIApp, *, origins: OriginPolicy, hosts: HostPolicy) -> None:
        self._app = app
        self._origins = origins
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        origin = host = site = mode = b""
        hosts = 0
        for key, value in scope["headers"]:
            if key == b"host":
                host, hosts = value, hosts + 1
            elif key == b"origin":
                origin = value
            elif key == b"sec-fetch-site":
                site = value
            elif key == b"sec-fetch-mode":
                mode = value
        # A unix socket has no address, and nobody can rebind a name to it.
        if scope.get("server") and (hosts > 1 or not self._hosts.allows(host.decode("latin-1"))):
            await self._refuse_host(host, scope, receive, send)
        elif origin:
            await self._cross_origin(origin, host, scope, receive, send)
        elif site in _FOREIGN and not (mode == b"navigate" and scope["method"] in ("GET", "HEAD")):
            await refuse(scope, ForbiddenError("Origin not allowed"), {"vary": "Origin"})(scope, receive, send)
        elif scope["method"] == "GET":  # what may be kept in a cache, and be shown to a page later
            await self._app(scope, receive, _with_headers(send, [_VARY]))
        else:
            await self._app(scope, receive, send)

    async def _refuse_host(self, host: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        shown = host[:200].decode("latin-1")
        error = ForbiddenError(f"Host not allowed: {shown!r}. Names the service may be called by are set in DMR_HOSTS")
        await refuse(scope, error)(scope, receive, send)

    async def _cross_origin(self, origin: bytes, host: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        # Its own page, then: the host is one that was allowed. Over a unix socket nobody looked at it.
        own = bool(scope.get("server")) and origin.partition(b"://")[2] == host != b""
        if not own and not self._origins.allows(origin.decode("latin-1")):
            await refuse(scope, ForbiddenError("Origin not allowed"), {"vary": "Origin"})(scope, receive, send)
            return
        allowed = (b"access-control-allow-origin", origin)
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [allowed, *_preflight(scope)]})
            await send({"type": "http.response.body", "body": b""})
            return
        exposed = (b"access-control-expose-headers", b"*")
        await self._app(scope, receive, _with_headers(send, [allowed, exposed, _VARY]))


def _preflight(scope: Scope) -> list[tuple[bytes, bytes]]:
    asked, private = b"*", False
    for key, value in scope["headers"]:
        if key == b"access-control-request-headers" and len(value) <= _MAX_ASKED:
            asked = value
        elif key == b"access-control-request-private-network":
            private = value == b"true"
    headers = [
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", asked),
        (b"access-control-max-age", _PREFLIGHT_LIFE),
        _PREFLIGHT_VARY,
    ]
    return [*headers, (b"access-control-allow-private-network", b"true")] if private else headers


def _with_headers(send: Send, extra: list[tuple[bytes, bytes]]) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return with_headers


def _is_port(text: str) -> bool:
    return not text or (text.startswith(":") and len(text) <= 6 and text[1:].isdigit())
