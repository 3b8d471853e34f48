"""Moving blobs: resumable downloads and monolithic uploads (OCI distribution-spec, "Pulling blobs", "Pushing blobs")."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import aiohttp
from yarl import URL

from dmr_adapters.registry.client import translated
from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.retry import BrokenConnectionError, RetryPolicy, retrying
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.errors import DigestMismatchError, RegistryError
from dmr_core.ports.registry import BlobReader, BlobSource

__all__ = ["check_digest", "has_blob", "open_blob", "send_blob"]

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_HASHING_RATE: Final = 32 * 1024 * 1024  # bytes per second; a registry may read an upload again to verify it


async def has_blob(repository: Repository, descriptor: Descriptor, policy: RetryPolicy) -> bool:
    """Whether the repository has the blob ("Checking if content exists in the registry")."""

    async def ask() -> bool:
        url = repository.url("blobs", str(descriptor.digest))
        what = f"whether it has blob {descriptor.digest}"
        async with repository.ask("HEAD", url, what, accept=frozenset({200, 404})) as answer:
            return answer.status == 200

    return await retrying(repository.clock, policy, ask)


@asynccontextmanager
async def open_blob(
    repository: Repository, descriptor: Descriptor, offset: int, policy: RetryPolicy
) -> AsyncIterator[BlobReader]:
    """A blob's bytes, from ``offset`` on where the registry grants it (RFC 9110 §14), else from 0.

    Opening is retried, receiving is not: whoever stores the bytes knows where to go on.

    Raises:
        RegistryUnreachableError, while iterating too: the connection broke, stalled, or ended early.
        RegistryError: the answer contradicts the request or the descriptor.
    """
    if offset == descriptor.size > 0:
        yield BlobReader(offset, _nothing())  # there is no range to ask for; "bytes=n-" past the end is an error
        return
    start = offset if offset < descriptor.size else 0
    async with AsyncExitStack() as stack:

        async def attempt(begin: int) -> aiohttp.ClientResponse:
            headers = {"Accept": f"{descriptor.media_type}, */*"}
            if begin:
                headers["Range"] = f"bytes={begin}-"
            what = f"a request for blob {descriptor.digest}"
            accept = frozenset({200, 206, 416}) if begin else frozenset({200})
            url = repository.url("blobs", str(descriptor.digest))
            asked = repository.ask("GET", url, what, accept=accept, headers=headers)
            async with AsyncExitStack() as failed:
                answer = await failed.enter_async_context(asked)
                if answer.status != 416:
                    granted = _granted(answer, begin, descriptor)
                    stack.push_async_exit(failed.pop_all())
                    nonlocal start
                    start = granted
                    return answer
            return await attempt(0)  # it has fewer bytes than we do: ours are wrong

        answer = await retrying(repository.clock, policy, lambda: attempt(start))
        chunks = _chunks(answer, descriptor.size - start)
        async with aclosing(chunks):
            yield BlobReader(start, chunks)


def _granted(answer: aiohttp.ClientResponse, asked: int, descriptor: Descriptor) -> int:
    """Where the body begins.

    Raises:
        RegistryError: it is encoded, of another size than the descriptor says, or another range.
    """
    host = answer.url.host
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RegistryError(f"{host!r} sends blob {descriptor.digest} in an encoding nobody asked for")
    start = 0
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != asked or found[3] not in {"*", str(descriptor.size)}:
            raise RegistryError(f"{host!r} sends another range of blob {descriptor.digest} than it was asked for")
        start = asked
    length = answer.content_length
    if length is not None and length != descriptor.size - start:
        raise RegistryError(
            f"{host!r} has {length} bytes of blob {descriptor.digest}, the manifest says {descriptor.size - start}"
        )
    return start


async def _chunks(answer: aiohttp.ClientResponse, expected: int) -> AsyncGenerator[bytes, None]:
    received = 0
    content = answer.content
    while True:
        with translated(answer.url):
            chunk = await content.readany()
        if not chunk:
            break
        received += len(chunk)
        if received > expected:
            raise RegistryError(f"{answer.url.host!r} sends more than the {expected} bytes there are")
        yield chunk
    if received < expected:  # only where the answer had no length of its own
        raise BrokenConnectionError(f"{answer.url.host!r} ended the blob after {received} of {expected} bytes")


async def _nothing() -> AsyncGenerator[bytes, None]:
    for chunk in ():
        yield chunk


async def send_blob(
    repository: Repository,
    descriptor: Descriptor,
    source: BlobSource,
    sent: Callable[[int], None],
    policy: RetryPolicy,
) -> None:
    """Upload a blob: POST for a place, then one PUT ("Pushing a blob monolithically", "POST then PUT").

    A failed upload starts again in a new place; most registries cannot resume one PUT.

    Raises:
        DigestMismatchError: the registry counted other bytes.
        UnauthorizedError, RegistryUnreachableError, RegistryError: as for :class:`Repository`.
    """

    async def upload() -> None:
        what = f"the upload of blob {descriptor.digest}"
        accept = frozenset({202})
        url = repository.url("blobs", "uploads") / ""
        async with repository.ask("POST", url, what, accept=accept, headers={"Content-Length": "0"}) as answer:
            place = await repository.location(answer)
        body = _Body(source, descriptor.size, sent, repository.client.timeouts.stall)
        headers = {"Content-Length": str(descriptor.size), "Content-Type": "application/octet-stream"}
        limit = repository.client.timeouts.head + descriptor.size / _HASHING_RATE
        target = _with_digest(place, descriptor.digest)
        async with body.watched(target, limit):
            async with repository.ask(
                "PUT", target, what, accept=frozenset({201, 204}), headers=headers, body=body.open, answer_within=limit
            ) as answer:
                check_digest(answer, descriptor.digest)

    await retrying(repository.clock, policy, upload)


def _with_digest(place: URL, digest: Digest) -> URL:
    """``place`` with ``digest=`` appended; the rest stays as written, it may be signed."""
    separator = "&" if place.raw_query_string else "?"
    return URL(f"{str(place).removesuffix('?')}{separator}digest={digest}", encoded=True)


def check_digest(answer: aiohttp.ClientResponse, expected: Digest) -> None:
    """Compare what the registry says it stored, where it says so in an algorithm we know.

    Raises:
        DigestMismatchError: it stored something else.
    """
    told = answer.headers.get("Docker-Content-Digest", "")
    if told.startswith("sha256:") and told != str(expected):
        raise DigestMismatchError(str(expected), told[:80])


class _Body:
    """The body of an upload, watched: the registry must keep taking it.

    aiohttp hides what a body's source raises behind an error of its own, so it is kept here and raised
    in its place; and it does not limit how long a peer may leave our bytes lying, so this does.
    """

    def __init__(self, source: BlobSource, size: int, sent: Callable[[int], None], stall: float) -> None:
        self._source = source
        self._size = size
        self._sent = sent
        self._stall = stall
        self._failure: Exception | None = None
        self._timeout: asyncio.Timeout | None = None
        self._answer_within = stall
        self._open: list[AsyncGenerator[bytes, None]] = []

    @asynccontextmanager
    async def watched(self, target: URL, answer_within: float) -> AsyncIterator[None]:
        """Within this block a stall ends the request, and the source's failure is the failure.

        Raises:
            RegistryUnreachableError: no byte was taken for too long.
        """
        self._answer_within = answer_within
        try:
            with translated(target):
                async with asyncio.timeout(self._stall) as self._timeout:
                    yield
        except RegistryError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            for body in self._open:
                await body.aclose()

    def open(self) -> AsyncIterator[bytes]:
        """The bytes from the start, once more."""
        body = self._bytes()
        self._open.append(body)
        return body

    def _expect_within(self, seconds: float) -> None:
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)

    async def _bytes(self) -> AsyncGenerator[bytes, None]:
        count = 0
        try:
            async for chunk in self._source(0):
                self._expect_within(self._stall)
                yield chunk  # comes back when the chunk is in the socket's buffer
                count += len(chunk)
                self._sent(count)
            if count != self._size:
                raise RegistryError(f"the blob to upload has {count} bytes, its descriptor says {self._size}")
        except Exception as exc:
            self._failure = exc
            raise
        self._expect_within(self._answer_within)
