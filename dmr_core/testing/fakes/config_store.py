"""Settings that live as long as the test."""

from __future__ import annotations

from collections.abc import Mapping

from dmr_core.domain.engine import EngineConfig
from dmr_core.errors import DmrError
from dmr_core.ports.config_store import ConfigKey, ConfigStore

__all__ = ["InMemoryConfigStore"]


class InMemoryConfigStore(ConfigStore):
    """A dictionary; ``fail_with`` makes writing fail."""

    def __init__(self) -> None:
        self.kept: dict[ConfigKey, EngineConfig] = {}
        self.fail_with: DmrError | None = None

    async def load(self) -> Mapping[ConfigKey, EngineConfig]:
        """See :class:`ConfigStore`."""
        return dict(self.kept)

    async def write(self, key: ConfigKey, config: EngineConfig | None) -> None:
        """See :class:`ConfigStore`."""
        if self.fail_with is not None:
            raise self.fail_with
        if config is None:
            self.kept.pop(key, None)
        else:
            self.kept[key] = config
