"""Pure-ASGI pieces: reading bodies within bounds, and answering without deadlock."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmr_adapters.http.errors import plain_text
from dmr_core.errors import BodyTooLargeError, RequestTimeoutError

__all__ = ["ClientGoneError", "DrainGuard", "OriginGuard", "PathCleaner", "header", "read_body"]


_SILENCE: Final = 30.0
"""Seconds without a byte after which a request's body is given up."""


class ClientGoneError(Exception):
    """The client went away before its request was complete; nobody is left to answer."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole request body.

    Raises:
        BodyTooLargeError: it is longer than ``limit`` bytes; the rest is left unread.
        ClientGoneError: the client left.
        RequestTimeoutError: nothing came for half a minute.
    """
    message = await _next(receive)
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise BodyTooLargeError(limit)
        return body
    parts, size = [body], len(body)
    while size <= limit:
        message = await _next(receive)
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if not message.get("more_body", False):
            break
    if size > limit:
        raise BodyTooLargeError(limit)
    return b"".join(parts)


async def _next(receive: Receive) -> Message:
    """The next piece of a body; a client that sends nothing must not hold a connection for ever."""
    try:
        async with asyncio.timeout(_SILENCE):
            return await receive()
    except TimeoutError:
        raise RequestTimeoutError(f"the request's body did not go on for {_SILENCE:g} s") from None


def header(scope: Scope, name: bytes) -> str:
    """A request header, ``""`` when it is absent. ``name`` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


class DrainGuard:
    """Keeps a request whose body nobody read from blocking its own answer.

    Hypercorn stops reading at ten queued chunks, and its last send then waits for ever. So while the
    last part of an answer is sent to a request that is not read to its end, the rest is read and
    thrown away, and the connection is closed afterwards.
    """

    _MAX_DRAIN: Final = 64 * 1024 * 1024

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        complete = False

        async def watched_receive() -> Message:
            nonlocal complete
            message = await receive()
            complete = complete or message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            if complete:
                await send(message)
                return
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
                await send(message)
            elif message.get("more_body", False):
                await send(message)
            else:
                drain = asyncio.ensure_future(self._drain(watched_receive))
                try:
                    await send(message)
                finally:
                    drain.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await drain

        await self._app(scope, watched_receive, watched_send)

    async def _drain(self, receive: Receive) -> None:
        size = 0
        while size < self._MAX_DRAIN:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            size += len(message.get("body", b""))


class PathCleaner:
    """Cleans paths with ``//`` in place: clients join base URLs with a trailing slash. No redirect, POST would lose its body."""

    def __init__(self, app: ASGIApp, prefix: str = "/exp/vDD4.40") -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if "//" in path:
                path = "/" + posixpath.normpath(path).lstrip("/")
            path = path.removeprefix(self._prefix) or "/"
            if path is not scope["path"]:
                scope = {**scope, "path": path}
        await self._app(scope, receive, send)


class OriginGuard:
    """Refuses pages of other origins and rebound host names before anything else sees the request.

    A browser sends ``Origin`` with whatever a foreign page asks for; a DNS name that was rebound to
    this machine shows in ``Host``. On a listener beyond loopback the host names are the operator's.
    """

    _LOCAL: Final = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "[::1]"})  # noqa: S104 - compared, not bound
    _HOSTS: Final = frozenset({"host.docker.internal", "model-runner.docker.internal", "gateway.docker.internal"})

    def __init__(self, app: ASGIApp, *, allowed: tuple[str, ...], check_host: bool) -> None:
        self._app = app
        self._any = "*" in allowed
        self._allowed = frozenset(allowed)
        self._check_host = check_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = host = ""
        for key, value in scope["headers"]:
            if key == b"origin":
                origin = value.decode("latin-1")
            elif key == b"host":
                host = value.decode("latin-1")
        # A unix socket has no address, and nobody can rebind a name to it.
        if self._check_host and scope.get("server") and _name(host) not in self._LOCAL | self._HOSTS:
            await plain_text(f"Host not allowed: {host[:200]!r}", 403)(scope, receive, send)
        elif not origin:
            await self._app(scope, receive, send)
        elif not self._allows(origin):
            await plain_text("Origin not allowed", 403, {"vary": "Origin"})(scope, receive, send)
        else:
            await self._cross_origin(origin, scope, receive, send)

    def _allows(self, origin: str) -> bool:
        if self._any or origin in self._allowed:
            return True
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and _name(rest) in self._LOCAL

    async def _cross_origin(self, origin: str, scope: Scope, receive: Receive, send: Send) -> None:
        extra = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS":
            asked = header(scope, b"access-control-request-headers") or "*"
            extra += [
                (b"access-control-allow-credentials", b"true"),
                (b"access-control-allow-methods", b"GET, POST, DELETE"),
                (b"access-control-allow-headers", asked.encode("latin-1")),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": extra})
            await send({"type": "http.response.body", "body": b""})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self._app(scope, receive, with_headers)


def _has_body(scope: Scope) -> bool:
    return any(
        key == b"transfer-encoding" or (key == b"content-length" and value != b"0") for key, value in scope["headers"]
    )


def _name(host: str) -> str:
    """The host without its port, in lower case; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        return (host.partition("]")[0] + "]").lower()
    return host.partition(":")[0].lower()
