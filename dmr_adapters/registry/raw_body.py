"""Reading a body from its socket, once the head of the answer was read by the HTTP client.

Over plain TCP a body of known length is just bytes on a socket. A thread that reads them itself needs a third of the
time that passing them through the event loop and the parser takes, and the loop has none of it. Where the connection
is encrypted, or the body is framed in some way, the client reads it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

import aiohttp

from dmr_adapters.registry.retry import BrokenConnectionError
from dmr_core.errors import RegistryUnreachableError
from dmr_core.ports.registry import ByteSource

__all__ = ["RawBody", "take_over"]

_WORTH_IT: Final = 4 * 1024 * 1024
_CHUNK: Final = 1024 * 1024


def take_over(answer: aiohttp.ClientResponse, count: int, stall: float) -> RawBody | None:
    """The ``count`` bytes of an answer's body, read from its socket; ``None`` where the client has to read them.

    The connection cannot be used for anything else afterwards: whoever asked closes the answer. ``stall`` is how many
    seconds of silence are borne.
    """
    connection = answer.connection
    framed = answer.content_length != count or "Transfer-Encoding" in answer.headers
    if connection is None or count < _WORTH_IT or framed or answer.content.is_eof():
        return None
    transport, protocol = connection.transport, connection.protocol
    if transport is None or protocol is None or transport.get_extra_info("ssl_object") is not None:
        return None
    opened = transport.get_extra_info("socket")
    if opened is None or transport.is_closing():
        return None
    early = answer.content.read_nowait()  # before reading is paused: taking bytes out may resume it
    protocol.pause_reading()
    body = socket.socket(fileno=os.dup(opened.fileno()))
    body.settimeout(stall)
    return RawBody(body, early, count, repr(answer.url.authority.rpartition("@")[2]))


class RawBody(ByteSource):
    """The bytes of a body; ``early`` are those that the client had received with the head."""

    def __init__(self, body: socket.socket, early: bytes, count: int, host: str) -> None:
        self._body = body
        self._early = deque([memoryview(early)] if early else [])
        self._left = count
        self._host = host

    def read_into(self, buffer: memoryview) -> int:
        """See :class:`ByteSource`."""
        if not self._left:
            raise BrokenConnectionError(f"{self._host} has sent all there is")
        buffer = buffer[: self._left]
        count = self._from_early(buffer) or self._receive(buffer)
        self._left -= count
        return count

    def abort(self) -> None:
        """See :class:`ByteSource`."""
        try:
            self._body.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side was quicker

    def close(self) -> None:
        """Give the socket back; nobody may be reading."""
        self._body.close()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The same bytes for whoever cannot take them in a thread."""
        loop = asyncio.get_running_loop()
        while self._left:
            buffer = bytearray(_CHUNK)
            view = memoryview(buffer)
            reading = loop.run_in_executor(None, self.read_into, view)
            try:
                count = await asyncio.shield(reading)
            except asyncio.CancelledError:
                self.abort()
                await asyncio.wait([reading])
                reading.exception()
                raise
            yield bytes(view[:count])

    def _from_early(self, buffer: memoryview) -> int:
        if not self._early:
            return 0
        piece = self._early.popleft()
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        if count < len(piece):
            self._early.appendleft(piece[count:])
        return count

    def _receive(self, buffer: memoryview) -> int:
        try:
            count = self._body.recv_into(buffer)
        except TimeoutError as exc:
            raise RegistryUnreachableError(
                f"{self._host} stopped answering: nothing came within the time limit"
            ) from exc
        except OSError as exc:
            raise self._broken() from exc
        if not count:
            raise self._broken()
        return count

    def _broken(self) -> BrokenConnectionError:
        return BrokenConnectionError(f"{self._host} broke the connection before the answer was complete")
