"""Engines that are functions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import attrs

from dmr_core.errors import UpstreamError
from dmr_core.ports.transport import Endpoint, Headers, Transport, UpstreamRequest, UpstreamResponse

__all__ = ["Answer", "Handler", "InMemoryTransport"]


@attrs.frozen
class Answer:
    """What an engine answers: a body known at once, or one that comes piece by piece.

    A generator breaks the answer off by raising :class:`UpstreamError`, and is closed when the client
    does not want the rest.
    """

    status: int = 200
    headers: Headers = ()
    body: bytes | AsyncGenerator[bytes, None] = b""


Handler = Callable[[UpstreamRequest], Awaitable[Answer]]
"""An engine. It refuses to answer by raising :class:`UpstreamError`, and is cancelled with its request."""


class _InMemoryResponse(UpstreamResponse):
    def __init__(self, answer: Answer, on_close: Callable[[UpstreamResponse], None]) -> None:
        self.status = answer.status
        self.headers = tuple((name.lower(), value) for name, value in answer.headers)
        self._pieces = _once(answer.body) if isinstance(answer.body, bytes) else answer.body
        self._on_close = on_close

    async def read(self) -> bytes:
        """See :class:`UpstreamResponse`."""
        async for piece in self._pieces:
            if piece:
                return piece
        return b""

    async def aclose(self) -> None:
        """See :class:`UpstreamResponse`."""
        self._on_close(self)
        await self._pieces.aclose()


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


class InMemoryTransport(Transport):
    """Reaches the engines that were put :meth:`at <serve>` an endpoint.

    ``requests`` were sent so far; ``open_responses`` have not been closed.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[Endpoint, UpstreamRequest]] = []
        self.open_responses: set[UpstreamResponse] = set()
        self._handlers: dict[Endpoint, Handler] = {}
        self._closed = False

    def serve(self, endpoint: Endpoint, handler: Handler) -> None:
        """Let an engine listen at ``endpoint``."""
        self._handlers[endpoint] = handler

    def silence(self, endpoint: Endpoint) -> None:
        """Let nobody listen at ``endpoint`` any more."""
        self._handlers.pop(endpoint, None)

    async def send(self, endpoint: Endpoint, request: UpstreamRequest) -> UpstreamResponse:
        """See :class:`Transport`."""
        if self._closed:
            raise UpstreamError("the transport is closed")
        handler = self._handlers.get(endpoint)
        if handler is None:
            raise UpstreamError("cannot reach the engine: nobody listens")
        self.requests.append((endpoint, request))
        response = _InMemoryResponse(await handler(request), self.open_responses.discard)
        self.open_responses.add(response)
        return response

    async def forget(self, endpoint: Endpoint) -> None:
        """See :class:`Transport`. There are no connections to close."""

    async def aclose(self) -> None:
        """See :class:`Transport`."""
        self._closed = True
        for response in list(self.open_responses):
            await response.aclose()
