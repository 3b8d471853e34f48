"""How many connections to keep busy at once.

More connections help where each one is slow (a distant registry, a limit per connection) and only cost where the
disk, the processor or the line is what limits. Which of the two it is cannot be asked, so it is tried: the number
is doubled for as long as the bytes per second grow with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs

from dmr_core.ports.clock import Clock

__all__ = ["FetchLimits", "StreamGate", "StreamGates"]

_MIB: Final = 1024 * 1024
_GLANCE: Final = 0.02  # seconds that tell fast from slow, if not how fast


@attrs.frozen(kw_only=True)
class FetchLimits:
    """Bounds on fetching. Sizes in bytes, times in seconds.

    A connection that is fast enough alone is asked for up to ``longest_request`` at once, in which parts follow each other.
    ``window`` is how long a number of connections is measured before it is judged, ``gain`` what doubling it has to
    bring, ``rest`` how long a verdict holds; at ``fast`` bytes per second nothing is tried. A connection that brings less than ``slow_bytes`` in ``slow_window``
    counts as stalled, however steadily it drips. A blob of which nothing came for ``silence`` is given up at the next
    failure of a connection.
    """

    total: int = 16
    per_host: int = 8
    at_first: int = 1
    smallest_part: int = 8 * _MIB
    largest_part: int = 64 * _MIB
    longest_request: int = 1024 * _MIB
    attempts: int = 5
    first_wait: float = 0.25
    longest_wait: float = 8.0
    fast: float = 200.0 * _MIB
    window: float = 0.2
    gain: float = 1.25
    rest: float = 5.0
    slow_window: float = 30.0
    slow_bytes: int = 64 * 1024
    silence: float = 45.0

    def part_size(self, size: int) -> int:
        """How long the parts of a blob of ``size`` bytes are."""
        even = -(-size // (4 * self.per_host))
        return min(self.largest_part, max(self.smallest_part, -(-even // _MIB) * _MIB))


class StreamGate:
    """Lets connections to one host through, as many as proved useful."""

    def __init__(self, limits: FetchLimits, clock: Clock, total: asyncio.Semaphore) -> None:
        self.limit = min(limits.at_first, limits.per_host)
        self._limits = limits
        self._clock = clock
        self._total = total
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._since = clock.monotonic()
        self._bytes = 0
        self._rate = 0.0
        self._before: tuple[int, float] | None = None  # the limit that a trial began with, and its bytes per second
        self._settling = False
        self._rest_until = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it or waits for it."""
        return not self._active and not self._waiting

    @property
    def is_fast(self) -> bool:
        """Whether one connection is found to be enough."""
        elapsed = self._clock.monotonic() - self._since
        rate = self._bytes / elapsed if elapsed >= _GLANCE else self._rate
        return self.limit == 1 and rate >= self._limits.fast

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """Hold the right to one connection."""
        await self._enter()
        try:
            async with self._total:
                yield
        finally:
            self._active -= 1
            self._admit()

    def received(self, count: int) -> None:
        """Note bytes that came in; called for every chunk."""
        self._bytes += count
        now = self._clock.monotonic()
        if now - self._since >= self._limits.window:
            self._judge(now)

    def shrink(self) -> None:
        """The host refused one more connection: make do with fewer, for a while."""
        self.limit = max(1, min(self.limit, self._active) - 1)
        self._before = None
        self._rest_until = self._clock.monotonic() + self._limits.rest
        self._begin(self._clock.monotonic())

    def _begin(self, now: float) -> None:
        self._since, self._bytes = now, 0

    def _judge(self, now: float) -> None:
        rate = self._rate = self._bytes / (now - self._since)
        self._begin(now)
        if not self._waiting:  # nobody waited: whether more would have been better cannot be told
            self._before, self._settling = None, False
            return
        if self._settling:  # connections that were let in during the window just over
            self._settling = False
            return
        if self._before is not None:
            limit, earlier = self._before
            if rate < earlier * self._limits.gain:
                self.limit, self._before = limit, None
                self._rest_until = now + self._limits.rest
                return
        may_grow = self.limit < self._limits.per_host and rate < self._limits.fast
        if now >= self._rest_until and may_grow:
            self._before = (self.limit, rate)
            self.limit = min(self._limits.per_host, 2 * self.limit)
            self._settling = True
            self._admit()

    async def _enter(self) -> None:
        if self.is_idle:
            self._begin(self._clock.monotonic())  # the silence before says nothing
        if self._active < self.limit and not self._waiting:
            self._active += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._active -= 1
                self._admit()
            else:
                self._waiting.remove(turn)
            raise

    def _admit(self) -> None:
        while self._waiting and self._active < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._active += 1
                turn.set_result(None)


class StreamGates:
    """A gate for every host in use, and one bound for all of them."""

    def __init__(self, limits: FetchLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._total = asyncio.Semaphore(limits.total)
        self._gates: dict[str, StreamGate] = {}

    def of(self, host: str) -> StreamGate:
        """The gate of ``host``. What is learned about a host is forgotten when too many are known."""
        if host not in self._gates:
            if len(self._gates) >= 64:
                self._gates = {name: gate for name, gate in self._gates.items() if not gate.is_idle}
            self._gates[host] = StreamGate(self._limits, self._clock, self._total)
        return self._gates[host]
