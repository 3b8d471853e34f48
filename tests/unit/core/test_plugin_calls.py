"""Whatever a plugin's coroutine does, its caller gets a result or a condition."""

from __future__ import annotations

import asyncio

import pytest

from dmr_core.errors import DeadlineError, ModelNotFoundError, UpstreamError
from dmr_core.services import plugin_calls
from dmr_core.services.plugin_calls import guarded


async def test_results_and_conditions_pass() -> None:
    async def works() -> int:
        return 7

    async def refuses() -> int:
        raise ModelNotFoundError("m")

    assert await guarded(works, "works()") == 7
    with pytest.raises(ModelNotFoundError):
        await guarded(refuses, "refuses()")


@pytest.mark.parametrize("raised", [ValueError("bad"), SystemExit(3), GeneratorExit(), asyncio.CancelledError()])
async def test_everything_else_becomes_a_condition_that_names_the_call(raised: BaseException) -> None:
    async def breaks() -> None:
        raise raised

    with pytest.raises(UpstreamError, match=r"plugin: stop\(\) failed"):
        await guarded(breaks, "plugin: stop()")


async def test_a_call_that_takes_too_long_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(DeadlineError, match=r"hangs\(\) took longer than 0.01 s"):
        await guarded(hangs, "hangs()", timeout=0.01)
    assert cancelled.is_set()


async def test_a_call_is_waited_for_when_its_caller_is_cancelled() -> None:
    cleaned = asyncio.Event()

    async def cleans_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    caller = asyncio.ensure_future(guarded(cleans_up, "cleans_up()"))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cleaned.is_set()


async def test_a_call_that_cannot_be_cancelled_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugin_calls, "_FAREWELL", 0.01)
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(DeadlineError):
        await guarded(stubborn, "stubborn()", timeout=0.01)
    assert "stubborn() does not end although it was cancelled" in caplog.text
    release.set()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("turns", [1, 2])
async def test_a_result_that_nobody_waits_for_any_more_is_disposed_of(turns: int) -> None:
    """Whether the call had returned already when its caller was cancelled, or returns although it is cancelled."""
    disposed: list[int] = []

    async def makes() -> int:
        if turns > 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return 7
        return 7

    async def dispose(made: int) -> None:
        await asyncio.sleep(0)
        disposed.append(made)

    caller = asyncio.ensure_future(guarded(makes, "makes()", unwanted=dispose))
    for _ in range(2):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert disposed == [7]


async def test_a_result_that_comes_too_late_is_disposed_of() -> None:
    disposed: list[int] = []

    async def lingers() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 7
        return 0

    async def dispose(made: int) -> None:
        disposed.append(made)

    with pytest.raises(DeadlineError):
        await guarded(lingers, "lingers()", timeout=0.01, unwanted=dispose)
    assert disposed == [7]
