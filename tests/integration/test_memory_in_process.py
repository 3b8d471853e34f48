"""Admission by memory through the whole service: what cannot fit is refused, and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.memory import Footprint, Memory, MemoryBudget
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.ports.memory import MachineMemory
from dmr_core.services.memory import HEADROOM
from dmr_core.testing.fakes.engine import FakeEngine, fake_backend
from dmr_core.testing.fakes.memory import FakeMemoryProbe, InMemoryFootprintLedger
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call
from tests.integration.test_in_process import artifact

KIB = 1024
SIZES = {"ai/small": 30 * KIB, "ai/other": 40 * KIB, "ai/big": 200 * KIB}
"""No engine here estimates anything, so that a model needs the size of its files: this, and a little JSON."""


@attrs.frozen
class World:
    service: Service
    engine: FakeEngine
    probe: FakeMemoryProbe
    ledger: InMemoryFootprintLedger

    async def call(self, method: str, path: str, body: object = b"") -> Answer:
        return await call(self.service.app, method, path, body)

    async def chat(self, model: str) -> Answer:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        return await self.call("POST", "/v1/chat/completions", body)

    async def figures(self) -> dict[tuple[str, ...], float]:
        page = (await self.call("GET", "/metrics")).text
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for entry in text_string_to_metric_families(page)
            for sample in entry.samples
            if "memory" in sample.name
        }

    async def running(self) -> dict[str, dict[str, object]]:
        return {entry["model_name"]: entry for entry in (await self.call("GET", "/engines/ps")).json()}


async def opened(budget: MemoryBudget) -> AsyncIterator[World]:
    """A service on a machine with 100 KiB for models, and places for four of them."""
    transport, registry, ledger = InMemoryTransport(), InMemoryRegistry(), InMemoryFootprintLedger()
    probe = FakeMemoryProbe(MachineMemory(total=1 << 40, available=HEADROOM + 100 * KIB))
    engine = FakeEngine(transport)
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        memory=probe,
        footprints=ledger,
        entry_points=(),
        backends=(fake_backend(engine),),
    )
    for name, size in SIZES.items():
        made, weights = artifact(name.encode().ljust(size))
        registry.seed(parse_reference(name, ReferencePolicy()), made, [weights])
    async with open_service(Settings(models_path=Path("/nowhere"), max_runners=4, memory=budget), overrides) as service:
        world = World(service, engine, probe, ledger)
        for name in SIZES:
            assert (await world.call("POST", "/models/create", {"from": name})).status == 200
        yield world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async for made in opened(MemoryBudget()):
        yield made


async def test_a_model_that_cannot_fit_is_refused_and_the_others_go_on(world: World) -> None:
    assert (await world.chat("ai/small")).status == 200

    answer = await world.chat("ai/big")
    assert answer.status == 507
    error = answer.json()["error"]
    assert error["code"] == "model_too_large"
    assert "'ai/big' needs 201 KiB of memory, and all runners together may have 100 KiB" in error["message"]

    assert (await world.chat("ai/small")).status == 200
    assert (await world.chat("ai/other")).status == 200
    assert [running.request.alias for running in world.engine.started] == ["ai/small", "ai/other"]
    assert not any(running.stopped for running in world.engine.started)


async def test_what_the_machine_has_is_looked_at_again(world: World) -> None:
    reading = world.probe.reading
    assert reading is not None
    assert (await world.chat("ai/big")).status == 507

    world.probe.reading = attrs.evolve(reading, available=HEADROOM + 300 * KIB)
    await world.service.services.scheduler.measure()
    assert (await world.chat("ai/big")).status == 200


async def test_the_idle_one_goes_for_one_that_fits_only_without_it(world: World) -> None:
    reading = world.probe.reading
    assert reading is not None
    world.probe.reading = attrs.evolve(reading, available=HEADROOM + 60 * KIB)
    await world.service.services.scheduler.measure()

    assert (await world.chat("ai/small")).status == 200
    assert (await world.chat("ai/other")).status == 200
    assert list(await world.running()) == ["ai/other"]


async def test_what_is_used_is_shown_counted_and_remembered(world: World) -> None:
    assert (await world.chat("ai/small")).status == 200
    assert "memory" not in (await world.running())["ai/small"]  # this engine cannot tell

    world.engine.started[0].footprint = Footprint(resident=50 * KIB)
    assert (await world.running())["ai/small"]["memory"] == 50 * KIB
    async with asyncio.timeout(5):  # the scheduler hears of it beside that answer
        while (figures := await world.figures())["dmr_memory_reserved_bytes", "host"] != 50 * KIB:
            await asyncio.sleep(0)
    assert figures["dmr_memory_capacity_bytes", "host"] == 100 * KIB
    assert figures["dmr_runner_memory_bytes", "ai/small", "completion", "fake", "host"] == 50 * KIB
    assert list(world.ledger.known.values()) == [Memory(50 * KIB)]

    # From now on that counts: beside it there is room for 50 KiB.
    assert (await world.chat("ai/other")).status == 200
    await world.call("POST", "/engines/unload", {"all": True})
    assert (await world.chat("ai/small")).status == 200
    (view,) = world.service.services.scheduler.runners()
    assert view.needs == Memory(50 * KIB)


@pytest.mark.parametrize(("text", "status"), [("off", 200), ("250KiB", 507), ("100%", 507)])
async def test_nothing_is_checked_where_the_operator_says_so(text: str, status: int) -> None:
    async for world in opened(MemoryBudget.parse(text)):
        assert (await world.chat("ai/big")).status == status
