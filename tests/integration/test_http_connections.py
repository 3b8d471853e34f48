"""Connections of the HTTP server, on real sockets: kept while they may be used, gone when the client is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import attrs
import pytest
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.asgi import DrainGuard, read_body
from dmr_adapters.http.errors import error_response
from dmr_adapters.http.server import bind, serve
from dmr_core.domain.settings import Listen
from dmr_core.errors import DmrError

_SOON = 5.0
_REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


@attrs.define
class Server:
    """A server whose answers wait for ``answer``."""

    port: int
    answer: asyncio.Event

    async def ask(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request on a new connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(_REQUEST)
        return reader, writer

    async def forgets(self) -> bool:
        """Whether no connection is left soon."""
        deadline = asyncio.get_running_loop().time() + _SOON
        while _connections() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        return _connections() == 0


async def _accepted() -> None:
    while not _connections():
        await asyncio.sleep(0.01)


def _connections() -> int:
    """How many connections Hypercorn has a task for."""
    return sum("_server_callback" in repr(task.get_coro()) for task in asyncio.all_tasks())


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server for the time of a test."""
    listener = bind(Listen(port=0))
    made, stop = Server(listener.getsockname()[1], asyncio.Event()), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await made.answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    serving = asyncio.ensure_future(serve(app, listener, stop))
    made.answer.set()
    yield made
    stop.set()
    await serving


async def test_a_connection_the_client_closed_while_idle_is_gone_at_once(server: Server) -> None:
    reader, writer = await server.ask()
    assert (await reader.readuntil(b"ok")).endswith(b"ok")
    writer.close()
    await writer.wait_closed()

    assert await server.forgets()


async def test_a_connection_the_client_closed_while_it_was_answered_is_gone_with_the_answer(server: Server) -> None:
    server.answer.clear()
    _, writer = await server.ask()
    await _accepted()
    writer.close()
    await writer.wait_closed()
    server.answer.set()

    assert await server.forgets()


async def test_a_connection_nobody_sent_anything_on_is_gone_with_its_client(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await _accepted()
    writer.close()
    await writer.wait_closed()

    assert await server.forgets()


async def test_an_idle_connection_answers_again(server: Server) -> None:
    reader, writer = await server.ask()
    for _ in range(3):
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(_REQUEST)
    assert (await reader.readuntil(b"ok")).endswith(b"ok")
    writer.close()
    await writer.wait_closed()

    assert await server.forgets()


@pytest.mark.parametrize(
    ("openai", "told"), [(False, b"did not go on for 0.1 s\n"), (True, b'"code":"request_timeout"')]
)
async def test_who_sends_half_a_body_is_told_and_loses_the_connection(
    openai: bool, told: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await read_body(receive, 100)
        except DmrError as exc:
            await error_response(exc, openai=openai)(scope, receive, send)

    async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for done in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{done}.complete"})
        else:
            await DrainGuard(app)(scope, receive, send)

    monkeypatch.setattr("dmr_adapters.http.asgi._SILENCE", 0.1)
    listener, stop = bind(Listen(port=0)), asyncio.Event()
    serving = asyncio.ensure_future(serve(with_lifespan, listener, stop))
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
    writer.write(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\nhalf")
    async with asyncio.timeout(_SOON):
        answer = await reader.read()  # to the end of the connection
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close\r\n" in answer.lower()
    assert told in answer
    writer.close()
    await writer.wait_closed()
    stop.set()
    await serving
