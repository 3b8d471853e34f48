"""The rules of scheduling, as one pure function.

``apply(state, event, observed)`` gives the next state and the effects to carry out. It reads no clock, takes no lock
and waits for nothing: how busy each runner is and what time it is come in as :class:`~.state.Observed`, because leases
are counted where requests are served, not here. Whoever calls it must carry out every effect before observing again,
with no other task in between.
"""

from __future__ import annotations

import math

import attrs

from dmr_core.errors import (
    DmrError,
    EngineOutOfMemoryError,
    QueueFullError,
    QueueTimeoutError,
    ShuttingDownError,
    UnavailableError,
)
from dmr_core.services.scheduling import setbacks
from dmr_core.services.scheduling.draft import Draft
from dmr_core.services.scheduling.events import (
    Abandoned,
    Closed,
    Effect,
    Event,
    Exited,
    Forgiven,
    LoadFailed,
    Looked,
    Measured,
    Ready,
    Requested,
    Retuned,
    Stopped,
    Unloaded,
)
from dmr_core.services.scheduling.queueing import position, retry_after, waits_for
from dmr_core.services.scheduling.room import make_room, protected_until
from dmr_core.services.scheduling.state import Demand, Observed, Phase, Runner, State

__all__ = ["apply", "next_deadline"]


def apply(state: State, event: Event, observed: Observed) -> tuple[State, tuple[Effect, ...]]:
    """What happens next. Pure; ``state`` is not changed."""
    draft = Draft(state, observed)
    _take(draft, event)
    _grant(draft)
    _expire(draft)
    _refuse(draft)
    make_room(draft)
    return draft.finish(), tuple(draft.effects)


def next_deadline(state: State, observed: Observed) -> float:
    """When :class:`~.events.Looked` should be applied next though nothing else happens; infinity for never."""
    draft = Draft(state, observed)
    ready = [runner for runner in state.runners.values() if runner.phase is Phase.READY]
    deadlines = [
        observed.idle_since(runner) + runner.launch.keep_alive.seconds for runner in ready if draft.idle(runner)
    ]
    later = [demand.until for demand in state.queue]
    later += [draft.waiting_since(demand) + state.limits.patience for demand in state.queue]
    later += [setback.retry_at for setback in state.setbacks.values()] if state.queue else []
    if state.queue:
        later += [protected_until(draft, runner) for runner in ready]
        later += [runner.since + min(runner.load_seconds, state.limits.tenure) for runner in ready]
    deadlines += [moment for moment in later if moment > observed.now]
    return min(deadlines, default=math.inf)


# --- events -----------------------------------------------------------------------------------------


def _take(draft: Draft, event: Event) -> None:
    match event:
        case Requested(demand_id, key, launch, wait):
            until = draft.now + (draft.limits.wait if wait is None else wait)
            _request(draft, Demand(demand_id, key, launch, draft.now, until))
        case Abandoned(demand_id):
            draft.queue = [demand for demand in draft.queue if demand.id != demand_id]
        case Ready(runner_id):
            _ready(draft, runner_id)
        case LoadFailed(runner_id, error):
            _load_failed(draft, runner_id, error)
        case Exited(runner_id, error):
            _exited(draft, runner_id, error)
        case Stopped(runner_id):
            draft.runners.pop(runner_id, None)
        case Unloaded(runner_ids, reason):
            for runner_id in sorted(runner_ids):
                _unload(draft, runner_id, reason)
        case Retuned():
            _retune(draft, event)
        case Measured(capacity, used):
            draft.capacity = capacity
            for runner_id, memory in used.items():
                runner = draft.runners.get(runner_id)
                if runner is not None:
                    most = memory if runner.used is None else memory.at_least(runner.used)
                    draft.runners[runner_id] = attrs.evolve(runner, used=most)
        case Forgiven(model_id):
            for key in [key for key in draft.setbacks if key.model_id == model_id]:
                del draft.setbacks[key]
        case Looked():
            pass
        case Closed():
            _close(draft)


def _request(draft: Draft, demand: Demand) -> None:
    if not draft.open:
        draft.refuse(demand, ShuttingDownError("the service is shutting down"))
        return
    runner = draft.of_key(demand.key)
    if runner is not None and draft.has_room_for_one(runner) and not any(o.key == demand.key for o in draft.queue):
        draft.grant(demand, runner)
    elif len(draft.queue) >= draft.limits.queue:
        state = draft.finish()
        text = (
            f"{len(draft.queue)} requests wait for engines, as many as may; {demand.launch.alias!r} would wait for "
            f"{waits_for(state, demand, draft.observed)}"
        )
        draft.refuse(demand, QueueFullError(text, retry_after=retry_after(state, demand, draft.observed)))
    else:
        draft.queue.append(demand)


def _ready(draft: Draft, runner_id: int) -> None:
    runner = draft.runners.get(runner_id)
    if runner and runner.phase is Phase.LOADING:
        seconds = draft.now - runner.since
        moved = draft.move(attrs.evolve(runner, load_seconds=seconds, ready_at=draft.now), Phase.READY)
        draft.note(moved.key, moved.launch.alias, "ready", "", {"load_seconds": seconds})


def _load_failed(draft: Draft, runner_id: int, error: DmrError) -> None:
    runner = draft.runners.pop(runner_id, None)
    if runner is None or runner.phase is not Phase.LOADING:
        return
    key = runner.key
    draft.note(key, runner.launch.alias, "failed", error.message.partition("\n")[0])
    idle = [
        other
        for other in draft.runners.values()
        if other.phase is Phase.READY and draft.idle(other) and not other.launch.keep_alive.is_forever
    ]
    make_way = isinstance(error, EngineOutOfMemoryError) and bool(idle)
    again = make_way or setbacks.worth_another_try(error)
    if setbacks.counts(error):
        draft.setbacks[key] = setbacks.another(draft.setbacks.get(key), error, draft.now)
    if make_way and any(demand.key == key and not demand.tries for demand in draft.queue):
        # It ran out of memory beside others: it gets a second try alone.
        for other in idle:
            why = f"{runner.launch.alias!r} ran out of memory beside it"
            draft.note(other.key, other.launch.alias, "evicted", why)
            draft.stop(other, "evicted")
        draft.setbacks[key] = setbacks.held_until_gone(draft.setbacks[key], frozenset(other.id for other in idle))
    draft.refuse_where(lambda demand: error if demand.key == key and not (again and not demand.tries) else None)
    draft.queue = [
        attrs.evolve(demand, tries=demand.tries + 1) if demand.key == key else demand for demand in draft.queue
    ]


def _exited(draft: Draft, runner_id: int, error: DmrError | None) -> None:
    runner = draft.runners.get(runner_id)
    if runner is None or runner.phase is Phase.DRAINING:
        return
    draft.move(runner, Phase.DRAINING, "exited")
    what = error or UnavailableError(f"{runner.key.backend} ended")
    lived = draft.now - (runner.since if runner.ready_at is None else runner.ready_at)
    draft.setbacks[runner.key] = setbacks.another(draft.setbacks.get(runner.key), what, draft.now, lived=lived)
    draft.note(runner.key, runner.launch.alias, "crashed", what.message.partition("\n")[0], {"lived_seconds": lived})


def _unload(draft: Draft, runner_id: int, reason: str) -> None:
    runner = draft.runners.get(runner_id)
    if runner is None or runner.leaving:
        return
    draft.note(runner.key, runner.launch.alias, "unloaded", reason)
    if runner.phase is Phase.LOADING:
        error = UnavailableError(f"{runner.launch.alias!r} was unloaded while it was loading")
        draft.refuse_where(lambda demand: error if demand.key == runner.key else None)
        draft.stop(runner, reason)
    elif draft.idle(runner):
        draft.stop(runner, reason)
    else:
        draft.retire(runner, reason)


def _retune(draft: Draft, event: Retuned) -> None:
    runner = draft.runners.get(event.runner_id)
    if runner:
        launch = attrs.evolve(
            runner.launch,
            keep_alive=event.keep_alive,
            concurrency=runner.launch.concurrency if event.concurrency is None else event.concurrency or None,
        )
        draft.runners[runner.id] = attrs.evolve(runner, launch=launch)


def _close(draft: Draft) -> None:
    draft.open = False
    error = ShuttingDownError("the service is shutting down")
    draft.refuse_where(lambda _demand: error)
    for runner in list(draft.runners.values()):
        if runner.phase is not Phase.DRAINING:
            draft.stop(runner, "shutdown")


# --- what follows from any event ------------------------------------------------------------------


def _grant(draft: Draft) -> None:
    waiting: list[Demand] = []
    for demand in draft.queue:
        runner = draft.of_key(demand.key)
        if runner is not None and draft.has_room_for_one(runner):
            draft.grant(demand, runner)
        else:
            waiting.append(demand)
    draft.queue = waiting


def _expire(draft: Draft) -> None:
    for runner in list(draft.runners.values()):
        if not draft.idle(runner):
            continue
        if runner.phase is Phase.RETIRING:
            draft.stop(runner, runner.reason)
        elif runner.phase is Phase.READY and _kept_until(draft, runner) <= draft.now:
            seconds = draft.idle_seconds(runner)
            draft.note(runner.key, runner.launch.alias, "unloaded", "nobody used it", {"idle_seconds": seconds})
            draft.stop(runner, "idle")


def _kept_until(draft: Draft, runner: Runner) -> float:
    return draft.observed.idle_since(runner) + runner.launch.keep_alive.seconds


def _refuse(draft: Draft) -> None:
    """Whoever waited as long as they may, and whoever waits for an engine that is not going to be started."""
    state = draft.finish()

    def why(demand: Demand) -> DmrError | None:
        setback = draft.setbacks.get(demand.key)
        if setback is not None and draft.of_key(demand.key) is None:
            refusal = setbacks.refusal(demand.key, demand.launch.alias, setback, draft.now)
            if refusal is not None:
                return refusal
        if demand.until > draft.now:
            return None
        return QueueTimeoutError(
            f"{demand.launch.alias!r} was waited for {draft.now - demand.since:.0f} s, as long as a request may; it is "
            f"number {position(state, demand)} of {len(state.queue)} and waits for "
            f"{waits_for(state, demand, draft.observed)}",
            retry_after=retry_after(state, demand, draft.observed),
        )

    draft.refuse_where(why)
