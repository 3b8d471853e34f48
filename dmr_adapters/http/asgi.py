"""Pure-ASGI pieces: reading bodies within bounds, and answering without deadlock."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmr_core.errors import BodyTooLargeError, RequestTimeoutError

__all__ = ["ClientGoneError", "DrainGuard", "header", "read_body"]


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
    last part of an answer is sent to a request that is not read to its end, and for some seconds after it,
    the rest is read and thrown away; then the connection is closed. Closed at once, it would be reset under
    clients that send everything before they read, and those would never see the answer (RFC 9112, 9.6).
    """

    _MAX_DRAIN: Final = 64 * 1024 * 1024
    _LINGER: Final = 5.0
    _PAUSE: Final = 0.5

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
                drain = _Drain(watched_receive, self._MAX_DRAIN)
                task = asyncio.ensure_future(drain.run())
                try:
                    await send({**message, "more_body": True})
                    await drain.linger(task, self._LINGER, self._PAUSE)
                    await send({"type": "http.response.body", "body": b""})
                finally:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

        await self._app(scope, watched_receive, watched_send)


class _Drain:
    """Reads what is left of a request, and throws it away."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._size = 0

    async def run(self) -> None:
        """Until its end, or until it is too much."""
        while self._size < self._most:
            message = await self._receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            self._size += len(message.get("body", b""))

    async def linger(self, task: asyncio.Task[None], longest: float, pause: float) -> None:
        """Wait for :meth:`run`, for as long as something comes; ``pause`` seconds of silence end it."""
        for _ in range(round(longest / pause)):
            before = self._size
            await asyncio.wait({task}, timeout=pause)
            if task.done() or self._size == before:
                return


def _has_body(scope: Scope) -> bool:
    return any(
        key == b"transfer-encoding" or (key == b"content-length" and value != b"0") for key, value in scope["headers"]
    )
