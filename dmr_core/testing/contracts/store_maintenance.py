"""What every :class:`~dmr_core.ports.store_maintenance.StoreMaintenance` does, as tests.

Subclass :class:`StoreMaintenanceContract` in a test module, override the fixtures and :meth:`damage`.
"""

from __future__ import annotations

from abc import abstractmethod

import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.store_report import CheckProgress, FindingKind, GarbageKind
from dmr_core.errors import ModelInUseError
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.store_maintenance import StoreMaintenance
from dmr_core.testing.contracts.model_store import layer_of, put_blob, put_model

__all__ = ["StoreMaintenanceContract"]

_WEIGHTS, _OTHER, _SHARED, _LOOSE = b"GGUF-weights" * 100, b"GGUF-other" * 50, b"GGUF-shared" * 30, b"loose" * 20
_ONE, _TWO = parse_reference("one", ReferencePolicy()), parse_reference("two", ReferencePolicy())


class StoreMaintenanceContract:
    """The contract. ``store`` and ``maintenance`` are of the same place, empty, and new for every test."""

    @pytest.fixture
    def store(self) -> ModelStore:
        """The store."""
        raise NotImplementedError

    @pytest.fixture
    def maintenance(self, store: ModelStore) -> StoreMaintenance:
        """What looks after it."""
        raise NotImplementedError

    @abstractmethod
    def damage(self, store: ModelStore, digest: Digest, content: bytes | None) -> None:
        """Give a blob other bytes; ``None`` takes it away."""

    # --- collecting ---------------------------------------------------------------------------------

    async def test_an_empty_store_has_nothing_to_collect(self, maintenance: StoreMaintenance) -> None:
        collection = await maintenance.collect(partials_older_than=0.0, everything=True)
        assert (collection.count, collection.size, collection.models) == (0, 0, ())

    async def test_what_no_model_needs_is_collected(self, store: ModelStore, maintenance: StoreMaintenance) -> None:
        artifact = await put_model(store, _WEIGHTS)
        await put_blob(store, _LOOSE)
        collection = await maintenance.collect()
        blobs = collection.of(GarbageKind.BLOB)
        assert (blobs.count, blobs.size) == (1, len(_LOOSE))
        assert not await store.has_blob(Digest.of(_LOOSE))
        assert [await store.has_blob(blob.digest) for blob in artifact.manifest.blobs] == [True, True]
        assert (await maintenance.collect()).count == 0

    async def test_a_dry_run_says_the_same_and_removes_nothing(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        await put_model(store, _WEIGHTS)
        await put_blob(store, _LOOSE)
        told = await maintenance.collect(everything=True, dry_run=True)
        assert await store.has_blob(Digest.of(_LOOSE))
        assert len(store.models()) == 1
        done = await maintenance.collect(everything=True)
        assert told.dry_run
        assert not done.dry_run
        assert (told.collected, told.models) == (done.collected, done.models)

    async def test_models_without_a_tag_go_only_when_everything_may(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        tagged, untagged = await put_model(store, _WEIGHTS, _SHARED), await put_model(store, _OTHER, _SHARED)
        await store.tag(tagged.id, _ONE)
        await maintenance.collect()
        assert len(store.models()) == 2
        collection = await maintenance.collect(everything=True)
        await store.refresh()
        assert [model.id for model in store.models()] == [tagged.id]
        assert collection.models == (untagged.id,)
        assert collection.of(GarbageKind.MODEL).count == 1
        held = [await store.has_blob(Digest.of(data)) for data in (_WEIGHTS, _SHARED, _OTHER)]
        assert held == [True, True, False]

    async def test_a_blob_that_was_committed_under_a_lease_stays(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        async with store.lease([Digest.of(_LOOSE)]):
            await put_blob(store, _LOOSE)
            await maintenance.collect(partials_older_than=0.0, everything=True)
            assert await store.has_blob(Digest.of(_LOOSE))
        await maintenance.collect()
        assert not await store.has_blob(Digest.of(_LOOSE))

    async def test_a_leased_model_stays_though_it_has_no_tag(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        artifact = await put_model(store, _WEIGHTS)
        async with store.lease([artifact.id]):
            await maintenance.collect(everything=True)
            await store.refresh()
            assert [model.id for model in store.models()] == [artifact.id]
            assert await store.has_blob(Digest.of(_WEIGHTS))

    async def test_partials_go_by_age_and_leased_ones_never(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        for data in (_WEIGHTS, _OTHER):
            async with store.write_blob(layer_of(data)) as writer:
                await writer.write(data[:100])
        await maintenance.collect(partials_older_than=None)
        await maintenance.collect()
        async with store.lease([Digest.of(_OTHER)]):
            collection = await maintenance.collect(partials_older_than=0.0)
        assert collection.of(GarbageKind.PARTIAL).count == 1
        left = []
        for data in (_WEIGHTS, _OTHER):
            async with store.write_blob(layer_of(data)) as writer:
                left.append(writer.resumed)
        assert left == [0, 100]

    # --- checking -----------------------------------------------------------------------------------

    async def test_a_store_nothing_is_wrong_with_is_clean(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        await put_model(store, _WEIGHTS)
        await put_blob(store, _LOOSE)
        report = await maintenance.check()
        assert report.is_clean
        assert report.models == 1
        assert report.hashed > len(_WEIGHTS)

    async def test_a_damaged_blob_is_found_by_a_deep_check_and_nothing_else_is(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        one, other = await put_model(store, _WEIGHTS, _SHARED), await put_model(store, _OTHER, _SHARED)
        await store.tag(one.id, _ONE)
        await store.tag(other.id, _TWO)
        self.damage(store, Digest.of(_WEIGHTS), bytes(len(_WEIGHTS)))
        assert (await maintenance.check(deep=False)).is_clean
        (finding,) = (await maintenance.check()).remaining
        assert (finding.kind, finding.models) == (FindingKind.BLOB_DAMAGED, (_ONE.canonical,))
        assert Digest.of(_WEIGHTS).hex in finding.path

    @pytest.mark.parametrize(
        ("content", "kind"), [(_WEIGHTS[:-1], FindingKind.BLOB_SIZE), (None, FindingKind.BLOB_MISSING)]
    )
    async def test_a_blob_that_is_cut_short_or_gone_is_found_at_once(
        self, store: ModelStore, maintenance: StoreMaintenance, content: bytes | None, kind: FindingKind
    ) -> None:
        await put_model(store, _WEIGHTS)
        self.damage(store, Digest.of(_WEIGHTS), content)
        (finding,) = (await maintenance.check(deep=False)).remaining
        assert finding.kind is kind

    async def test_after_a_repair_the_rest_is_clean_and_only_the_damaged_blob_is_missing(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        one, other = await put_model(store, _WEIGHTS, _SHARED), await put_model(store, _OTHER, _SHARED)
        await store.tag(one.id, _ONE)
        self.damage(store, Digest.of(_WEIGHTS), bytes(len(_WEIGHTS)))
        report = await maintenance.check(repair=True)
        assert report.is_clean
        assert [finding.repaired != "" for finding in report.findings if not finding.kind.is_note] == [True]
        assert (await maintenance.check()).is_clean
        await store.refresh()
        assert [model.id for model in store.models()] == [other.id]
        here = [await store.has_blob(blob.digest) for blob in one.manifest.blobs]
        assert here == [False, True, True]
        # What a pull does: what is missing, then the model.
        await put_blob(store, _WEIGHTS)
        await store.add(one)
        assert (await store.tag(one.id, _ONE)).tags == (_ONE.canonical,)
        assert (await maintenance.check()).is_clean

    async def test_what_is_leased_is_not_repaired(self, store: ModelStore, maintenance: StoreMaintenance) -> None:
        artifact = await put_model(store, _WEIGHTS)
        self.damage(store, Digest.of(_WEIGHTS), bytes(len(_WEIGHTS)))
        async with store.lease([artifact.id]):
            assert not (await maintenance.check(repair=True)).is_clean
        assert (await maintenance.check(repair=True)).is_clean

    async def test_a_check_tells_how_far_it_is(self, store: ModelStore, maintenance: StoreMaintenance) -> None:
        seen: list[CheckProgress] = []
        await put_model(store, _WEIGHTS)
        await maintenance.check(progress=seen.append)
        assert seen[-1].done == seen[-1].total > 0

    # --- emptying and measuring ---------------------------------------------------------------------

    async def test_clearing_leaves_an_empty_store(self, store: ModelStore, maintenance: StoreMaintenance) -> None:
        artifact = await put_model(store, _WEIGHTS)
        await store.tag(artifact.id, _ONE)
        await put_blob(store, _LOOSE)
        await maintenance.clear()
        await store.refresh()
        assert store.models() == ()
        assert [await store.has_blob(Digest.of(data)) for data in (_WEIGHTS, _LOOSE)] == [False, False]
        again = await put_model(store, _WEIGHTS)
        assert again.id == artifact.id
        assert (await maintenance.check()).is_clean

    async def test_clearing_is_refused_while_anything_is_leased(
        self, store: ModelStore, maintenance: StoreMaintenance
    ) -> None:
        await put_model(store, _WEIGHTS)
        async with store.lease([Digest.of(_OTHER)]):
            with pytest.raises(ModelInUseError):
                await maintenance.clear()
        assert len(store.models()) == 1
        assert await store.has_blob(Digest.of(_WEIGHTS))

    async def test_usage_tells_what_models_share(self, store: ModelStore, maintenance: StoreMaintenance) -> None:
        one, other = await put_model(store, _WEIGHTS, _SHARED), await put_model(store, _OTHER, _SHARED)
        await store.tag(one.id, _ONE)
        await put_blob(store, _LOOSE)
        usage = await maintenance.usage()
        assert [(model.id, model.tags) for model in usage.models] == [(one.id, (_ONE.canonical,)), (other.id, ())]
        assert [model.shared for model in usage.models] == [len(_SHARED)] * 2
        assert usage.models[0].unique - len(_WEIGHTS) == pytest.approx(usage.models[1].unique - len(_OTHER), abs=2)
        assert usage.unreferenced == len(_LOOSE)
        assert usage.reclaimable == usage.models[1].unique + len(_LOOSE)
        assert usage.total >= usage.models[0].size + usage.models[1].unique + len(_LOOSE)
