"""What every registry adapter promises. Subclass :class:`RegistryContract` and override ``subject``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import attrs
import pytest

from dmr_core.domain.artifact import CONFIG_V01, Artifact, Descriptor, LayerType, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_config, encode_manifest
from dmr_core.domain.reference import Reference
from dmr_core.errors import DigestMismatchError, RegistryError, RemoteModelNotFoundError
from dmr_core.ports.registry import BlobSource, Registry

__all__ = ["RegistryContract", "RegistrySubject", "Sample", "sample"]

_LAYER: Final = bytes(range(256)) * 4096  # 1 MiB, so that it comes in several pieces


@attrs.frozen
class Sample:
    """A model of one layer."""

    artifact: Artifact
    layer: bytes

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """What the registry must hold besides the manifest."""
        return self.layer, self.artifact.config_bytes


def sample(layer: bytes = _LAYER) -> Sample:
    """A well-formed model artifact around ``layer``."""
    digest = Digest.of(layer)
    config = ModelConfig(format="gguf", size="1 MiB", created="2025-06-15T12:00:00Z", diff_ids=(str(digest),))
    config_bytes = encode_config(config)
    manifest = Manifest(
        config=Descriptor(media_type=CONFIG_V01, digest=Digest.of(config_bytes), size=len(config_bytes)),
        layers=(Descriptor(media_type=LayerType.GGUF, digest=digest, size=len(layer)),),
    )
    return Sample(
        Artifact(manifest=manifest, manifest_bytes=encode_manifest(manifest), config=config, config_bytes=config_bytes),
        layer,
    )


@attrs.frozen
class RegistrySubject:
    """The adapter under test. ``seed`` puts a model into the registry by other means than the adapter.

    ``host`` is the registry part of references it can reach.
    """

    registry: Registry
    host: str
    seed: Callable[[Reference, Sample], Awaitable[None]]

    def reference(self, repository: str = "ai/contract", tag: str = "latest") -> Reference:
        """A reference into this registry."""
        return Reference(self.host, repository, tag)


class RegistryContract(ABC):
    """The suite. Every test uses a repository of its own, so one registry may serve them all."""

    @pytest.fixture
    @abstractmethod
    def subject(self) -> RegistrySubject:
        """The registry under test."""

    async def test_a_tag_gives_the_manifest_and_its_exact_bytes(self, subject: RegistrySubject) -> None:
        reference, model = subject.reference("ai/by-tag", "Q4_K_M"), sample()
        await subject.seed(reference, model)
        async with subject.registry.session(reference) as session:
            found = await session.manifest()
        assert found.content == model.artifact.manifest_bytes
        assert found.digest == model.artifact.id
        assert found.manifest == model.artifact.manifest

    async def test_a_digest_gives_the_manifest(self, subject: RegistrySubject) -> None:
        reference, model = subject.reference("ai/by-digest"), sample()
        await subject.seed(reference, model)
        pinned = attrs.evolve(reference, tag="other", digest=model.artifact.id)
        async with subject.registry.session(pinned) as session:
            assert (await session.manifest()).digest == model.artifact.id

    @pytest.mark.parametrize("repository", ["ai/unknown", "ai/known"])
    async def test_an_unknown_repository_or_tag_is_no_model(self, subject: RegistrySubject, repository: str) -> None:
        await subject.seed(subject.reference("ai/known"), sample())
        async with subject.registry.session(subject.reference(repository, "missing")) as session:
            with pytest.raises(RemoteModelNotFoundError):
                await session.manifest()

    async def test_the_config_is_decoded_and_its_bytes_kept(self, subject: RegistrySubject) -> None:
        reference, model = subject.reference("ai/config"), sample()
        await subject.seed(reference, model)
        async with subject.registry.session(reference) as session:
            found = await session.config(model.artifact.manifest.config)
        assert found == (model.artifact.config, model.artifact.config_bytes)

    @pytest.mark.parametrize("offset", [0, 1, 700_000, len(_LAYER) - 1, len(_LAYER)])
    async def test_a_blob_is_received_from_where_the_reader_says(self, subject: RegistrySubject, offset: int) -> None:
        reference, model = subject.reference("ai/blob"), sample()
        await subject.seed(reference, model)
        layer = model.artifact.manifest.layers[0]
        async with subject.registry.session(reference) as session, session.read_blob(layer, offset) as reader:
            assert reader.offset in {0, offset}
            received = b"".join([chunk async for chunk in reader.chunks])
        assert received == model.layer[reader.offset :]

    async def test_an_offset_behind_the_end_starts_over(self, subject: RegistrySubject) -> None:
        reference, model = subject.reference("ai/behind"), sample()
        await subject.seed(reference, model)
        layer = model.artifact.manifest.layers[0]
        async with subject.registry.session(reference) as session, session.read_blob(layer, layer.size + 1) as reader:
            assert reader.offset == 0
            assert b"".join([chunk async for chunk in reader.chunks]) == model.layer

    async def test_a_blob_may_be_left_half_read(self, subject: RegistrySubject) -> None:
        reference, model = subject.reference("ai/half"), sample()
        await subject.seed(reference, model)
        layer = model.artifact.manifest.layers[0]
        async with subject.registry.session(reference) as session:
            async with session.read_blob(layer) as reader:
                assert await anext(reader.chunks)
            async with session.read_blob(layer) as reader:
                assert b"".join([chunk async for chunk in reader.chunks]) == model.layer

    async def test_a_blob_that_is_not_there_is_an_error(self, subject: RegistrySubject) -> None:
        reference, model = subject.reference("ai/absent"), sample()
        await subject.seed(reference, model)
        absent = attrs.evolve(model.artifact.manifest.layers[0], digest=Digest.of(b"never seeded"))
        async with subject.registry.session(reference) as session:
            assert not await session.has_blob(absent)
            with pytest.raises(RegistryError):
                async with session.read_blob(absent):
                    pass

    async def test_what_is_pushed_can_be_pulled(self, subject: RegistrySubject) -> None:
        reference, model = subject.reference("ai/pushed", "v1"), sample(b"pushed" * 100_000)
        counts: list[int] = []
        async with subject.registry.session(reference, push=True) as session:
            for descriptor, content in zip(model.artifact.manifest.blobs, model.blobs, strict=True):
                assert not await session.has_blob(descriptor)
                await session.push_blob(descriptor, _source(content), counts.append)
                assert await session.has_blob(descriptor)
                assert counts[-1] == descriptor.size
            await session.push_manifest(model.artifact.manifest_bytes, model.artifact.manifest.media_type)
        async with subject.registry.session(reference) as session:
            assert (await session.manifest()).content == model.artifact.manifest_bytes
            async with session.read_blob(model.artifact.manifest.layers[0]) as reader:
                assert b"".join([chunk async for chunk in reader.chunks]) == model.layer

    async def test_bytes_that_are_not_the_blob_are_refused(self, subject: RegistrySubject) -> None:
        model = sample(b"what the descriptor says")
        layer = model.artifact.manifest.layers[0]
        async with subject.registry.session(subject.reference("ai/lying"), push=True) as session:
            with pytest.raises((RegistryError, DigestMismatchError)):
                await session.push_blob(layer, _source(b"x" * layer.size), lambda _count: None)
            assert not await session.has_blob(layer)

    async def test_a_mounted_blob_is_there_without_being_sent(self, subject: RegistrySubject) -> None:
        model = sample(b"to be mounted" * 1000)
        layer = model.artifact.manifest.layers[0]
        await subject.seed(subject.reference("ai/mount-source"), model)
        async with subject.registry.session(subject.reference("ai/mount-target"), push=True) as session:
            assert not await session.has_blob(layer)
            assert await session.mount_blob(layer, "ai/mount-source")
            assert await session.has_blob(layer)
            async with session.read_blob(layer) as reader:
                assert b"".join([chunk async for chunk in reader.chunks]) == model.layer

    async def test_a_blob_that_cannot_be_mounted_can_be_pushed(self, subject: RegistrySubject) -> None:
        model = sample(b"not to be mounted" * 1000)
        layer = model.artifact.manifest.layers[0]
        async with subject.registry.session(subject.reference("ai/unmounted"), push=True) as session:
            assert not await session.mount_blob(layer, "ai/never-heard-of")
            await session.push_blob(layer, _source(model.layer), lambda _count: None)
            assert await session.has_blob(layer)

    async def test_pushing_a_manifest_again_changes_nothing(self, subject: RegistrySubject) -> None:
        reference, model = subject.reference("ai/again", "v1"), sample(b"again")
        await subject.seed(reference, model)
        async with subject.registry.session(reference, push=True) as session:
            for _ in range(2):
                await session.push_manifest(model.artifact.manifest_bytes, model.artifact.manifest.media_type)
        async with subject.registry.session(reference) as session:
            assert (await session.manifest()).content == model.artifact.manifest_bytes

    async def test_an_empty_blob_can_be_pushed_and_pulled(self, subject: RegistrySubject) -> None:
        empty = Descriptor(media_type=LayerType.MODEL_FILE, digest=Digest.of(b""), size=0)
        async with subject.registry.session(subject.reference("ai/empty"), push=True) as session:
            await session.push_blob(empty, _source(b""), lambda _count: None)
            async with session.read_blob(empty) as reader:
                assert reader.offset == 0
                assert [chunk async for chunk in reader.chunks] == []


def _source(content: bytes) -> BlobSource:
    async def chunks(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(content), 100_000):
            yield content[start : start + 100_000]

    return chunks
