from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import attrs
import pytest

from dmr_core.domain.archive import (
    ARCHIVE_END,
    MANIFEST_NAME,
    archive_directories,
    archive_header,
    archive_padding,
    blob_name,
)
from dmr_core.domain.artifact import Artifact, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.errors import MalformedArtifactError, ShuttingDownError, UnsupportedFormatError
from dmr_core.services.loading import LoadingService
from dmr_core.testing.contracts.model_store import build_artifact, layer_of
from dmr_core.testing.fakes.model_store import InMemoryModelStore

WEIGHTS, LICENSE = b"GGUF" * 1000, b"MIT"
ARTIFACT = build_artifact([layer_of(WEIGHTS), layer_of(LICENSE), layer_of(LICENSE)])


class Documents:
    """Decodes by knowing beforehand; anything else is no document."""

    def __init__(self, *artifacts: Artifact) -> None:
        self.manifests = {artifact.manifest_bytes: artifact.manifest for artifact in artifacts}
        self.configs = {artifact.config_bytes: artifact.config for artifact in artifacts}

    def manifest(self, data: bytes) -> Manifest:
        if data not in self.manifests:
            raise MalformedArtifactError("malformed manifest")
        return self.manifests[data]

    def config(self, data: bytes) -> ModelConfig:
        return self.configs[data]


@pytest.fixture
def store() -> InMemoryModelStore:
    return InMemoryModelStore()


def service(store: InMemoryModelStore, artifact: Artifact = ARTIFACT) -> LoadingService:
    documents = Documents(artifact)
    return LoadingService(store, decode_manifest=documents.manifest, decode_config=documents.config)


def file(name: str, content: bytes) -> bytes:
    return archive_header(name, len(content)) + content + archive_padding(len(content))


def blob(content: bytes) -> bytes:
    return file(blob_name(Digest.of(content)), content)


def manifest(artifact: Artifact = ARTIFACT) -> bytes:
    return file(MANIFEST_NAME, artifact.manifest_bytes)


async def archive(*parts: bytes) -> AsyncIterator[bytes]:
    data = b"".join((archive_directories(), *parts, ARCHIVE_END))
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


BLOBS = (blob(WEIGHTS), blob(LICENSE), blob(LICENSE), blob(ARTIFACT.config_bytes))


@pytest.mark.parametrize(
    "parts",
    [(*BLOBS, manifest()), (manifest(), *BLOBS), (*reversed(BLOBS), file("README", b"hello"), manifest())],
    ids=["as exported", "manifest first", "backwards, with a file nobody knows"],
)
async def test_a_model_is_loaded_whatever_the_order(store: InMemoryModelStore, parts: Iterable[bytes]) -> None:
    model = await service(store).load(archive(*parts))

    assert (model.id, model.tags) == (ARTIFACT.id, ())
    assert store.models() == (model,)
    assert store.blobs[Digest.of(WEIGHTS)] == WEIGHTS


async def test_blobs_that_are_here_may_be_missing(store: InMemoryModelStore) -> None:
    await service(store).load(archive(*BLOBS, manifest()))

    again = await service(store).load(archive(manifest()))

    assert again.id == ARTIFACT.id
    assert len(store.models()) == 1


async def test_an_old_partial_is_not_trusted(store: InMemoryModelStore) -> None:
    store.partials[Digest.of(WEIGHTS)] = bytearray(b"wrong")

    model = await service(store).load(archive(*BLOBS, manifest()))

    assert model.id == ARTIFACT.id


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (BLOBS, "manifest not found: the archive holds no manifest.json"),
        ((*BLOBS[1:], manifest()), f"blob {Digest.of(WEIGHTS)} is neither in it nor in the store"),
        ((*BLOBS[:3], manifest()), f"blob {Digest.of(ARTIFACT.config_bytes)} is neither"),
        ((*BLOBS, manifest(), manifest()), "more than one manifest.json"),
        ((*BLOBS, file(MANIFEST_NAME, b"{}")), "malformed manifest"),
        ((*BLOBS, file(MANIFEST_NAME, bytes(5 * 1024 * 1024))), "manifest.json is longer than 4194304 bytes"),
        ((file("blobs/sha256/abc", b"x"),), "'blobs/sha256/abc' is not named by a digest"),
        ((file(blob_name(Digest.of(b"one")), b"two"),), "does not hold what its name says"),
    ],
)
async def test_a_bad_archive_adds_no_model(store: InMemoryModelStore, parts: Iterable[bytes], complaint: str) -> None:
    with pytest.raises(MalformedArtifactError, match=complaint):
        await service(store).load(archive(*parts))
    assert store.models() == ()


async def test_a_stream_that_breaks_off_adds_no_model(store: InMemoryModelStore) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield archive_directories() + BLOBS[0][:2000]

    with pytest.raises(MalformedArtifactError, match="at byte 3024: it ends here"):
        await service(store).load(cut())
    assert store.models() == ()


async def test_what_pulling_would_refuse_is_refused_before_blobs_are_written(store: InMemoryModelStore) -> None:
    newer = build_artifact([layer_of(WEIGHTS)], media_type="application/vnd.docker.ai.model.config.v9+json")

    with pytest.raises(UnsupportedFormatError, match="try upgrading"):
        await service(store, newer).load(archive(manifest(newer), *BLOBS))
    assert store.blobs == {}


async def test_a_size_that_contradicts_the_manifest_is_refused(store: InMemoryModelStore) -> None:
    lying = build_artifact([attrs.evolve(layer_of(WEIGHTS), size=7)])

    with pytest.raises(MalformedArtifactError, match="has 4000 bytes, its manifest says 7"):
        await service(store, lying).load(archive(*BLOBS, blob(lying.config_bytes), manifest(lying)))


async def test_a_config_of_unreasonable_size_is_not_read(store: InMemoryModelStore) -> None:
    bloated = build_artifact([layer_of(WEIGHTS)])
    config = bytes(9 * 1024 * 1024)
    described = layer_of(config, ARTIFACT.manifest.config.media_type)
    bloated = attrs.evolve(bloated, manifest=attrs.evolve(bloated.manifest, config=described))

    with pytest.raises(MalformedArtifactError, match="longer than 8388608 bytes"):
        await service(store, bloated).load(archive(BLOBS[0], blob(config), manifest(bloated)))


class Forgetful(InMemoryModelStore):
    """Loses a blob between being asked for it and giving it."""

    async def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        return True


async def test_a_config_that_vanishes_is_reported() -> None:
    with pytest.raises(MalformedArtifactError, match=r"config .* is missing"):
        await service(Forgetful()).load(archive(manifest()))


class Watching(InMemoryModelStore):
    """Knows how many leases were held at most, and what was leased when a model was added."""

    def __init__(self) -> None:
        super().__init__()
        self.open = self.most = 0
        self.leased_at_last: set[Digest] = set()

    @asynccontextmanager
    async def lease(self, digests: Iterable[Digest]) -> AsyncIterator[None]:
        async with super().lease(digests):
            self.open += 1
            self.most = max(self.most, self.open)
            try:
                yield
            finally:
                self.open -= 1

    async def add(self, artifact: Artifact) -> Model:
        self.leased_at_last = set(self.leased)
        return await super().add(artifact)


async def test_every_blob_is_leased_until_its_model_is_there_however_many_there_are() -> None:
    layers = [b"GGUF-%d" % number for number in range(200)]
    artifact = build_artifact([layer_of(data) for data in layers])
    store = Watching()
    parts = [*map(blob, layers), blob(artifact.config_bytes), manifest(artifact)]
    await service(store, artifact).load(archive(*parts))
    assert store.leased_at_last == {descriptor.digest for descriptor in artifact.manifest.blobs}
    assert store.most <= 64 + 1
    assert (store.open, store.leased) == (0, [])


async def _begin(loading: LoadingService, taken: int = 2000) -> tuple[asyncio.Task[Model], asyncio.Event]:
    """A load that has taken the first bytes of a blob's entry and waits for more; and what lets the rest come."""
    begun, more = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield archive_directories() + BLOBS[0][:taken]
        begun.set()
        await more.wait()
        yield BLOBS[0][taken:] + b"".join(BLOBS[1:]) + manifest() + ARCHIVE_END

    task = asyncio.create_task(loading.load(slow()))
    await begun.wait()
    return task, more


async def test_closing_ends_a_load_with_an_error_that_says_so_and_holds_nothing() -> None:
    store = Watching()
    loading = service(store)
    task, _ = await _begin(loading)

    await loading.aclose()

    with pytest.raises(ShuttingDownError, match="the load was cancelled: the service is shutting down"):
        await task
    assert (store.open, store.models(), store.blobs) == (0, (), {})
    with pytest.raises(ShuttingDownError):
        await loading.load(archive(*BLOBS, manifest()))


async def test_a_client_that_leaves_cancels_its_load_and_no_other() -> None:
    store = Watching()
    loading = service(store)
    task, _ = await _begin(loading)
    other, more = await _begin(loading, 100)  # in the header: a blob has one writer at a time

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.models() == ()
    more.set()

    assert (await other).id == ARTIFACT.id
    assert store.open == 0


async def test_a_client_that_leaves_while_the_service_closes_is_told_nothing() -> None:
    loading = service(Watching())
    task, _ = await _begin(loading)
    closing = asyncio.create_task(loading.aclose())
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await closing
