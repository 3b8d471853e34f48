"""Clients that leave before their answer is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.asgi import ClientGoneError

__all__ = ["ClosingResponse", "first_of", "unless_gone"]

_T = TypeVar("_T")


class ClosingResponse(StreamingResponse):
    """Closes what it streams, an asynchronous generator, whatever ends it: a client that leaves between two pieces, too.

    Starlette closes what it waits for, and leaves what waits for it to the garbage collector.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See :class:`StreamingResponse`."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            assert isinstance(self.body_iterator, AsyncGenerator)  # noqa: S101 - we made it
            await self.body_iterator.aclose()


async def first_of(pieces: AsyncGenerator[_T, None]) -> _T:
    """The first of ``pieces``, as something that can be cancelled.

    Raises:
        StopAsyncIteration: there is none.
    """
    return await anext(pieces)


async def unless_gone(work: Coroutine[Any, Any, _T], receive: Receive) -> _T:
    """What ``work`` gives; it is cancelled if the client leaves first.

    Raises:
        ClientGoneError: it did.
    """
    ahead, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({ahead, gone}, return_when=asyncio.FIRST_COMPLETED)
        if ahead.done():
            return ahead.result()
        raise ClientGoneError
    finally:
        gone.cancel()
        if not ahead.done():
            ahead.cancel()
        await asyncio.gather(ahead, gone, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
