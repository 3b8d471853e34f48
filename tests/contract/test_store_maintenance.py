"""Both ways of looking after a store keep the contract of the port."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_core.domain.digest import Digest
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.store_maintenance import StoreMaintenance
from dmr_core.testing.contracts.store_maintenance import StoreMaintenanceContract
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.store_maintenance import InMemoryStoreMaintenance


class TestFilesystemStoreMaintenance(StoreMaintenanceContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> ModelStore:
        return await FilesystemModelStore.open(tmp_path / "models")

    @pytest.fixture
    def maintenance(self, store: ModelStore, tmp_path: Path) -> StoreMaintenance:
        return FilesystemStoreMaintenance(tmp_path / "models")

    def damage(self, store: ModelStore, digest: Digest, content: bytes | None) -> None:
        path = store.blob_file(digest)
        path.unlink()
        if content is not None:
            path.write_bytes(content)


class TestInMemoryStoreMaintenance(StoreMaintenanceContract):
    @pytest.fixture
    def store(self) -> ModelStore:
        return InMemoryModelStore()

    @pytest.fixture
    def maintenance(self, store: ModelStore) -> StoreMaintenance:
        assert isinstance(store, InMemoryModelStore)
        return InMemoryStoreMaintenance(store)

    def damage(self, store: ModelStore, digest: Digest, content: bytes | None) -> None:
        assert isinstance(store, InMemoryModelStore)
        if content is None:
            del store.blobs[digest]
        else:
            store.blobs[digest] = content
