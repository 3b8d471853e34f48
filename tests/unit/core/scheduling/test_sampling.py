"""Samples of memory: bounded, shared, and held up by nobody."""

from __future__ import annotations

import asyncio

import pytest

from dmr_core.domain.memory import Capacity, Footprint
from dmr_core.services.scheduling import sampling
from dmr_core.services.scheduling.lease import Handle
from dmr_core.services.scheduling.sampling import Sample, Sampler
from dmr_core.testing.fakes.clock import FakeClock
from tests.unit.core.scheduling.test_scheduler import Running, key


class Machine:
    """A machine with a number of bytes, and handles whose engines say what a test wants."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.handles: list[Handle] = []
        self.samples: list[Sample] = []
        self.total: int | Exception = 10
        self.readings = 0
        self.sampler = Sampler(
            clock=self.clock, capacity=self.capacity, handles=lambda: self.handles, report=self.samples.append
        )

    async def capacity(self) -> Capacity:
        self.readings += 1
        if isinstance(self.total, Exception):
            raise self.total
        return Capacity(self.total)

    def engine(self, name: str, memory: object) -> Handle:
        class Measured(Running):
            async def memory(self) -> Footprint | None:
                if isinstance(memory, BaseException):
                    raise memory
                if memory is None:
                    await asyncio.Event().wait()
                return memory  # type: ignore[return-value]

        handle = Handle(id=len(self.handles) + 1, key=key(name), alias=name, started=0.0, engine=Measured(name))
        self.handles.append(handle)
        return handle


@pytest.fixture
async def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(sampling, "_TIMEOUT", 0.02)
    return Machine()


async def test_a_sample_has_the_capacity_and_every_footprint(machine: Machine) -> None:
    machine.engine("a", Footprint(resident=5))
    machine.engine("b", Footprint(resident=7))
    await machine.sampler.take()
    assert machine.samples == [
        Sample(Capacity(10), {}),
        Sample(Capacity(10), {1: Footprint(resident=5), 2: Footprint(resident=7)}),
    ]


@pytest.mark.parametrize("trouble", [None, ValueError("bug"), SystemExit(1)])
async def test_an_engine_that_does_not_tell_holds_up_nobody(machine: Machine, trouble: object) -> None:
    machine.engine("silent", trouble)
    machine.engine("b", Footprint(resident=7))
    await machine.sampler.take()
    assert machine.samples == [Sample(Capacity(10), {}), Sample(Capacity(10), {2: Footprint(resident=7)})]


async def test_an_engine_that_does_not_tell_holds_up_no_load(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.engine("silent", None)
    monkeypatch.setattr(sampling, "_TIMEOUT", 30.0)
    taking = asyncio.ensure_future(machine.sampler.take())
    await asyncio.sleep(0)
    async with asyncio.timeout(5.0):
        await machine.sampler.fresh()
    assert machine.samples[-1] == Sample(Capacity(10), {})
    await machine.sampler.aclose()
    await asyncio.gather(taking, return_exceptions=True)


async def test_a_machine_that_does_not_tell_is_taken_to_be_as_it_was(machine: Machine) -> None:
    await machine.sampler.take()
    machine.total = OSError("no /proc")
    await machine.sampler.take()
    assert [sample.capacity for sample in machine.samples] == [Capacity(10), Capacity(10)]


async def test_a_fresh_sample_is_not_taken_again_and_one_being_taken_is_shared(machine: Machine) -> None:
    await asyncio.gather(machine.sampler.fresh(), machine.sampler.fresh())
    await machine.sampler.fresh()
    assert machine.readings == 1

    await machine.clock.advance(2.0)
    await machine.sampler.fresh()
    assert machine.readings == 2


async def test_samples_are_taken_by_and_by_while_there_are_engines(machine: Machine) -> None:
    running = asyncio.ensure_future(machine.sampler.run())
    await machine.clock.advance(35.0)
    assert machine.readings == 0

    machine.engine("a", Footprint(resident=5))
    for _ in range(3):
        await machine.clock.advance(10.0)
        await asyncio.sleep(0.01)
    assert machine.readings == 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await machine.sampler.aclose()
