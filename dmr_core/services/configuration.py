"""Settings of models: kept, merged, and looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.domain.engine_document import engine_document, merged, read_engine_document
from dmr_core.ports.config_store import ConfigKey, ConfigStore

__all__ = ["ConfigurationService"]

_FALLBACK_MODES: Final = (EngineMode.RERANKING, EngineMode.IMAGE_GENERATION)
_NOTHING: Final = EngineConfig()


@attrs.define(eq=False)
class ConfigurationService:
    """Settings by backend, model and mode; in memory, and in a store if there is one."""

    _store: ConfigStore | None = None
    _configs: dict[ConfigKey, EngineConfig] = attrs.field(factory=dict)

    @classmethod
    async def open(cls, store: ConfigStore) -> ConfigurationService:
        """With everything that was kept."""
        return cls(store, dict(await store.load()))

    def own(self, key: ConfigKey) -> EngineConfig:
        """What was configured for exactly this; nothing if it never was."""
        return self._configs.get(key, _NOTHING)

    def effective(self, key: ConfigKey) -> EngineConfig:
        """What a runner is started with: its own settings, else for some modes those for completion."""
        return _effective(self._configs, key)

    def after(self, changes: Mapping[ConfigKey, EngineConfig | None]) -> dict[ConfigKey, EngineConfig]:
        """What runners would be started with after ``changes`` (``None`` forgets), of all whose settings these are.

        They are those of modes too that have none of their own and take those for completion.
        """
        later = {key: config for key, config in {**self._configs, **changes}.items() if config is not None}
        concerned = set(changes)
        for backend, model_id, mode in changes:
            if mode is EngineMode.COMPLETION:
                others = {(backend, model_id, other) for other in _FALLBACK_MODES}
                concerned |= others - self._configs.keys()
        return {key: _effective(later, key) for key in concerned}

    def any_of(self, model_id: Digest, mode: EngineMode) -> EngineConfig | None:
        """Settings of a model for whichever backend."""
        return next((config for (_, id_, m), config in self._configs.items() if id_ == model_id and m is mode), None)

    def entries(self) -> tuple[tuple[ConfigKey, EngineConfig], ...]:
        """Everything that was configured, in order."""
        return tuple(self._configs.items())

    def changed(self, key: ConfigKey, change: Mapping[str, Any]) -> EngineConfig:
        """What would be configured after ``change`` (a merge patch). Nothing is kept.

        Raises:
            InvalidConfigurationError: the result is none.
        """
        return read_engine_document(merged(engine_document(self.own(key)), change))

    async def put(self, key: ConfigKey, config: EngineConfig) -> None:
        """Keep settings; in force at once, and not at all if they cannot be written.

        Raises:
            StoreUnwritableError, StorageFullError: they could not.
        """
        before = self._configs.get(key)
        if config == self.own(key):
            return
        self._configs[key] = config
        try:
            if self._store is not None:
                await self._store.write(key, config)
        except BaseException:
            if self._configs.get(key) is config:
                self._restore(key, before)
            raise

    async def forget(self, keys: tuple[ConfigKey, ...]) -> None:
        """Settings that are no more. Raises as :meth:`put`."""
        for key in keys:
            before = self._configs.pop(key, None)
            if before is None or self._store is None:
                continue
            try:
                await self._store.write(key, None)
            except BaseException:
                self._configs.setdefault(key, before)
                raise

    def _restore(self, key: ConfigKey, before: EngineConfig | None) -> None:
        if before is None:
            del self._configs[key]
        else:
            self._configs[key] = before


def _effective(configs: Mapping[ConfigKey, EngineConfig], key: ConfigKey) -> EngineConfig:
    backend, model_id, mode = key
    inherited = configs.get((backend, model_id, EngineMode.COMPLETION)) if mode in _FALLBACK_MODES else None
    return configs.get(key) or inherited or _NOTHING
