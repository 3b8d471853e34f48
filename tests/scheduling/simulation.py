"""The rules in a world of their own: engines are entries in an agenda, and time passes when a schedule says so.

Every promise of the rules is checked after every event.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Final

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Capacity, Memory
from dmr_core.errors import (
    DmrError,
    EngineExitedError,
    EngineOutOfMemoryError,
    EngineStartTimeoutError,
)
from dmr_core.services.scheduling import events, rules
from dmr_core.services.scheduling.queueing import turn_bound
from dmr_core.services.scheduling.state import Launch, Limits, Observed, Phase, State, Usage
from tests.scheduling.behaviours import behaviour_of

__all__ = ["START_TIMEOUT", "Simulation", "key_of"]

START_TIMEOUT: Final = 20.0
_STOP: Final = 0.2
_GRACE: Final = 5.0
_LONGEST_ANSWER: Final = 15.0
_EPSILON: Final = 1e-6


def key_of(model: str) -> RunnerKey:
    """The runner key of a model."""
    return RunnerKey("standin", Digest.of(model.encode()), EngineMode.COMPLETION)


class Simulation:
    """A scheduler without a pump: it carries effects out in no time, and engines take theirs."""

    def __init__(
        self, limits: Limits, capacity: Capacity | None = None, *, longest_load: float = START_TIMEOUT
    ) -> None:
        self._longest_load = longest_load
        self.on_finish: Callable[[int], None] | None = None
        self.state = State(limits=limits, capacity=capacity or Capacity())
        self.now = 0.0
        self.waiting: dict[int, float] = {}
        self.leases: dict[int, int] = {}
        self.refused: dict[int, DmrError] = {}
        self.waits: list[float] = []
        self.loads = 0
        self.longest_turn = 0.0
        self._models: set[str] = set()
        self._answers: dict[int, float] = {}
        self._idle_since: dict[int, float] = {}
        self._agenda: list[tuple[float, int, int, Callable[[], None]]] = []
        self._order = count()
        self._turn_since: dict[RunnerKey, float] = {}

    # --- what a schedule does

    def ask(
        self,
        demand: int,
        alias: str,
        *,
        keep_alive: float = 300.0,
        needs: Memory = Memory(),
        concurrency: int | None = None,
        wait: float | None = None,
        answer: float | None = None,
    ) -> None:
        """Make a demand; once granted it is answered for ``answer`` seconds, or until :meth:`finish`."""
        model = alias.partition(".")[0]
        self._models.add(model)
        self.waiting[demand] = self.now
        launch = Launch(alias=alias, keep_alive=KeepAlive(keep_alive), needs=needs, concurrency=concurrency)
        self._answers[demand] = _LONGEST_ANSWER if answer is None else answer
        self.post(events.Requested(demand, key_of(model), launch, wait))

    def leave(self, demand: int) -> None:
        """Stop waiting, or break off the answer."""
        if demand in self.leases:
            self.finish(demand)
        elif self.waiting.pop(demand, None) is not None:
            self.post(events.Abandoned(demand))

    def finish(self, demand: int) -> None:
        """The answer is complete: the lease is given back."""
        runner_id = self.leases.pop(demand, None)
        if runner_id is None:
            return
        if runner_id in self._idle_since and not self._leases_of(runner_id):
            self._idle_since[runner_id] = self.now
        self.post(events.Looked())
        if self.on_finish is not None:
            self.on_finish(demand)

    def crash(self, model: str) -> None:
        """The engine of a model dies while it serves."""
        for runner in self.state.runners.values():
            if runner.key == key_of(model) and runner.phase in (Phase.READY, Phase.RETIRING):
                self._die(runner.id)
                return

    def unload(self, model: str) -> None:
        """Somebody unloads a model."""
        ids = frozenset(runner.id for runner in self.state.runners.values() if runner.key == key_of(model))
        self.post(events.Unloaded(ids))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; what is due happens in order, and the rules are woken when they asked to be."""
        end = self.now + seconds
        looks = 0
        while True:
            due = self._agenda[0][0] if self._agenda else math.inf
            wake = rules.next_deadline(self.state, self._observe())
            moment = min(due, wake)
            if moment > end:
                break
            looks = looks + 1 if moment <= self.now else 0
            assert looks < 1000, f"the rules want to be woken at {wake} for ever, and it is {self.now}"
            self.now = max(self.now, moment)
            if due <= wake:
                _, _, _, happen = heapq.heappop(self._agenda)
                happen()
            else:
                self.post(events.Looked())
        self.now = end
        self.post(events.Looked())

    def close(self) -> None:
        """Let everything end, then shut down; nobody may be left waiting, nothing may be left running."""
        self.pass_time(self.state.limits.wait + 1.0)
        assert not self.waiting, f"still waiting: {self.waiting}"
        self.post(events.Closed())
        for demand in list(self.leases):
            self.leases.pop(demand)
        self.pass_time(_GRACE + _STOP + START_TIMEOUT)
        assert not self.state.runners, f"still there: {self.state.runners}"
        assert not self.leases

    # --- events and their effects

    def post(self, event: events.Event) -> None:
        """Apply one event, carry out what follows, and check every promise."""
        before = self.state
        self.state, effects = rules.apply(before, event, self._observe())
        for effect in effects:
            self._carry_out(effect)
        self._check()

    def _carry_out(self, effect: events.Effect) -> None:
        match effect:
            case events.Start(runner_id, _, launch):
                self.loads += 1
                self._idle_since[runner_id] = self.now
                reserved = Memory()
                for runner in self.state.runners.values():
                    reserved += runner.reserved
                assert self.state.capacity.holds(reserved), f"over-committed: {reserved} in {self.state.capacity}"
                self._schedule_load(runner_id, launch)
            case events.Grant(demand_id, runner_id):
                runner = self.state.runners[runner_id]
                # It may be told to take no more in the same breath, but after this one.
                assert runner.phase in (Phase.READY, Phase.RETIRING)
                self.waits.append(self.now - self.waiting.pop(demand_id))
                self.leases[demand_id] = runner_id
                limit = runner.launch.concurrency
                assert limit is None or self._leases_of(runner_id) <= limit
                self._at(self._answers[demand_id], runner_id, lambda: self.finish(demand_id))
            case events.Refuse(demand_id, error):
                self.waiting.pop(demand_id)
                self.refused[demand_id] = error
            case events.Stop(runner_id, _):
                assert not self._leases_of(runner_id) or not self.state.open, "a busy engine was stopped"
                self._forget(runner_id)
                stubborn = behaviour_of(self.state.runners[runner_id].launch.alias).stubborn
                self._at(_GRACE if stubborn else _STOP, -1, lambda: self._gone(runner_id))
            case events.Retire() | events.Note():
                pass

    def _schedule_load(self, runner_id: int, launch: Launch) -> None:
        behaviour = behaviour_of(launch.alias)
        failures: dict[str, tuple[float, DmrError]] = {
            "killed": (behaviour.load, EngineExitedError("standin", -6)),
            "corrupt": (behaviour.load, EngineExitedError("standin", 1)),
            "memory": (behaviour.load, EngineOutOfMemoryError("standin", 1)),
            "hangs": (START_TIMEOUT, EngineStartTimeoutError("standin", START_TIMEOUT)),
        }
        if behaviour.fails:
            after, error = failures[behaviour.fails]
            self._at(after, runner_id, lambda: self._load_failed(runner_id, error))
        else:
            self._at(behaviour.load, runner_id, lambda: self._ready(runner_id, behaviour.lives))

    def _ready(self, runner_id: int, lives: float | None) -> None:
        self._idle_since[runner_id] = self.now
        if lives is not None:
            self._at(lives, runner_id, lambda: self._die(runner_id))
        self.post(events.Ready(runner_id))

    def _load_failed(self, runner_id: int, error: DmrError) -> None:
        self._idle_since.pop(runner_id)
        self.post(events.LoadFailed(runner_id, error))

    def _die(self, runner_id: int) -> None:
        self._forget(runner_id)
        for demand in [demand for demand, used in self.leases.items() if used == runner_id]:
            del self.leases[demand]  # whoever was being answered is told by the broken connection
        self._at(_STOP, -1, lambda: self._gone(runner_id))
        self.post(events.Exited(runner_id, EngineExitedError("standin", -9)))

    def _gone(self, runner_id: int) -> None:
        self._idle_since.pop(runner_id, None)
        self.post(events.Stopped(runner_id))

    # --- bookkeeping

    def _at(self, seconds: float, runner_id: int, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), runner_id, happen))

    def _forget(self, runner_id: int) -> None:
        """Nothing that was to happen to a runner happens any more."""
        self._agenda = [entry for entry in self._agenda if entry[2] != runner_id]
        heapq.heapify(self._agenda)

    def _leases_of(self, runner_id: int) -> int:
        return sum(used == runner_id for used in self.leases.values())

    def _observe(self) -> Observed:
        usage = {runner_id: Usage(self._leases_of(runner_id), since) for runner_id, since in self._idle_since.items()}
        return Observed(self.now, usage)

    # --- promises

    def _check(self) -> None:
        state = self.state
        assert len(state.runners) <= state.limits.slots, "more runners than slots"
        keys = [runner.key for runner in state.runners.values()]
        assert len(keys) == len(set(keys)), "two engines of one key"
        assert sorted(self.waiting) == sorted(demand.id for demand in state.queue), "the queue and its people differ"
        assert len(state.queue) <= state.limits.queue, "the queue is longer than it may be"
        for demand in state.queue:
            assert self.now <= demand.until + _EPSILON, f"{demand.id} waited for {self.now - demand.since}"
        self._nobody_waits_beside_a_free_place()
        self._nobody_waits_beside_an_idle_runner()
        self._everybody_has_a_turn()

    def _nobody_waits_beside_a_free_place(self) -> None:
        state = self.state
        held = {runner.key for runner in state.runners.values()}
        for demand in state.queue:
            if demand.key in held or demand.key in state.setbacks:
                continue
            held.add(demand.key)  # the first of a key speaks for the others
            # What others wait for is theirs: with their slots and memory taken, there has to be a place left.
            others = {other.key: other.launch.needs for other in reversed(state.queue) if other.key != demand.key}
            reserved = sum((runner.reserved for runner in state.runners.values()), Memory())
            taken_by_others = len(state.runners) + len(others)
            fits = state.capacity.holds(sum(others.values(), reserved) + demand.launch.needs)
            assert not (fits and taken_by_others < state.limits.slots), f"{demand.id} waits beside a free place"

    def _nobody_waits_beside_an_idle_runner(self) -> None:
        """Whoever waits for a place gets that of an idle runner, if it is not pinned and was not loaded just now."""
        state = self.state
        if state.capacity.host is not None:
            return  # with memory to be found as well, who is served first depends on sizes
        held = {runner.key for runner in state.runners.values()}
        waiting = {demand.key for demand in state.queue} - held - state.setbacks.keys()
        stopping = sum(runner.phase is Phase.DRAINING for runner in state.runners.values())
        idle = [
            runner.id
            for runner in state.runners.values()
            if runner.phase is Phase.READY
            and not self._leases_of(runner.id)
            and not runner.launch.keep_alive.is_forever
            and runner.since + state.limits.residency <= self.now
        ]
        assert not idle or len(waiting) <= stopping, f"{waiting} wait beside idle runners {idle}"

    def _everybody_has_a_turn(self) -> None:
        """A model somebody waits for has an engine within the bound the documentation gives."""
        state = self.state
        served = {runner.key for runner in state.runners.values() if runner.phase in (Phase.LOADING, Phase.READY)}
        wanted = {demand.key for demand in state.queue} - served - state.setbacks.keys()
        self._turn_since = {key: self._turn_since.get(key, self.now) for key in wanted}
        bound = turn_bound(
            state.limits,
            models=len(self._models),
            load=self._longest_load,
            answer=max(self._answers.values(), default=_LONGEST_ANSWER),
            stop=_GRACE,
        )
        for since in self._turn_since.values():
            self.longest_turn = max(self.longest_turn, self.now - since)
            assert self.now - since <= bound + _EPSILON, f"no turn for {self.now - since} s; the bound is {bound} s"
