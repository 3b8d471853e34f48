"""What every :class:`~dmr_core.ports.model_store.ModelStore` does, as tests.

Subclass :class:`ModelStoreContract` in a test module and override the ``store`` fixture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import attrs
import pytest

from dmr_core.domain.artifact import (
    ANNOTATION_FILEPATH,
    CONFIG_V01,
    Artifact,
    Descriptor,
    LayerType,
    Manifest,
    ModelConfig,
)
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_config, encode_manifest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.spans import Span
from dmr_core.errors import (
    DigestMismatchError,
    MalformedArtifactError,
    ModelNotFoundError,
    NotFoundError,
    PreconditionError,
)
from dmr_core.ports.model_store import ModelStore

__all__ = ["ModelStoreContract", "build_artifact", "layer_of", "put_blob", "put_model"]

_WEIGHTS = b"GGUF" + bytes(range(256)) * 64
_LICENSE = b"Do as you like.\n"
_POLICY = ReferencePolicy()
_ONE, _TWO = parse_reference("one:v1", _POLICY), parse_reference("two", _POLICY)


def layer_of(data: bytes, media_type: str = LayerType.GGUF, filepath: str | None = None) -> Descriptor:
    """The descriptor of a layer that holds ``data``."""
    annotations = {ANNOTATION_FILEPATH: filepath} if filepath is not None else {}
    return Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data), annotations=annotations)


def build_artifact(
    layers: Sequence[Descriptor], config: ModelConfig | None = None, media_type: str = CONFIG_V01
) -> Artifact:
    """An artifact of these layers, as dmr's own tools write it."""
    config = config or ModelConfig(
        format="gguf", context_size=4096, diff_ids=tuple(str(layer.digest) for layer in layers)
    )
    config_bytes = encode_config(config)
    manifest = Manifest(config=layer_of(config_bytes, media_type), layers=tuple(layers))
    return Artifact(
        manifest=manifest,
        manifest_bytes=encode_manifest(manifest),
        config=config,
        config_bytes=config_bytes,
    )


async def put_blob(store: ModelStore, data: bytes) -> None:
    """Write a blob, or what is missing of it."""
    async with store.write_blob(layer_of(data)) as writer:
        await writer.write(data[writer.offset :])
        await writer.commit()


async def put_model(store: ModelStore, *blobs: bytes) -> Artifact:
    """Write GGUF layers that hold ``blobs``, and the model they make."""
    for data in blobs:
        await put_blob(store, data)
    artifact = build_artifact([layer_of(data) for data in blobs])
    await store.add(artifact)
    return artifact


async def _content(store: ModelStore, digest: Digest, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in store.read_blob(digest, offset)])


class ModelStoreContract:
    """Behaviour promised by the port."""

    @pytest.fixture
    def store(self) -> ModelStore:
        raise NotImplementedError("override this fixture: an empty store")

    # --- blobs --------------------------------------------------------------------------------------

    async def test_a_committed_blob_reads_back(self, store: ModelStore) -> None:
        await put_blob(store, _WEIGHTS)
        digest = Digest.of(_WEIGHTS)
        assert await store.has_blob(digest)
        assert await _content(store, digest) == _WEIGHTS
        assert await _content(store, digest, 100) == _WEIGHTS[100:]
        assert await _content(store, digest, len(_WEIGHTS)) == b""

    async def test_an_empty_blob_can_be_stored(self, store: ModelStore) -> None:
        await put_blob(store, b"")
        assert await store.has_blob(Digest.of(b""))
        assert await _content(store, Digest.of(b"")) == b""

    async def test_reading_an_unknown_blob_says_not_found(self, store: ModelStore) -> None:
        with pytest.raises(NotFoundError):
            await _content(store, Digest.of(b"nobody wrote this"))

    async def test_nothing_is_visible_before_commit(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(_WEIGHTS)
            assert not await store.has_blob(descriptor.digest)
            await writer.commit()
            assert await store.has_blob(descriptor.digest)

    async def test_wrong_bytes_leave_nothing(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        wrong = bytes(len(_WEIGHTS))
        async with store.write_blob(descriptor) as writer:
            await writer.write(wrong)
            with pytest.raises(DigestMismatchError) as caught:
                await writer.commit()
        assert (str(descriptor.digest), str(Digest.of(wrong))) == (caught.value.expected, caught.value.actual)
        assert not await store.has_blob(descriptor.digest)
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == 0

    async def test_too_few_bytes_leave_nothing(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(_WEIGHTS[:-1])
            with pytest.raises(DigestMismatchError):
                await writer.commit()
        assert not await store.has_blob(descriptor.digest)

    async def test_parts_may_come_in_any_order_and_at_once(self, store: ModelStore) -> None:
        descriptor, third = layer_of(_WEIGHTS), len(_WEIGHTS) // 3
        bounds = [(2 * third, len(_WEIGHTS)), (0, third), (third, 2 * third)]
        async with store.write_blob(descriptor) as writer:

            async def bring(start: int, end: int) -> None:
                async with writer.part(start) as part:
                    for position in range(start, end, 1000):
                        assert part.position == position
                        await part.write(_WEIGHTS[position : min(position + 1000, end)])

            await asyncio.gather(*(bring(start, end) for start, end in bounds))
            assert writer.missing == ()
            assert not await store.has_blob(descriptor.digest)
            await writer.commit()
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_every_part_of_an_interrupted_blob_is_there_afterwards(self, store: ModelStore) -> None:
        descriptor, half = layer_of(_WEIGHTS), len(_WEIGHTS) // 2
        async with store.write_blob(descriptor) as writer:
            async with writer.part(half) as part:
                await part.write(_WEIGHTS[half : half + 5000])
            async with writer.part(0) as part:
                await part.write(_WEIGHTS[:777])
        async with store.write_blob(descriptor) as writer:
            assert writer.resumed == 5777
            assert writer.offset == 777
            missing = writer.missing
            assert missing == (Span(777, half), Span(half + 5000, len(_WEIGHTS)))
            for span in reversed(missing):
                async with writer.part(span.start) as part:
                    await part.write(_WEIGHTS[span.start : span.end])
            await writer.commit()
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_a_blob_with_a_gap_cannot_be_committed(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            async with writer.part(10) as part:
                await part.write(_WEIGHTS[10:])
            with pytest.raises(DigestMismatchError):
                await writer.commit()
            assert writer.missing == (Span(0, len(_WEIGHTS)),)
        assert not await store.has_blob(descriptor.digest)

    async def test_a_wrong_part_is_found_out_and_nothing_of_it_stays(self, store: ModelStore) -> None:
        descriptor, half = layer_of(_WEIGHTS), len(_WEIGHTS) // 2
        async with store.write_blob(descriptor) as writer, writer.part(half) as part:
            await part.write(bytes(len(_WEIGHTS) - half))
        async with store.write_blob(descriptor) as writer:
            async with writer.part(0) as part:
                await part.write(_WEIGHTS[:half])
            with pytest.raises(DigestMismatchError):
                await writer.commit()
            assert writer.missing == (Span(0, len(_WEIGHTS)),)
            await writer.write(_WEIGHTS)
            await writer.commit()
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_a_part_cannot_go_beyond_the_end(self, store: ModelStore) -> None:
        async with store.write_blob(layer_of(_WEIGHTS)) as writer:
            with pytest.raises(DigestMismatchError):
                async with writer.part(len(_WEIGHTS) - 1) as part:
                    await part.write(b"xy")

    async def test_a_lease_is_held_for_digests_that_are_not_here_too(self, store: ModelStore) -> None:
        await put_blob(store, _WEIGHTS)
        async with store.lease([Digest.of(_WEIGHTS), Digest.of(b"not here yet")]):
            assert await store.has_blob(Digest.of(_WEIGHTS))

    async def test_a_blob_that_is_here_needs_no_space(self, store: ModelStore) -> None:
        await put_blob(store, _WEIGHTS)
        await store.require_space([attrs.evolve(layer_of(_WEIGHTS), media_type=LayerType.MODEL_FILE)])

    async def test_too_many_bytes_are_refused_at_once(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(_WEIGHTS)
            with pytest.raises(DigestMismatchError):
                await writer.write(b"!")
        assert not await store.has_blob(descriptor.digest)

    async def test_a_refused_writer_can_start_again(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(bytes(len(_WEIGHTS)))
            with pytest.raises(DigestMismatchError):
                await writer.commit()
            assert writer.offset == 0
            await writer.write(_WEIGHTS)
            await writer.commit()
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_an_interrupted_write_resumes_where_it_stopped(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(_WEIGHTS[:1000])
            assert writer.offset == 1000
        assert not await store.has_blob(descriptor.digest)
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == 1000
            await writer.write(_WEIGHTS[1000:])
            await writer.commit()
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_a_partial_with_all_bytes_only_needs_a_commit(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == descriptor.size
            await writer.commit()
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_restart_forgets_what_was_here(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(bytes(1000))
        async with store.write_blob(descriptor) as writer:
            await writer.restart()
            assert writer.offset == 0
            await writer.write(_WEIGHTS)
            await writer.commit()
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_a_cancelled_writer_keeps_its_partial(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        written = asyncio.Event()

        async def stall() -> None:
            async with store.write_blob(descriptor) as writer:
                await writer.write(_WEIGHTS[:1000])
                written.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(stall())
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == 1000

    async def test_committing_a_blob_that_is_here_changes_nothing(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        await put_blob(store, _WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == descriptor.size
            await writer.commit()
            await writer.commit()
        async with store.write_blob(descriptor) as writer:
            await writer.restart()
            assert writer.offset == 0
            await writer.write(bytes(descriptor.size))
            await writer.commit()
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_writers_of_one_digest_take_turns(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        offsets: list[int] = []

        async def write() -> None:
            async with store.write_blob(descriptor) as writer:
                offsets.append(writer.offset)
                for start in range(writer.offset, descriptor.size, 1000):
                    await writer.write(_WEIGHTS[start : start + 1000])
                    await asyncio.sleep(0)
                await writer.commit()

        await asyncio.gather(*(write() for _ in range(4)))
        assert offsets == [0, *[descriptor.size] * 3]
        assert await _content(store, descriptor.digest) == _WEIGHTS

    async def test_writers_of_different_digests_do_not_wait_for_each_other(self, store: ModelStore) -> None:
        async with store.write_blob(layer_of(_WEIGHTS)) as one, store.write_blob(layer_of(_LICENSE)) as other:
            await one.write(_WEIGHTS)
            await other.write(_LICENSE)
            await other.commit()
            await one.commit()

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
        assert await _content(store, artifact.manifest.config.digest) == artifact.config_bytes
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

    async def test_remove_keeps_blobs_that_another_model_needs(self, store: ModelStore) -> None:
        one, other = await put_model(store, _WEIGHTS, b"GGUF-one"), await put_model(store, _WEIGHTS, b"GGUF-other")
        await store.remove(one.id)
        assert await store.has_blob(Digest.of(_WEIGHTS))
        assert not await store.has_blob(Digest.of(b"GGUF-one"))
        assert [model.id for model in store.models()] == [other.id]
        assert await _content(store, Digest.of(_WEIGHTS)) == _WEIGHTS

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
