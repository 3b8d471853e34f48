"""The rules of scheduling: pure, so every test is a sequence of events."""

from __future__ import annotations

import math

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import ShuttingDownError, UnavailableError, UpstreamError
from dmr_core.services.scheduling import events
from dmr_core.services.scheduling.rules import apply, next_deadline
from dmr_core.services.scheduling.state import Launch, Limits, Observed, Phase, State, Usage


def key(name: str) -> RunnerKey:
    return RunnerKey("llama.cpp", Digest.of(name.encode()), EngineMode.COMPLETION)


def launch(name: str, keep_alive: float = 300.0) -> Launch:
    return Launch(alias=name, keep_alive=KeepAlive(keep_alive))


def request(demand: int, name: str, keep_alive: float = 300.0) -> events.Requested:
    return events.Requested(demand, key(name), launch(name, keep_alive))


def run(state: State, *happen: events.Event, at: Observed = Observed(0.0)) -> tuple[State, list[events.Effect]]:
    effects: list[events.Effect] = []
    for event in happen:
        state, more = apply(state, event, at)
        effects += [effect for effect in more if not isinstance(effect, events.Note)]
    return state, effects


def ready(state: State, demand: int, name: str, at: Observed = Observed(0.0), keep_alive: float = 300.0) -> State:
    state, effects = run(state, request(demand, name, keep_alive), at=at)
    (start,) = [effect for effect in effects if isinstance(effect, events.Start)]
    state, _ = run(state, events.Ready(start.runner_id), at=at)
    return state


def test_two_demands_for_one_model_are_one_load() -> None:
    state, effects = run(State(limits=Limits(slots=2)), request(1, "a"), request(2, "a"))
    assert [events.Start(1, key("a"), launch("a"))] == effects

    state, effects = run(state, events.Ready(1))
    assert [events.Grant(1, 1), events.Grant(2, 1)] == effects
    assert state.queue == ()


def test_a_load_outlives_whoever_asked_for_it() -> None:
    state, _ = run(State(limits=Limits(slots=1)), request(1, "a"))
    state, effects = run(state, events.Abandoned(1))

    assert effects == []
    assert state.runners[1].phase is Phase.LOADING


def test_a_failed_load_is_told_to_everyone_who_waits_for_it() -> None:
    error = UpstreamError("no")
    state, _ = run(State(limits=Limits(slots=1)), request(1, "a"), request(2, "a"), request(3, "b"))
    state, effects = run(state, events.LoadFailed(1, error))

    assert [events.Refuse(1, error), events.Refuse(2, error), events.Start(2, key("b"), launch("b"))] == effects


def test_when_slots_are_full_the_longest_idle_runner_goes_and_only_that_one() -> None:
    state = ready(ready(State(limits=Limits(slots=2)), 1, "a"), 2, "b")
    at = Observed(10.0, {1: Usage(0, 5.0), 2: Usage(0, 1.0)})
    state, effects = run(state, request(3, "c"), at=at)
    assert [events.Stop(2, "evicted")] == effects

    state, effects = run(state, request(4, "c"), at=at)
    assert effects == []

    state, effects = run(state, events.Stopped(2), at=at)
    assert [events.Start(3, key("c"), launch("c"))] == effects


def test_a_pinned_runner_is_evicted_only_when_nothing_else_will_do() -> None:
    state = ready(State(limits=Limits(slots=2)), 1, "pinned", keep_alive=math.inf)
    state = ready(state, 2, "b")
    state, effects = run(state, request(3, "c"), at=Observed(10.0, {1: Usage(0, 0.0), 2: Usage(0, 9.0)}))
    assert [events.Stop(2, "evicted")] == effects

    state = ready(State(limits=Limits(slots=1)), 1, "pinned", keep_alive=math.inf)
    state, effects = run(state, request(2, "c"), at=Observed(10.0, {1: Usage(0, 0.0)}))
    assert [events.Stop(1, "evicted")] == effects


def test_a_busy_runner_is_left_alone_until_patience_ends_and_then_takes_no_new_work() -> None:
    state = ready(State(limits=Limits(slots=1, patience=10.0)), 1, "a")
    busy = {1: Usage(1, 0.0)}
    state, effects = run(state, request(2, "b"), at=Observed(5.0, busy))
    assert effects == []
    assert next_deadline(state, Observed(5.0, busy)) == 15.0

    state, effects = run(state, events.Looked(), at=Observed(15.0, busy))
    assert [events.Retire(1)] == effects

    state, effects = run(state, request(3, "a"), at=Observed(16.0, busy))
    assert effects == []

    state, effects = run(state, events.Looked(), at=Observed(17.0, {1: Usage(0, 17.0)}))
    assert [events.Stop(1, "evicted")] == effects
    state, effects = run(state, events.Stopped(1), at=Observed(18.0))
    assert [events.Start(2, key("b"), launch("b"))] == effects


def test_an_idle_runner_is_unloaded_when_its_time_is_up() -> None:
    state = ready(State(limits=Limits(slots=1)), 1, "a", keep_alive=60.0)
    usage = {1: Usage(0, 100.0)}
    assert next_deadline(state, Observed(100.0, usage)) == 160.0

    _, effects = run(state, events.Looked(), at=Observed(159.0, usage))
    assert effects == []
    _, effects = run(state, events.Looked(), at=Observed(160.0, usage))
    assert [events.Stop(1, "idle")] == effects


def test_unloading_a_load_cancels_it_and_tells_who_waits() -> None:
    state, _ = run(State(limits=Limits(slots=1)), request(1, "a"))
    state, effects = run(state, events.Unloaded(frozenset({1})))

    assert isinstance(effects[0], events.Refuse)
    assert isinstance(effects[0].error, UnavailableError)
    assert events.Stop(1, "unload") == effects[1]


def test_after_a_crash_the_next_request_loads_again() -> None:
    state = ready(State(limits=Limits(slots=1)), 1, "a")
    state, _ = run(state, events.Exited(1))
    state, effects = run(state, request(2, "a"))
    assert effects == []

    _, effects = run(state, events.Stopped(1))
    assert [events.Start(2, key("a"), launch("a"))] == effects


def test_closing_refuses_everyone_and_stops_everything_once() -> None:
    state = ready(State(limits=Limits(slots=2)), 1, "a")
    state, _ = run(state, request(2, "b"), request(3, "b"))
    state, effects = run(state, events.Closed(), events.Closed())

    assert [2, 3] == [effect.demand_id for effect in effects if isinstance(effect, events.Refuse)]
    assert [1, 2] == [effect.runner_id for effect in effects if isinstance(effect, events.Stop)]
    _, effects = run(state, request(4, "a"))
    assert isinstance(effects[0], events.Refuse)
    assert isinstance(effects[0].error, ShuttingDownError)
