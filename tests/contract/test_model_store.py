"""Both model stores keep the contract of the port."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.artifact import Descriptor
from dmr_core.errors import StorageFullError
from dmr_core.ports.model_store import ModelStore
from dmr_core.testing.contracts.model_store import ModelStoreContract, layer_of
from dmr_core.testing.fakes.model_store import InMemoryModelStore


class TestFilesystemModelStore(ModelStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> ModelStore:
        return await FilesystemModelStore.open(tmp_path / "models")


class TestInMemoryModelStore(ModelStoreContract):
    @pytest.fixture
    def store(self) -> ModelStore:
        return InMemoryModelStore()

    async def test_a_full_store_refuses_and_keeps_what_it_has(self) -> None:
        store = InMemoryModelStore(capacity=10)
        descriptor: Descriptor = layer_of(b"twelve bytes")
        async with store.write_blob(descriptor) as writer:
            await writer.write(b"twelve ")
            with pytest.raises(StorageFullError):
                await writer.write(b"bytes")
            assert writer.offset == 7
