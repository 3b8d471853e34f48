"""One connection to an engine, and the answer it is bringing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from dmr_adapters.transport.response_parser import MalformedResponseError, ResponseParser
from dmr_core.errors import UpstreamError
from dmr_core.ports.transport import Headers, UpstreamResponse

__all__ = ["BrokenBeforeAnswerError", "Connection", "StreamResponse"]

_BUFFER: Final = 256 * 1024
"""Reading pauses when this much waits to be taken, and goes on when all of it was."""


class BrokenBeforeAnswerError(UpstreamError):
    """The connection ended without a single byte of an answer."""


class _Home(Protocol):
    """Where connections go when they have nothing to do, and who must know when they end."""

    def give_back(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class StreamResponse(UpstreamResponse):
    """An answer being received. One reader at a time."""

    def __init__(self, method: str) -> None:
        self.status = 0
        self.headers: Headers = ()
        self._parser = ResponseParser(method)
        self._connection: Connection | None = None
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """See :class:`UpstreamResponse`. What arrived before a failure is returned before it is raised."""
        parser = self._parser
        while not parser.buffered:
            if self._error is not None:
                raise self._error
            if parser.complete:
                return b""
            await self._wait()
        data = parser.take()
        if self._connection is not None:
            self._connection.resume()
        return data

    async def aclose(self) -> None:
        """See :class:`UpstreamResponse`."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def head(self) -> None:
        """Wait for the head of the answer; ``status`` and ``headers`` are known then."""
        parser = self._parser
        while not parser.has_head:
            if self._error is not None:
                raise self._error
            await self._wait()
        self.status = parser.status
        self.headers = parser.headers

    # --- called by the connection -------------------------------------------------------------------

    def attach(self, connection: Connection) -> None:
        """Expect the answer from ``connection``."""
        self._connection = connection

    def received(self, data: bytes) -> bool:
        """Take bytes; whether the answer is complete."""
        self._parser.feed(data)
        self._wake()
        if self._parser.complete:
            self._connection = None
        return self._parser.complete

    def failed(self, error: UpstreamError) -> None:
        """There will be no more, and there should have been."""
        self._error = error
        self._connection = None
        self._wake()

    def ended(self) -> bool:
        """The connection was closed in good order: whether that completes the answer."""
        if not self._parser.eof():
            return False
        self._connection = None
        self._wake()
        return True

    @property
    def parser(self) -> ResponseParser:
        """What has been understood so far."""
        return self._parser

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Connection(asyncio.Protocol):
    """Carries one request at a time. Gives itself back to its home as soon as an answer is complete.

    ``idle_since`` is on the loop's clock.
    """

    __slots__ = ("_answered", "_home", "_paused", "_response", "_transport", "closed", "idle_since", "name")

    def __init__(self, home: _Home, name: str, closed: Callable[[], asyncio.Future[None]]) -> None:
        self._home = home
        self._response: StreamResponse | None = None
        self._transport: asyncio.Transport | None = None
        self._answered = False
        self._paused = False
        self.closed = closed()
        self.idle_since = 0.0
        self.name = name

    async def ask(self, head: bytes, body: bytes, method: str) -> StreamResponse:
        """Send a request and wait for the head of its answer. Cancelling closes the connection.

        Raises:
            BrokenBeforeAnswerError: the engine closed the connection without answering.
            UpstreamError: it broke off within the head, or sent something else than HTTP.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise BrokenBeforeAnswerError(f"the engine at {self.name} closed the connection")
        response = StreamResponse(method)
        response.attach(self)
        self._response = response
        self._answered = False
        if len(body) < 65536:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        try:
            await response.head()
        except BaseException:
            self.abort()
            raise
        return response

    def is_open(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def resume(self) -> None:
        """There is room again."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once. Whoever still reads from it fails. Idempotent."""
        if self._response is not None:
            response, self._response = self._response, None
            response.failed(UpstreamError(f"the connection to the engine at {self.name} was closed"))
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        # The loop promises a Protocol a two-way transport, but uvloop's are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        response = self._response
        if response is None or self._transport is None:
            self.abort()  # it sent what nobody asked for: whose answer is that?
            return
        self._answered = True
        try:
            complete = response.received(data)
        except MalformedResponseError as exc:
            self._response = None
            error = UpstreamError(f"the engine at {self.name} sent a malformed response: {exc}")
            error.__cause__ = exc
            response.failed(error)
            self._transport.abort()
            return
        if complete:
            self._finish(response)
        elif response.parser.buffered >= _BUFFER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """See :class:`asyncio.Protocol`. An engine that says no more gets no more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)
        self._home.lost(self)
        response, self._response = self._response, None
        if response is None or (exc is None and response.ended()):
            return
        if self._answered:
            error = UpstreamError(f"the engine at {self.name} broke off in the middle of its answer")
        else:
            error = BrokenBeforeAnswerError(f"the engine at {self.name} closed the connection without an answer")
        error.__cause__ = exc
        response.failed(error)

    def _finish(self, response: StreamResponse) -> None:
        self._response = None
        transport = self._transport
        # An engine may answer, with a refusal, before it has read a long request to its end.
        if transport is None or not response.parser.reusable or transport.get_write_buffer_size():
            self.abort()
            return
        self.resume()
        self._home.give_back(self)
