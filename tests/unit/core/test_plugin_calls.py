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
