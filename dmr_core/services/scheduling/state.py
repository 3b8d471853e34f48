"""The rules of scheduling, as one pure function.

``apply(state, event, observed)`` gives the next state and the effects to carry out. It reads no
clock, takes no lock and waits for nothing: how busy each runner is and what time it is come in as
:class:`Observed`, because leases are counted where requests are served, not here. Whoever calls it
must carry out every effect before observing again, with no other task in between. The vocabulary is in
``events.py`` and can be had from here, so that a caller needs one import for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

import attrs

from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import DmrError, ShuttingDownError, UnavailableError
from dmr_core.services.scheduling.events import (
    Abandoned,
    Closed,
    Effect,
    Event,
    Exited,
    Grant,
    Launch,
    LoadFailed,
    Looked,
    Ready,
    Refuse,
    Requested,
    Retire,
    Retuned,
    Start,
    Stop,
    Stopped,
    Unloaded,
)

__all__ = [
    "Abandoned",
    "Closed",
    "Demand",
    "Effect",
    "Event",
    "Exited",
    "Grant",
    "Launch",
    "LoadFailed",
    "Looked",
    "Observed",
    "Phase",
    "Ready",
    "Refuse",
    "Requested",
    "Retire",
    "Retuned",
    "Runner",
    "Start",
    "State",
    "Stop",
    "Stopped",
    "Unloaded",
    "Usage",
    "apply",
    "next_deadline",
]


class Phase(StrEnum):
    """Life of a runner. It holds its slot in every phase."""

    LOADING = "loading"
    READY = "ready"
    RETIRING = "retiring"  # takes no new work; stops when the last answer is done
    DRAINING = "draining"  # being stopped, or cleared up after it ended by itself


@attrs.frozen(kw_only=True)
class Runner:
    """One engine process, or the place of one. ``since`` is when the phase began (seconds, monotonic)."""

    id: int
    key: RunnerKey
    launch: Launch
    phase: Phase
    since: float
    reason: str = ""


@attrs.frozen
class Demand:
    """Somebody waits for a runner of ``key`` since ``since``."""

    id: int
    key: RunnerKey
    launch: Launch
    since: float


@attrs.frozen(kw_only=True)
class State:
    """Everything the rules know. ``patience`` is how long a demand waits, in seconds, before a busy runner must yield."""

    slots: int
    patience: float = 10.0
    runners: Mapping[int, Runner] = attrs.field(factory=dict)
    queue: tuple[Demand, ...] = ()
    next_id: int = 1
    open: bool = True


@attrs.frozen
class Usage:
    """How busy a runner is: ``idle_since`` (seconds, monotonic) counts when ``leases`` is 0."""

    leases: int
    idle_since: float


@attrs.frozen
class Observed:
    """The moment an event is applied at."""

    now: float
    usage: Mapping[int, Usage] = attrs.field(factory=dict)

    def idle(self, runner_id: int) -> bool:
        """Whether nobody uses the runner."""
        found = self.usage.get(runner_id)
        return found is None or found.leases == 0

    def idle_since(self, runner: Runner) -> float:
        """When it was last used, or became ready."""
        found = self.usage.get(runner.id)
        return found.idle_since if found else runner.since


# --- the rules --------------------------------------------------------------------------------------


def apply(state: State, event: Event, observed: Observed) -> tuple[State, tuple[Effect, ...]]:
    """What happens next. Pure; ``state`` is not changed."""
    draft = _Draft(state, observed)
    draft.take(event)
    draft.settle()
    return draft.finish(), tuple(draft.effects)


def next_deadline(state: State, observed: Observed) -> float:
    """When :class:`Looked` should be applied next though nothing else happens; infinity for never."""
    deadlines = [
        observed.idle_since(runner) + runner.launch.keep_alive.seconds
        for runner in state.runners.values()
        if runner.phase is Phase.READY and observed.idle(runner.id)
    ]
    deadlines += [
        demand.since + state.patience for demand in state.queue if demand.since + state.patience > observed.now
    ]
    return min(deadlines, default=math.inf)


class _Draft:
    """One application in progress: the working copy of the state, and the effects so far."""

    def __init__(self, state: State, observed: Observed) -> None:
        self.state = state
        self.observed = observed
        self.runners = dict(state.runners)
        self.queue = list(state.queue)
        self.next_id = state.next_id
        self.open = state.open
        self.effects: list[Effect] = []
        self.granted: set[int] = set()

    def finish(self) -> State:
        return attrs.evolve(
            self.state, runners=self.runners, queue=tuple(self.queue), next_id=self.next_id, open=self.open
        )

    # -- events

    def take(self, event: Event) -> None:
        match event:
            case Requested(demand_id, key, launch):
                self._request(Demand(demand_id, key, launch, self.observed.now))
            case Abandoned(demand_id):
                self.queue = [demand for demand in self.queue if demand.id != demand_id]
            case Ready(runner_id):
                self._ready(runner_id)
            case LoadFailed(runner_id, error):
                self._gone(runner_id, error)
            case Exited(runner_id):
                self._exit(runner_id)
            case Stopped(runner_id):
                self.runners.pop(runner_id, None)
            case Unloaded(runner_ids, reason):
                for runner_id in sorted(runner_ids):
                    self._unload(runner_id, reason)
            case Retuned(runner_id, keep_alive):
                self._retune(runner_id, keep_alive)
            case Looked():
                pass
            case Closed():
                self._close()

    def _request(self, demand: Demand) -> None:
        if self.open:
            self.queue.append(demand)
        else:
            self.effects.append(Refuse(demand.id, ShuttingDownError("the service is shutting down")))

    def _ready(self, runner_id: int) -> None:
        runner = self.runners.get(runner_id)
        if runner and runner.phase is Phase.LOADING:
            self._move(runner, Phase.READY)

    def _gone(self, runner_id: int, error: DmrError) -> None:
        runner = self.runners.pop(runner_id, None)
        if runner and runner.phase is Phase.LOADING:
            self._refuse_all(runner.key, error)

    def _exit(self, runner_id: int) -> None:
        runner = self.runners.get(runner_id)
        if runner and runner.phase is not Phase.DRAINING:
            self._move(runner, Phase.DRAINING, "exited")

    def _unload(self, runner_id: int, reason: str) -> None:
        runner = self.runners.get(runner_id)
        if runner is None or runner.phase in (Phase.DRAINING, Phase.RETIRING):
            return
        if runner.phase is Phase.LOADING:
            self._refuse_all(runner.key, UnavailableError(f"{runner.launch.alias!r} was unloaded while it was loading"))
            self._stop(runner, reason)
        elif self._idle(runner):
            self._stop(runner, reason)
        else:
            self._retire(runner, reason)

    def _retune(self, runner_id: int, keep_alive: KeepAlive) -> None:
        runner = self.runners.get(runner_id)
        if runner:
            self.runners[runner_id] = attrs.evolve(runner, launch=attrs.evolve(runner.launch, keep_alive=keep_alive))

    def _close(self) -> None:
        self.open = False
        for demand in self.queue:
            self.effects.append(Refuse(demand.id, ShuttingDownError("the service is shutting down")))
        self.queue = []
        for runner in list(self.runners.values()):
            if runner.phase is not Phase.DRAINING:
                self._stop(runner, "shutdown")

    # -- what follows from any event

    def settle(self) -> None:
        self._grant()
        self._expire()
        self._make_room()

    def _grant(self) -> None:
        ready = {runner.key: runner for runner in self.runners.values() if runner.phase is Phase.READY}
        waiting: list[Demand] = []
        for demand in self.queue:
            runner = ready.get(demand.key)
            if runner is None:
                waiting.append(demand)
            else:
                self.granted.add(runner.id)
                self.effects.append(Grant(demand.id, runner.id))
        self.queue = waiting

    def _expire(self) -> None:
        for runner in list(self.runners.values()):
            if not self._idle(runner):
                continue
            if runner.phase is Phase.RETIRING:
                self._stop(runner, runner.reason)
            elif runner.phase is Phase.READY and self._kept_until(runner) <= self.observed.now:
                self._stop(runner, "idle")

    def _make_room(self) -> None:
        """Start what is waited for, oldest demand first; evict one idle runner for each that needs the room."""
        free = self.state.slots - len(self.runners)
        leaving = sum(runner.phase in (Phase.DRAINING, Phase.RETIRING) for runner in self.runners.values())
        served = {runner.key for runner in self.runners.values() if runner.phase in (Phase.LOADING, Phase.READY)}
        for demand in self.queue:
            if demand.key in served:
                continue
            served.add(demand.key)
            # A runner of this key may still be leaving; two engines of one key never run side by side.
            twin_leaves = any(runner.key == demand.key for runner in self.runners.values())
            if free > 0 and not twin_leaves:
                free -= 1
                self._start(demand)
            elif leaving > 0:
                leaving -= 1
            elif not self._evict(demand):
                break

    def _evict(self, demand: Demand) -> bool:
        candidates = [runner for runner in self.runners.values() if runner.phase is Phase.READY]
        idle = [runner for runner in candidates if self._idle(runner)]
        if idle:
            self._stop(min(idle, key=self._worth), "evicted")
            return True
        if candidates and demand.since + self.state.patience <= self.observed.now:
            self._retire(min(candidates, key=self._worth), "evicted")
            return True
        return False

    # -- small steps

    def _worth(self, runner: Runner) -> tuple[bool, float]:
        return runner.launch.keep_alive.is_forever, self.observed.idle_since(runner)

    def _kept_until(self, runner: Runner) -> float:
        return self.observed.idle_since(runner) + runner.launch.keep_alive.seconds

    def _idle(self, runner: Runner) -> bool:
        return runner.id not in self.granted and self.observed.idle(runner.id)

    def _start(self, demand: Demand) -> None:
        runner = Runner(
            id=self.next_id, key=demand.key, launch=demand.launch, phase=Phase.LOADING, since=self.observed.now
        )
        self.next_id += 1
        self.runners[runner.id] = runner
        self.effects.append(Start(runner.id, runner.key, runner.launch))

    def _retire(self, runner: Runner, reason: str) -> None:
        self._move(runner, Phase.RETIRING, reason)
        self.effects.append(Retire(runner.id))

    def _stop(self, runner: Runner, reason: str) -> None:
        self._move(runner, Phase.DRAINING, reason)
        self.effects.append(Stop(runner.id, reason))

    def _move(self, runner: Runner, phase: Phase, reason: str = "") -> None:
        self.runners[runner.id] = attrs.evolve(runner, phase=phase, since=self.observed.now, reason=reason)

    def _refuse_all(self, key: RunnerKey, error: DmrError) -> None:
        self.effects.extend(Refuse(demand.id, error) for demand in self.queue if demand.key == key)
        self.queue = [demand for demand in self.queue if demand.key != key]
