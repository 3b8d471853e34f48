"""Pulling from a hub, on fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import attrs
import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.hub_repository import HubFile
from dmr_core.domain.paths import RelativePath
from dmr_core.domain.progress import Progress, ProgressKind
from dmr_core.domain.reference import Reference, ReferencePolicy, parse_reference
from dmr_core.errors import (
    DigestMismatchError,
    InvalidReferenceError,
    MalformedArtifactError,
    RegistryUnreachableError,
    StorageFullError,
    UnauthorizedError,
)
from dmr_core.ports.package_source import WeightsMetadata
from dmr_core.ports.registry import BlobReader, Credentials
from dmr_core.services import hugging_face
from dmr_core.services.fetching import FetchingService
from dmr_core.services.hub_artifact import repository_of
from dmr_core.services.hugging_face import HuggingFaceSource
from dmr_core.testing.contracts.registry import sample
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.model_hub import InMemoryModelHub
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.package_source import InMemoryPackageSource

_GGUF = b"GGUF" + bytes(range(256)) * 2000
_SAFETENSORS = (2).to_bytes(8, "little") + b"{}" + b"weights"
_INDEX = b'{"weight_map": {"a": "a.safetensors"}}'


class EagerClock(FakeClock):
    """Notes every wait and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


@attrs.define(eq=False)
class World:
    """A hub, a store, and the source between them."""

    hub: InMemoryModelHub = attrs.field(factory=InMemoryModelHub)
    store: InMemoryModelStore = attrs.field(factory=InMemoryModelStore)
    files: InMemoryPackageSource = attrs.field(
        factory=lambda: InMemoryPackageSource(WeightsMetadata(size="1 MiB", architecture="llama"))
    )
    clock: EagerClock = attrs.field(factory=EagerClock)

    @property
    def source(self) -> HuggingFaceSource:
        return HuggingFaceSource(
            store=self.store,
            hub=self.hub,
            files=self.files,
            fetching=FetchingService(store=self.store, clock=self.clock),
            clock=self.clock,
        )

    def put(self, files: dict[str, bytes], repository: str = "Org/M") -> None:
        """Seed the hub, and let the package source see what will be in the store."""
        self.hub.put(repository, files)
        for content in files.values():
            self.files.put(self.store.blob_file(Digest.of(content)), content)

    async def pull(self, name: str, token: str | None = None) -> list[Progress]:
        """Every line of a pull."""
        lines = self.source.pull(reference(name), Credentials(token) if token else None)
        async with aclosing(lines) as following:
            return [line async for line in following]


def reference(name: str) -> Reference:
    return parse_reference(name, ReferencePolicy())


@pytest.fixture
def world() -> World:
    return World()


def test_it_answers_for_hugging_face_alone(world: World) -> None:
    assert world.source.claims(reference("hf.co/org/m"))
    assert not world.source.claims(reference("ai/m"))


async def test_a_model_is_pulled_and_then_known(world: World) -> None:
    world.put({"m.gguf": _GGUF, "LICENSE": b"free"})

    lines = await world.pull("hf.co/Org/M")

    assert lines[0].message == "Fetching file list..."
    found = next(line for line in lines if line.message.startswith("Found"))
    assert (found.message, found.total) == ("Found 2 files (0.49 MB total)", len(_GGUF) + 4)
    layers = {line.layer.id: line.layer for line in lines if line.layer is not None}
    assert {layer.id: layer.size for layer in layers.values()} == {
        Digest.of(_GGUF): len(_GGUF),
        Digest.of(b"free"): 4,
    }
    assert all(layer.current == layer.size for layer in layers.values())
    assert lines[-1].message == "Model pulled successfully"
    model = world.store.by_tag("huggingface.co/org/m:latest")
    assert model is not None
    assert (model.config.architecture, repository_of(model)) == ("llama", "Org/M")
    assert (await world.pull("hf.co/org/m"))[-1].message == "Using cached model: 1 MiB"


async def test_what_a_pull_needs_is_leased_while_it_runs_and_no_longer(world: World) -> None:
    world.put({"m.gguf": _GGUF, "LICENSE": b"free"})
    lines = world.source.pull(reference("hf.co/Org/M"), None)
    leased = [sorted(world.store.leased) async for _ in lines]
    assert sorted([Digest.of(_GGUF), Digest.of(b"free")]) in leased
    assert world.store.leased == []


async def test_a_full_disk_is_told_before_the_first_large_byte(world: World) -> None:
    world.store.capacity = 1000
    world.put({"m.gguf": _GGUF})
    with pytest.raises(StorageFullError):
        await world.pull("hf.co/Org/M")
    assert not any(request.startswith("file ") for request in world.hub.requests)
    assert world.store.leased == []


async def test_a_model_under_a_name_from_elsewhere_is_no_cached_one(world: World) -> None:
    other = sample()
    world.store.blobs[Digest.of(other.layer)] = other.layer
    await world.store.add(other.artifact)
    await world.store.tag(other.artifact.id, reference("hf.co/Org/M"))
    world.put({"m.gguf": _GGUF})

    assert (await world.pull("hf.co/Org/M"))[-1].message == "Model pulled successfully"


async def test_a_name_known_in_another_spelling_is_asked_for_in_the_hubs(world: World) -> None:
    world.put({"m.gguf": _GGUF})
    await world.pull("hf.co/Org/M")
    world.put({"m.gguf": b"GGUF new"})
    await world.pull("hf.co/org/m")
    assert [r for r in world.hub.requests if r.startswith("revision")] == ["revision Org/M@main"] * 2


async def test_other_bytes_of_the_same_name_and_size_are_another_model(world: World) -> None:
    world.put({"m.gguf": b"GGUF old"})
    await world.pull("hf.co/Org/M")
    world.put({"m.gguf": b"GGUF new"})
    assert (await world.pull("hf.co/Org/M"))[-1].message == "Model pulled successfully"
    model = world.store.by_tag("huggingface.co/org/m:latest")
    assert model is not None
    assert [layer.digest for layer in model.manifest.layers] == [Digest.of(b"GGUF new")]


async def test_a_digest_pins_nothing_on_a_hub(world: World) -> None:
    with pytest.raises(InvalidReferenceError, match="pinned by a commit"):
        await world.pull(f"hf.co/Org/M@sha256:{'0' * 64}")
    assert world.hub.requests == []


async def test_headers_that_cannot_be_read_are_a_warning(world: World) -> None:
    world.put({"m.gguf": b"no GGUF"})
    lines = await world.pull("hf.co/Org/M")
    assert [line.kind for line in lines if "not known" in line.message] == [ProgressKind.WARNING]
    assert world.store.by_tag("huggingface.co/org/m:latest") is not None
    assert (await world.pull("hf.co/Org/M"))[-1].message == "Using cached model: 0.00 MB"


async def test_safetensors_are_listed_by_their_index(world: World) -> None:
    index = b'{"weight_map": {"a": "a.safetensors"}}'
    files = {"a.safetensors": _SAFETENSORS, "b.safetensors": b"", "model.safetensors.index.json": index}
    world.put({**files, "config.json": b"{}"})
    await world.pull("hf.co/Org/M")
    model = world.store.by_tag("huggingface.co/org/m:latest")
    assert model is not None
    assert [layer.filepath for layer in model.manifest.layers] == [
        "a.safetensors",
        "config.json",
        "model.safetensors.index.json",
    ]
    assert model.config.format == "safetensors"


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
async def test_wrong_bytes_are_refused(world: World, path: str) -> None:
    world.put({"model.safetensors": _SAFETENSORS, "config.json": b"{}"})
    world.hub.corrupt(path)
    with pytest.raises(DigestMismatchError):
        await world.pull("hf.co/Org/M")
    assert world.store.models() == ()


async def test_an_account_without_access_is_refused_before_a_large_file_is_begun(world: World) -> None:
    world.put({"model.safetensors": _SAFETENSORS, "config.json": b"{}"})
    world.hub.gate("Org/M", "secret")
    with pytest.raises(UnauthorizedError):
        await world.pull("hf.co/Org/M")
    assert "file model.safetensors@0" not in world.hub.requests
    assert (await world.pull("hf.co/Org/M", "secret"))[-1].kind is ProgressKind.SUCCESS


async def test_a_small_file_that_breaks_off_is_tried_again_a_few_times(world: World) -> None:
    world.put({"m.gguf": _GGUF, "LICENSE": b"free"})
    world.hub.cut("LICENSE", after=2)
    await world.pull("hf.co/Org/M")
    assert world.clock.waits.count(0.5) == 1

    world.put({"m.gguf": _GGUF, "LICENSE": b"not free"})
    for _ in range(4):
        world.hub.cut("LICENSE", after=2)
    with pytest.raises(RegistryUnreachableError, match="'LICENSE' of 'Org/M': the connection broke"):
        await world.pull("hf.co/Org/M")


async def test_a_small_file_that_takes_for_ever_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class SilentHub(InMemoryModelHub):
        @asynccontextmanager
        async def open_file(self, *_arguments: object, **_options: object) -> AsyncIterator[BlobReader]:
            await asyncio.Event().wait()
            yield BlobReader(0, world.store.read_blob(Digest.of(b"")))

    monkeypatch.setattr(hugging_face, "_SMALL_WITHIN", 0.01)
    world.hub = SilentHub()
    world.put({"m.gguf": _GGUF, "LICENSE": b"free"})
    with pytest.raises(RegistryUnreachableError, match="'LICENSE' of 'Org/M': it takes longer than"):
        await world.pull("hf.co/Org/M")


async def test_more_small_files_than_fit_into_memory_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "_ALL_SMALL", 10)
    world.put({"m.gguf": _GGUF, "LICENSE": b"x" * 11})
    with pytest.raises(MalformedArtifactError, match="11 bytes of small files, 10 are allowed"):
        await world.pull("hf.co/Org/M")
    monkeypatch.setattr(hugging_face, "_LARGEST_SMALL", 10)
    monkeypatch.setattr(hugging_face, "_ALL_SMALL", 100)
    with pytest.raises(MalformedArtifactError, match="'LICENSE' of 'Org/M' has 11 bytes, 10 are allowed"):
        await world.pull("hf.co/Org/M")


async def test_more_bytes_than_listed_are_not_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub may send without end."""
    world.put({"m.gguf": _GGUF, "LICENSE": b"x" * 1000})
    world.hub.chunk = 10
    listed = await world.hub.files(await world.hub.revision("Org/M", "main"))
    short = tuple(attrs.evolve(file, size=15) if file.name == "LICENSE" else file for file in listed)

    async def files(*_arguments: object) -> tuple[HubFile, ...]:
        return short

    monkeypatch.setattr(InMemoryModelHub, "files", files)
    with pytest.raises(DigestMismatchError):
        await world.pull("hf.co/Org/M")


@pytest.mark.parametrize("digest", [Digest.of(_INDEX), Digest.of(b"other")])
async def test_an_index_may_be_a_large_file_to_the_hub(
    world: World, monkeypatch: pytest.MonkeyPatch, digest: Digest
) -> None:
    index = _INDEX
    world.put({"a.safetensors": _SAFETENSORS, "model.safetensors.index.json": index})
    listed = await world.hub.files(await world.hub.revision("Org/M", "main"))
    changed = [attrs.evolve(file, sha256=digest) if file.name.endswith(".json") else file for file in listed]

    async def files(*_arguments: object) -> tuple[HubFile, ...]:
        return tuple(changed)

    monkeypatch.setattr(InMemoryModelHub, "files", files)
    if digest == Digest.of(index):
        assert (await world.pull("hf.co/Org/M"))[-1].kind is ProgressKind.SUCCESS
    else:
        with pytest.raises(DigestMismatchError):
            await world.pull("hf.co/Org/M")


async def test_files_that_are_here_from_elsewhere_are_not_written_again(world: World) -> None:
    world.put({"m.gguf": _GGUF, "LICENSE": b"free", "COPYING": b""})
    world.put({"n.gguf": b"GGUF n", "LICENSE": b"free", "COPYING": b""}, "Org/N")
    await world.pull("hf.co/Org/M")
    assert (await world.pull("hf.co/Org/N"))[-1].kind is ProgressKind.SUCCESS


async def test_an_interrupted_pull_keeps_what_it_received(world: World) -> None:
    world.put({"m.gguf": _GGUF})
    world.hub.chunk = 1000
    lines = world.source.pull(reference("hf.co/Org/M"), None)
    async for line in lines:
        if line.layer is not None and line.layer.current:
            break
    await lines.aclose()
    assert world.store.partials
    world.hub.requests.clear()
    await world.pull("hf.co/Org/M")
    assert all(not request.endswith("m.gguf@0") for request in world.hub.requests)


def test_hidden_files_are_those_below_a_hidden_directory_too() -> None:
    paths = (".gitattributes", ".cache/m.gguf", "a/.b/c", "a/b.c")
    found = [HubFile(path=RelativePath(path), size=0, git_oid="0" * 40).is_hidden for path in paths]
    assert found == [True, True, True, False]
