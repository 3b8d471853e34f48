"""A model whose removal was cut short goes on being gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.testing.contracts.samples import put_model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


async def _removal_cut_short(root: Path, monkeypatch: pytest.MonkeyPatch) -> Digest:
    """Remove a model, and be killed once it has left the index; its ID."""
    store = await FilesystemModelStore.open(root)
    gone = (await put_model(store, b"GGUF-gone")).id
    await put_model(store, b"GGUF-kept")
    await store.bundle(gone)
    with monkeypatch.context() as patched:
        patched.setattr(FilesystemModelStore, "_delete", lambda *_: None)
        await store.remove(gone)
    assert (root / "manifests" / "sha256" / gone.hex).exists()
    return gone


async def test_the_next_start_finishes_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = await _removal_cut_short(root, monkeypatch)
    store = await FilesystemModelStore.open(root)
    assert store.by_id(gone) is None
    assert len(store.models()) == 1
    assert not (root / "manifests" / "sha256" / gone.hex).exists()
    assert not (root / "bundles" / "sha256" / gone.hex).exists()
    assert list((root / ".dmr" / "removals").iterdir()) == []


async def test_a_repair_does_not_bring_it_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = await _removal_cut_short(root, monkeypatch)
    maintenance = FilesystemStoreMaintenance(root)
    await maintenance.check(repair=True)
    store = await FilesystemModelStore.open(root)
    assert store.by_id(gone) is None


async def test_a_model_that_is_added_again_meanwhile_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = await _removal_cut_short(root, monkeypatch)
    store = await FilesystemModelStore.open(root)
    again = await put_model(store, b"GGUF-gone")
    await store.tag(again.id, parse_reference("again", ReferencePolicy()))
    assert again.id == gone
    assert (await FilesystemModelStore.open(root)).by_id(gone) is not None


async def test_a_removal_that_had_not_begun_is_forgotten(root: Path) -> None:
    store = await FilesystemModelStore.open(root)
    kept = (await put_model(store, b"GGUF-kept")).id
    (root / ".dmr" / "removals").mkdir(exist_ok=True)
    (root / ".dmr" / "removals" / kept.hex).write_bytes(b"")
    again = await FilesystemModelStore.open(root)
    assert again.by_id(kept) is not None
    assert (await again.read_manifest(kept)) is not None
    assert list((root / ".dmr" / "removals").iterdir()) == []
