"""Who may load now, and who has to go for it.

Models wait for their turn in the order in which they were first asked for; one that lost its place to another queues
up behind it. A place is a slot and the memory that is needed. Room is made by ending one runner at a time: idle ones
first, the least valuable first (long idle, quick to load again), pinned ones only when no other will do. A busy runner
yields to whoever has waited longer than the limits' ``patience``, and takes no new requests from then on.
"""

from __future__ import annotations

from typing import Final

import attrs

from dmr_core.domain.memory import Memory, binary_size
from dmr_core.errors import ModelTooLargeError
from dmr_core.services.scheduling.draft import Draft
from dmr_core.services.scheduling.state import Demand, Phase, Runner

__all__ = ["make_room", "protected_until"]

_QUICKEST: Final = 0.05
"""Seconds a load is counted for at least, when its worth is compared."""


def make_room(draft: Draft) -> None:
    """Start what can be started, and end what stands in the way of the rest."""
    claims = _Claims()
    may_evict = True
    for demand in _turns(draft):
        if not draft.capacity.holds(demand.launch.needs):
            _refuse_too_large(draft, demand)
            continue
        last = draft.of_key(demand.key)
        if last is not None:
            # Its last engine is still leaving, and two of one key never run side by side.
            claims.add(demand, soon=last.phase is Phase.DRAINING)
            continue
        setback = draft.setbacks.get(demand.key)
        if setback is not None and (setback.retry_at > draft.now or setback.after & draft.runners.keys()):
            continue
        if _fits(draft, demand, claims, leaving=False):
            if _fits(draft, demand, claims, leaving=True):
                draft.start(demand)
                continue
            if not _soon(draft, claims):
                _evict_idle(draft, demand, claims)
            claims.add(demand, soon=_soon(draft, claims))
        elif may_evict and _evict(draft, demand, claims):
            claims.add(demand, soon=_soon(draft, claims))
        elif draft.overdue(demand):
            return  # nobody overtakes one that has waited so long
        else:
            may_evict = False


@attrs.define
class _Claims:
    """Places of leaving runners that are spoken for; ``soon`` counts those that are stopping already."""

    slots: int = 0
    soon: int = 0
    memory: Memory = attrs.field(factory=Memory)

    def add(self, demand: Demand, *, soon: bool) -> None:
        self.slots += 1
        self.soon += soon
        self.memory += demand.launch.needs


def _turns(draft: Draft) -> list[Demand]:
    """The first demand of every key that has no engine to serve it, whose turn it is first."""
    served = {runner.key for runner in draft.runners.values() if not runner.leaving}
    firsts: dict[object, Demand] = {}
    for demand in draft.queue:
        if demand.key not in served:
            firsts.setdefault(demand.key, demand)
    return sorted(firsts.values(), key=lambda demand: (draft.waiting_since(demand), demand.id))


def _fits(draft: Draft, demand: Demand, claims: _Claims, *, leaving: bool) -> bool:
    """Whether there is a place: beside all runners (``leaving``), or beside those that stay and what is claimed."""
    if leaving:
        slots, memory = len(draft.runners), draft.reserved(leaving=True)
    else:
        slots = sum(not runner.leaving for runner in draft.runners.values()) + claims.slots
        memory = draft.reserved(leaving=False) + claims.memory
    return slots < draft.limits.slots and draft.capacity.holds(memory + demand.launch.needs)


def _evict(draft: Draft, demand: Demand, claims: _Claims) -> bool:
    """End one runner for ``demand``, or find that one is leaving already; ``False`` when nothing can be done now."""
    if _soon(draft, claims) or _evict_idle(draft, demand, claims):
        return True
    if sum(runner.leaving for runner in draft.runners.values()) > claims.slots:
        return True
    victim = _victim(draft, demand, claims)
    if victim is None:
        return False
    _end(draft, victim, demand)
    return True


def _soon(draft: Draft, claims: _Claims) -> bool:
    """Whether a place that nobody claimed is about to be free: one that is stopping, not one that still answers."""
    return sum(runner.phase is Phase.DRAINING for runner in draft.runners.values()) > claims.soon


def _evict_idle(draft: Draft, demand: Demand, claims: _Claims) -> bool:
    """End an idle runner for ``demand``, if there is one that may go: it is gone sooner than a busy one that retires."""
    victim = _victim(draft, demand, claims, idle_only=True)
    if victim is not None:
        _end(draft, victim, demand)
    return victim is not None


def _end(draft: Draft, victim: Runner, demand: Demand) -> None:
    alias = demand.launch.alias
    numbers = {
        "waited_seconds": draft.now - demand.since,
        "idle_seconds": draft.idle_seconds(victim),
        "freed_bytes": float(victim.reserved.host),
        "needed_bytes": float(demand.launch.needs.host),
    }
    if draft.idle(victim):
        draft.note(victim.key, victim.launch.alias, "evicted", f"to make room for {alias!r}", numbers)
        draft.stop(victim, "evicted")
    else:
        why = (
            f"to make room for {alias!r}, which waited {draft.now - demand.since:.0f} s; it finishes its answers first"
        )
        draft.note(victim.key, victim.launch.alias, "evicted", why, numbers)
        draft.retire(victim, "evicted")


def _victim(draft: Draft, demand: Demand, claims: _Claims, *, idle_only: bool = False) -> Runner | None:
    """The runner to end; see the module. ``idle_only``: one that is idle and not pinned, or none."""
    ready = [
        runner
        for runner in draft.runners.values()
        if runner.phase is Phase.READY and _helps(draft, runner, demand, claims)
    ]
    overdue = draft.overdue(demand)
    movable = [runner for runner in ready if overdue or protected_until(draft, runner) <= draft.now]
    loose = [runner for runner in movable if not runner.launch.keep_alive.is_forever]
    idle = [runner for runner in loose if draft.idle(runner)]
    if idle:
        return min(idle, key=lambda runner: _worth(draft, runner))
    if idle_only:
        return None
    if overdue:
        weary = [runner for runner in loose if _tenure_ends(draft, runner) <= draft.now]
        if weary:
            return min(weary, key=lambda runner: runner.since)
    others_will_do = any(
        not runner.leaving and not runner.launch.keep_alive.is_forever for runner in draft.runners.values()
    )
    if others_will_do and not overdue:
        return None
    pinned = [runner for runner in movable if runner.launch.keep_alive.is_forever]
    idle = [runner for runner in pinned if draft.idle(runner)]
    if idle:
        return min(idle, key=lambda runner: _worth(draft, runner))
    busy = [runner for runner in pinned if overdue and _tenure_ends(draft, runner) <= draft.now]
    return min(busy, key=lambda runner: runner.since, default=None)


def _helps(draft: Draft, runner: Runner, demand: Demand, claims: _Claims) -> bool:
    """Whether its going would bring the demand closer to a place; one that retires still holds its own."""
    staying = [other for other in draft.runners.values() if other.phase is not Phase.DRAINING]
    if len(staying) + claims.slots >= draft.limits.slots:
        return True
    left = draft.capacity.without(sum((other.reserved for other in staying), claims.memory))
    needs = demand.launch.needs
    lacks_host = left.host is not None and left.host < needs.host
    lacks_device = left.device is not None and left.device < needs.device
    return (lacks_host and runner.reserved.host > 0) or (lacks_device and runner.reserved.device > 0)


def _worth(draft: Draft, runner: Runner) -> tuple[float, int]:
    """The smaller, the sooner it goes: the time it takes to load again, by the time nobody has missed it."""
    return max(runner.load_seconds, _QUICKEST) / max(draft.idle_seconds(runner), 1e-3), runner.id


def protected_until(draft: Draft, runner: Runner) -> float:
    """When an idle runner that was just loaded may be evicted for somebody else."""
    return runner.since + min(runner.load_seconds, draft.limits.residency)


def _tenure_ends(draft: Draft, runner: Runner) -> float:
    """When a busy runner has had its load time's worth."""
    return runner.since + min(runner.load_seconds, draft.limits.tenure)


def _refuse_too_large(draft: Draft, demand: Demand) -> None:
    needs, capacity = demand.launch.needs, draft.capacity
    on_host = capacity.host is not None and needs.host > capacity.host
    need, have = (needs.host, capacity.host) if on_host else (needs.device, capacity.device)
    where = "of memory" if on_host else "of accelerator memory"
    error = ModelTooLargeError(
        f"{demand.launch.alias!r} needs {binary_size(need)} {where}, and all runners together may have "
        f"{binary_size(have or 0)}: use a smaller quantization or context size, or see DMR_MAX_MEMORY",
        needs=need,
        has=have,
    )
    draft.refuse_where(lambda other: error if other.key == demand.key else None)
