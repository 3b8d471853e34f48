"""The body of an upload: counted, and watched so that a registry that stops taking it is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from yarl import URL

from dmr_adapters.registry.client import translated
from dmr_core.errors import RegistryError
from dmr_core.ports.registry import BlobSource

__all__ = ["UploadBody"]

_PIECE: Final = 256 * 1024  # within the stall limit of 30 s: 9 KiB/s


class UploadBody:
    """The bytes ``start`` to ``end`` of a blob of ``size`` bytes on their way out. Limits in seconds.

    ``sent`` is told how far into the blob they are.

    aiohttp hides what a body's source raises behind an error of its own, so it is kept here and raised
    in its place; and it sets no limit to how long a peer may leave our bytes lying, so this does.
    """

    def __init__(
        self,
        source: BlobSource,
        start: int,
        end: int,
        size: int,
        sent: Callable[[int], None],
        *,
        stall: float,
        answer_within: float,
    ) -> None:
        self._source = source
        self._start = start
        self._end = end
        self._size = size
        self._sent = sent
        self._stall = stall
        self._answer_within = answer_within
        self._failure: Exception | None = None
        self._timeout: asyncio.Timeout | None = None
        self._opened: list[AsyncGenerator[bytes, None]] = []

    @asynccontextmanager
    async def watched(self, target: URL) -> AsyncIterator[None]:
        """Within this block a stall ends the request, and the source's failure is the failure.

        Raises:
            RegistryUnreachableError: no byte was taken for too long, or no answer came after the last.
        """
        try:
            with translated(target):
                async with asyncio.timeout(self._stall) as self._timeout:
                    yield
        except RegistryError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            self._timeout = None
            for body in self._opened:
                with suppress(RuntimeError):  # it is running: then its task was cancelled, which ends it too
                    await body.aclose()

    def open(self) -> AsyncIterator[bytes]:
        """The bytes from ``start`` on, once more."""
        body = self._bytes()
        self._opened.append(body)
        return body

    async def _bytes(self) -> AsyncGenerator[bytes, None]:
        position = self._start
        chunks = self._source(position)
        try:
            async for chunk in chunks:
                for piece in _pieces(chunk, self._end - position):
                    self._allow(self._stall)
                    yield piece  # comes back when the piece is in the socket's buffer
                    position += len(piece)
                    self._sent(position)
                if position >= self._end:
                    break
            if position < self._end:
                raise RegistryError(f"the blob to upload has {position} bytes, its descriptor says {self._size}")
        except Exception as exc:
            self._failure = exc
            raise
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        self._allow(self._answer_within)

    def _allow(self, seconds: float) -> None:
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)


def _pieces(chunk: bytes, wanted: int) -> Iterator[bytes]:
    """The first ``wanted`` bytes of ``chunk``, in pieces so small that the stall limit is fair on a slow line."""
    for start in range(0, min(wanted, len(chunk)), _PIECE):
        yield chunk[start : min(start + _PIECE, wanted)]
