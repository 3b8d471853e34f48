"""What every store of settings promises."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.ports.config_store import ConfigKey, ConfigStore

__all__ = ["ConfigStoreContract"]

_COMPLETION: ConfigKey = ("llama.cpp", Digest.of(b"one"), EngineMode.COMPLETION)
_EMBEDDING: ConfigKey = ("llama.cpp", Digest.of(b"one"), EngineMode.EMBEDDING)


class ConfigStoreContract(ABC):
    """Subclass it, and say how to make a store."""

    @pytest.fixture
    @abstractmethod
    def store(self) -> ConfigStore:
        """The store under test; it keeps nothing."""

    async def test_a_new_one_keeps_nothing(self, store: ConfigStore) -> None:
        assert await store.load() == {}

    async def test_what_was_written_is_kept_by_key(self, store: ConfigStore) -> None:
        await store.write(_COMPLETION, EngineConfig(context_size=1))
        await store.write(_EMBEDDING, EngineConfig(runtime_flags=("--temp", "1")))
        await store.write(_COMPLETION, EngineConfig(context_size=2))
        assert await store.load() == {
            _COMPLETION: EngineConfig(context_size=2),
            _EMBEDDING: EngineConfig(runtime_flags=("--temp", "1")),
        }

    async def test_what_was_forgotten_is_gone(self, store: ConfigStore) -> None:
        await store.write(_COMPLETION, EngineConfig(context_size=1))
        await store.write(_COMPLETION, None)
        await store.write(_EMBEDDING, None)
        assert await store.load() == {}
