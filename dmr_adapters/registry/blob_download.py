"""Receiving blobs: ranges, and what a registry may answer to them (OCI distribution-spec, "Pulling blobs")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from dmr_adapters.registry.ranged_body import ByteRange, granted_start, nothing_to_read, reading
from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.retry import RetryPolicy, retrying
from dmr_core.domain.artifact import Descriptor
from dmr_core.ports.registry import BlobReader

__all__ = ["open_blob"]


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
    size = descriptor.size
    if offset == size > 0:
        yield nothing_to_read(offset)
        return
    asked = ByteRange(offset if offset < size else 0, size if end is None else min(end, size), size)
    async with AsyncExitStack() as stack:
        answer, start = await retrying(repository.clock, policy, lambda: _open(repository, descriptor, asked, stack))
        stall = repository.client.timeouts.stall
        yield await stack.enter_async_context(reading(answer, asked, start, _name(descriptor), stall))


async def _open(
    repository: Repository, descriptor: Descriptor, asked: ByteRange, stack: AsyncExitStack
) -> tuple[aiohttp.ClientResponse, int]:
    """An answer left open on ``stack``, and where its body begins."""
    headers = {"Accept": f"{descriptor.media_type}, */*", **asked.headers}
    url = repository.url("blobs", str(descriptor.digest))
    what = f"a request for {_name(descriptor)}"
    async with AsyncExitStack() as attempt:
        answer = await attempt.enter_async_context(
            repository.ask("GET", url, what, accept=asked.statuses, headers=headers)
        )
        if answer.status != 416:
            start = granted_start(answer, asked, _name(descriptor), "the manifest")
            await stack.enter_async_context(attempt.pop_all())
            return answer, start
    whole = ByteRange(0, descriptor.size, descriptor.size)
    return await _open(repository, descriptor, whole, stack)  # it has fewer bytes than we do, so ours are wrong


def _name(descriptor: Descriptor) -> str:
    return f"blob {descriptor.digest}"
