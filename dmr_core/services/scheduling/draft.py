"""One application of the rules in progress: the working copy of the state, and the small steps that change it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs

from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.memory import Memory
from dmr_core.errors import DmrError
from dmr_core.services.scheduling.events import Effect, Grant, Note, Refuse, Retire, Start, Stop
from dmr_core.services.scheduling.state import Demand, Observed, Phase, Runner, State

__all__ = ["Draft"]


class Draft:
    """What :func:`~.rules.apply` works on. Every change of a runner goes through one of its methods."""

    def __init__(self, state: State, observed: Observed) -> None:
        self.before = state
        self.limits = state.limits
        self.observed = observed
        self.now = observed.now
        self.runners = dict(state.runners)
        self.queue = list(state.queue)
        self.setbacks = dict(state.setbacks)
        self.turns = dict(state.turns)
        self.capacity = state.capacity
        self.next_id = state.next_id
        self.open = state.open
        self.effects: list[Effect] = []
        self._granted: Counter[int] = Counter()

    def finish(self) -> State:
        """The next state."""
        waited_for = {demand.key for demand in self.queue}
        return attrs.evolve(
            self.before,
            runners=self.runners,
            queue=tuple(self.queue),
            setbacks=self.setbacks,
            turns={key: at for key, at in self.turns.items() if key in waited_for},
            capacity=self.capacity,
            next_id=self.next_id,
            open=self.open,
        )

    # --- looking

    def leases(self, runner: Runner) -> int:
        """How many requests it answers, those granted just now included."""
        return self.observed.leases(runner.id) + self._granted[runner.id]

    def idle(self, runner: Runner) -> bool:
        """Whether nobody uses it."""
        return self.leases(runner) == 0

    def idle_seconds(self, runner: Runner) -> float:
        """How long nobody has used it."""
        return max(0.0, self.now - self.observed.idle_since(runner)) if self.idle(runner) else 0.0

    def has_room_for_one(self, runner: Runner) -> bool:
        """Whether it may answer one more request."""
        most = runner.launch.concurrency
        return runner.phase is Phase.READY and (most is None or self.leases(runner) < most)

    def of_key(self, key: RunnerKey) -> Runner | None:
        """The runner of a key, in whichever phase; there is never more than one."""
        return next((runner for runner in self.runners.values() if runner.key == key), None)

    def reserved(self, *, leaving: bool) -> Memory:
        """Memory that is taken, with or without what is about to be given back."""
        total = Memory()
        for runner in self.runners.values():
            if leaving or not runner.leaving:
                total += runner.reserved
        return total

    def waiting_since(self, demand: Demand) -> float:
        """Since when its model has been waiting for its turn."""
        return max(demand.since, self.turns.get(demand.key, demand.since))

    def overdue(self, demand: Demand) -> bool:
        """Whether a busy runner must yield to it."""
        return self.waiting_since(demand) + self.limits.patience <= self.now

    # --- changing

    def start(self, demand: Demand) -> Runner:
        """Begin to load what a demand asks for."""
        runner = Runner(id=self.next_id, key=demand.key, launch=demand.launch, phase=Phase.LOADING, since=self.now)
        self.next_id += 1
        self.runners[runner.id] = runner
        self.turns.pop(demand.key, None)
        self.effects.append(Start(runner.id, runner.key, runner.launch))
        numbers = {"waited_seconds": self.now - demand.since, "need_bytes": float(demand.launch.needs.host)}
        self.note(runner.key, runner.launch.alias, "loading", "it was asked for", numbers)
        return runner

    def grant(self, demand: Demand, runner: Runner) -> None:
        """Give a demand its lease."""
        self._granted[runner.id] += 1
        self.effects.append(Grant(demand.id, runner.id))

    def retire(self, runner: Runner, reason: str) -> None:
        """Let a busy runner finish what it does, and then end it."""
        self.move(runner, Phase.RETIRING, reason)
        self.turns[runner.key] = self.now
        self.effects.append(Retire(runner.id))

    def stop(self, runner: Runner, reason: str) -> None:
        """End a runner that nobody uses, or that is still loading."""
        if runner.phase is not Phase.LOADING:
            self.setbacks.pop(runner.key, None)  # it worked, and ends in good order: failures before it are no row
        self.move(runner, Phase.DRAINING, reason)
        self.turns[runner.key] = self.now
        self.effects.append(Stop(runner.id, reason))

    def move(self, runner: Runner, phase: Phase, reason: str = "") -> Runner:
        """Change a runner's phase."""
        moved = attrs.evolve(runner, phase=phase, since=self.now, reason=reason)
        self.runners[runner.id] = moved
        return moved

    def refuse(self, demand: Demand, error: DmrError) -> None:
        """Tell a demand no; the caller takes it off the queue."""
        self.effects.append(Refuse(demand.id, error))
        self.note(demand.key, demand.launch.alias, "refused", error.message.partition("\n")[0])

    def refuse_where(self, unwanted: Callable[[Demand], DmrError | None]) -> None:
        """Refuse every waiting demand that ``unwanted`` has an error for."""
        kept: list[Demand] = []
        for demand in self.queue:
            error = unwanted(demand)
            if error is None:
                kept.append(demand)
            else:
                self.refuse(demand, error)
        self.queue = kept

    def note(
        self, key: RunnerKey, alias: str, what: str, why: str = "", numbers: dict[str, float] | None = None
    ) -> None:
        """Remember a decision."""
        self.effects.append(Note(key, alias, what, why, numbers or {}))
