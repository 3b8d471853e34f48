"""Places: slots and memory, who gives way to whom, and what is told to whoever gets none."""

from __future__ import annotations

import math

import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Capacity, Memory
from dmr_core.errors import ModelTooLargeError, QueueFullError, QueueTimeoutError
from dmr_core.services.scheduling import events
from dmr_core.services.scheduling.queueing import waits_for
from dmr_core.services.scheduling.rules import apply, next_deadline
from dmr_core.services.scheduling.state import Launch, Limits, Observed, State, Usage

GIB = 1 << 30


def key(name: str) -> RunnerKey:
    return RunnerKey("llama.cpp", Digest.of(name.encode()), EngineMode.COMPLETION)


class World:
    """A state, the time, and who is used how."""

    def __init__(self, capacity: Capacity | None = None, **limits: float) -> None:
        given = {"slots": 2, **limits}
        self.state = State(limits=Limits(**given), capacity=capacity or Capacity())  # type: ignore[arg-type]
        self.now = 0.0
        self.usage: dict[int, Usage] = {}
        self.demands = 0
        self.notes: list[events.Note] = []

    def post(self, event: events.Event) -> list[events.Effect]:
        self.state, effects = apply(self.state, event, Observed(self.now, self.usage))
        self.notes += [effect for effect in effects if isinstance(effect, events.Note)]
        return [effect for effect in effects if not isinstance(effect, events.Note)]

    def ask(
        self, name: str, *, gib: float = 0, device: float = 0, keep: float = 300.0, concurrency: int | None = None
    ) -> list[events.Effect]:
        self.demands += 1
        needs = Memory(int(gib * GIB), int(device * GIB))
        launch = Launch(alias=name, needs=needs, keep_alive=KeepAlive(keep), concurrency=concurrency)
        return self.post(events.Requested(self.demands, key(name), launch))

    def ready(self, name: str, *, gib: float = 0, keep: float = 300.0, load: float = 0.0) -> int:
        (start,) = [effect for effect in self.ask(name, gib=gib, keep=keep) if isinstance(effect, events.Start)]
        self.now += load
        self.usage[start.runner_id] = Usage(0, self.now)
        self.post(events.Ready(start.runner_id))
        return start.runner_id

    def busy(self, runner: int, leases: int = 1) -> None:
        self.usage[runner] = Usage(leases, self.now)


# --- memory -----------------------------------------------------------------------------------------


def test_what_fits_beside_the_others_is_started_and_what_does_not_waits_for_an_eviction() -> None:
    world = World(Capacity(10 * GIB))
    a = world.ready("a", gib=6)
    (start,) = world.ask("b", gib=4)
    assert isinstance(start, events.Start)

    world = World(Capacity(10 * GIB))
    a = world.ready("a", gib=6)
    assert [events.Stop(a, "evicted")] == world.ask("b", gib=5)
    (start,) = world.post(events.Stopped(a))
    assert isinstance(start, events.Start)


def test_what_can_never_fit_is_refused_with_need_and_have_and_nobody_goes_for_it() -> None:
    world = World(Capacity(10 * GIB))
    world.ready("a", gib=6)
    (refusal,) = world.ask("big", gib=11)

    assert isinstance(refusal, events.Refuse)
    error = refusal.error
    assert isinstance(error, ModelTooLargeError)
    assert (error.needs, error.has) == (11 * GIB, 10 * GIB)
    assert "'big' needs 11.0 GiB of memory, and all runners together may have 10.0 GiB" in error.message
    assert world.state.queue == ()
    assert len(world.state.runners) == 1


def test_accelerator_memory_is_its_own_account() -> None:
    world = World(Capacity(100 * GIB, 8 * GIB))
    (refusal,) = world.ask("big", device=9)
    assert isinstance(refusal, events.Refuse)
    assert "9.0 GiB of accelerator memory" in refusal.error.message


def test_a_runner_that_was_seen_to_use_more_than_it_said_counts_for_that() -> None:
    world = World(Capacity(10 * GIB))
    a = world.ready("a", gib=2)
    world.post(events.Measured(Capacity(10 * GIB), {a: Memory(8 * GIB)}))
    assert [events.Stop(a, "evicted")] == world.ask("b", gib=3)


def test_evicting_goes_one_at_a_time_until_there_is_room() -> None:
    world = World(Capacity(10 * GIB), slots=5)
    runners = [world.ready(name, gib=3) for name in "abc"]
    world.now = 10.0
    first = world.ask("d", gib=6)
    assert [events.Stop(runners[0], "evicted")] == first
    assert world.post(events.Looked()) == []

    second = world.post(events.Stopped(runners[0]))
    assert [events.Stop(runners[1], "evicted")] == second
    (start,) = world.post(events.Stopped(runners[1]))
    assert isinstance(start, events.Start)


def test_only_runners_that_would_free_what_is_lacking_are_evicted() -> None:
    world = World(Capacity(100 * GIB, 8 * GIB), slots=5)
    on_host = world.ready("host", gib=4)
    (start,) = [effect for effect in world.ask("device", device=6) if isinstance(effect, events.Start)]
    world.usage[start.runner_id] = Usage(0, 5.0)
    world.post(events.Ready(start.runner_id))
    world.now = 10.0
    assert [events.Stop(start.runner_id, "evicted")] == world.ask("more", device=4)
    assert on_host in world.state.runners


# --- who goes ---------------------------------------------------------------------------------------


def test_the_least_valuable_goes_long_idle_and_quick_to_load_again() -> None:
    world = World()
    slow = world.ready("slow", load=20.0)
    quick = world.ready("quick", load=0.1)
    world.now += 10.0
    # `slow` has been idle a little longer, but costs two hundred times as much to load again.
    assert [events.Stop(quick, "evicted")] == world.ask("c")
    assert slow in world.state.runners


def test_who_was_just_loaded_is_given_a_moment_before_it_is_evicted() -> None:
    world = World(slots=1)
    a = world.ready("a", load=5.0)
    assert world.ask("b") == []
    assert next_deadline(world.state, Observed(world.now, world.usage)) == world.now + 2.0

    world.now += 2.0
    assert [events.Stop(a, "evicted")] == world.post(events.Looked())


def test_a_busy_runner_that_took_long_to_load_keeps_its_place_for_as_long() -> None:
    world = World(slots=1)
    a = world.ready("a", load=30.0)
    world.busy(a)
    world.ask("b")
    world.now += 10.0  # patience is over, but not what it took to load
    assert world.post(events.Looked()) == []

    world.now += 20.0
    assert [events.Retire(a)] == world.post(events.Looked())


def test_a_pinned_idle_runner_outlives_a_busy_one_that_is_not() -> None:
    world = World()
    pinned, busy = world.ready("pinned", keep=math.inf), world.ready("busy")
    world.now += 5.0
    world.busy(busy)
    assert world.ask("c") == []

    world.now += 10.0
    assert [events.Retire(busy)] == world.post(events.Looked())
    assert pinned in world.state.runners


def test_small_ones_use_room_that_the_first_in_line_cannot_until_it_has_waited_long_enough() -> None:
    world = World(Capacity(10 * GIB), slots=5)
    a = world.ready("a", gib=6)
    world.busy(a)
    assert world.ask("big", gib=8) == []
    (start,) = world.ask("small", gib=1)
    assert isinstance(start, events.Start)

    world.busy(start.runner_id)
    world.now += 10.0
    world.post(events.Looked())
    assert world.ask("tiny", gib=2) == []  # there is room now, but it is spoken for


def test_an_eviction_is_remembered_with_who_it_was_for_and_the_figures() -> None:
    world = World(Capacity(10 * GIB))
    world.ready("a", gib=6)
    world.now = 42.0
    world.ask("b", gib=5)
    (note,) = [note for note in world.notes if note.what == "evicted"]
    assert note.alias == "a"
    assert note.why == "to make room for 'b'"
    assert note.numbers["idle_seconds"] == 42.0
    assert note.numbers["needed_bytes"] == 5 * GIB


# --- the queue --------------------------------------------------------------------------------------


def test_a_full_queue_refuses_with_what_it_would_wait_for() -> None:
    world = World(slots=1, queue=2)
    a = world.ready("a", load=8.0)
    world.busy(a)
    world.ask("b")
    world.ask("b")
    (refusal,) = world.ask("c")

    assert isinstance(refusal, events.Refuse)
    assert isinstance(refusal.error, QueueFullError)
    assert "2 requests wait for engines, as many as may" in refusal.error.message
    assert "1 of 1 are taken: a (busy)" in refusal.error.message
    assert refusal.error.retry_after == pytest.approx(16.0)


def test_nobody_waits_longer_than_they_may() -> None:
    world = World(slots=1, wait=30.0)
    world.busy(world.ready("a"))
    world.ask("b")
    world.now += 29.0
    assert world.post(events.Looked()) == [events.Retire(1)]

    world.now += 1.0
    (refusal,) = world.post(events.Looked())
    assert isinstance(refusal, events.Refuse)
    assert isinstance(refusal.error, QueueTimeoutError)
    assert "'b' was waited for 30 s, as long as a request may; it is number 1 of 1" in refusal.error.message


def test_who_waits_for_a_load_that_takes_too_long_is_told_and_the_load_goes_on() -> None:
    world = World(wait=30.0)
    world.ask("a")
    world.now = 30.0
    (refusal,) = world.post(events.Looked())
    assert isinstance(refusal, events.Refuse)
    assert "has been loading for 30.0 s" in refusal.error.message
    assert len(world.state.runners) == 1


def test_concurrency_lets_the_next_in_line_in_when_one_is_done() -> None:
    world = World()
    (start,) = world.ask("a", concurrency=1)
    assert isinstance(start, events.Start)
    world.ask("a", concurrency=1)
    effects = world.post(events.Ready(start.runner_id))
    assert [events.Grant(1, start.runner_id)] == effects
    world.busy(start.runner_id)
    assert "as many as it may at once" in waits_for(world.state, world.state.queue[0], Observed(world.now, world.usage))

    world.usage[start.runner_id] = Usage(0, world.now)
    assert [events.Grant(2, start.runner_id)] == world.post(events.Looked())


def test_a_runner_that_goes_idle_is_evicted_rather_than_waiting_for_one_that_still_answers() -> None:
    world = World(slots=2)
    first, second = world.ready("first"), world.ready("second")
    world.busy(first)
    world.busy(second)
    world.ask("c")
    world.now += 10.0
    assert [events.Retire(first)] == world.post(events.Looked())

    world.now += 0.5
    world.usage[second] = Usage(0, world.now)
    assert [events.Stop(second, "evicted")] == world.post(events.Looked())
    assert world.post(events.Looked()) == []
    (start,) = world.post(events.Stopped(second))
    assert isinstance(start, events.Start)
