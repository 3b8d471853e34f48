"""The fake and the real adapter keep the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from dmr_adapters.clock import SystemClock
from dmr_adapters.hugging_face.hub import HuggingFaceHub
from dmr_adapters.hugging_face.lazy import LazyHuggingFaceHub
from dmr_core.testing.contracts.model_hub import READER, ModelHubContract, ModelHubSubject
from dmr_core.testing.fakes.model_hub import InMemoryModelHub
from tests.stand_ins.hugging_face_hub import EmulatedHub, HubRepository, emulated_hub


class TestInMemoryModelHub(ModelHubContract):
    @pytest.fixture
    def subject(self) -> ModelHubSubject:
        hub = InMemoryModelHub()

        async def seed(name: str, files: Mapping[str, bytes], revision: str, gated: bool) -> None:
            hub.put(name, files, revision)
            if gated:
                hub.gate(name, READER)

        return ModelHubSubject(hub, seed)


class TestInMemoryModelHubWithoutRanges(TestInMemoryModelHub):
    @pytest.fixture
    def subject(self) -> ModelHubSubject:
        hub = InMemoryModelHub(ranges=False)

        async def seed(name: str, files: Mapping[str, bytes], revision: str, gated: bool) -> None:
            hub.put(name, files, revision)
            if gated:
                hub.gate(name, READER)

        return ModelHubSubject(hub, seed)


def seeding(emulated: EmulatedHub, hub: HuggingFaceHub | LazyHuggingFaceHub) -> ModelHubSubject:
    emulated.tokens.add(READER)

    async def seed(name: str, files: Mapping[str, bytes], revision: str, gated: bool) -> None:
        repository = emulated.repositories.setdefault(name, HubRepository(name=name, revisions={}))
        repository.revisions[revision] = dict(files)
        repository.gated, repository.readers = gated, {READER}

    return ModelHubSubject(hub, seed)


class TestHuggingFaceHub(ModelHubContract):
    @pytest.fixture
    async def subject(self) -> AsyncIterator[ModelHubSubject]:
        async with emulated_hub() as emulated:
            emulated.page = 2
            hub = HuggingFaceHub(clock=SystemClock(), endpoint=emulated.url)
            assert hub.host == "127.0.0.1"
            yield seeding(emulated, hub)
            await hub.aclose()


class TestHuggingFaceHubWhoseStorageKnowsNoRanges(ModelHubContract):
    @pytest.fixture
    async def subject(self) -> AsyncIterator[ModelHubSubject]:
        async with emulated_hub() as emulated:
            emulated.ranges = False
            hub = LazyHuggingFaceHub(clock=SystemClock(), endpoint=emulated.url, environment={})
            assert hub.host == "127.0.0.1"
            yield seeding(emulated, hub)
            await hub.aclose()
