"""What the rules of scheduling know: the state they change, and the moment they look at.

The vocabulary is in ``events.py``, the rules are in ``rules.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

import attrs

from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.memory import Capacity, Memory
from dmr_core.errors import DmrError
from dmr_core.services.scheduling.events import Launch

__all__ = ["Demand", "Launch", "Limits", "Observed", "Phase", "Runner", "Setback", "State", "Usage"]


class Phase(StrEnum):
    """Life of a runner. It holds its slot and its memory in every phase."""

    LOADING = "loading"
    READY = "ready"
    RETIRING = "retiring"  # takes no new work; stops when the last answer is done
    DRAINING = "draining"  # being stopped, or cleared up after it ended by itself


@attrs.frozen(kw_only=True)
class Limits:
    """The figures the rules go by; times in seconds.

    ``slots``: runners at once. ``queue``: requests that may wait. ``wait``: how long one may. ``patience``: how long
    it waits before a busy runner must yield. A runner that was just loaded is given some of its load time back before
    it is evicted: idle, at most ``residency``; busy, at most ``tenure``.
    """

    slots: int
    queue: int = 512
    wait: float = 300.0
    patience: float = 10.0
    residency: float = 2.0
    tenure: float = 60.0


@attrs.frozen(kw_only=True)
class Runner:
    """One engine process, or the place of one.

    ``since`` is when the phase began (seconds, monotonic); ``load_seconds`` how long loading took, and ``ready_at`` when
    it ended; ``used`` the most
    memory it was seen to use.
    """

    id: int
    key: RunnerKey
    launch: Launch
    phase: Phase
    since: float
    reason: str = ""
    load_seconds: float = 0.0
    ready_at: float | None = None
    used: Memory | None = None

    @property
    def reserved(self) -> Memory:
        """Memory that is its own: what it was expected to need, or more where it was seen to use more."""
        return self.launch.needs if self.used is None else self.launch.needs.at_least(self.used)

    @property
    def leaving(self) -> bool:
        """Whether its place will be free."""
        return self.phase in (Phase.RETIRING, Phase.DRAINING)


@attrs.frozen
class Demand:
    """Somebody waits for a runner of ``key`` since ``since``, until ``until`` at most; ``tries`` counts failed loads."""

    id: int
    key: RunnerKey
    launch: Launch
    since: float
    until: float = math.inf
    tries: int = 0


@attrs.frozen(kw_only=True)
class Setback:
    """Loads or runs of a key that failed in a row; see ``setbacks.py``.

    No load before ``retry_at``, nor before the runners in ``after`` are gone.
    """

    failures: int
    error: DmrError
    at: float
    retry_at: float
    after: frozenset[int] = frozenset()


@attrs.frozen(kw_only=True)
class State:
    """Everything the rules know.

    ``queue`` is in order of arrival. ``turns`` says when a key that is still waited for lost its place to another one:
    its remaining demands queue up behind those that were there at that moment.
    """

    limits: Limits
    runners: Mapping[int, Runner] = attrs.field(factory=dict)
    queue: tuple[Demand, ...] = ()
    setbacks: Mapping[RunnerKey, Setback] = attrs.field(factory=dict)
    turns: Mapping[RunnerKey, float] = attrs.field(factory=dict)
    capacity: Capacity = attrs.field(factory=Capacity)
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

    def leases(self, runner_id: int) -> int:
        """How many requests it answers now."""
        found = self.usage.get(runner_id)
        return found.leases if found else 0

    def idle_since(self, runner: Runner) -> float:
        """When it was last used, or became ready."""
        found = self.usage.get(runner.id)
        return max(found.idle_since, runner.since) if found else runner.since
