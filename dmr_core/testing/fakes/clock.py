"""Time that passes when a test says so."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import Final

from dmr_core.ports.clock import Clock

__all__ = ["FakeClock"]

_TURNS: Final = 24
"""Turns of the loop given to whoever was woken, enough for what they started to reach its next wait."""


class FakeClock(Clock):
    """A clock that stands still until :meth:`advance`. Starts at ``now`` on both readings' scales."""

    def __init__(self, *, monotonic: float = 1000.0, time: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._offset = time - monotonic
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return self._monotonic

    def time(self) -> float:
        """See :class:`Clock`."""
        return self._monotonic + self._offset

    async def sleep(self, seconds: float) -> None:
        """See :class:`Clock`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many are waiting for time to pass."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass. Sleepers wake in order, each at its own time; what they do then runs.

        A sleeper that goes to sleep again within the time that passes is woken again.
        """
        end = self._monotonic + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            if woken.done():  # cancelled
                continue
            self._monotonic = max(self._monotonic, due)
            woken.set_result(None)
            await _settle()
        self._monotonic = end

    def set_time(self, time: float) -> None:
        """Change the wall clock, as people and NTP do; the monotonic reading is not moved by it."""
        self._offset = time - self._monotonic


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
