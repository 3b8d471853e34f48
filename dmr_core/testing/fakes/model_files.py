"""Models whose files are said to be these."""

from __future__ import annotations

from pathlib import Path

import attrs

from dmr_core.domain.admission import ModelFile
from dmr_core.ports.model_files import ModelFiles

__all__ = ["InMemoryModelFiles"]


@attrs.define
class InMemoryModelFiles(ModelFiles):
    """Answers ``files`` for every directory."""

    files: tuple[ModelFile, ...] = ()

    async def read(self, directory: Path) -> tuple[ModelFile, ...]:
        """See :class:`ModelFiles`."""
        return self.files
