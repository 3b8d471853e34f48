"""NIM references are images, not model artifacts: this source keeps them away from the artifact puller."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import attrs

from dmr_backends_nim.engine import NOT_YET
from dmr_core.domain.progress import Progress
from dmr_core.domain.reference import Reference
from dmr_core.errors import BackendNotInstalledError
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.registry import Credentials

__all__ = ["NimModelSource"]


@attrs.frozen
class NimModelSource(ModelSource):
    """Answers for ``nvcr.io/nim/…``."""

    def claims(self, reference: Reference) -> bool:
        """See :class:`ModelSource`."""
        return reference.registry == "nvcr.io" and reference.repository.startswith("nim/")

    async def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncGenerator[Progress, None]:
        """See :class:`ModelSource`."""
        if self.claims(reference):
            raise BackendNotInstalledError("nim", NOT_YET)
        lines: tuple[Progress, ...] = ()
        for line in lines:
            yield line
