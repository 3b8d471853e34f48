"""Whatever a client waited for ends when it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from dmr_adapters.http.asgi import ClientGoneError
from dmr_adapters.http.leaving import ClosingResponse, first_of, unless_gone

SCOPE: dict[str, Any] = {"type": "http", "asgi": {"spec_version": "2.3"}}


async def test_pieces_are_closed_when_the_client_leaves_while_one_is_sent() -> None:
    """The generator waits for nothing then: nobody cancels it, and somebody has to close it."""
    events: list[str] = []
    sending = asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"piece"
        finally:
            events.append("closed")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sending.set()
            await asyncio.Event().wait()

    async def receive() -> Any:
        await sending.wait()
        return {"type": "http.disconnect"}

    kept = pieces()  # so that the garbage collector has nothing to do with it
    await ClosingResponse(kept)(SCOPE, receive, send)
    assert events == ["closed"]


async def test_work_is_cancelled_and_over_when_its_client_is_gone() -> None:
    events: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            events.append("over")

    async def leaves() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGoneError):
        await unless_gone(work(), leaves)
    assert events == ["over"]


async def test_what_is_done_first_is_given_or_raised() -> None:
    async def stays() -> Any:
        await asyncio.Event().wait()

    async def pieces() -> AsyncGenerator[int, None]:
        yield 1
        raise ValueError("no more")

    made = pieces()
    assert await unless_gone(first_of(made), stays) == 1
    with pytest.raises(ValueError, match="no more"):
        await unless_gone(first_of(made), stays)
