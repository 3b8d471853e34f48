"""Engines that fail: another try where that makes sense, later and later ones, and a clear end."""

from __future__ import annotations

from dmr_core.errors import (
    DmrError,
    EngineBackoffError,
    EngineExitedError,
    EngineOutOfMemoryError,
    EngineStartTimeoutError,
    ModelNotFoundError,
)
from dmr_core.services.scheduling import events
from dmr_core.services.scheduling.rules import next_deadline
from dmr_core.services.scheduling.state import Observed, Usage
from tests.unit.core.scheduling.test_room import World, key

KILLED = EngineExitedError("llama.cpp", -9)
CORRUPT = EngineExitedError("llama.cpp", 1)


def fail(world: World, error: DmrError) -> list[events.Effect]:
    """The load that goes on ends with an error."""
    (loading,) = [runner.id for runner in world.state.runners.values() if runner.phase.value == "loading"]
    return world.post(events.LoadFailed(loading, error))


def crash(world: World, runner: int, lived: float = 1.0) -> None:
    world.now += lived
    world.post(events.Exited(runner, KILLED))
    world.usage.pop(runner, None)
    world.post(events.Stopped(runner))


def test_a_load_that_was_killed_is_tried_once_more_for_those_who_wait() -> None:
    world = World()
    world.ask("a")
    (start,) = fail(world, KILLED)
    assert isinstance(start, events.Start)

    assert [events.Refuse(1, KILLED)] == fail(world, KILLED)


def test_an_engine_that_says_no_is_believed() -> None:
    world = World()
    world.ask("a")
    assert [events.Refuse(1, CORRUPT)] == fail(world, CORRUPT)


def test_failures_of_the_request_leave_no_mark() -> None:
    world = World()
    for _ in range(9):
        world.ask("a")
        fail(world, ModelNotFoundError("a"))
    assert world.state.setbacks == {}


def test_each_attempt_after_the_second_waits_twice_as_long() -> None:
    world = World()
    delays = []
    for _ in range(4):
        effects = world.ask("a")
        asked = world.now
        while not any(isinstance(effect, events.Start) for effect in effects):
            world.now = next_deadline(world.state, Observed(world.now, world.usage))
            effects = world.post(events.Looked())
        delays.append(world.now - asked)
        fail(world, CORRUPT)
    assert delays == [0.0, 0.0, 1.0, 2.0]


def test_after_five_failures_everybody_is_told_at_once_until_the_cool_down_is_over() -> None:
    world = World()
    for _ in range(5):
        world.ask("a")
        world.now += 60.0
        world.post(events.Looked())
        fail(world, CORRUPT)
    (refusal,) = world.ask("a")
    assert isinstance(refusal, events.Refuse)
    error = refusal.error
    assert isinstance(error, EngineBackoffError)
    assert (error.failures, error.retry_after, error.last) == (5, 300.0, CORRUPT)
    assert "`dmr unload a`" in error.message

    world.now += 300.0
    (start,) = world.ask("a")
    assert isinstance(start, events.Start)


def test_forgiving_allows_an_attempt_at_once() -> None:
    world = World()
    for _ in range(5):
        world.ask("a")
        world.now += 60.0
        world.post(events.Looked())
        fail(world, CORRUPT)
    world.post(events.Forgiven(key("a").model_id))
    (start,) = world.ask("a")
    assert isinstance(start, events.Start)


def test_one_that_served_for_long_before_it_crashed_starts_a_new_row() -> None:
    world = World()
    for _ in range(3):
        crash(world, world.ready("a"), lived=61.0)
    assert world.state.setbacks[key("a")].failures == 1

    for _ in range(2):
        world.now += 5.0
        crash(world, world.ready("a"), lived=1.0)
    assert world.state.setbacks[key("a")].failures == 3


def test_a_model_that_ran_out_of_memory_beside_others_gets_a_second_try_without_them() -> None:
    world = World(slots=3)
    other = world.ready("other")
    busy = world.ready("busy")
    world.busy(busy)
    world.ask("a")
    error = EngineOutOfMemoryError("llama.cpp", 1)
    assert [events.Stop(other, "evicted")] == fail(world, error)

    (start,) = world.post(events.Stopped(other))
    assert isinstance(start, events.Start)
    assert [events.Refuse(3, error)] == fail(world, error)


def test_a_load_that_hangs_counts_as_a_failure() -> None:
    world = World()
    world.ask("a")
    error = EngineStartTimeoutError("llama.cpp", 600.0)
    assert [events.Refuse(1, error)] == fail(world, error)
    assert world.state.setbacks[key("a")].failures == 1


def test_a_crash_is_remembered_with_what_was_said_and_how_long_it_lived() -> None:
    world = World()
    runner = world.ready("a")
    world.usage[runner] = Usage(0, 0.0)
    crash(world, runner, lived=12.0)
    (note,) = [note for note in world.notes if note.what == "crashed"]
    assert note.why == "llama.cpp was killed by signal 9"
    assert note.numbers == {"lived_seconds": 12.0}


def test_one_that_ends_in_good_order_ends_the_row() -> None:
    world = World(slots=1)
    crash(world, world.ready("a"))
    crash(world, world.ready("a"))
    assert world.state.setbacks[key("a")].failures == 2

    world.now += 5.0
    runner = world.ready("a")
    world.now += 5.0
    assert [events.Stop(runner, "unload")] == world.post(events.Unloaded(frozenset({runner})))
    assert world.state.setbacks == {}


def test_one_that_crashes_while_it_retires_lived_since_it_was_ready() -> None:
    world = World(slots=1)
    crash(world, world.ready("a"))
    runner = world.ready("a")
    world.busy(runner)
    world.now += 100.0
    world.post(events.Unloaded(frozenset({runner})))
    crash(world, runner, lived=1.0)
    assert world.state.setbacks[key("a")].failures == 1
