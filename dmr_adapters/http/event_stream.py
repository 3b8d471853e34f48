"""Streams of server-sent events that last as long as their client (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from typing import Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["PING", "EventStream", "event"]

PING: Final = b": ping\n\n"
"""A comment: keeps proxies from closing a quiet stream, and finds out about clients that are gone."""

_SEND_TIMEOUT: Final = 30.0


def event(name: str, value: object) -> bytes:
    """An event with JSON for data."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value))


class EventStream(Response):
    """Sends events until there are no more, the client leaves, or it does not read for half a minute.

    ``source`` is what the events come from; it is closed in every case.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], source: AbstractContextManager[object]) -> None:
        super().__init__()
        self._events = events
        self._source = source
        fields = (
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"connection", b"keep-alive"),
        )
        self.raw_headers = list(fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        with self._source:
            await self._until_either(receive, send)

    async def _until_either(self, receive: Receive, send: Send) -> None:
        watch = asyncio.ensure_future(_disconnected(receive))
        work = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            work.cancel()
            await asyncio.gather(watch, work, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None and not isinstance(error, TimeoutError):
            raise error

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in events:
                async with asyncio.timeout(_SEND_TIMEOUT):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
