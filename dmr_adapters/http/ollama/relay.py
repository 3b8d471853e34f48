"""The way back to a client that speaks Ollama's dialect: the one translation on this path, chunk by chunk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs

from dmr_adapters.http.inference.relay import Relay, read_all
from dmr_adapters.http.ollama.errors import client_error, engine_error, error_line, message_for, shaped
from dmr_adapters.http.ollama.lines import AnswerLines, Times, figures
from dmr_adapters.http.ollama.pieces import Usage, error_in, piece_of, usage_of
from dmr_adapters.http.responses.upstream import DONE, ChunkReader, parse
from dmr_core.errors import UpstreamError
from dmr_core.ports.transport import UpstreamResponse

__all__ = ["JSON", "NDJSON", "OllamaRelay", "plain_answer"]

JSON: Final = (b"content-type", b"application/json")
NDJSON: Final = (b"content-type", b"application/x-ndjson")
_MAX_ERROR: Final = 1024 * 1024

More = Callable[[str], Awaitable[dict[str, Any]]]
"""Given the whole answer, what else its end has to tell."""


@attrs.define(eq=False, kw_only=True)
class OllamaRelay(Relay):
    """Makes Ollama's lines of a chat completion or a completion.

    ``load`` is the seconds that loading the model took, ``sent`` when the engine was asked, ``began`` when the request
    came (both monotonic). ``infill`` says that the engine was asked for a middle.
    """

    lines: AnswerLines
    began: float = 0.0
    sent: float = 0.0
    load: float = 0.0
    more: More | None = None
    infill: bool = False
    _usage: Usage | None = None

    async def answer(self, response: UpstreamResponse, rename: Callable[[bytes], bytes] | None) -> None:
        """See :class:`Relay`. The lines have the client's name for the model anyway."""
        if response.status >= 400:
            message = engine_error(await read_all(response, limit=_MAX_ERROR), response.status)
            status = client_error(response.status, message)
            if self.infill and status == 501:
                status, message = 400, f"this model does not support insert: {message}"
            await plain_answer(self, status, message)
        elif _is_stream(response):
            await self._stream(response)
        else:
            await self._whole(response)

    def event_of(self, error: Exception) -> bytes:
        """See :class:`Relay`."""
        return error_line(message_for(error))

    async def _whole(self, response: UpstreamResponse) -> None:
        content = await read_all(response)
        document = parse(content)
        if (failure := error_in(document)) is not None:
            raise UpstreamError(failure)
        if self.check is not None:
            await self.check(content)
        self._usage, piece = usage_of(document), piece_of(document)
        closing = await self._closing(piece.text)
        await self.whole(200, [*self.headers, JSON], self.lines.whole(piece, self.clock.time(), closing))

    async def _stream(self, response: UpstreamResponse) -> None:
        """One chunk at a time, and as fast as the client takes them. What is recorded is what the engine said."""
        self.streaming = True
        await self.start(200, [*self.headers, NDJSON])
        tape, self.recording = self.recording, None
        if tape is not None:
            tape.streamed = True
        try:
            reader, done = ChunkReader(), False
            while chunk := await response.read():
                if tape is not None:
                    tape.add(chunk)
                if done:
                    continue
                said, done = self._translated(reader.feed(chunk))
                if said:
                    await self.write(said, more=True)
                    if not self.pieces:
                        self.first = self.clock.monotonic()
                    self.pieces += 1
            if not done and not self.lines.ended:
                raise UpstreamError("the engine ended its answer in the middle")
            closing = await self._closing(self.lines.text)
            await self.write(self.lines.end(self.clock.time(), closing), more=False)
        finally:
            self.recording = tape

    def _translated(self, documents: list[object]) -> tuple[bytes, bool]:
        said, now = b"", self.clock.time()
        for document in documents:
            if document is DONE:
                return said, True
            if (failure := error_in(document)) is not None:
                raise UpstreamError(failure)
            self._usage = usage_of(document) or self._usage
            said += b"".join(self.lines.feed(piece_of(document), now))
        return said, False

    async def _closing(self, text: str) -> dict[str, Any]:
        now = self.clock.monotonic()
        first = self.first or self.sent
        times = Times(now - self.began, self.load, first - self.sent, now - first)
        found = figures(times, self._usage)
        return {**(await self.more(text) if self.more is not None else {}), **found}


async def plain_answer(relay: Relay, status: int, message: str) -> None:
    """Answer with an error that is known by its words."""
    response = shaped(status, message)
    await relay.whole(status, [*relay.headers, JSON], bytes(response.body))


def _is_stream(response: UpstreamResponse) -> bool:
    return any(key == b"content-type" and value.startswith(b"text/event-stream") for key, value in response.headers)
