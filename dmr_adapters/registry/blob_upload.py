"""Sending blobs: monolithic uploads (OCI distribution-spec, "Pushing blobs")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import aiohttp
import attrs
from yarl import URL

from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.retry import RetryPolicy, retrying
from dmr_adapters.registry.upload_body import UploadBody
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.errors import DigestMismatchError, InvalidRequestError
from dmr_core.ports.registry import BlobSource

__all__ = ["check_stored", "has_blob", "mount_blob", "send_blob", "told_digest"]

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


async def mount_blob(repository: Repository, descriptor: Descriptor, source: str, policy: RetryPolicy) -> bool:
    """Take a blob from another repository ("Mounting a blob from another repository")."""

    async def ask() -> bool:
        url = repository.url("blobs", "uploads") / ""
        url = url.with_query({"mount": str(descriptor.digest), "from": source})
        what = f"the mount of blob {descriptor.digest}"
        async with repository.ask("POST", url, what, accept=frozenset({201, 202})) as answer:
            return answer.status == 201

    return await retrying(repository.clock, policy, ask)


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
