"""Models that come from somewhere other than an OCI registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol

from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.progress import Progress
from dmr_core.domain.reference import Reference
from dmr_core.errors import UnsupportedFormatError
from dmr_core.ports.registry import Credentials

__all__ = ["ModelSource"]


class ModelSource(Protocol):
    """Answers for the references it claims; registries are never asked about those.

    Most sources bring models into the store, and have none themselves. One that keeps its models elsewhere (as images
    of a container engine, say) also tells which there are. Reading that is synchronous and in memory, because the
    request path does it; each such :class:`Model` names in ``backend`` who alone can serve it.
    """

    @abstractmethod
    def claims(self, reference: Reference) -> bool:
        """Whether this source is the one for ``reference``. Pure and quick."""

    @abstractmethod
    def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncIterator[Progress]:
        """Bring the model in, ending with one success line.

        Raises (on iteration):
            RemoteModelNotFoundError: the source has no such model.
        """

    @property
    def generation(self) -> int:
        """A number that grows whenever :meth:`models` changes."""
        return 0

    def models(self) -> tuple[Model, ...]:
        """The models this source keeps itself, as far as it knows."""
        return ()

    def find(self, reference: Reference) -> Model | None:
        """The one of its models that ``reference`` names."""
        return None

    async def refresh(self) -> None:
        """Look again which models there are. Keeps what it knows where nobody answers, and does not raise for that."""
        return

    async def untag(self, canonical: str) -> None:
        """Take a tag away from a model of its own that has others.

        Raises:
            DmrError: it could not be done.
        """
        raise UnsupportedFormatError(f"{canonical!r} cannot be untagged")

    async def remove(self, model_id: Digest) -> None:
        """Remove a model of its own, with all that was made to serve it. Idempotent.

        Raises:
            ModelInUseError: somebody else uses it.
        """
        raise UnsupportedFormatError(f"{model_id} cannot be removed")

    async def disk_usage(self) -> int:
        """Bytes its models take on disk, as far as it knows."""
        return 0

    async def aclose(self) -> None:
        """Let go of everything; the models stay."""
        return
