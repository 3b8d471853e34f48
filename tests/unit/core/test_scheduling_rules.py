"""The rules of scheduling: pure, so every test is a sequence of events."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import ShuttingDownError, UnavailableError, UpstreamError
from dmr_core.services.scheduling import state as rules
from dmr_core.services.scheduling.state import Launch, Observed, Phase, State, Usage, apply, next_deadline


def key(name: str) -> RunnerKey:
    return RunnerKey("llama.cpp", Digest.of(name.encode()), EngineMode.COMPLETION)


def launch(name: str, keep_alive: float = 300.0) -> Launch:
    return Launch(alias=name, keep_alive=KeepAlive(keep_alive))


def request(demand: int, name: str, keep_alive: float = 300.0) -> rules.Requested:
    return rules.Requested(demand, key(name), launch(name, keep_alive))


def run(state: State, *events: rules.Event, at: Observed = Observed(0.0)) -> tuple[State, list[rules.Effect]]:
    effects: list[rules.Effect] = []
    for event in events:
        state, more = apply(state, event, at)
        effects += more
    return state, effects


def ready(state: State, demand: int, name: str, at: Observed = Observed(0.0), keep_alive: float = 300.0) -> State:
    state, effects = run(state, request(demand, name, keep_alive), at=at)
    (start,) = [effect for effect in effects if isinstance(effect, rules.Start)]
    state, _ = run(state, rules.Ready(start.runner_id), at=at)
    return state


def test_two_demands_for_one_model_are_one_load() -> None:
    state, effects = run(State(slots=2), request(1, "a"), request(2, "a"))
    assert [rules.Start(1, key("a"), launch("a"))] == effects

    state, effects = run(state, rules.Ready(1))
    assert [rules.Grant(1, 1), rules.Grant(2, 1)] == effects
    assert state.queue == ()


def test_a_load_outlives_whoever_asked_for_it() -> None:
    state, _ = run(State(slots=1), request(1, "a"))
    state, effects = run(state, rules.Abandoned(1))

    assert effects == []
    assert state.runners[1].phase is Phase.LOADING


def test_a_failed_load_is_told_to_everyone_who_waits_for_it() -> None:
    error = UpstreamError("no")
    state, _ = run(State(slots=1), request(1, "a"), request(2, "a"), request(3, "b"))
    state, effects = run(state, rules.LoadFailed(1, error))

    assert [rules.Refuse(1, error), rules.Refuse(2, error), rules.Start(2, key("b"), launch("b"))] == effects


def test_when_slots_are_full_the_longest_idle_runner_goes_and_only_that_one() -> None:
    state = ready(ready(State(slots=2), 1, "a"), 2, "b")
    at = Observed(10.0, {1: Usage(0, 5.0), 2: Usage(0, 1.0)})
    state, effects = run(state, request(3, "c"), at=at)
    assert [rules.Stop(2, "evicted")] == effects

    state, effects = run(state, request(4, "c"), at=at)
    assert effects == []

    state, effects = run(state, rules.Stopped(2), at=at)
    assert [rules.Start(3, key("c"), launch("c"))] == effects


def test_a_pinned_runner_is_evicted_only_when_nothing_else_will_do() -> None:
    state = ready(State(slots=2), 1, "pinned", keep_alive=math.inf)
    state = ready(state, 2, "b")
    state, effects = run(state, request(3, "c"), at=Observed(10.0, {1: Usage(0, 0.0), 2: Usage(0, 9.0)}))
    assert [rules.Stop(2, "evicted")] == effects

    state = ready(State(slots=1), 1, "pinned", keep_alive=math.inf)
    state, effects = run(state, request(2, "c"), at=Observed(10.0, {1: Usage(0, 0.0)}))
    assert [rules.Stop(1, "evicted")] == effects


def test_a_busy_runner_is_left_alone_until_patience_ends_and_then_takes_no_new_work() -> None:
    state = ready(State(slots=1, patience=10.0), 1, "a")
    busy = {1: Usage(1, 0.0)}
    state, effects = run(state, request(2, "b"), at=Observed(5.0, busy))
    assert effects == []
    assert next_deadline(state, Observed(5.0, busy)) == 15.0

    state, effects = run(state, rules.Looked(), at=Observed(15.0, busy))
    assert [rules.Retire(1)] == effects

    state, effects = run(state, request(3, "a"), at=Observed(16.0, busy))
    assert effects == []

    state, effects = run(state, rules.Looked(), at=Observed(17.0, {1: Usage(0, 17.0)}))
    assert [rules.Stop(1, "evicted")] == effects
    state, effects = run(state, rules.Stopped(1), at=Observed(18.0))
    assert [rules.Start(2, key("b"), launch("b"))] == effects


def test_an_idle_runner_is_unloaded_when_its_time_is_up() -> None:
    state = ready(State(slots=1), 1, "a", keep_alive=60.0)
    usage = {1: Usage(0, 100.0)}
    assert next_deadline(state, Observed(100.0, usage)) == 160.0

    _, effects = run(state, rules.Looked(), at=Observed(159.0, usage))
    assert effects == []
    _, effects = run(state, rules.Looked(), at=Observed(160.0, usage))
    assert [rules.Stop(1, "idle")] == effects


def test_unloading_a_load_cancels_it_and_tells_who_waits() -> None:
    state, _ = run(State(slots=1), request(1, "a"))
    state, effects = run(state, rules.Unloaded(frozenset({1})))

    assert isinstance(effects[0], rules.Refuse)
    assert isinstance(effects[0].error, UnavailableError)
    assert rules.Stop(1, "unload") == effects[1]


def test_after_a_crash_the_next_request_loads_again() -> None:
    state = ready(State(slots=1), 1, "a")
    state, _ = run(state, rules.Exited(1))
    state, effects = run(state, request(2, "a"))
    assert effects == []

    _, effects = run(state, rules.Stopped(1))
    assert [rules.Start(2, key("a"), launch("a"))] == effects


def test_closing_refuses_everyone_and_stops_everything_once() -> None:
    state = ready(State(slots=2), 1, "a")
    state, _ = run(state, request(2, "b"), request(3, "b"))
    state, effects = run(state, rules.Closed(), rules.Closed())

    assert [2, 3] == [effect.demand_id for effect in effects if isinstance(effect, rules.Refuse)]
    assert [1, 2] == [effect.runner_id for effect in effects if isinstance(effect, rules.Stop)]
    _, effects = run(state, request(4, "a"))
    assert isinstance(effects[0], rules.Refuse)
    assert isinstance(effects[0].error, ShuttingDownError)


class Machine(RuleBasedStateMachine):
    """Any sequence of events keeps the promises: slots, one engine per key, every demand answered once."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State(slots=2, patience=5.0)
        self.now = 0.0
        self.leases: dict[int, int] = {}
        self.idle_since: dict[int, float] = {}
        self.waiting: set[int] = set()
        self.next = 1

    def post(self, event: rules.Event) -> None:
        usage = {runner: Usage(count, self.idle_since[runner]) for runner, count in self.leases.items()}
        self.state, effects = apply(self.state, event, Observed(self.now, usage))
        for effect in effects:
            match effect:
                case rules.Start(runner_id):
                    self.leases[runner_id] = 0
                    self.idle_since[runner_id] = self.now
                case rules.Grant(demand_id, runner_id):
                    # It may be told to take no more in the same breath, but after this one.
                    assert self.state.runners[runner_id].phase in (Phase.READY, Phase.RETIRING)
                    self.waiting.remove(demand_id)
                    self.leases[runner_id] += 1
                case rules.Refuse(demand_id):
                    self.waiting.remove(demand_id)
                case rules.Stop(runner_id):
                    assert self.leases[runner_id] == 0 or not self.state.open, runner_id

    def pick(self, phase: Phase) -> list[int]:
        return [runner.id for runner in self.state.runners.values() if runner.phase is phase]

    @rule(name=st.sampled_from("abcd"), keep=st.sampled_from([0.0, 3.0, math.inf]))
    def ask(self, name: str, keep: float) -> None:
        self.waiting.add(self.next)
        self.next += 1
        self.post(request(self.next - 1, name, keep))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        demand = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.discard(demand)
        self.post(rules.Abandoned(demand))

    @precondition(lambda self: self.pick(Phase.LOADING))
    @rule(data=st.data(), ok=st.booleans())
    def finish_load(self, data: st.DataObject, ok: bool) -> None:
        runner = data.draw(st.sampled_from(self.pick(Phase.LOADING)))
        if ok:
            self.idle_since[runner] = self.now
            self.post(rules.Ready(runner))
        else:
            self.drop(runner)
            self.post(rules.LoadFailed(runner, UpstreamError("no")))

    @precondition(lambda self: any(self.leases.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        runner = data.draw(st.sampled_from([runner for runner, count in self.leases.items() if count]))
        self.leases[runner] -= 1
        self.idle_since[runner] = self.now
        self.post(rules.Looked())

    @precondition(lambda self: self.pick(Phase.DRAINING))
    @rule(data=st.data())
    def stopped(self, data: st.DataObject) -> None:
        runner = data.draw(st.sampled_from(self.pick(Phase.DRAINING)))
        self.drop(runner)
        self.post(rules.Stopped(runner))

    @precondition(lambda self: self.pick(Phase.READY) or self.pick(Phase.RETIRING))
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        runner = data.draw(st.sampled_from(self.pick(Phase.READY) + self.pick(Phase.RETIRING)))
        self.post(rules.Exited(runner))

    @precondition(lambda self: self.state.runners)
    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        self.post(rules.Unloaded(frozenset({data.draw(st.sampled_from(sorted(self.state.runners)))})))

    @rule(seconds=st.floats(0.1, 10.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.post(rules.Looked())

    def drop(self, runner: int) -> None:
        self.leases.pop(runner)
        self.idle_since.pop(runner)

    @invariant()
    def never_more_runners_than_slots(self) -> None:
        assert len(self.state.runners) <= self.state.slots

    @invariant()
    def one_runner_per_key(self) -> None:
        keys = [runner.key for runner in self.state.runners.values()]
        assert len(keys) == len(set(keys))

    @invariant()
    def who_waits_is_in_the_queue_once(self) -> None:
        assert sorted(self.waiting) == sorted(demand.id for demand in self.state.queue)

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        served = {runner.key for runner in self.state.runners.values()}
        if {demand.key for demand in self.state.queue} - served:
            assert len(self.state.runners) == self.state.slots

    def teardown(self) -> None:
        """Whatever happened: once everything ends and nothing new comes, nobody waits for ever."""
        for _ in range(200):
            if not self.state.queue:
                return
            self.now += 6.0
            for runner, count in list(self.leases.items()):
                if count:
                    self.leases[runner] = 0
                    self.idle_since[runner] = self.now
            for runner in self.pick(Phase.LOADING):
                self.idle_since[runner] = self.now
                self.post(rules.Ready(runner))
            for runner in self.pick(Phase.DRAINING):
                self.drop(runner)
                self.post(rules.Stopped(runner))
            self.post(rules.Looked())
        pytest.fail(f"still waiting: {attrs.asdict(self.state)}")


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
