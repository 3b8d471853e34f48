"""Passing an engine's answer on, untouched but for the model's name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
from starlette.types import Message, Send

from dmr_adapters.http.errors import sse_error, status_of
from dmr_core.errors import UpstreamError
from dmr_core.ports.clock import Clock
from dmr_core.ports.transport import UpstreamResponse
from dmr_core.services.recording import Recording

__all__ = ["Relay", "read_all"]

_RETURNED: Final = (b"content-type", b"cache-control", b"x-accel-buffering")
_WHOLE: Final = 256 * 1024
_MAX_HELD: Final = 256 * 1024
_MAX_RENAMED: Final = 256 * 1024 * 1024
_EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n")
_SEND_TIMEOUT: Final = 600.0
_LAST_WORD: Final = 5.0


@attrs.define(eq=False)
class Relay:
    """The way back to one client. ``headers`` go with every answer of an engine; a ``recording`` gets what is sent.
    A ``check`` sees a whole answer before the client does, and may raise instead. ``stock`` is whether the client is the stock CLI, to which any 503 says that the service is not running.

    ``status`` is 499 until an answer has started. Of a stream, ``pieces`` are counted and ``first`` is when the first
    of them was sent.
    """

    send: Send
    clock: Clock
    headers: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    recording: Recording | None = None
    check: Callable[[bytes], Awaitable[None]] | None = None
    stock: bool = False
    status: int = 499
    started: bool = False
    streaming: bool = False
    pieces: int = 0
    first: float = 0.0
    _stalled: bool = False

    async def answer(self, response: UpstreamResponse, rename: Callable[[bytes], bytes] | None) -> None:
        """Relay a whole answer. ``rename`` is applied to whole events, and to bodies.

        Raises:
            UpstreamError: the engine broke off.
            AnswerViolationError: the check found that the answer is not what was demanded.
            TimeoutError: the client does not read.
        """
        headers, length = list(self.headers), -1
        status = 429 if self.stock and response.status == 503 else response.status
        for key, value in response.headers:
            if key in _RETURNED:
                headers.append((key, value))
                self.streaming = self.streaming or (key == b"content-type" and value.startswith(b"text/event-stream"))
            elif key == b"content-length":
                length = int(value)
        if self.streaming:
            await self.start(status, headers)
            await self._events(response, rename)
        elif rename is not None or 0 <= length <= _WHOLE or self.check is not None:
            body = await read_all(response)
            if self.check is not None and status == 200:
                await self.check(body)
            await self.whole(status, headers, rename(body) if rename is not None else body)
        else:
            if length >= 0:
                headers.append((b"content-length", b"%d" % length))
            await self.start(status, headers)
            while chunk := await response.read():
                await self.write(chunk, more=True)
            await self.write(b"", more=False)

    async def whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer with a body that is at hand."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.write(body, more=False)

    async def break_off(self, error: Exception) -> None:
        """End an answer that has begun: a stream with a typed event, anything else by closing the connection."""
        self.status = status_of(error)
        if not self.streaming or isinstance(error, TimeoutError):  # who reads nothing reads no error either
            raise error
        event = self.event_of(error)
        if self.recording is not None:
            self.recording.add(event)
        async with asyncio.timeout(_LAST_WORD):
            await self.send({"type": "http.response.body", "body": event})

    def event_of(self, error: Exception) -> bytes:
        """The event a stream that breaks ends with."""
        return sse_error(error)

    async def _events(self, response: UpstreamResponse, rename: Callable[[bytes], bytes] | None) -> None:
        """Pass whole events on, so that a stream that breaks can still end with one of ours."""
        if self.recording is not None:
            self.recording.streamed = True
        held = b""
        while chunk := await response.read():
            if held:
                chunk, held = held + chunk, b""
            if not chunk.endswith(_EVENT_ENDS):
                end = max(chunk.rfind(mark) + len(mark) if mark in chunk else 0 for mark in _EVENT_ENDS)
                if end:
                    chunk, held = chunk[:end], chunk[end:]
                elif len(chunk) < _MAX_HELD:
                    held = chunk
                    continue
            await self.write(chunk if rename is None else rename(chunk), more=True)
            if not self.pieces:
                self.first = self.clock.monotonic()
            self.pieces += 1
        await self.write(held if rename is None else rename(held), more=False)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head of the answer."""
        self.started, self.status = True, status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, content: bytes, *, more: bool) -> None:
        """Send, but not for ever: a client that reads nothing must not keep an engine."""
        if content and self.recording is not None:
            self.recording.add(content)
        message: Message = {"type": "http.response.body", "body": content, "more_body": more}
        # What asyncio.timeout does, at a fifth of its cost; this runs for every piece of every stream.
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks
        timer = task.get_loop().call_later(_SEND_TIMEOUT, self._stall, task)
        try:
            await self.send(message)
        except asyncio.CancelledError as exc:
            if self._stalled and not task.uncancel():
                raise TimeoutError(f"the client read nothing for {_SEND_TIMEOUT:g} s") from exc
            raise
        finally:
            timer.cancel()

    def _stall(self, task: asyncio.Task[object]) -> None:
        self._stalled = True
        task.cancel()


async def read_all(response: UpstreamResponse, *, limit: int = _MAX_RENAMED) -> bytes:
    """The whole answer.

    Raises:
        UpstreamError: it is longer than ``limit`` bytes, or the engine broke off.
    """
    parts, size = [], 0
    while chunk := await response.read():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise UpstreamError(f"the engine's answer is longer than {limit} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)
