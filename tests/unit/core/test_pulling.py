"""Pulling: what is asked of the store around the bytes, and what is told meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest

from dmr_core.domain.progress import Progress
from dmr_core.domain.reference import Reference, ReferencePolicy, parse_reference
from dmr_core.errors import ModelNotFoundError, StorageFullError
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.registry import Credentials
from dmr_core.services.fetching import FetchingService, FetchLimits
from dmr_core.services.pulling import PullingService
from dmr_core.testing.contracts.registry import Sample, sample
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.metrics import InMemoryMetrics
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.registry import InMemoryRegistry

_POLICY: Final = ReferencePolicy()
_MODEL: Final = sample()
_NAME: Final = parse_reference("ai/one", _POLICY)


class _Parked(ModelSource):
    """A source whose pulls end when they are told to."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    def claims(self, reference: Reference) -> bool:
        return reference.repository == "parked/model"

    async def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncIterator[Progress]:
        await self.end.wait()
        none: tuple[Progress, ...] = ()
        for line in none:
            yield line


class _World:
    def __init__(self, *, max_pulls: int = 2) -> None:
        self.clock = FakeClock()
        self.store = InMemoryModelStore()
        self.registry = InMemoryRegistry()
        self.metrics = InMemoryMetrics()
        self.parked = _Parked()
        limits = FetchLimits(smallest_part=256 * 1024)
        self.pulling = PullingService(
            store=self.store,
            registry=self.registry,
            policy=_POLICY,
            clock=self.clock,
            fetching=FetchingService(store=self.store, clock=self.clock, limits=limits),
            sources=[self.parked],
            max_pulls=max_pulls,
            metrics=self.metrics,
        )

    def seed(self, reference: Reference = _NAME, model: Sample = _MODEL) -> None:
        self.registry.seed(reference, model.artifact, [model.layer])

    async def pull(self, name: str = "ai/one") -> list[str]:
        return [line.message async for line in await self.pulling.pull(name)]


async def test_a_pull_leases_what_it_brings_until_the_model_has_its_tag() -> None:
    world = _World()
    world.seed()
    lines = await world.pulling.pull("ai/one")
    await anext(lines)
    assert {blob.digest for blob in _MODEL.artifact.manifest.blobs} <= set(world.store.leased)
    assert [line async for line in lines][-1].message == "Model pulled successfully"
    assert world.store.leased == []
    assert world.store.by_tag(_NAME.canonical) is not None


async def test_a_model_that_does_not_fit_is_refused_before_its_first_byte() -> None:
    world = _World()
    world.seed()
    world.store.capacity = len(_MODEL.layer) - 1
    with pytest.raises(StorageFullError):
        await world.pull()
    assert not any(
        request.startswith(f"blob {_MODEL.artifact.manifest.layers[0].digest}") for request in world.registry.requests
    )


async def test_a_pull_that_waits_for_others_says_so_and_knows_its_errors_at_once() -> None:
    world = _World(max_pulls=1)
    world.seed()
    parked = asyncio.create_task(world.pull("parked/model"))
    await asyncio.sleep(0)
    waiting = await world.pulling.pull("ai/one")
    assert (await anext(waiting)).message == "Waiting for another pull to finish"
    with pytest.raises(Exception, match="missing"):
        await world.pull("ai/missing")
    world.parked.end.set()
    await parked
    assert [line async for line in waiting][-1].message == "Model pulled successfully"


async def test_a_model_that_was_removed_while_it_was_looked_up_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _World()
    world.seed()
    await world.pull()
    tag, gone = world.store.tag, False

    async def tag_once(model_id: object, reference: Reference) -> object:
        nonlocal gone
        if not gone:
            gone = True
            await world.store.remove(_MODEL.artifact.id)
            raise ModelNotFoundError(str(model_id))
        return await tag(_MODEL.artifact.id, reference)

    monkeypatch.setattr(world.store, "tag", tag_once)
    assert (await world.pull())[-1] == "Model pulled successfully"


async def test_what_was_received_is_counted_without_what_was_here() -> None:
    world = _World()
    world.seed()
    layer = _MODEL.artifact.manifest.layers[0]
    async with world.store.write_blob(layer) as writer:
        await writer.write(_MODEL.layer[:1000])
    await world.pull()
    assert world.metrics.counts["pulled", "completed"] == 1
    assert world.metrics.received == layer.size - 1000
