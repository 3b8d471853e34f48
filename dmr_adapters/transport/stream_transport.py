"""A transport made for the one job: requests of known length to engines next door.

About 100 µs per request cheaper than a general client, which on the way of every token matters.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Final

from dmr_adapters.transport.connection import BrokenBeforeAnswerError, Connection, StreamResponse
from dmr_adapters.transport.request_head import describe, render_request
from dmr_core.errors import UpstreamError
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest

__all__ = ["StreamTransport"]

_IDLE_LIMIT: Final = 4.0  # seconds; llama.cpp and uvicorn close what was idle for 5
_MOST_IDLE: Final = 64
_CONNECT_TIMEOUT: Final = 5.0
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.05


class StreamTransport(Transport):
    """Speaks HTTP/1.1 over :class:`asyncio.Protocol`, with a pool of connections per engine.

    Belongs to the loop it is first used on.
    """

    def __init__(self) -> None:
        self._pools: dict[Endpoint, _Pool] = {}
        self._closed = False

    async def send(self, endpoint: Endpoint, request: UpstreamRequest) -> StreamResponse:
        """See :class:`Transport`.

        A kept connection that the engine closes before the first byte of an answer is replaced by a new
        one, once: the engine closed it for having been idle, and did not see the request.

        Raises:
            InvalidRequestError: the request cannot be sent as one well-formed message.
            UpstreamError: nobody listens there, or the engine broke off before answering.
        """
        head = render_request(request)
        if self._closed:
            raise UpstreamError("the transport is closed")
        pool = self._pools.get(endpoint)
        if pool is None:
            pool = self._pools[endpoint] = _Pool(endpoint)
        connection = pool.take()
        if connection is not None:
            try:
                return await connection.ask(head, request.body, request.method)
            except BrokenBeforeAnswerError:
                pass
        connection = await pool.connect()
        return await connection.ask(head, request.body, request.method)

    async def forget(self, endpoint: Endpoint) -> None:
        """See :class:`Transport`. Answers still being read from it break off."""
        pool = self._pools.pop(endpoint, None)
        if pool is not None:
            await pool.aclose()

    async def aclose(self) -> None:
        """See :class:`Transport`. Idempotent; a closed transport sends nothing more."""
        self._closed = True
        for endpoint in list(self._pools):
            await self.forget(endpoint)


class _Pool:
    """The connections to one engine: the most recently used idle one is used next."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._name = describe(endpoint)
        self._loop = asyncio.get_running_loop()
        self._make = partial(Connection, self, self._name, self._loop.create_future)
        self._all: set[Connection] = set()
        self._idle: list[Connection] = []
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self) -> Connection | None:
        """An idle connection that is still good."""
        oldest = self._loop.time() - _IDLE_LIMIT
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open() and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            UpstreamError: nobody listens there, or does not accept within five seconds.
        """
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                if self._endpoint.socket is not None:
                    connection = await self._connect_unix(str(self._endpoint.socket))
                else:
                    _, connection = await self._loop.create_connection(
                        self._make, self._endpoint.host, self._endpoint.port
                    )
        except TimeoutError as exc:
            raise UpstreamError(f"the engine at {self._name} does not accept connections") from exc
        except OSError as exc:
            raise UpstreamError(f"cannot reach the engine at {self._name}: {exc.strerror or exc}") from exc
        self._all.add(connection)
        if self._closed:  # forgotten while we were connecting
            connection.abort()
        return connection

    async def _connect_unix(self, path: str) -> Connection:
        """Connect by ourselves: a unix socket whose queue is full refuses with EAGAIN (``connect(2)``), where TCP would
        wait, and asyncio takes that for a connection on its way.
        """
        link = socket.socket(socket.AF_UNIX)
        try:
            link.setblocking(False)
            pause = _FIRST_PAUSE
            while True:
                try:
                    link.connect(path)  # done at once, or not at all
                    break
                except BlockingIOError:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            _, connection = await self._loop.create_unix_connection(self._make, sock=link)
        except BaseException:
            link.close()
            raise
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection that has nothing to do."""
        if self._closed or len(self._idle) >= _MOST_IDLE:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = self._loop.call_later(_IDLE_LIMIT, self._reap)

    def lost(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def aclose(self) -> None:
        """Close every connection, and return when they are closed."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        connections = list(self._all)
        for connection in connections:
            connection.abort()
        if connections:
            await asyncio.wait([connection.closed for connection in connections])

    def _reap(self) -> None:
        self._reaper = None
        oldest = self._loop.time() - _IDLE_LIMIT
        kept = [connection for connection in self._idle if connection.idle_since > oldest]
        for connection in self._idle[: len(self._idle) - len(kept)]:  # the longest idle come first
            connection.abort()
        self._idle = kept
        if kept:
            self._reaper = self._loop.call_at(kept[0].idle_since + _IDLE_LIMIT, self._reap)
