"""Sources of models that are made by the first pull from them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from dmr_core.domain.progress import Progress
from dmr_core.domain.reference import Reference
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.registry import Credentials

__all__ = ["DEMO_REPOSITORY", "LazyModelSource"]

DEMO_REPOSITORY: Final = "dmr/demo"


class LazyModelSource(ModelSource):
    """Knows which references are its own; ``make`` gives the source that can do more."""

    def __init__(self, claims: Callable[[Reference], bool], make: Callable[[], ModelSource]) -> None:
        self._claims = claims
        self._make = make
        self._made: ModelSource | None = None

    def claims(self, reference: Reference) -> bool:
        """See :class:`ModelSource`."""
        return self._claims(reference)

    def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncIterator[Progress]:
        """See :class:`ModelSource`."""
        if self._made is None:
            self._made = self._make()
        return self._made.pull(reference, credentials)
