"""Amounts of memory, what runners may have, and what each is expected to need."""

from __future__ import annotations

import pytest

from dmr_core.domain.artifact import ModelConfig
from dmr_core.domain.engine import EngineConfig, EngineMode, RunnerKey
from dmr_core.domain.memory import Capacity, Footprint, Memory, MemoryBudget, binary_size
from dmr_core.domain.model import Model
from dmr_core.errors import InvalidConfigurationError
from dmr_core.ports.engine import MemoryRequest
from dmr_core.ports.memory import MachineMemory
from dmr_core.services.memory import HEADROOM, MemoryService
from dmr_core.services.scheduling.state import Launch
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob
from dmr_core.testing.fakes.engine import FakeEngine
from dmr_core.testing.fakes.memory import FakeMemoryProbe, InMemoryFootprintLedger
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.transport import InMemoryTransport

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("8GiB", MemoryBudget(limit=8 * GIB)),
        ("1.5 gib", MemoryBudget(limit=3 * GIB // 2)),
        ("8g", MemoryBudget(limit=8 * GIB)),
        ("500MB", MemoryBudget(limit=500_000_000)),
        ("1048576", MemoryBudget(limit=1 << 20)),
        ("80%", MemoryBudget(share=0.8)),
        ("off", MemoryBudget(enforced=False)),
        ("OFF", MemoryBudget(enforced=False)),
    ],
)
def test_a_budget_is_an_amount_a_share_or_off(text: str, budget: MemoryBudget) -> None:
    assert MemoryBudget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "8XiB", "lots", "1e9", "8 GiB GiB", "9" * 40])
def test_anything_else_is_refused_with_what_it_may_be(text: str) -> None:
    with pytest.raises(InvalidConfigurationError, match="such as 8GiB or 512MB"):
        MemoryBudget.parse(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (300 << 20, "300 MiB"),
        (5 * GIB, "5.0 GiB"),
        (1 << 50, "1024.0 TiB"),
    ],
)
def test_sizes_as_people_read_them(count: int, text: str) -> None:
    assert binary_size(count) == text


def test_what_is_left_beside_others_is_never_negative() -> None:
    assert Capacity(10, None).without(Memory(12, 5)) == Capacity(0, None)
    assert Capacity(None, 10).without(Memory(12, 4)) == Capacity(None, 6)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # 10 GiB are available and engines would give 4 back; a little is left to the others.
        (MemoryBudget(), Capacity(14 * GIB - HEADROOM, 20 * GIB)),
        (MemoryBudget(limit=GIB), Capacity(GIB, 20 * GIB)),
        (MemoryBudget(limit=99 * GIB), Capacity(14 * GIB - HEADROOM, 20 * GIB)),
        (MemoryBudget(share=0.25), Capacity(8 * GIB, 20 * GIB)),
        (MemoryBudget(enforced=False), Capacity()),
    ],
)
async def test_capacity_is_what_the_machine_has_and_the_operator_allows(
    budget: MemoryBudget, expected: Capacity
) -> None:
    reading = MachineMemory(total=32 * GIB, available=10 * GIB, engines=4 * GIB, device_available=20 * GIB)
    assert await MemoryService(FakeMemoryProbe(reading), InMemoryFootprintLedger(), budget).capacity() == expected


async def test_where_nothing_is_told_only_the_operators_limit_holds() -> None:
    service = MemoryService(FakeMemoryProbe(), InMemoryFootprintLedger(), MemoryBudget(limit=GIB))
    assert await service.capacity() == Capacity(GIB)


class Estimating(FakeEngine):
    """Estimates what a test says, or fails to."""

    guess: Memory | Exception | None = None

    def estimate(self, request: MemoryRequest) -> Memory | None:
        if isinstance(self.guess, Exception):
            raise self.guess
        return self.guess


@pytest.fixture
async def model() -> Model:
    store = InMemoryModelStore()
    await put_blob(store, b"weights")
    return await store.add(build_artifact([layer_of(b"weights")], ModelConfig(format="gguf")))


def key(model: Model) -> RunnerKey:
    return RunnerKey("fake", model.id, EngineMode.COMPLETION)


async def test_what_was_seen_counts_then_the_estimate_then_the_files(model: Model) -> None:
    engine, service = Estimating(InMemoryTransport()), MemoryService(FakeMemoryProbe(), InMemoryFootprintLedger())

    def needs(config: EngineConfig) -> Memory:
        return service.needs(engine, key(model), model, config, None)

    assert needs(EngineConfig()) == Memory(model.size)
    engine.guess = Memory(5 * GIB, 0)
    assert needs(EngineConfig()) == Memory(5 * GIB)

    await service.record(key(model), Launch(alias="a"), Footprint(resident=2 * GIB))
    assert needs(EngineConfig()) == Memory(2 * GIB)
    # With other settings it was never seen.
    assert needs(EngineConfig(context_size=4096)) == Memory(5 * GIB)
    assert needs(EngineConfig(runtime_flags=("-np", "4"))) == Memory(5 * GIB)


async def test_accelerator_memory_is_estimated_even_when_the_rest_was_seen(model: Model) -> None:
    engine, service = Estimating(InMemoryTransport()), MemoryService(FakeMemoryProbe(), InMemoryFootprintLedger())
    engine.guess = Memory(GIB, 20 * GIB)
    assert service.needs(engine, key(model), model, EngineConfig(), None) == engine.guess
    await service.record(key(model), Launch(alias="a"), Footprint(resident=2 * GIB))
    assert service.needs(engine, key(model), model, EngineConfig(), None) == Memory(2 * GIB, 20 * GIB)


async def test_what_was_seen_while_the_engine_expected_something_else_does_not_count(model: Model) -> None:
    """The operator's own arguments, or another accelerator, are in no setting of the model."""
    ledger, engine = InMemoryFootprintLedger(), Estimating(InMemoryTransport())

    async def learn(guess: Memory, seen: int) -> None:
        service = MemoryService(FakeMemoryProbe(), ledger)
        engine.guess = guess
        service.needs(engine, key(model), model, EngineConfig(), None)
        await service.record(key(model), Launch(alias="a"), Footprint(resident=seen))

    def needs(guess: Memory) -> Memory:
        engine.guess = guess
        return MemoryService(FakeMemoryProbe(), ledger).needs(engine, key(model), model, EngineConfig(), None)

    short, long = Memory(GIB), Memory(50 * GIB)
    await learn(short, 2 * GIB)
    assert needs(long) == long
    await learn(long, 40 * GIB)
    assert (needs(short), needs(long)) == (Memory(2 * GIB), Memory(40 * GIB))


async def test_expectations_do_not_pile_up(model: Model) -> None:
    service, engine = MemoryService(FakeMemoryProbe(), InMemoryFootprintLedger()), Estimating(InMemoryTransport())
    for size in range(1500):
        service.needs(engine, key(model), model, EngineConfig(context_size=size), None)
    assert len(service._expected) == 1000


async def test_an_estimate_that_fails_costs_a_line_in_the_log(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    engine, service = Estimating(InMemoryTransport()), MemoryService(FakeMemoryProbe(), InMemoryFootprintLedger())
    engine.guess = RuntimeError("a plugin's bug")
    assert service.needs(engine, key(model), model, EngineConfig(), None) == Memory(model.size)
    assert "a plugin's bug" in caplog.text
