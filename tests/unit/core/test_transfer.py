"""Progress of transfers: not too much of it, never silence, and no place lost while waiting for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.services.transfer import ProgressMeter, at_most, take
from dmr_core.testing.fakes.clock import FakeClock

_LAYER = Digest.of(b"layer")
_WAITING = Progress(kind=ProgressKind.PROGRESS, message="Waiting", mode=TransferMode.PULL)


async def _collect(lines: AsyncGenerator[Progress, None], found: list[Progress]) -> None:
    async with aclosing(lines) as following:
        async for line in following:
            found.append(line)  # noqa: PERF401 - one by one, so that the test sees them come


async def test_a_layer_is_told_ten_times_a_second_and_at_its_end() -> None:
    clock = FakeClock()
    meter = ProgressMeter(TransferMode.PULL, "Downloaded", clock)
    done = asyncio.Event()

    async def work() -> None:
        for current in range(1, 101):
            await clock.sleep(0.01)
            meter.advance(LayerProgress(_LAYER, 100, current))
        done.set()

    found: list[Progress] = []
    following = asyncio.create_task(_collect(meter.follow(asyncio.ensure_future(work())), found))
    for _ in range(101):
        await clock.advance(0.01)
    await following
    told = [line.layer.current for line in found if line.layer]
    assert 10 <= len(told) <= 12
    assert told[-1] == 100


async def test_silence_is_filled_with_the_last_line() -> None:
    clock = FakeClock()
    meter = ProgressMeter(TransferMode.PULL, "Downloaded", clock)
    work = asyncio.ensure_future(asyncio.sleep(1000))
    found: list[Progress] = []
    following = asyncio.create_task(_collect(meter.follow(work), found))
    await clock.advance(10)
    assert [line.message for line in found] == ["Waiting"]
    meter.advance(LayerProgress(_LAYER, 10, 5))
    await clock.advance(25)
    assert [line.layer.current for line in found if line.layer] == [5, 5, 5]
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert work.cancelled()


async def test_a_free_place_is_taken_without_a_word() -> None:
    slots = asyncio.Semaphore(1)
    assert [line async for line in take(FakeClock(), slots, _WAITING)] == []
    assert slots.locked()


async def test_waiting_for_a_place_is_told_every_ten_seconds() -> None:
    clock, slots = FakeClock(), asyncio.Semaphore(1)
    await slots.acquire()
    found: list[Progress] = []
    waiting = asyncio.create_task(_collect(take(clock, slots, _WAITING), found))
    await clock.advance(25)
    assert len(found) == 3
    slots.release()
    await waiting
    assert slots.locked()


async def test_a_place_is_not_lost_when_its_taker_leaves() -> None:
    clock, slots = FakeClock(), asyncio.Semaphore(1)
    await slots.acquire()
    waiting = asyncio.create_task(_collect(take(clock, slots, _WAITING), []))
    await clock.advance(1)
    slots.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not slots.locked()


async def test_the_first_failure_of_several_is_the_one_that_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("first")

    async def wait() -> None:
        await asyncio.sleep(1000)

    with pytest.raises(ValueError, match="first"):
        await at_most(2, [wait, fail, wait])
