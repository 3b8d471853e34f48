"""The way back to a client that speaks Anthropic's dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import attrs

from dmr_adapters.http.anthropic.answer import translate_answer
from dmr_adapters.http.anthropic.errors import engine_error, error_event
from dmr_adapters.http.anthropic.events import PING, EventReader, MessageEvents
from dmr_adapters.http.inference.relay import Relay, read_all
from dmr_core.ports.transport import UpstreamResponse

__all__ = ["NativeRelay", "TranslatingRelay"]

_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))
_MAX_ERROR: Final = 1024 * 1024
PING_EVERY = 10.0
"""Seconds of an engine's silence after which a client gets a ping."""
_ERROR: Final = b"event: error\n"


@attrs.define(eq=False)
class NativeRelay(Relay):
    """Passes an answer on as it is; errors, which engines write in shapes of their own, in Anthropic's."""

    async def answer(self, response: UpstreamResponse, rename: Callable[[bytes], bytes] | None) -> None:
        """See :class:`Relay`."""
        if response.status < 400:
            await super().answer(response, _ErrorShape(rename) if _is_stream(response) else rename)
            return
        body = engine_error(await read_all(response, limit=_MAX_ERROR), response.status)
        await self.whole(response.status, [*self.headers, _JSON], body)

    def event_of(self, error: Exception) -> bytes:
        """See :class:`Relay`."""
        return error_event(error)


@attrs.define(eq=False, kw_only=True)
class TranslatingRelay(NativeRelay):
    """Makes a message of a chat completion. ``model`` is the name the client used."""

    model: str

    async def answer(self, response: UpstreamResponse, rename: Callable[[bytes], bytes] | None) -> None:
        """See :class:`Relay`."""
        if response.status >= 400:
            await super().answer(response, None)
            return
        if _is_stream(response):
            await self._translated(response)
            return
        message = translate_answer(await read_all(response), self.model)
        if self.check is not None:
            await self.check(message)
        await self.whole(200, [*self.headers, _JSON], message)

    async def _translated(self, response: UpstreamResponse) -> None:
        """One event at a time, and as fast as the client takes them."""
        self.streaming = True
        await self.start(200, [*self.headers, *_EVENTS])
        if self.recording is not None:
            self.recording.streamed = True
        reader, events = EventReader(), MessageEvents(self.model)
        await self.write(events.begin(), more=True)
        while chunk := await self._read(response):
            said = b"".join(map(events.chunk, reader.feed(chunk)))
            if said:
                await self.write(said, more=True)
                if not self.pieces:
                    self.first = self.clock.monotonic()
                self.pieces += 1
        await self.write(events.end(), more=False)

    async def _read(self, response: UpstreamResponse) -> bytes:
        """The next bytes; while there are none, the client gets a ping now and then."""
        reading = asyncio.ensure_future(response.read())
        try:
            while not (await asyncio.wait({reading}, timeout=PING_EVERY))[0]:
                await self.write(PING, more=True)
            return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


class _ErrorShape:
    """Puts an engine's error event, its last, into Anthropic's shape. One search finds the few there are."""

    def __init__(self, rename: Callable[[bytes], bytes] | None) -> None:
        self._rename = rename

    def __call__(self, events: bytes) -> bytes:
        events = events if self._rename is None else self._rename(events)
        at = events.find(_ERROR)
        if at < 0 or (at and events[at - 1 : at] != b"\n"):
            return events
        data = next(EventReader().feed(events[at:] + b"\n\n"), b"")
        return events[:at] + _ERROR + b"data: " + engine_error(data, 500) + b"\n\n"


def _is_stream(response: UpstreamResponse) -> bool:
    return any(key == b"content-type" and value.startswith(b"text/event-stream") for key, value in response.headers)
