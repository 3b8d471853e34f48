"""``?remote=true`` and ``/dmr/v1/search`` on the shipped fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.artifact import Artifact
from dmr_core.domain.encoding import encode_manifest
from dmr_core.domain.reference import Reference
from dmr_core.domain.search import SearchHit
from dmr_core.domain.settings import Settings
from dmr_core.errors import RegistryError
from dmr_core.ports.model_search import ModelSearch
from dmr_core.testing.contracts.registry import Sample, sample
from dmr_core.testing.fakes.model_search import InMemoryModelSearch
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call

STOCK = [("user-agent", "docker-model-cli/1.2.6")]
REFERENCE = Reference("docker.io", "ai/one")


@attrs.frozen
class World:
    service: Service
    registry: InMemoryRegistry
    hub: InMemoryModelSearch
    model: Sample

    async def get(self, path: str, *, stock: bool = False) -> Answer:
        return await call(self.service.app, "GET", path, headers=STOCK if stock else [])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    registry, hub, model = InMemoryRegistry(), InMemoryModelSearch(), sample()
    registry.seed(REFERENCE, model.artifact, model.blobs)

    @asynccontextmanager
    async def open_hubs() -> AsyncIterator[Sequence[ModelSearch]]:
        yield (hub,)

    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=registry,
        transport=InMemoryTransport(),
        processes=FakeProcessSupervisor(),
        entry_points=(),
        open_hubs=open_hubs,
    )
    async with open_service(Settings(models_path=Path("/nowhere")), overrides) as service:
        yield World(service, registry, hub, model)


@pytest.mark.parametrize("name", ["one", "ai/one:latest", "docker.io/ai/one", "ONE"])
async def test_a_remote_model_is_described_by_any_of_its_names(world: World, name: str) -> None:
    artifact = world.model.artifact
    answer = await world.get(f"/models/{name}?remote=true")
    assert answer.status == 200
    document = answer.json()
    assert document["id"] == str(artifact.id)
    assert "tags" not in document
    assert document["created"] == artifact.config.created_unix
    assert document["config"] == {"format": "gguf", "size": "1 MiB"}
    layer = artifact.manifest.layers[0]
    assert document["layers"] == [
        {"digest": str(layer.digest), "size": layer.size, "media_type": "application/vnd.docker.ai.gguf.v3"}
    ]
    blobs = sum(blob.size for blob in artifact.manifest.blobs)
    assert document["download_size"] == len(artifact.manifest_bytes) + blobs


async def test_nothing_is_stored_and_no_layer_is_fetched(world: World) -> None:
    await world.get("/models/one?remote=true")
    assert (await world.get("/models")).json() == []
    layer = world.model.artifact.manifest.layers[0]
    assert not [request for request in world.registry.requests if str(layer.digest) in request]


async def test_a_remote_model_by_digest(world: World) -> None:
    digest = world.model.artifact.id
    assert (await world.get(f"/models/one@{digest}?remote=1")).json()["id"] == str(digest)


async def test_what_the_registry_does_not_have_is_404_in_known_words(world: World) -> None:
    answer = await world.get("/models/nope?remote=true")
    text = 'error while getting remote model: failed to pull model "nope": MANIFEST_UNKNOWN - Model not found\n'
    assert (answer.status, answer.text) == (404, text)


async def test_who_may_not_look_is_told_401(world: World) -> None:
    world.registry.protect("docker.io/ai/one", "token")
    for stock in (False, True):
        answer = await world.get("/models/one?remote=true", stock=stock)
        assert answer.status == 401
        assert 'failed to pull model "one": UNAUTHORIZED - ' in answer.text


async def test_what_is_no_model_is_422(world: World) -> None:
    artifact = world.model.artifact
    other = attrs.evolve(
        artifact.manifest,
        config=attrs.evolve(artifact.manifest.config, media_type="application/vnd.oci.image.config.v1+json"),
    )
    image = Artifact(
        manifest=other,
        manifest_bytes=encode_manifest(other),
        config=artifact.config,
        config_bytes=artifact.config_bytes,
    )
    world.registry.seed(Reference("docker.io", "ai/image"), image, world.model.blobs)
    answer = await world.get("/models/image?remote=true")
    assert answer.status == 422
    assert "is not supported" in answer.text


@pytest.mark.parametrize(("stock", "status"), [(False, 502), (True, 500)])
async def test_a_registry_that_is_away_is_not_this_service_being_away(
    world: World, *, stock: bool, status: int
) -> None:
    world.registry.reachable = False
    assert (await world.get("/models/one?remote=true", stock=stock)).status == status


@pytest.mark.parametrize("name", ["a:b:c", "@", "-x"])
async def test_what_is_no_name_is_400(world: World, name: str) -> None:
    assert (await world.get(f"/models/{name}?remote=true")).status == 400


async def test_search_answers_hits_and_warnings(world: World) -> None:
    world.hub.hits = [
        SearchHit(name="ai/one", reference="one", source="Docker Hub", downloads=7, backend="llama.cpp", size=9)
    ]
    answer = await world.get("/dmr/v1/search?term=one&limit=5&source=dockerhub")
    assert answer.status == 200
    assert answer.json() == {
        "hits": [
            {
                "name": "ai/one",
                "reference": "one",
                "description": "",
                "downloads": 7,
                "stars": 0,
                "source": "Docker Hub",
                "official": False,
                "updated_at": "",
                "backend": "llama.cpp",
                "size": 9,
            }
        ],
        "warnings": [],
    }
    world.hub.fail_with = RegistryError("down")
    failed = await world.get("/dmr/v1/search")
    assert failed.status == 502
    assert failed.text == "search failed: all search sources failed: [Docker Hub: down]\n"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=x", "limit is a number, not 'x'"),
        ("limit=0", "limit must be from 1 to 1000"),
        ("limit=99999999999999999999", "limit is a number"),
        ("source=bing", 'unknown source "bing"'),
        ("term=" + "x" * 201, "longer than 200"),
    ],
)
async def test_what_cannot_be_searched_for_is_400(world: World, query: str, words: str) -> None:
    answer = await world.get(f"/dmr/v1/search?{query}")
    assert answer.status == 400
    assert words in answer.text
