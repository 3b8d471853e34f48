"""What every clock promises."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import pytest

from dmr_core.ports.clock import Clock

__all__ = ["ClockContract"]

_TICK = 1 / 64  # a binary fraction, so that sums of it are exact


class ClockContract(ABC):
    """Subclass it, and say how to make a clock and how to let time pass on it."""

    @pytest.fixture
    @abstractmethod
    def clock(self) -> Clock:
        """The clock under test."""

    @abstractmethod
    async def let_pass(self, clock: Clock, seconds: float) -> None:
        """Let at least ``seconds`` pass on ``clock``, and those who slept until then run."""

    async def test_both_readings_follow_time(self, clock: Clock) -> None:
        monotonic, time = clock.monotonic(), clock.time()
        await self.let_pass(clock, _TICK)
        assert clock.monotonic() - monotonic >= _TICK
        assert clock.time() > time

    async def test_sleepers_wake_in_the_order_of_their_times(self, clock: Clock) -> None:
        woken = []

        async def sleep(seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append(seconds)

        async with asyncio.TaskGroup() as tasks:
            for seconds in (0.06, 0.02, 0.04):
                tasks.create_task(sleep(seconds))
            await asyncio.sleep(0)
            await self.let_pass(clock, 0.2)
        assert woken == [0.02, 0.04, 0.06]

    async def test_nobody_wakes_early(self, clock: Clock) -> None:
        started = clock.monotonic()
        sleeper = asyncio.create_task(clock.sleep(_TICK))
        await asyncio.sleep(0)
        await self.let_pass(clock, 0.2)
        await sleeper
        assert clock.monotonic() - started >= _TICK

    async def test_no_time_is_no_wait_but_lets_others_run(self, clock: Clock) -> None:
        ran: list[bool] = []
        asyncio.get_running_loop().call_soon(ran.append, True)
        await clock.sleep(0)
        await clock.sleep(-1)
        assert ran == [True]

    async def test_sleep_can_be_cancelled(self, clock: Clock) -> None:
        sleeper = asyncio.create_task(clock.sleep(1000))
        await asyncio.sleep(0)
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
