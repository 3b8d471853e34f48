"""Engines that were ready once: who still answers, who is only busy, and who is given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import attrs
import pytest

from dmr_core.domain.artifact import ModelConfig
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import EngineExitedError, EngineFlagError, EngineKilledError, EngineUnresponsiveError
from dmr_core.ports.engine import LaunchRequest
from dmr_core.ports.transport import UpstreamRequest
from dmr_core.services.watching import WatchedEngine, explained
from dmr_core.testing.contracts.model_store import build_artifact, layer_of
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.engine import FakeEngine, FakeRunningEngine
from dmr_core.testing.fakes.transport import Answer, InMemoryTransport

INTERVAL = 10.0


@attrs.frozen
class World:
    clock: FakeClock
    transport: InMemoryTransport
    kind: FakeEngine
    fake: FakeRunningEngine
    watched: WatchedEngine

    @property
    def probes(self) -> int:
        return len(self.transport.requests)

    def refuse(self) -> None:
        """Let nobody listen any more, while the process lives."""
        self.transport.silence(self.fake.endpoint)

    def answer(self, status: int) -> None:
        async def handler(_request: UpstreamRequest) -> Answer:
            return Answer(status)

        self.transport.serve(self.fake.endpoint, handler)


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncGenerator[World, None]:
    clock, transport = FakeClock(), InMemoryTransport()
    kind = FakeEngine(transport)
    artifact = build_artifact([layer_of(b"one")], ModelConfig(format="gguf"))
    model = Model(id=artifact.id, tags=(), manifest=artifact.manifest, config=artifact.config)
    started = await kind.start(LaunchRequest(model=model, bundle=Bundle(root=Path("/bundle")), alias="one"))
    assert isinstance(started, FakeRunningEngine)
    watched = WatchedEngine(
        engine=started,
        kind=kind,
        backend="fake",
        transport=transport,
        clock=clock,
        interval=getattr(request, "param", INTERVAL),
    ).watch()
    yield World(clock, transport, kind, started, watched)
    await watched.stop(0.0)
    assert clock.sleepers == 0


async def test_an_engine_that_answers_is_left_alone(world: World) -> None:
    waiting = asyncio.create_task(world.watched.wait())
    await world.clock.advance(10 * INTERVAL)

    assert world.probes == 10
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_engine_that_refuses_three_times_is_given_up(world: World) -> None:
    waiting = asyncio.create_task(world.watched.wait())
    await world.clock.advance(INTERVAL)
    world.refuse()
    await world.clock.advance(2 * INTERVAL)
    assert not waiting.done()

    await world.clock.advance(INTERVAL)
    ended = await waiting
    assert type(ended) is EngineUnresponsiveError
    assert ended.message == ("fake runs, but has not answered for 30 s. It is stopped now; ask again to start it anew.")
    assert ended == await world.watched.wait()


async def test_one_that_answers_with_an_error_is_not_well_either(world: World) -> None:
    world.answer(500)
    await world.clock.advance(3 * INTERVAL)
    assert type(await world.watched.wait()) is EngineUnresponsiveError


async def test_two_refusals_are_forgiven(world: World) -> None:
    waiting = asyncio.create_task(world.watched.wait())
    for _ in range(5):
        world.answer(503)
        await world.clock.advance(2 * INTERVAL)
        world.answer(200)
        await world.clock.advance(INTERVAL)

    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_engine_that_computes_is_busy_not_dead(world: World) -> None:
    waiting = asyncio.create_task(world.watched.wait())
    world.refuse()
    assert world.fake.cpu is not None
    for _ in range(100):
        world.fake.cpu += 0.02 * INTERVAL
        await world.clock.advance(INTERVAL)
    assert not waiting.done()

    await world.clock.advance(3 * INTERVAL)  # it computes no more
    assert type(await waiting) is EngineUnresponsiveError


async def test_an_engine_that_computes_for_an_hour_runs_in_circles(world: World) -> None:
    waiting = asyncio.create_task(world.watched.wait())
    world.refuse()
    assert world.fake.cpu is not None
    for _ in range(359):
        world.fake.cpu += INTERVAL
        await world.clock.advance(INTERVAL)
    assert not waiting.done()

    await world.clock.advance(2 * INTERVAL)
    assert type(await waiting) is EngineUnresponsiveError


async def test_an_engine_whose_work_cannot_be_seen_is_judged_by_its_answers(world: World) -> None:
    world.fake.cpu = None
    world.refuse()
    await world.clock.advance(3 * INTERVAL)
    assert type(await world.watched.wait()) is EngineUnresponsiveError


@pytest.mark.parametrize("world", [0.01], indirect=True)
async def test_an_answer_may_take_three_intervals(world: World) -> None:
    asked = asyncio.Event()

    async def hangs(_request: UpstreamRequest) -> Answer:
        asked.set()
        await asyncio.get_running_loop().create_future()
        return Answer(200)

    world.transport.serve(world.fake.endpoint, hangs)
    waiting = asyncio.create_task(world.watched.wait())
    for _ in range(3):
        asked.clear()
        await world.clock.advance(0.01)
        async with asyncio.timeout(10):
            await asked.wait()
            while not (waiting.done() or world.clock.sleepers):
                await asyncio.sleep(0.001)
    assert type(await waiting) is EngineUnresponsiveError
    assert world.transport.open_responses == set()


@pytest.mark.parametrize("world", [0.0], indirect=True)
async def test_an_interval_of_zero_never_looks(world: World) -> None:
    world.refuse()
    await world.clock.advance(10_000.0)
    assert world.clock.sleepers == 0
    assert world.probes == 0


async def test_an_end_is_told_rather_than_the_silence_after_it(world: World) -> None:
    waiting = asyncio.create_task(world.watched.wait())
    await asyncio.sleep(0)
    world.fake.crash(-9)
    ended = await waiting
    assert type(ended) is EngineKilledError
    assert ended.tail == "crashed"


async def test_a_bug_in_watching_is_logged_and_harms_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def buggy(_request: UpstreamRequest) -> Answer:
        raise RuntimeError("a bug")

    world.transport.serve(world.fake.endpoint, buggy)
    waiting = asyncio.create_task(world.watched.wait())
    with caplog.at_level(logging.ERROR):
        await world.clock.advance(INTERVAL)
    assert "a bug" in caplog.text
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def test_a_plugin_explains_first_and_its_bug_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Explains(FakeEngine):
        def explain(self, failure: EngineExitedError) -> EngineExitedError:
            if failure.tail == "bug":
                raise RuntimeError("a bug")
            return EngineFlagError(failure.backend, failure.returncode, cause="a flag")

    engine = Explains(InMemoryTransport())
    assert explained(engine, EngineExitedError("fake", -9)).summary == "a flag"
    assert type(explained(engine, EngineExitedError("fake", -9, "bug"))) is EngineKilledError
    assert "a bug" in caplog.text
