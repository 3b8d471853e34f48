"""Models that come from somewhere other than an OCI registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol

from dmr_core.domain.progress import Progress
from dmr_core.domain.reference import Reference
from dmr_core.ports.registry import Credentials

__all__ = ["ModelSource"]


class ModelSource(Protocol):
    """Answers for the references it claims; registries are never asked about those."""

    @abstractmethod
    def claims(self, reference: Reference) -> bool:
        """Whether this source is the one for ``reference``. Pure and quick."""

    @abstractmethod
    def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncIterator[Progress]:
        """Bring the model in, ending with one success line.

        Raises (on iteration):
            RemoteModelNotFoundError: the source has no such model.
        """
