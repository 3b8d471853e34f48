"""Every clock keeps the promises of the port."""

import asyncio

import pytest

from dmr_adapters.clock import SystemClock
from dmr_core.ports.clock import Clock
from dmr_core.testing.contracts.clock import ClockContract
from dmr_core.testing.fakes.clock import FakeClock


class TestSystemClock(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()

    async def let_pass(self, clock: Clock, seconds: float) -> None:
        await asyncio.sleep(seconds)


class TestFakeClock(ClockContract):
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    async def let_pass(self, clock: Clock, seconds: float) -> None:
        assert isinstance(clock, FakeClock)
        await clock.advance(seconds)

    async def test_time_stands_still_by_itself(self, clock: FakeClock) -> None:
        before = clock.monotonic()
        await asyncio.sleep(0.01)
        assert clock.monotonic() == before

    async def test_who_sleeps_again_within_the_time_that_passes_wakes_again(self, clock: FakeClock) -> None:
        times = []

        async def tick() -> None:
            for _ in range(3):
                await clock.sleep(10)
                times.append(clock.monotonic())

        start = clock.monotonic()
        ticking = asyncio.create_task(tick())
        await clock.advance(35)
        await ticking
        assert [start + 10, start + 20, start + 30] == times
        assert clock.monotonic() == start + 35
        assert clock.sleepers == 0

    async def test_the_wall_clock_can_be_set_without_moving_the_other(self, clock: FakeClock) -> None:
        before = clock.monotonic()
        clock.set_time(5.0)
        assert (clock.monotonic(), clock.time()) == (before, 5.0)
