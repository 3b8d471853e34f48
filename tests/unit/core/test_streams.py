"""How many connections are let through, and when that number changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from dmr_core.services.streams import FetchLimits, StreamGate, StreamGates
from dmr_core.testing.fakes.clock import FakeClock

_LIMITS = FetchLimits(fast=1e9)
_MIB = 1024 * 1024


@asynccontextmanager
async def _crowd(gate: StreamGate, count: int) -> AsyncIterator[list[int]]:
    """``count`` connections that want to get in; gives who is."""
    inside: list[int] = []
    leave = asyncio.Event()

    async def one(number: int) -> None:
        async with gate.stream():
            inside.append(number)
            await leave.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
        await asyncio.sleep(0)
        try:
            yield inside
        finally:
            leave.set()


async def _window(clock: FakeClock, gate: StreamGate, received: int) -> None:
    await clock.advance(_LIMITS.window)
    gate.received(received)
    for _ in range(3):
        await asyncio.sleep(0)


def _gate(clock: FakeClock, limits: FetchLimits = _LIMITS) -> StreamGate:
    return StreamGates(limits, clock).of("registry.example")


async def test_connections_are_doubled_for_as_long_as_that_brings_more() -> None:
    clock = FakeClock()
    gate = _gate(clock)
    async with _crowd(gate, 20) as inside:
        assert len(inside) == 1
        await _window(clock, gate, 4 * _MIB)
        assert len(inside) == 2
        await _window(clock, gate, 6 * _MIB)  # while the second one starts
        await _window(clock, gate, 8 * _MIB)
        assert len(inside) == 4
        await _window(clock, gate, 12 * _MIB)
        await _window(clock, gate, 16 * _MIB)
        assert len(inside) == 8
        for _ in range(4):
            await _window(clock, gate, 32 * _MIB)
        assert len(inside) == 8 == _LIMITS.per_host


async def test_a_doubling_that_brings_nothing_is_taken_back_for_a_while() -> None:
    clock = FakeClock()
    gate = _gate(clock)
    async with _crowd(gate, 20):
        for _ in range(3):
            await _window(clock, gate, 4 * _MIB)
        assert gate.limit == 1
        await _window(clock, gate, 4 * _MIB)
        assert gate.limit == 1
        await clock.advance(_LIMITS.rest)
        gate.received(_MIB)
        assert gate.limit == 2


async def test_a_connection_that_is_fast_enough_stays_alone() -> None:
    clock = FakeClock()
    gate = _gate(clock, FetchLimits(fast=10 * _MIB))
    async with _crowd(gate, 20) as inside:
        for _ in range(5):
            await _window(clock, gate, 3 * _MIB)  # 15 MiB/s
        assert len(inside) == 1


async def test_silence_before_the_first_connection_is_not_taken_for_slowness() -> None:
    clock = FakeClock()
    gate = _gate(clock, FetchLimits(fast=10 * _MIB))
    await clock.advance(1000)
    async with _crowd(gate, 20) as inside:
        await _window(clock, gate, 3 * _MIB)
        assert len(inside) == 1


async def test_nothing_is_tried_while_nobody_waits() -> None:
    clock = FakeClock()
    gate = _gate(clock)
    async with _crowd(gate, 1):
        for _ in range(5):
            await _window(clock, gate, 4 * _MIB)
        assert gate.limit == 1


async def test_a_refused_connection_lowers_the_number() -> None:
    clock = FakeClock()
    gate = _gate(clock, FetchLimits(at_first=4, fast=1e9))
    async with _crowd(gate, 4):
        gate.shrink()
        assert gate.limit == 3
        gate.shrink()
        gate.shrink()
        gate.shrink()
        assert gate.limit == 1


async def test_all_hosts_together_keep_within_the_total() -> None:
    clock = FakeClock()
    gates = StreamGates(FetchLimits(total=3, at_first=2), clock)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(_crowd(gates.of("one"), 2))
        two = await stack.enter_async_context(_crowd(gates.of("two"), 2))
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(one) + len(two) == 3


async def test_whoever_gives_up_waiting_leaves_the_place_to_others() -> None:
    gate = _gate(FakeClock())
    async with _crowd(gate, 1):
        impatient = asyncio.create_task(_enter(gate))
        patient = asyncio.create_task(_enter(gate))
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
    await patient
    assert gate.is_idle


async def test_a_place_given_to_one_who_is_cancelled_at_that_moment_is_not_lost() -> None:
    gate = _gate(FakeClock())
    first = gate.stream()
    await first.__aenter__()
    waiting = asyncio.create_task(_enter(gate))
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)  # the place is handed over ...
    waiting.cancel()  # ... and nobody takes it
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert gate.is_idle
    await asyncio.wait_for(_enter(gate), 1)


def test_parts_grow_with_the_blob_within_bounds() -> None:
    limits = FetchLimits()
    assert limits.part_size(1) == limits.smallest_part
    assert limits.part_size(1024 * _MIB) == 32 * _MIB
    assert limits.part_size(100 * 1024 * _MIB) == limits.largest_part


async def _enter(gate: StreamGate) -> None:
    async with gate.stream():
        pass
