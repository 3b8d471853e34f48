"""Taking in blobs whose size nobody knows before their end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol

from dmr_core.domain.digest import Digest

__all__ = ["BlobIntake"]


class BlobIntake(Protocol):
    """Writes blobs into one store as they come. Nothing is visible before all of it is verified."""

    @abstractmethod
    async def size(self, digest: Digest) -> int | None:
        """Bytes of a blob that is here, complete; ``None`` for one that is not."""

    @abstractmethod
    async def take(self, digest: Digest, chunks: AsyncIterator[bytes]) -> int:
        """Store what ``chunks`` carry, and say how many bytes that is. The caller leases the digest meanwhile.

        When it fails or is cancelled nothing stays.

        Raises:
            DigestMismatchError: it is not what ``digest`` promises.
            StorageFullError, StoreUnwritableError: the store cannot take it.
        """
