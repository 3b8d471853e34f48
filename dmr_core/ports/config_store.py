"""Where settings of models are kept across restarts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol, TypeAlias

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode

__all__ = ["ConfigKey", "ConfigStore"]

ConfigKey: TypeAlias = tuple[str, Digest, EngineMode]
"""The backend, the model and the mode that settings are for."""


class ConfigStore(Protocol):
    """Keeps settings. What was written is there after a crash; a crash while writing leaves the old or the new."""

    @abstractmethod
    async def load(self) -> Mapping[ConfigKey, EngineConfig]:
        """Everything that is kept. What cannot be read is set aside, never lost in silence."""

    @abstractmethod
    async def write(self, key: ConfigKey, config: EngineConfig | None) -> None:
        """Keep settings, or forget them (``None``).

        Raises:
            StoreUnwritableError, StorageFullError: they could not be written.
        """
