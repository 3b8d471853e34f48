"""What every blob writer of a :class:`~dmr_core.ports.model_store.ModelStore` does, as tests."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from dmr_core.domain.artifact import LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.spans import Span
from dmr_core.errors import DigestMismatchError, ModelInUseError, NotFoundError
from dmr_core.ports.model_store import ModelStore
from dmr_core.testing.contracts.samples import content_of, layer_of, put_blob, put_model

__all__ = ["BlobWritingContract"]

_WEIGHTS = b"GGUF" + bytes(range(256)) * 64
_LICENSE = b"Do as you like.\n"


class BlobWritingContract:
    """Behaviour promised by ``write_blob``, ``read_blob`` and ``lease``; part of the suite of stores."""

    @pytest.fixture
    def store(self) -> ModelStore:
        raise NotImplementedError("override this fixture: an empty store")

    async def test_a_committed_blob_reads_back(self, store: ModelStore) -> None:
        await put_blob(store, _WEIGHTS)
        digest = Digest.of(_WEIGHTS)
        assert await store.has_blob(digest)
        size = len(_WEIGHTS)
        assert [await store.has_blob(digest, of) for of in (size, size - 1)] == [True, False]
        assert await content_of(store, digest) == _WEIGHTS
        assert await content_of(store, digest, 100) == _WEIGHTS[100:]
        assert await content_of(store, digest, len(_WEIGHTS)) == b""

    async def test_an_empty_blob_can_be_stored(self, store: ModelStore) -> None:
        await put_blob(store, b"")
        assert await store.has_blob(Digest.of(b""))
        assert await content_of(store, Digest.of(b"")) == b""

    async def test_reading_an_unknown_blob_says_not_found(self, store: ModelStore) -> None:
        with pytest.raises(NotFoundError):
            await content_of(store, Digest.of(b"nobody wrote this"))

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
        assert await content_of(store, descriptor.digest) == _WEIGHTS

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
        assert await content_of(store, descriptor.digest) == _WEIGHTS

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
        assert await content_of(store, descriptor.digest) == _WEIGHTS

    async def test_a_part_cannot_go_beyond_the_end(self, store: ModelStore) -> None:
        async with store.write_blob(layer_of(_WEIGHTS)) as writer:
            with pytest.raises(DigestMismatchError):
                async with writer.part(len(_WEIGHTS) - 1) as part:
                    await part.write(b"xy")

    async def test_a_lease_is_held_for_digests_that_are_not_here_too(self, store: ModelStore) -> None:
        await put_blob(store, _WEIGHTS)
        async with store.lease([Digest.of(_WEIGHTS), Digest.of(b"not here yet")]):
            assert await store.has_blob(Digest.of(_WEIGHTS))

    async def test_a_leased_model_is_not_removed(self, store: ModelStore) -> None:
        artifact = await put_model(store, _WEIGHTS)
        async with store.lease([artifact.id]):
            with pytest.raises(ModelInUseError):
                await store.remove(artifact.id)
            assert [model.id for model in store.models()] == [artifact.id]
        await store.remove(artifact.id)
        assert store.models() == ()

    async def test_a_leased_blob_stays_when_its_model_goes(self, store: ModelStore) -> None:
        artifact = await put_model(store, _WEIGHTS, _LICENSE)
        async with store.lease([Digest.of(_WEIGHTS)]):
            await store.remove(artifact.id)
            assert [await store.has_blob(Digest.of(data)) for data in (_WEIGHTS, _LICENSE)] == [True, False]

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
        assert await content_of(store, descriptor.digest) == _WEIGHTS

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
        assert await content_of(store, descriptor.digest) == _WEIGHTS

    async def test_a_partial_with_all_bytes_only_needs_a_commit(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == descriptor.size
            await writer.commit()
        assert await content_of(store, descriptor.digest) == _WEIGHTS

    async def test_restart_forgets_what_was_here(self, store: ModelStore) -> None:
        descriptor = layer_of(_WEIGHTS)
        async with store.write_blob(descriptor) as writer:
            await writer.write(bytes(1000))
        async with store.write_blob(descriptor) as writer:
            await writer.restart()
            assert writer.offset == 0
            await writer.write(_WEIGHTS)
            await writer.commit()
        assert await content_of(store, descriptor.digest) == _WEIGHTS

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
        assert await content_of(store, descriptor.digest) == _WEIGHTS

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
        assert await content_of(store, descriptor.digest) == _WEIGHTS

    async def test_writers_of_different_digests_do_not_wait_for_each_other(self, store: ModelStore) -> None:
        async with store.write_blob(layer_of(_WEIGHTS)) as one, store.write_blob(layer_of(_LICENSE)) as other:
            await one.write(_WEIGHTS)
            await other.write(_LICENSE)
            await other.commit()
            await one.commit()
