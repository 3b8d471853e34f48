"""Sending blobs within one session: looked for, mounted, or uploaded (OCI distribution-spec v1.1, "Pushing blobs")."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import attrs

from dmr_adapters.registry import upload_place
from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.resumable_upload import ChunkSize, ResumableUpload, UploadPolicy, has_blob
from dmr_adapters.registry.retry import RetryPolicy, retrying
from dmr_adapters.registry.upload_place import UploadPlace
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.errors import RegistryError, RegistryUnreachableError
from dmr_core.ports.registry import BlobSource

__all__ = ["BlobUploads", "UploadPolicy"]

_LOG: Final = logging.getLogger(__name__)


class BlobUploads:
    """The uploads of one session, with what they learned about their registry."""

    def __init__(self, repository: Repository, retry: RetryPolicy, policy: UploadPolicy) -> None:
        self._chunks = ChunkSize(policy.chunk)
        self._repository = repository
        self._retry = retry
        self._policy = policy
        self._sources: dict[str, Repository] = {}
        self._places: dict[Digest, UploadPlace] = {}
        self._abandoned: list[UploadPlace] = []

    async def has(self, descriptor: Descriptor) -> bool:
        """Whether the repository has a blob."""
        return await has_blob(self._repository, descriptor, self._retry)

    async def mount(self, descriptor: Descriptor, source: str) -> bool:
        """Take a blob from another repository of the registry; a place given instead is kept for :meth:`send`.

        Raises:
            RegistryUnreachableError: there is no talking to the registry.
        """
        # Asked for with a token of its own: one that the token server refuses must not cost the right to push.
        repository = self._sources.get(source) or attrs.evolve(
            self._repository, authorizer=self._repository.authorizer.widened(f"repository:{source}:pull")
        )
        self._sources[source] = repository
        twice = attrs.evolve(self._retry, attempts=min(self._retry.attempts, 2))  # there is another way
        try:
            mounted = await retrying(
                repository.clock, twice, lambda: upload_place.mount(repository, descriptor, source)
            )
        except RegistryUnreachableError:
            raise
        except RegistryError as exc:
            _LOG.info("blob %s is not mounted but sent: %s", descriptor.digest, exc)
            return False
        if isinstance(mounted, bool):
            return mounted
        spare, self._places[descriptor.digest] = self._places.get(descriptor.digest), mounted
        if spare is not None:
            await upload_place.cancel(self._repository, spare)
        return False

    async def send(self, descriptor: Descriptor, source: BlobSource, sent: Callable[[int], None]) -> None:
        """Upload a blob. ``sent`` is told how far it is, which may be less than before after a failure.

        Raises:
            DigestMismatchError: the registry says that it stored other bytes.
            UnauthorizedError, RegistryUnreachableError, RegistryError: as for :class:`Repository`.
            Whatever ``source`` raises.
        """
        upload = ResumableUpload(
            learned=self._chunks,
            repository=self._repository,
            policy=self._policy,
            retry=self._retry,
            descriptor=descriptor,
            source=source,
            sent=sent,
            place=self._places.pop(descriptor.digest, None),
        )
        try:
            await upload.run()
        finally:
            if upload.place is not None:
                self._abandoned.append(upload.place)

    async def aclose(self) -> None:
        """Give back the places of uploads that did not come to their end."""
        places = [*self._places.values(), *self._abandoned]
        self._places, self._abandoned = {}, []
        await asyncio.gather(*(upload_place.cancel(self._repository, place) for place in places))
