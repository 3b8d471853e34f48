"""Asking for a part of something, and reading what comes (RFC 9110 §14): blobs of registries and files of hubs."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import aiohttp
import attrs

from dmr_adapters.registry.client import translated
from dmr_adapters.registry.raw_body import take_over
from dmr_adapters.registry.retry import BrokenConnectionError
from dmr_core.errors import RegistryError
from dmr_core.ports.registry import BlobReader

__all__ = ["ByteRange", "granted_start", "nothing_to_read", "reading"]

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


@attrs.frozen
class ByteRange:
    """Bytes ``begin`` to ``end`` of ``size``."""

    begin: int
    end: int
    size: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.begin == 0 and self.end == self.size

    @property
    def headers(self) -> dict[str, str]:
        """What to ask with."""
        if self.is_whole:
            return {}
        last = "" if self.end == self.size else str(self.end - 1)
        return {"Range": f"bytes={self.begin}-{last}"}

    @property
    def statuses(self) -> frozenset[int]:
        """What may be answered. 416 means that there are fewer bytes than were promised."""
        return frozenset({200}) if self.is_whole else frozenset({200, 206, 416})


def granted_start(answer: aiohttp.ClientResponse, asked: ByteRange, what: str, promise: str) -> int:
    """Where the body begins: where it was asked to, or at 0. ``promise`` is who said how large ``what`` is.

    Raises:
        RegistryError: it is encoded, of another size than promised, or another range.
    """
    host = answer.url.host
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RegistryError(f"{host!r} sends {what} in an encoding nobody asked for")
    start, end = 0, asked.size
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        right = found and (int(found[1]), int(found[2]) + 1) == (asked.begin, asked.end)
        if not found or not right or found[3] not in {"*", str(asked.size)}:
            raise RegistryError(f"{host!r} sends another range of {what} than it was asked for")
        start, end = asked.begin, asked.end
    length = answer.content_length
    if length is not None and length != end - start:
        raise RegistryError(f"{host!r} has {length} bytes of {what}, {promise} says {end - start}")
    return start


@asynccontextmanager
async def reading(
    answer: aiohttp.ClientResponse, asked: ByteRange, start: int, what: str, stall: float
) -> AsyncIterator[BlobReader]:
    """The body of an answer that was granted. No byte for ``stall`` seconds is an error.

    Raises:
        RegistryUnreachableError, while iterating: the connection broke, stalled, or ended early.
        RegistryError, while iterating: there is more than promised.
    """
    end = asked.end if answer.status == 206 else asked.size
    async with AsyncExitStack() as stack:
        source = take_over(answer, end - start, stall)
        if source is None:
            chunks = _chunks(answer, end - start, what)
        else:
            stack.callback(source.close)
            chunks = source.chunks()
        async with aclosing(chunks):
            yield BlobReader(start, chunks, source, end)


def nothing_to_read(start: int) -> BlobReader:
    """No bytes at ``start``: there is no range to ask for, ``bytes=n-`` at the end is an error."""
    return BlobReader(start, _nothing(), end=start)


async def _chunks(answer: aiohttp.ClientResponse, expected: int, what: str) -> AsyncGenerator[bytes, None]:
    received = 0
    content = answer.content
    while True:
        with translated(answer.url):
            chunk, _ = await content.readchunk()  # as it was received; `readany` would copy all there is
        if not chunk:
            break
        received += len(chunk)
        if received > expected:
            raise RegistryError(f"{answer.url.host!r} sends more than the {expected} bytes of {what}")
        yield chunk
    if received < expected:  # only where the answer had no length of its own
        raise BrokenConnectionError(f"{answer.url.host!r} ended {what} after {received} of {expected} bytes")


async def _nothing() -> AsyncGenerator[bytes, None]:
    none: tuple[bytes, ...] = ()
    for chunk in none:
        yield chunk
