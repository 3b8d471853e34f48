"""What a pull would bring, told by registries and by the Hub."""

from __future__ import annotations

import asyncio
import json

import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference, ReferencePolicy
from dmr_core.errors import (
    InvalidReferenceError,
    MalformedArtifactError,
    RegistryUnreachableError,
    RemoteModelNotFoundError,
    UnauthorizedError,
)
from dmr_core.services import remote_models
from dmr_core.services.remote_models import RemoteFile, RemoteModelService
from dmr_core.testing.contracts.registry import sample
from dmr_core.testing.fakes.model_hub import InMemoryModelHub
from dmr_core.testing.fakes.registry import InMemoryRegistry

INDEX = "model.safetensors.index.json"


@pytest.fixture
def hub() -> InMemoryModelHub:
    return InMemoryModelHub()


@pytest.fixture
def registry() -> InMemoryRegistry:
    return InMemoryRegistry()


@pytest.fixture
def service(hub: InMemoryModelHub, registry: InMemoryRegistry) -> RemoteModelService:
    return RemoteModelService(open_session=registry.session, hub=hub, policy=ReferencePolicy())


async def test_a_model_of_a_registry_is_pinned_by_its_digest(
    service: RemoteModelService, registry: InMemoryRegistry
) -> None:
    model = sample()
    registry.seed(Reference("docker.io", "ai/one"), model.artifact, model.blobs)
    found = await service.describe("one")
    assert found.id == model.artifact.id
    assert found.source == f"docker.io/ai/one@{model.artifact.id}"
    assert (await service.describe(found.source)).id == found.id
    assert found.config == model.artifact.config
    assert found.created == model.artifact.config.created_unix
    layer = model.artifact.manifest.layers[0]
    assert found.files == (RemoteFile(size=layer.size, media_type=layer.media_type, digest=layer.digest),)


async def test_of_the_hub_the_chosen_quantization_is_told(service: RemoteModelService, hub: InMemoryModelHub) -> None:
    files = {"m-Q4_K_M.gguf": b"four" * 10, "m-Q8_0.gguf": b"eight" * 10, "README.md": b"x"}
    commit = hub.put("Org/Repo", files)
    default, eight = await service.describe("hf.co/Org/Repo"), await service.describe("hf.co/Org/Repo:q8_0")
    assert (default.config.quantization, default.download_size) == ("Q4_K_M", 40)
    assert (eight.config.quantization, eight.download_size) == ("Q8_0", 50)
    assert default.id is None
    assert default.source == f"hf.co/Org/Repo@{commit}"
    assert default.created == int(hub.modified.timestamp())
    assert [(file.path, file.size, file.digest) for file in eight.files] == [
        ("m-Q8_0.gguf", 50, Digest.of(files["m-Q8_0.gguf"]))
    ]
    assert not [request for request in hub.requests if request.startswith("file ")]
    again = await service.describe(eight.source)
    assert again.files == eight.files


async def test_of_the_hub_shards_are_those_of_the_index(service: RemoteModelService, hub: InMemoryModelHub) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    hub.put(
        "org/big",
        {INDEX: index, names[0]: b"1" * 7, names[1]: b"2" * 9, "other.safetensors": b"3", "config.json": b"{}"},
    )
    found = await service.describe("hf.co/org/big")
    assert found.config.format == "safetensors"
    assert found.config.quantization == ""
    paths = [file.path for file in found.files]
    assert set(names) <= set(paths)
    assert "other.safetensors" not in paths
    assert found.download_size == sum(file.size for file in found.files)


async def test_an_index_longer_than_it_may_be_is_refused(
    service: RemoteModelService, hub: InMemoryModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_models, "_LARGEST_INDEX", 10)
    hub.put("org/big", {INDEX: b"x" * 11, "model-00001-of-00001.safetensors": b"1"})
    with pytest.raises(MalformedArtifactError, match="longer than it may be"):
        await service.describe("hf.co/org/big")


async def test_an_index_that_never_comes_is_not_waited_for(
    service: RemoteModelService, hub: InMemoryModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_models, "_INDEX_WITHIN", 0.0)
    hub.put("org/big", {INDEX: b"{}", "model-00001-of-00001.safetensors": b"1"})

    class Silent:
        async def __aenter__(self) -> None:
            await asyncio.Event().wait()

        async def __aexit__(self, *_: object) -> None:
            pass

    hub.open_file = lambda *_, **__: Silent()  # type: ignore[method-assign,assignment]
    with pytest.raises(RegistryUnreachableError, match="takes longer than 0 s"):
        await service.describe("hf.co/org/big")


async def test_what_the_hub_does_not_have_says_what_it_has(service: RemoteModelService, hub: InMemoryModelHub) -> None:
    hub.put("org/repo", {"m-Q4_K_M.gguf": b"four", "m-Q8_0.gguf": b"eight"})
    with pytest.raises(RemoteModelNotFoundError):
        await service.describe("hf.co/org/nowhere")
    with pytest.raises(RemoteModelNotFoundError, match="Q4_K_M"):
        await service.describe("hf.co/org/repo:Q3_K_S")
    with pytest.raises(InvalidReferenceError, match="pinned by a commit"):
        await service.describe("hf.co/org/repo@" + str(Digest.of(b"x")))


async def test_who_may_not_look_is_told(service: RemoteModelService, registry: InMemoryRegistry) -> None:
    model = sample()
    registry.seed(Reference("docker.io", "ai/one"), model.artifact, model.blobs)
    registry.protect("docker.io/ai/one", "token")
    with pytest.raises(UnauthorizedError):
        await service.describe("one")
