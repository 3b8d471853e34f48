"""Receiving blobs: ranges, and what a registry may answer to them (OCI distribution-spec, "Pulling blobs")."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import aiohttp
import attrs

from dmr_adapters.registry.client import translated
from dmr_adapters.registry.raw_body import take_over
from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.retry import BrokenConnectionError, RetryPolicy, retrying
from dmr_core.domain.artifact import Descriptor
from dmr_core.errors import RegistryError
from dmr_core.ports.registry import BlobReader

__all__ = ["open_blob"]

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


@asynccontextmanager
async def open_blob(
    repository: Repository, descriptor: Descriptor, offset: int, end: int | None, policy: RetryPolicy
) -> AsyncIterator[BlobReader]:
    """A blob's bytes from ``offset`` to ``end`` where the registry grants it (RFC 9110 §14), else all of them.

    Opening is retried, receiving is not: whoever stores the bytes knows where to go on.

    Raises:
        RegistryUnreachableError, while iterating too: the connection broke, stalled, or ended early.
        RegistryError: the answer contradicts the request or the descriptor.
    """
    if offset == descriptor.size > 0:
        yield BlobReader(offset, _nothing())  # there is no range to ask for; "bytes=n-" past the end is an error
        return
    begin = offset if offset < descriptor.size else 0
    stop = descriptor.size if end is None else min(end, descriptor.size)
    asked = _Range(begin, stop, descriptor.size)
    async with AsyncExitStack() as stack:
        answer, start = await retrying(repository.clock, policy, lambda: _open(repository, descriptor, asked, stack))
        last = stop if answer.status == 206 else descriptor.size
        source = take_over(answer, last - start, repository.client.timeouts.stall)
        if source is None:
            chunks = _chunks(answer, last - start)
        else:
            stack.callback(source.close)
            chunks = source.chunks()
        async with aclosing(chunks):
            yield BlobReader(start, chunks, source, last)


async def _open(
    repository: Repository, descriptor: Descriptor, asked: _Range, stack: AsyncExitStack
) -> tuple[aiohttp.ClientResponse, int]:
    """An answer left open on ``stack``, and where its body begins."""
    headers = {"Accept": f"{descriptor.media_type}, */*"}
    if not asked.is_whole:
        headers["Range"] = asked.header
    accept = frozenset({200}) if asked.is_whole else frozenset({200, 206, 416})
    url = repository.url("blobs", str(descriptor.digest))
    what = f"a request for blob {descriptor.digest}"
    async with AsyncExitStack() as attempt:
        answer = await attempt.enter_async_context(repository.ask("GET", url, what, accept=accept, headers=headers))
        if answer.status != 416:
            granted = _granted(answer, asked, descriptor)
            await stack.enter_async_context(attempt.pop_all())
            return answer, granted
    whole = _Range(0, descriptor.size, descriptor.size)
    return await _open(repository, descriptor, whole, stack)  # it has fewer bytes than we do, so ours are wrong


@attrs.frozen
class _Range:
    """Bytes ``begin`` to ``end`` of ``size``."""

    begin: int
    end: int
    size: int

    @property
    def is_whole(self) -> bool:
        return self.begin == 0 and self.end == self.size

    @property
    def header(self) -> str:
        last = "" if self.end == self.size else str(self.end - 1)
        return f"bytes={self.begin}-{last}"


def _granted(answer: aiohttp.ClientResponse, asked: _Range, descriptor: Descriptor) -> int:
    """Where the body begins.

    Raises:
        RegistryError: it is encoded, of another size than the descriptor says, or another range.
    """
    host = answer.url.host
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RegistryError(f"{host!r} sends blob {descriptor.digest} in an encoding nobody asked for")
    start, end = 0, descriptor.size
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        right = found and (int(found[1]), int(found[2]) + 1) == (asked.begin, asked.end)
        if not found or not right or found[3] not in {"*", str(descriptor.size)}:
            raise RegistryError(f"{host!r} sends another range of blob {descriptor.digest} than it was asked for")
        start, end = asked.begin, asked.end
    length = answer.content_length
    if length is not None and length != end - start:
        raise RegistryError(f"{host!r} has {length} bytes of blob {descriptor.digest}, the manifest says {end - start}")
    return start


async def _chunks(answer: aiohttp.ClientResponse, expected: int) -> AsyncGenerator[bytes, None]:
    received = 0
    content = answer.content
    while True:
        with translated(answer.url):
            chunk, _ = await content.readchunk()  # as it was received; `readany` would copy all there is
        if not chunk:
            break
        received += len(chunk)
        if received > expected:
            raise RegistryError(f"{answer.url.host!r} sends more than the {expected} bytes there are")
        yield chunk
    if received < expected:  # only where the answer had no length of its own
        raise BrokenConnectionError(f"{answer.url.host!r} ended the blob after {received} of {expected} bytes")


async def _nothing() -> AsyncGenerator[bytes, None]:
    none: tuple[bytes, ...] = ()
    for chunk in none:
        yield chunk
