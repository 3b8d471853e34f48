"""Receiving files: ranges, redirects to the storage behind the Hub, and what both may answer (RFC 9110 §14)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import aiohttp
import attrs

from dmr_adapters.hugging_face.answer import Asked
from dmr_adapters.hugging_face.client import HubClient
from dmr_adapters.registry.client import translated
from dmr_adapters.registry.raw_body import take_over
from dmr_adapters.registry.retry import BrokenConnectionError, RetryPolicy, retrying
from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.errors import DigestMismatchError, RegistryError
from dmr_core.ports.registry import BlobReader, Credentials

__all__ = ["FileRequest", "open_file"]

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_SHA256: Final = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')


@attrs.frozen(kw_only=True)
class FileRequest:
    """Bytes ``begin`` to ``end`` of a file of a commit."""

    revision: HubRevision
    file: HubFile
    begin: int
    end: int
    credentials: Credentials | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.begin == 0 and self.end == self.file.size

    @property
    def name(self) -> str:
        """The file, for messages."""
        return f"{self.file.path.text!r} of {self.revision.repository!r}"

    @property
    def headers(self) -> dict[str, str]:
        """What to ask with. Every redirect is asked with it again."""
        if self.is_whole:
            return {}
        last = "" if self.end == self.file.size else str(self.end - 1)
        return {"Range": f"bytes={self.begin}-{last}"}


@asynccontextmanager
async def open_file(hub: HubClient, request: FileRequest, policy: RetryPolicy) -> AsyncIterator[BlobReader]:
    """The bytes asked for where the Hub grants the range, else all of them.

    Opening is retried, receiving is not: whoever stores the bytes knows where to go on.

    Raises:
        RegistryUnreachableError, while iterating too: the connection broke, stalled, or ended early.
        RegistryError: the answer contradicts the request or the listing.
        DigestMismatchError: the Hub names another content than it listed.
    """
    size = request.file.size
    if request.begin >= request.end and size:
        yield BlobReader(request.begin, _nothing(), end=request.begin)
        return
    async with AsyncExitStack() as stack:
        answer, start = await retrying(hub.clock, policy, lambda: _open(hub, request, stack))
        stop = request.end if answer.status == 206 else size
        source = take_over(answer, stop - start, hub.client.timeouts.stall)
        if source is None:
            chunks = _chunks(answer, stop - start)
        else:
            stack.callback(source.close)
            chunks = source.chunks()
        async with aclosing(chunks):
            yield BlobReader(start, chunks, source, stop)


async def _open(hub: HubClient, request: FileRequest, stack: AsyncExitStack) -> tuple[aiohttp.ClientResponse, int]:
    """An answer left open on ``stack``, and where its body begins."""
    revision, path = request.revision, request.file.path.text
    url = hub.url(*revision.repository.split("/"), "resolve", revision.commit, *path.split("/"))
    asked = Asked(repository=revision.repository, path=path, address=hub.address(revision.repository))
    accept = frozenset({200}) if request.is_whole else frozenset({200, 206, 416})
    async with AsyncExitStack() as attempt:
        answer = await attempt.enter_async_context(
            hub.ask(
                url,
                asked,
                request.credentials,
                accept=accept,
                headers=request.headers,
                hop=lambda hop: _check_hop(hop, request),
            )
        )
        if answer.status != 416:
            start = _granted(answer, request)
            await stack.enter_async_context(attempt.pop_all())
            return answer, start
    # It has fewer bytes than were listed, so what is here is wrong.
    return await _open(hub, attrs.evolve(request, begin=0, end=request.file.size), stack)


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


def _granted(answer: aiohttp.ClientResponse, request: FileRequest) -> int:
    """Where the body begins.

    Raises:
        RegistryError: it is encoded, of another size than listed, or another range.
    """
    host, size = answer.url.host, request.file.size
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RegistryError(f"{host!r} sends {request.name} in an encoding nobody asked for")
    start, end = 0, size
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        right = found and (int(found[1]), int(found[2]) + 1) == (request.begin, request.end)
        if not found or not right or found[3] not in {"*", str(size)}:
            raise RegistryError(f"{host!r} sends another range of {request.name} than it was asked for")
        start, end = request.begin, request.end
    length = answer.content_length
    if length is not None and length != end - start:
        raise RegistryError(f"{host!r} has {length} bytes of {request.name}, the list says {end - start}")
    return start


async def _chunks(answer: aiohttp.ClientResponse, expected: int) -> AsyncGenerator[bytes, None]:
    received = 0
    while True:
        with translated(answer.url):
            chunk = await answer.content.readany()
        if not chunk:
            break
        received += len(chunk)
        if received > expected:
            raise RegistryError(f"{answer.url.host!r} sends more than the {expected} bytes there are")
        yield chunk
    if received < expected:  # only where the answer had no length of its own
        raise BrokenConnectionError(f"{answer.url.host!r} ended the file after {received} of {expected} bytes")


async def _nothing() -> AsyncGenerator[bytes, None]:
    none: tuple[bytes, ...] = ()
    for chunk in none:
        yield chunk
