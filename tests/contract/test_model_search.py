"""The fake and the real hubs keep the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from yarl import URL

from dmr_adapters.registry.client import HttpClient, Timeouts
from dmr_adapters.search.docker_hub import DockerHubSearch
from dmr_adapters.search.hugging_face import HuggingFaceSearch
from dmr_core.domain.reference import Reference, ReferencePolicy
from dmr_core.domain.search import SearchHit
from dmr_core.testing.contracts.model_search import ModelSearchContract, ModelSearchSubject
from dmr_core.testing.contracts.registry import sample
from dmr_core.testing.fakes.model_search import InMemoryModelSearch
from dmr_core.testing.fakes.registry import InMemoryRegistry
from tests.stand_ins.search_hubs import SearchHubs, search_hubs


@pytest.fixture
def hubs() -> Iterator[SearchHubs]:
    with search_hubs() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(Timeouts())
    yield made
    await made.aclose()


class TestInMemoryModelSearch(ModelSearchContract):
    @pytest.fixture
    def subject(self) -> ModelSearchSubject:
        search = InMemoryModelSearch()

        def add(name: str, downloads: int) -> str:
            hit = SearchHit(
                name=name, reference=name, source=search.name, downloads=downloads, backend="llama.cpp", size=4096
            )
            search.hits.append(hit)
            return name

        return ModelSearchSubject(search, add)


class TestDockerHub(ModelSearchContract):
    @pytest.fixture
    def subject(self, hubs: SearchHubs, client: HttpClient) -> ModelSearchSubject:
        registry = InMemoryRegistry()
        model = sample(b"x" * 4096)

        def add(name: str, downloads: int) -> str:
            hubs.page = 2  # so that every list takes several pages
            hubs.repositories.append({"name": name, "namespace": "ai", "pull_count": downloads})
            registry.seed(Reference("docker.io", f"ai/{name}"), model.artifact, model.blobs)
            return f"ai/{name}"

        size = sum(blob.size for blob in model.artifact.manifest.blobs)
        search = DockerHubSearch(client=client, registry=registry, policy=ReferencePolicy(), url=URL(hubs.url))
        return ModelSearchSubject(search, add, size)


class TestHuggingFace(ModelSearchContract):
    @pytest.fixture
    def subject(self, hubs: SearchHubs, client: HttpClient) -> ModelSearchSubject:
        def add(name: str, downloads: int) -> str:
            full = f"org/{name}"
            hubs.models.append({"id": full, "modelId": full, "downloads": downloads, "likes": 1, "tags": ["gguf"]})
            hubs.files[full] = [{"rfilename": "README.md", "size": 9}, {"rfilename": "m.gguf", "size": 4096}]
            return full

        return ModelSearchSubject(HuggingFaceSearch(client=client, url=URL(hubs.url)), add)
