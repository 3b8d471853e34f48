"""What to tell whoever waits: what they wait for, how long at most, and when to come again."""

from __future__ import annotations

from typing import Final

from dmr_core.services.scheduling.state import Demand, Limits, Observed, Phase, State

__all__ = ["position", "retry_after", "turn_bound", "waits_for"]

_LIKELY_LOAD: Final = 5.0
_LONGEST_RETRY: Final = 60.0


def position(state: State, demand: Demand) -> int:
    """Place in the queue, from 1."""
    return next((place for place, other in enumerate(state.queue, 1) if other.id == demand.id), len(state.queue) + 1)


def waits_for(state: State, demand: Demand, observed: Observed) -> str:
    """What has to happen before a demand is served."""
    own = next((runner for runner in state.runners.values() if runner.key == demand.key), None)
    if own is not None:
        lasted = observed.now - own.since
        match own.phase:
            case Phase.LOADING:
                return f"the model, which has been loading for {lasted:.1f} s"
            case Phase.READY:
                return f"one of the {observed.leases(own.id)} requests it is answering, as many as it may at once"
            case _:
                return "its last engine to end"
    setback = state.setbacks.get(demand.key)
    if setback is not None and setback.retry_at > observed.now:
        return f"the next attempt in {setback.retry_at - observed.now:.1f} s, after {setback.failures} failures"
    there = [
        f"{runner.launch.alias} ({'busy' if observed.leases(runner.id) else runner.phase.value})"
        for runner in state.runners.values()
    ]
    if not there:
        return "a place"
    return f"a place; {len(there)} of {state.limits.slots} are taken: {', '.join(sorted(there))}"


def retry_after(state: State, demand: Demand, observed: Observed) -> float:
    """Seconds after which asking again makes sense: the loads ahead, as far as they can be told."""
    runner = next((runner for runner in state.runners.values() if runner.key == demand.key), None)
    if runner is not None and runner.phase is Phase.READY:
        return 1.0
    if runner is not None and runner.phase is Phase.LOADING:
        return min(_LONGEST_RETRY, max(1.0, observed.now - runner.since))
    loads = [runner.load_seconds for runner in state.runners.values() if runner.load_seconds]
    each = max(loads, default=_LIKELY_LOAD)
    ahead = {other.key for other in state.queue if other.key != demand.key}
    return min(_LONGEST_RETRY, max(1.0, each * (len(ahead) + 1)))


def turn_bound(limits: Limits, *, models: int, load: float, answer: float, stop: float) -> float:
    """Longest time in seconds until a model that is asked for gets its engine, if ``models`` compete.

    ``load``, ``answer`` and ``stop`` are the longest loading, answering and ending take. Before its turn comes, every
    other model may have one, which ends when the model before it has had its load time's worth and finished its answers.
    """
    turn = load + max(limits.patience, min(load, limits.tenure), min(load, limits.residency)) + answer + stop
    return models * turn + load
