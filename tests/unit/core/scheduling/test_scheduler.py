"""The pump: what the rules decide is carried out, and nothing of it is left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import DmrError, EngineExitedError, ShuttingDownError, UnavailableError, UpstreamError
from dmr_core.ports.engine import RunningEngine
from dmr_core.ports.transport import Endpoint
from dmr_core.services.scheduling.events import Launch
from dmr_core.services.scheduling.lease import Lease
from dmr_core.services.scheduling.scheduler import Scheduler
from dmr_core.services.scheduling.state import Limits, Phase
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.metrics import InMemoryMetrics

GRACE = 7.0


def key(name: str) -> RunnerKey:
    return RunnerKey("fake", Digest.of(name.encode()), EngineMode.COMPLETION)


class Running(RunningEngine):
    """An engine that is started. It stops when ``may_stop`` is set, which it is unless a test clears it."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.graces: list[float] = []
        self.stop_error: Exception | None = None
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self._ended: asyncio.Future[EngineExitedError] = asyncio.get_running_loop().create_future()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(socket=Path(f"/fake/{self.alias}.sock"))

    @property
    def argv(self) -> tuple[str, ...]:
        return ("fake", self.alias)

    def crash(self) -> None:
        self._ended.set_result(EngineExitedError("fake", -9, "out of memory"))

    async def wait(self) -> EngineExitedError:
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> None:
        self.graces.append(grace)
        await self.may_stop.wait()
        if self.stop_error is not None:
            raise self.stop_error


@attrs.define(eq=False)
class Launcher:
    """Launches at once, or when a test lets it. ``outcome`` is raised instead, if there is one."""

    launched: list[Running] = attrs.field(factory=list)
    loads: list[tuple[RunnerKey, Launch]] = attrs.field(factory=list)
    cancelled: int = 0
    outcome: Exception | None = None
    open: asyncio.Event = attrs.field(factory=asyncio.Event)

    def __attrs_post_init__(self) -> None:
        self.open.set()

    async def __call__(self, asked: RunnerKey, launch: Launch) -> RunningEngine:
        self.loads.append((asked, launch))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.outcome is not None:
            raise self.outcome
        self.launched.append(Running(launch.alias))
        return self.launched[-1]


@attrs.frozen
class World:
    scheduler: Scheduler
    launcher: Launcher
    clock: FakeClock
    metrics: InMemoryMetrics

    async def lease(self, name: str, keep_alive: float = 300.0) -> Lease:
        return await self.scheduler.lease(key(name), Launch(alias=name, keep_alive=KeepAlive(keep_alive)))

    def asking(self, name: str) -> asyncio.Task[Lease]:
        return asyncio.create_task(self.lease(name))

    async def use(self, name: str, keep_alive: float = 300.0) -> None:
        """Lease and give back."""
        (await self.lease(name, keep_alive)).release()
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        await self.clock.advance(0.0)

    def alive(self) -> list[str]:
        return [view.alias for view in self.scheduler.runners()]

    def engine(self, alias: str) -> Running:
        """The last engine that was launched under this name."""
        return next(running for running in reversed(self.launcher.launched) if running.alias == alias)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., World]]:
    """Makes schedulers, and closes them."""
    made: list[Scheduler] = []

    def build(slots: int = 2) -> World:
        launcher, clock, metrics = Launcher(), FakeClock(), InMemoryMetrics()
        scheduler = Scheduler(launcher=launcher, clock=clock, metrics=metrics, limits=Limits(slots=slots), grace=GRACE)
        scheduler.start()
        made.append(scheduler)
        return World(scheduler, launcher, clock, metrics)

    yield build
    for scheduler in made:
        await scheduler.aclose()


@pytest.fixture
async def world(make: Callable[..., World]) -> World:
    return make()


# --- leasing ----------------------------------------------------------------------------------------


async def test_many_who_want_one_model_share_one_load(world: World) -> None:
    world.launcher.open.clear()
    asking = [world.asking("a") for _ in range(8)]
    await world.settle()
    assert [Phase.LOADING] == [view.phase for view in world.scheduler.runners()]

    world.launcher.open.set()
    leases = await asyncio.gather(*asking)
    assert world.launcher.loads == [(key("a"), Launch(alias="a", keep_alive=KeepAlive(300.0)))]
    assert {Endpoint(socket=Path("/fake/a.sock"))} == {lease.endpoint for lease in leases}
    assert {"a"} == {lease.alias for lease in leases}
    (view,) = world.scheduler.runners()
    assert (8, None, ("fake", "a")) == (view.leases, view.idle_since, view.argv)
    for lease in leases:
        lease.release()


async def test_a_ready_runner_is_leased_at_once(world: World) -> None:
    assert world.scheduler.try_lease(key("a")) is None
    await world.use("a")

    with world.scheduler.try_lease(key("a")) or pytest.fail("no lease") as lease:
        assert lease.key == key("a")
    again = await world.lease("a")
    again.release()
    assert len(world.launcher.launched) == 1


async def test_a_lease_is_given_back_exactly_once(world: World) -> None:
    first, second = await world.lease("a"), await world.lease("a")
    for _ in range(3):
        first.release()
    assert first.key is None
    (view,) = world.scheduler.runners()
    assert view.leases == 1

    with second:
        second.release()
    (view,) = world.scheduler.runners()
    assert (0, world.clock.monotonic()) == (view.leases, view.idle_since)


async def test_whoever_stops_waiting_leaves_the_load_to_others(world: World) -> None:
    world.launcher.open.clear()
    leaving, staying = world.asking("a"), world.asking("a")
    await world.settle()
    leaving.cancel()
    await world.settle()
    world.launcher.open.set()

    lease = await staying
    assert leaving.cancelled()
    (view,) = world.scheduler.runners()
    assert (1, 1) == (view.leases, len(world.launcher.launched))
    lease.release()


async def test_a_load_nobody_waits_for_any_more_is_finished(world: World) -> None:
    world.launcher.open.clear()
    leaving = world.asking("a")
    await world.settle()
    leaving.cancel()
    await world.settle()
    world.launcher.open.set()
    await world.settle()

    (view,) = world.scheduler.runners()
    assert (Phase.READY, 0, world.clock.monotonic()) == (view.phase, view.leases, view.idle_since)


async def test_a_lease_granted_to_one_who_leaves_at_that_moment_is_given_back(world: World) -> None:
    world.launcher.open.clear()
    leaving = world.asking("a")
    await world.settle()
    world.launcher.open.set()
    while not any(view.leases for view in world.scheduler.runners()):
        await asyncio.sleep(0)
    assert not leaving.done()
    leaving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await leaving
    (view,) = world.scheduler.runners()
    assert view.leases == 0


async def test_a_refusal_of_one_who_leaves_at_that_moment_is_nothing(world: World) -> None:
    world.launcher.open.clear()
    world.launcher.outcome = UpstreamError("no")
    leaving = world.asking("a")
    await world.settle()
    world.launcher.open.set()
    while world.scheduler.runners():
        await asyncio.sleep(0)
    leaving.cancel()

    with pytest.raises((asyncio.CancelledError, UpstreamError)):
        await leaving


# --- loads that fail --------------------------------------------------------------------------------


async def test_a_failed_load_is_told_to_all_who_wait_and_tried_again_by_the_next(world: World) -> None:
    error = EngineExitedError("fake", 1, "no such file")
    world.launcher.outcome = error
    for asking in (world.asking("a"), world.asking("a")):
        with pytest.raises(EngineExitedError) as caught:
            await asking
        assert caught.value is error
    assert world.alive() == []

    world.launcher.outcome = None
    await world.use("a")
    assert (1, 1) == (world.metrics.counts["load", "fake", "failed"], world.metrics.counts["load", "fake", "ready"])
    assert world.metrics.alive == 1


async def test_a_bug_in_a_launcher_costs_its_load_alone(world: World) -> None:
    await world.use("b")
    world.launcher.outcome = ZeroDivisionError("oops")
    with pytest.raises(UpstreamError, match="fake failed: ZeroDivisionError: oops") as caught:
        await world.lease("a")

    assert isinstance(caught.value, DmrError)
    assert world.alive() == ["b"]
    assert world.metrics.counts["load", "fake", "failed"] == 1


# --- engines that end by themselves -----------------------------------------------------------------


async def test_an_engine_that_ends_is_told_to_who_uses_it_and_replaced_for_the_next(world: World) -> None:
    lease = await world.lease("a")
    assert await lease.failure(0.0) is None

    world.engine("a").crash()
    await world.settle()
    failure = await lease.failure(0.0)
    assert failure is not None
    assert "killed by signal 9" in failure.message
    assert world.alive() == []
    assert world.launcher.launched[0].graces == [GRACE]
    assert world.metrics.counts["unload", "fake", "exited"] == 1

    lease.release()
    assert await lease.failure(0.0) is None
    await world.use("a")
    assert len(world.launcher.launched) == 2


async def test_who_waits_for_a_failure_learns_of_it_as_it_happens(world: World) -> None:
    lease = await world.lease("a")
    waiting = asyncio.create_task(lease.failure(60.0))
    await world.settle()
    world.engine("a").crash()

    failure = await waiting
    assert failure is not None
    assert failure.returncode == -9
    lease.release()


async def test_a_crashed_engine_is_cleared_up_before_its_model_is_loaded_again(world: World) -> None:
    await world.use("a")
    dead = world.engine("a")
    dead.may_stop.clear()
    dead.crash()
    await world.settle()
    assert world.scheduler.try_lease(key("a")) is None
    asking = world.asking("a")
    await world.settle()
    assert len(world.launcher.loads) == 1

    dead.may_stop.set()
    (await asking).release()
    assert len(world.launcher.loads) == 2


async def test_engines_that_crash_while_the_service_stops_are_cleared_up_once(world: World) -> None:
    await world.use("a")
    world.engine("a").crash()
    await world.scheduler.aclose()

    assert world.alive() == []
    assert world.metrics.alive == 0


async def test_an_engine_that_cannot_be_stopped_is_let_go_all_the_same(world: World) -> None:
    await world.use("a")
    world.engine("a").stop_error = OSError("stuck")
    (view,) = world.scheduler.runners()
    world.scheduler.unload([view.id])
    await world.scheduler.settled([view.id])

    assert world.alive() == []
    assert world.metrics.alive == 0


# --- keeping alive ----------------------------------------------------------------------------------


async def test_an_idle_model_goes_after_five_minutes_and_not_before(world: World) -> None:
    await world.use("a")
    await world.clock.advance(299.0)
    assert world.alive() == ["a"]

    await world.clock.advance(1.0)
    assert world.alive() == []
    assert world.engine("a").graces == [GRACE]
    assert world.metrics.counts["unload", "fake", "idle"] == 1


async def test_use_starts_the_time_anew(world: World) -> None:
    await world.use("a")
    await world.clock.advance(200.0)
    await world.use("a")
    await world.clock.advance(299.0)
    assert world.alive() == ["a"]

    await world.clock.advance(1.0)
    assert world.alive() == []


async def test_a_model_in_use_does_not_go_however_long_it_takes(world: World) -> None:
    lease = await world.lease("a")
    await world.clock.advance(10_000.0)
    assert world.alive() == ["a"]

    lease.release()
    await world.clock.advance(300.0)
    assert world.alive() == []


async def test_a_model_kept_for_no_time_goes_with_its_last_lease(world: World) -> None:
    first, second = await asyncio.gather(world.lease("a", 0.0), world.lease("a", 0.0))
    first.release()
    await world.settle()
    assert world.alive() == ["a"]

    second.release()
    await world.settle()
    assert world.alive() == []
    assert world.clock.sleepers == 0


async def test_a_pinned_model_stays(world: World) -> None:
    await world.use("a", KeepAlive.forever().seconds)
    await world.clock.advance(10_000_000.0)

    assert world.alive() == ["a"]
    assert world.clock.sleepers == 0


async def test_a_live_runner_can_be_kept_for_another_time(world: World) -> None:
    await world.use("a")
    (view,) = world.scheduler.runners()
    world.scheduler.retune(view.id, KeepAlive(1000.0))
    await world.clock.advance(999.0)
    (view,) = world.scheduler.runners()
    assert view.keep_alive == KeepAlive(1000.0)

    world.scheduler.retune(view.id, KeepAlive(0.0))
    await world.settle()
    assert world.alive() == []


# --- making room ------------------------------------------------------------------------------------


async def test_the_longest_idle_model_makes_room_for_another(world: World) -> None:
    await world.use("a")
    await world.use("b")
    await world.clock.advance(1.0)
    await world.use("a")
    await world.use("c")

    assert sorted(world.alive()) == ["a", "c"]
    assert world.engine("b").graces == [GRACE]
    assert world.metrics.counts["unload", "fake", "evicted"] == 1


async def test_a_model_waits_until_the_one_before_it_is_gone(make: Callable[..., World]) -> None:
    world = make(slots=1)
    await world.use("a")
    world.engine("a").may_stop.clear()
    asking = world.asking("b")
    await world.settle()
    assert [key("a")] == [asked for asked, _ in world.launcher.loads]
    assert world.alive() == []

    world.engine("a").may_stop.set()
    (await asking).release()
    assert world.alive() == ["b"]


async def test_a_busy_model_gets_no_new_work_once_another_has_waited_long_enough(make: Callable[..., World]) -> None:
    world = make(slots=1)
    lease = await world.lease("a")
    asking = world.asking("b")
    await world.clock.advance(9.0)
    assert [Phase.READY] == [view.phase for view in world.scheduler.runners()]

    await world.clock.advance(1.0)
    assert [Phase.RETIRING] == [view.phase for view in world.scheduler.runners()]
    assert world.scheduler.try_lease(key("a")) is None
    assert world.engine("a").graces == []
    assert not asking.done()

    lease.release()
    (await asking).release()
    assert world.alive() == ["b"]


# --- unloading --------------------------------------------------------------------------------------


async def test_unloading_tells_how_many_and_waits_for_none(world: World) -> None:
    await world.use("a")
    await world.use("b")
    ids = [view.id for view in world.scheduler.runners()]

    assert world.scheduler.unload([*ids, 99]) == 2
    await world.scheduler.settled(ids)
    assert world.alive() == []
    assert world.scheduler.unload(ids) == 0
    assert world.metrics.counts["unload", "fake", "unload"] == 2


async def test_a_busy_model_goes_when_its_last_answer_is_done(world: World) -> None:
    lease = await world.lease("a")
    (view,) = world.scheduler.runners()
    world.scheduler.unload([view.id])
    await world.settle()
    assert [Phase.RETIRING] == [view.phase for view in world.scheduler.runners()]
    assert world.engine("a").graces == []

    lease.release()
    await world.scheduler.settled([view.id])
    assert world.engine("a").graces == [GRACE]


async def test_a_load_that_is_unloaded_is_cancelled_and_who_waits_is_told(world: World) -> None:
    world.launcher.open.clear()
    asking = world.asking("a")
    await world.settle()
    (view,) = world.scheduler.runners()
    world.scheduler.unload([view.id])

    with pytest.raises(UnavailableError, match="'a' was unloaded while it was loading"):
        await asking
    await world.scheduler.settled([view.id])
    assert (1, 1) == (world.launcher.cancelled, world.metrics.counts["load", "fake", "cancelled"])
    assert world.metrics.alive == 0


# --- the end ----------------------------------------------------------------------------------------


async def test_closing_stops_every_engine_and_refuses_who_waits(make: Callable[..., World]) -> None:
    world = make(slots=3)
    await world.use("idle")
    busy = await world.lease("busy")
    world.launcher.open.clear()
    loading = world.asking("loading")
    await world.settle()
    waiting = world.asking("waiting")
    await world.settle()
    await world.scheduler.aclose()

    for asking in (loading, waiting):
        with pytest.raises(ShuttingDownError, match="the service is shutting down"):
            await asking
    assert [[GRACE], [GRACE]] == [world.engine(alias).graces for alias in ("idle", "busy")]
    # The one that waited had got the place of the idle one by then.
    assert (world.launcher.cancelled, world.metrics.alive, world.alive()) == (2, 0, [])
    failure = await busy.failure(0.0)
    assert failure is not None
    assert failure.returncode is None
    busy.release()
    assert world.clock.sleepers == 0


async def test_a_closed_scheduler_refuses_and_closes_again_without_effect(world: World) -> None:
    await world.scheduler.aclose()
    await world.scheduler.aclose()

    with pytest.raises(ShuttingDownError, match="the scheduler is not running"):
        await world.lease("a")


async def test_a_demand_made_while_engines_stop_is_refused(world: World) -> None:
    await world.use("a")
    world.engine("a").may_stop.clear()
    closing = asyncio.create_task(world.scheduler.aclose())
    await world.settle()
    with pytest.raises(ShuttingDownError, match="the service is shutting down"):
        await world.lease("b")

    world.engine("a").may_stop.set()
    await closing


async def test_starting_twice_is_starting_once(world: World) -> None:
    world.scheduler.start()
    await world.use("a")

    assert len(world.launcher.launched) == 1


async def test_nobody_waits_for_a_pump_that_broke(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a bug breaks the pump; the service must still be able to say so, and to stop its engines."""
    await world.use("ready")
    world.launcher.open.clear()
    first = world.asking("a")
    await world.settle()

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.scheduler, "_carry_out", broken)
    second = world.asking("b")
    for asking in (first, second):
        with pytest.raises(ShuttingDownError, match="the scheduler stopped"):
            await asking
    with pytest.raises(ShuttingDownError, match="not running"):
        await world.lease("c")

    await world.scheduler.aclose()
    assert (world.engine("ready").graces, world.launcher.cancelled, world.metrics.alive) == ([GRACE], 1, 0)
