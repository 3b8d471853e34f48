"""Who waits for a runner: the promises made to them, and how long each has waited."""

from __future__ import annotations

import asyncio
from collections import Counter

import attrs

from dmr_core.domain.engine import RunnerKey
from dmr_core.errors import DmrError
from dmr_core.ports.clock import Clock
from dmr_core.ports.metrics import Metrics
from dmr_core.services.scheduling.lease import Lease

__all__ = ["Waiters"]


@attrs.frozen
class _Waiter:
    promise: asyncio.Future[Lease]
    key: RunnerKey
    since: float


class Waiters:
    """Everybody in the queue, by the number of their demand."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._waiting: dict[int, _Waiter] = {}
        self._by_key: Counter[RunnerKey] = Counter()
        self._last = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def any_for(self, key: RunnerKey) -> bool:
        """Whether somebody waits for a runner of this key."""
        return key in self._by_key

    def add(self, key: RunnerKey) -> tuple[int, asyncio.Future[Lease]]:
        """One more; the number of the demand, and what is promised."""
        self._last += 1
        waiter = _Waiter(asyncio.get_running_loop().create_future(), key, self._clock.monotonic())
        self._waiting[self._last] = waiter
        self._by_key[key] += 1
        self._metrics.waiting(change=1)
        return self._last, waiter.promise

    def remove(self, demand_id: int, outcome: str) -> asyncio.Future[Lease] | None:
        """One less, and how the wait ended: ``granted``, ``refused`` or ``abandoned``; ``None`` if it had ended before."""
        waiter = self._waiting.pop(demand_id, None)
        if waiter is None:
            return None
        self._by_key[waiter.key] -= 1
        if not self._by_key[waiter.key]:
            del self._by_key[waiter.key]
        self._metrics.waiting(change=-1)
        waited = self._clock.monotonic() - waiter.since
        self._metrics.waited(backend=waiter.key.backend, outcome=outcome, seconds=waited)
        return waiter.promise

    def refuse_all(self, error: DmrError) -> None:
        """Break every promise; whoever waits takes themselves out."""
        for waiter in self._waiting.values():
            if not waiter.promise.done():
                waiter.promise.set_exception(error)
