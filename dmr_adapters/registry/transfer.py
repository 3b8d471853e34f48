"""Moving blobs: resumable downloads and monolithic uploads (OCI distribution-spec, "Pulling blobs", "Pushing blobs")."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import aiohttp
import attrs
from yarl import URL

from dmr_adapters.registry.client import translated
from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.retry import BrokenConnectionError, RetryPolicy, retrying
from dmr_adapters.registry.upload_body import UploadBody
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.errors import DigestMismatchError, InvalidRequestError, RegistryError
from dmr_core.ports.registry import BlobReader, BlobSource

__all__ = ["check_stored", "has_blob", "open_blob", "send_blob", "told_digest"]

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_UPLOADS: Final = 3  # each may be many gigabytes
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
    begin = offset if offset < descriptor.size else 0
    async with AsyncExitStack() as stack:
        answer, start = await retrying(repository.clock, policy, lambda: _open(repository, descriptor, begin, stack))
        chunks = _chunks(answer, descriptor.size - start)
        async with aclosing(chunks):
            yield BlobReader(start, chunks)


async def _open(
    repository: Repository, descriptor: Descriptor, begin: int, stack: AsyncExitStack
) -> tuple[aiohttp.ClientResponse, int]:
    """An answer left open on ``stack``, and where its body begins."""
    headers = {"Accept": f"{descriptor.media_type}, */*"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    accept = frozenset({200, 206, 416}) if begin else frozenset({200})
    url = repository.url("blobs", str(descriptor.digest))
    what = f"a request for blob {descriptor.digest}"
    async with AsyncExitStack() as attempt:
        answer = await attempt.enter_async_context(repository.ask("GET", url, what, accept=accept, headers=headers))
        if answer.status != 416:
            granted = _granted(answer, begin, descriptor)
            await stack.enter_async_context(attempt.pop_all())
            return answer, granted
    return await _open(repository, descriptor, 0, stack)  # it has fewer bytes than we do, so ours are wrong


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
    none: tuple[bytes, ...] = ()
    for chunk in none:
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
        start = repository.url("blobs", "uploads") / ""
        async with repository.ask("POST", start, what, accept=frozenset({202})) as answer:
            target = _with_digest(await repository.location(answer), descriptor.digest)
        limits = repository.client.timeouts
        within = limits.head + descriptor.size / _HASHING_RATE
        body = UploadBody(source, descriptor.size, sent, stall=limits.stall, answer_within=within)
        async with (
            body.watched(target),
            repository.ask(
                "PUT",
                target,
                what,
                accept=frozenset({201, 204}),
                headers={"Content-Length": str(descriptor.size), "Content-Type": "application/octet-stream"},
                body=body.open,
                answer_within=within,
            ) as answer,
        ):
            check_stored(answer, descriptor.digest)

    await retrying(repository.clock, attrs.evolve(policy, attempts=min(policy.attempts, _UPLOADS)), upload)


def _with_digest(place: URL, digest: Digest) -> URL:
    """``place`` with ``digest=`` appended; the rest stays as written, it may be signed."""
    separator = "&" if place.raw_query_string else "?"
    return URL(f"{str(place).removesuffix('?')}{separator}digest={digest}", encoded=True)


def told_digest(answer: aiohttp.ClientResponse) -> Digest | None:
    """``Docker-Content-Digest``, where it is there and in the algorithm we know."""
    try:
        return Digest.parse(answer.headers.get("Docker-Content-Digest", ""))
    except InvalidRequestError:
        return None


def check_stored(answer: aiohttp.ClientResponse, expected: Digest) -> None:
    """Compare what the registry says it stored, where it says so.

    Raises:
        DigestMismatchError: it stored something else.
    """
    told = told_digest(answer)
    if told is not None and told != expected:
        raise DigestMismatchError(str(expected), str(told))
