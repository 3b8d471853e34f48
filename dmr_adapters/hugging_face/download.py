"""Receiving files: ranges, redirects to the storage behind the Hub, and what both may answer (RFC 9110 §14)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import aiohttp
import attrs

from dmr_adapters.hugging_face.answer import Asked
from dmr_adapters.hugging_face.client import HubClient
from dmr_adapters.registry.ranged_body import ByteRange, granted_start, nothing_to_read, reading
from dmr_adapters.registry.retry import RetryPolicy, retrying
from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.errors import DigestMismatchError, RegistryError
from dmr_core.ports.registry import BlobReader, Credentials

__all__ = ["FileRequest", "open_file"]

_SHA256: Final = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')


@attrs.frozen(kw_only=True)
class FileRequest:
    """A file of a commit, or a part of it."""

    revision: HubRevision
    file: HubFile
    range: ByteRange
    credentials: Credentials | None

    @property
    def name(self) -> str:
        """The file, for messages."""
        return f"{self.file.path.text!r} of {self.revision.repository!r}"


@asynccontextmanager
async def open_file(hub: HubClient, request: FileRequest, policy: RetryPolicy) -> AsyncIterator[BlobReader]:
    """The bytes asked for where the Hub grants the range, else all of them.

    Opening is retried, receiving is not: whoever stores the bytes knows where to go on.

    Raises:
        RegistryUnreachableError, while iterating too: the connection broke, stalled, or ended early.
        RegistryError: the answer contradicts the request or the listing.
        DigestMismatchError: the Hub names another content than it listed.
    """
    asked = request.range
    if asked.begin >= asked.end and asked.size:
        yield nothing_to_read(asked.begin)
        return
    async with AsyncExitStack() as stack:
        answer, start = await retrying(hub.clock, policy, lambda: _open(hub, request, stack))
        stall = hub.client.timeouts.stall
        yield await stack.enter_async_context(reading(answer, asked, start, request.name, stall))


async def _open(hub: HubClient, request: FileRequest, stack: AsyncExitStack) -> tuple[aiohttp.ClientResponse, int]:
    """An answer left open on ``stack``, and where its body begins."""
    revision, path = request.revision, request.file.path.text
    url = hub.url(*revision.repository.split("/"), "resolve", revision.commit, *path.split("/"))
    asked = Asked(repository=revision.repository, path=path, address=hub.address(revision.repository))
    async with AsyncExitStack() as attempt:
        answer = await attempt.enter_async_context(
            hub.ask(
                url,
                asked,
                request.credentials,
                accept=request.range.statuses,
                headers=request.range.headers,  # every redirect is asked with them again
                hop=lambda hop: _check_hop(hop, request),
            )
        )
        if answer.status != 416:
            start = granted_start(answer, request.range, request.name, "the list")
            await stack.enter_async_context(attempt.pop_all())
            return answer, start
    # It has fewer bytes than were listed, so what is here is wrong.
    return await _open(hub, attrs.evolve(request, range=ByteRange(0, request.file.size, request.file.size)), stack)


def _check_hop(answer: aiohttp.ClientResponse, request: FileRequest) -> None:
    """Compare what the Hub says about the file it sends us to with what it listed (huggingface_hub, ``HfFileMetadata``)."""
    file, headers = request.file, answer.headers
    size = headers.get("X-Linked-Size", "")
    if size.isascii() and size.isdigit() and int(size[:20]) != file.size:
        raise RegistryError(f"{answer.url.host!r} has {size} bytes of {request.name}, its list says {file.size}")
    digest = _SHA256.fullmatch(headers.get("X-Linked-ETag", ""))
    if digest and file.sha256 is not None and digest[1] != file.sha256.hex:
        raise DigestMismatchError(str(file.sha256), f"sha256:{digest[1]}")
    commit = headers.get("X-Repo-Commit", request.revision.commit)
    if commit != request.revision.commit:
        raise RegistryError(f"{answer.url.host!r} has {request.name} of another commit than it was asked for")
