"""What every :class:`~dmr_core.ports.model_store.ModelStore` does, as tests.

Subclass :class:`ModelStoreContract` in a test module and override the ``store`` fixture.
"""

from __future__ import annotations

import asyncio

import pytest

from dmr_core.domain.artifact import (
    LayerType,
)
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import (
    MalformedArtifactError,
    ModelNotFoundError,
    PreconditionError,
)
from dmr_core.ports.model_store import ModelStore
from dmr_core.testing.contracts.blob_writing import BlobWritingContract
from dmr_core.testing.contracts.samples import build_artifact, content_of, layer_of, put_blob, put_model

__all__ = ["ModelStoreContract", "build_artifact", "layer_of", "put_blob", "put_model"]

_WEIGHTS = b"GGUF" + bytes(range(256)) * 64
_LICENSE = b"Do as you like.\n"
_POLICY = ReferencePolicy()
_ONE, _TWO = parse_reference("one:v1", _POLICY), parse_reference("two", _POLICY)


class ModelStoreContract(BlobWritingContract):
    """Behaviour promised by the port."""

    @pytest.fixture
    def store(self) -> ModelStore:
        raise NotImplementedError("override this fixture: an empty store")

    # --- models -------------------------------------------------------------------------------------

    async def test_a_new_store_is_empty(self, store: ModelStore) -> None:
        assert store.models() == ()
        assert store.by_tag(_ONE.canonical) is None
        assert store.by_id(Digest.of(b"")) is None
        assert await store.read_manifest(Digest.of(b"")) is None

    async def test_an_added_model_is_found_by_id(self, store: ModelStore) -> None:
        await put_blob(store, _WEIGHTS)
        artifact = build_artifact([layer_of(_WEIGHTS)])
        model = await store.add(artifact)
        assert (artifact.id, (), artifact.manifest) == (model.id, model.tags, model.manifest)
        assert artifact.config == model.config
        assert len(_WEIGHTS) + len(artifact.config_bytes) + len(artifact.manifest_bytes) == model.size
        assert store.models() == (model,)
        assert store.by_id(artifact.id) == model
        assert await content_of(store, artifact.manifest.config.digest) == artifact.config_bytes
        assert await store.read_manifest(artifact.id) == artifact.manifest_bytes

    async def test_a_model_without_one_of_its_layers_is_refused(self, store: ModelStore) -> None:
        await put_blob(store, _WEIGHTS)
        before = store.generation
        with pytest.raises(PreconditionError, match=Digest.of(_LICENSE).hex):
            await store.add(build_artifact([layer_of(_WEIGHTS), layer_of(_LICENSE, LayerType.LICENSE)]))
        assert store.models() == ()
        assert store.generation == before

    async def test_adding_a_model_twice_is_adding_it_once(self, store: ModelStore) -> None:
        artifact = await put_model(store, _WEIGHTS)
        tagged = await store.tag(artifact.id, _ONE)
        assert await store.add(artifact) == tagged
        assert store.models() == (tagged,)

    async def test_models_come_in_the_order_they_were_added(self, store: ModelStore) -> None:
        added = [await put_model(store, data) for data in (b"GGUF-c", b"GGUF-a", b"GGUF-b")]
        await store.tag(added[0].id, _ONE)
        assert [model.id for model in store.models()] == [artifact.id for artifact in added]

    async def test_a_tag_finds_its_model(self, store: ModelStore) -> None:
        artifact = await put_model(store, _WEIGHTS)
        model = await store.tag(artifact.id, _ONE)
        assert model.tags == (_ONE.canonical,)
        assert store.by_tag(_ONE.canonical) == store.by_id(artifact.id) == model
        assert (await store.tag(artifact.id, _ONE)).tags == (_ONE.canonical,)
        assert (await store.tag(artifact.id, _TWO)).tags == (_ONE.canonical, _TWO.canonical)

    async def test_a_tag_moves_between_models(self, store: ModelStore) -> None:
        old, new = await put_model(store, b"GGUF-old"), await put_model(store, b"GGUF-new")
        await store.tag(old.id, _ONE)
        await store.tag(old.id, _TWO)
        await store.tag(new.id, _ONE)
        assert [model.tags for model in store.models()] == [(_TWO.canonical,), (_ONE.canonical,)]
        assert store.by_tag(_ONE.canonical) == store.by_id(new.id)

    async def test_tagging_an_unknown_model_says_not_found(self, store: ModelStore) -> None:
        with pytest.raises(ModelNotFoundError):
            await store.tag(Digest.of(b"nobody"), _ONE)

    async def test_untag_leaves_the_model(self, store: ModelStore) -> None:
        artifact = await put_model(store, _WEIGHTS)
        await store.tag(artifact.id, _ONE)
        await store.untag(_ONE.canonical)
        assert store.by_tag(_ONE.canonical) is None
        assert [model.tags for model in store.models()] == [()]

    async def test_untagging_an_unknown_tag_does_nothing(self, store: ModelStore) -> None:
        await put_model(store, _WEIGHTS)
        before = store.generation
        await store.untag(_ONE.canonical)
        assert store.generation == before

    async def test_remove_takes_tags_and_blobs_along(self, store: ModelStore) -> None:
        artifact = await put_model(store, _WEIGHTS)
        await store.tag(artifact.id, _ONE)
        await store.remove(artifact.id)
        assert store.models() == ()
        assert store.by_id(artifact.id) is None
        assert store.by_tag(_ONE.canonical) is None
        assert await store.read_manifest(artifact.id) is None
        assert [await store.has_blob(blob.digest) for blob in artifact.manifest.blobs] == [False, False]
        await store.remove(artifact.id)

    async def test_a_model_with_other_tags_than_the_caller_knows_is_not_removed(self, store: ModelStore) -> None:
        artifact = await put_model(store, _WEIGHTS)
        for reference in (_ONE, _TWO):
            await store.tag(artifact.id, reference)
        assert not await store.remove(artifact.id, only_tagged=[_ONE.canonical])
        model = store.by_id(artifact.id)
        assert model is not None
        assert model.tags == (_ONE.canonical, _TWO.canonical)
        assert not await store.remove(artifact.id, only_tagged=[_TWO.canonical, _ONE.canonical, "moved"])
        assert await store.remove(artifact.id, only_tagged=[_TWO.canonical, _ONE.canonical])
        assert store.models() == ()
        assert not await store.remove(artifact.id, only_tagged=[_ONE.canonical])

    async def test_remove_keeps_blobs_that_another_model_needs(self, store: ModelStore) -> None:
        one, other = await put_model(store, _WEIGHTS, b"GGUF-one"), await put_model(store, _WEIGHTS, b"GGUF-other")
        await store.remove(one.id)
        assert await store.has_blob(Digest.of(_WEIGHTS))
        assert not await store.has_blob(Digest.of(b"GGUF-one"))
        assert [model.id for model in store.models()] == [other.id]
        assert await content_of(store, Digest.of(_WEIGHTS)) == _WEIGHTS

    async def test_every_change_of_the_index_changes_the_generation(self, store: ModelStore) -> None:
        seen = [store.generation]
        artifact = await put_model(store, _WEIGHTS)
        seen.append(store.generation)
        await store.tag(artifact.id, _ONE)
        seen.append(store.generation)
        await store.untag(_ONE.canonical)
        seen.append(store.generation)
        await store.remove(artifact.id)
        seen.append(store.generation)
        assert len(set(seen)) == len(seen)

    async def test_refresh_finds_what_is_known_already(self, store: ModelStore) -> None:
        await put_model(store, _WEIGHTS)
        before = store.models(), store.generation
        await store.refresh()
        assert (store.models(), store.generation) == before

    async def test_changes_made_at_once_are_all_kept(self, store: ModelStore) -> None:
        artifacts = await asyncio.gather(*(put_model(store, b"GGUF-%d" % number) for number in range(8)))
        references = [parse_reference(f"many:v{number}", _POLICY) for number in range(8)]
        await asyncio.gather(*map(store.tag, [artifact.id for artifact in artifacts], references))
        for artifact, reference in zip(artifacts, references, strict=True):
            assert store.by_tag(reference.canonical) == store.by_id(artifact.id)

    # --- bundles ------------------------------------------------------------------------------------

    async def test_the_bundle_of_a_gguf_model_names_its_weights(self, store: ModelStore) -> None:
        artifact = await put_model(store, _WEIGHTS)
        bundle = await store.bundle(artifact.id)
        assert bundle.root.is_absolute()
        assert bundle.gguf == bundle.directory / "model.gguf"
        assert (bundle.safetensors, bundle.dduf, bundle.mmproj, bundle.chat_template) == (None, None, None, None)
        assert bundle.context_size == 4096

    async def test_the_same_bundle_comes_every_time(self, store: ModelStore) -> None:
        artifact = await put_model(store, b"GGUF-shard-1", b"GGUF-shard-2")
        first, *later = await asyncio.gather(*(store.bundle(artifact.id) for _ in range(4)))
        assert [*later, await store.bundle(artifact.id)] == [first] * 4

    async def test_the_bundle_of_an_unknown_model_says_not_found(self, store: ModelStore) -> None:
        with pytest.raises(ModelNotFoundError):
            await store.bundle(Digest.of(b"nobody"))

    async def test_a_model_without_weights_has_no_bundle(self, store: ModelStore) -> None:
        await put_blob(store, _LICENSE)
        model = await store.add(build_artifact([layer_of(_LICENSE, LayerType.LICENSE)]))
        with pytest.raises(MalformedArtifactError, match="no supported model weights"):
            await store.bundle(model.id)

    async def test_disk_usage_follows_what_is_stored(self, store: ModelStore) -> None:
        before = await store.disk_usage()
        await put_blob(store, _WEIGHTS)
        assert await store.disk_usage() - before == len(_WEIGHTS)
