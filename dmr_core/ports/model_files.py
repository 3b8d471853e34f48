"""Reading what a model directory holds, as far as it takes to know whether there is code in it."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Protocol

from dmr_core.domain.admission import ModelFile

__all__ = ["ModelFiles"]


class ModelFiles(Protocol):
    """Looks at unpacked models."""

    @abstractmethod
    async def read(self, directory: Path) -> tuple[ModelFile, ...]:
        """Every file below ``directory``, and the text of its documents.

        Raises:
            PreconditionError: there are more files than any model has, or one cannot be read.
        """
