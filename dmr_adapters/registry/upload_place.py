"""Places that a registry gives out for uploads (OCI distribution-spec v1.1, "Pushing blobs").

A place is an opaque URL that may change with every answer. How much of the blob it holds is told by ``Range: 0-<last>``,
without a unit and with an inclusive end; an empty place says ``0-0``, as does one that holds a single byte.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Final

import aiohttp
import attrs
from yarl import URL

from dmr_adapters.registry.repository import Repository
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.errors import InvalidRequestError, RegistryError, UnauthorizedError

__all__ = ["UploadPlace", "begin", "cancel", "mount", "moved", "status", "told_digest", "told_offset"]

_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_DONE: Final = frozenset({200, 201, 202, 204})
_GONE: Final = frozenset({400, 404, 405, 410, 416, 501})
_COURTESY: Final = 2.0  # seconds
_NO_MOUNT: Final = frozenset({400, 403, 404, 405, 501})


@attrs.frozen(kw_only=True)
class UploadPlace:
    """Where an upload goes on. ``offset`` is how many bytes are there, ``least`` how many a chunk must have."""

    url: URL
    offset: int = 0
    least: int = 0

    def with_digest(self, digest: Digest) -> URL:
        """The URL that closes the upload; the rest stays as written, it may be signed."""
        separator = "&" if self.url.raw_query_string else "?"
        return URL(f"{str(self.url).removesuffix('?')}{separator}digest={digest}", encoded=True)


async def begin(repository: Repository, descriptor: Descriptor) -> UploadPlace:
    """Ask for a place.

    Raises:
        UnauthorizedError, RegistryUnreachableError, RegistryError: as for :meth:`Repository.ask`.
    """
    url = repository.url("blobs", "uploads") / ""
    what = f"the upload of blob {descriptor.digest}"
    async with repository.ask("POST", url, what, accept=frozenset({202})) as answer:
        return UploadPlace(url=await repository.location(answer), least=_least(answer))


async def mount(repository: Repository, descriptor: Descriptor, source: str) -> UploadPlace | bool:
    """Ask for a blob of the repository ``source`` ("Mounting a blob from another repository").

    Whether it is here now, or the place that the registry gave instead.

    Raises:
        RegistryUnreachableError: as for :meth:`Repository.ask`.
        RegistryError: an answer that may pass.
    """
    url = (repository.url("blobs", "uploads") / "").with_query({"mount": str(descriptor.digest), "from": source})
    what = f"the mount of blob {descriptor.digest}"
    try:
        async with repository.ask("POST", url, what, accept=frozenset({201, 202}) | _NO_MOUNT) as answer:
            if answer.status == 202:
                return UploadPlace(url=await repository.location(answer), least=_least(answer))
            return answer.status == 201 and told_digest(answer) in {None, descriptor.digest}
    except UnauthorizedError:  # of the other repository: that we may push to this one is still to be seen
        return False


async def status(repository: Repository, place: UploadPlace) -> UploadPlace | None:
    """The place as the registry knows it, or ``None`` where it has forgotten it or does not say.

    Raises:
        UnauthorizedError, RegistryUnreachableError, RegistryError: as for :meth:`Repository.ask`.
    """
    async with repository.ask("GET", place.url, "how far an upload is", accept=_DONE | _GONE) as answer:
        offset = told_offset(answer) if answer.status in _DONE else None
        return None if offset is None else await moved(repository, place, answer, offset)


async def cancel(repository: Repository, place: UploadPlace) -> None:
    """Give a place back. A courtesy: the registry throws it away some day in any case, so nothing is raised."""
    with suppress(RegistryError, UnauthorizedError, TimeoutError):
        async with (
            asyncio.timeout(_COURTESY),
            repository.ask("DELETE", place.url, "the end of an upload", accept=_DONE | _GONE),
        ):
            pass


async def moved(repository: Repository, place: UploadPlace, answer: aiohttp.ClientResponse, offset: int) -> UploadPlace:
    """``place`` after an answer about it, which may have named another URL.

    Raises:
        RegistryError: one that we do not go to.
    """
    url = await repository.location(answer) if "Location" in answer.headers else place.url
    return attrs.evolve(place, url=url, offset=offset, least=_least(answer) or place.least)


def told_offset(answer: aiohttp.ClientResponse, expected: int | None = None) -> int | None:
    """How many bytes the registry says to have; ``None`` where it says nothing that can be read.

    ``0-0`` is an empty place, unless one byte is ``expected``.
    """
    found = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
    if not found:
        return None
    count = int(found[1]) + 1
    return 0 if count == 1 and expected != 1 else count


def told_digest(answer: aiohttp.ClientResponse) -> Digest | None:
    """``Docker-Content-Digest``, where it is there and in the algorithm we know."""
    try:
        return Digest.parse(answer.headers.get("Docker-Content-Digest", ""))
    except InvalidRequestError:
        return None


def _least(answer: aiohttp.ClientResponse) -> int:
    """``OCI-Chunk-Min-Length`` in bytes, 0 where it is not given."""
    text = answer.headers.get("OCI-Chunk-Min-Length", "").strip()
    return int(text) if _LENGTH.fullmatch(text) else 0
