"""``GET /logs``: what the service and its engines said lately."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dmr_adapters.http.errors import plain_text
from dmr_adapters.http.services import Services
from dmr_adapters.logs.book import LogBook

__all__ = ["LogsApi"]

# Go's strconv.ParseBool, whose words clients of the reference use.
_BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False", ""), False),
}


class LogsApi:
    """Handler of ``/logs``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def logs(self, request: Request) -> Response:
        """``GET /logs?follow=BOOL&no-engines=BOOL``."""
        values = {}
        for name in ("follow", "no-engines"):
            text = request.query_params.get(name, "")
            if text not in _BOOLEANS:
                return plain_text(f'invalid {name} parameter: "{text}" is not a valid boolean', 400)
            values[name] = _BOOLEANS[text]
        return _LogStream(self._services.logs, follow=values["follow"], engines=not values["no-engines"])


class _LogStream(Response):
    """Sends lines as they come, until the client leaves or the book is closed."""

    def __init__(self, book: LogBook, *, follow: bool, engines: bool) -> None:
        super().__init__(media_type="text/plain")
        del self.headers["content-length"]
        self._book = book
        self._follow = follow
        self._engines = engines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._book.read(follow=self._follow, engines=self._engines)) as pieces:
            async for piece in pieces:
                await send(_part(piece, more=True))
        await send(_part(b"", more=False))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _part(content: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}
