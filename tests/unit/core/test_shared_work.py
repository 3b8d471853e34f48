"""Work that many may wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from dmr_core.domain.progress import Progress
from dmr_core.errors import ShuttingDownError
from dmr_core.services.shared_work import SharedWork


async def test_work_that_is_cancelled_before_its_first_step_leaves_nobody_waiting() -> None:
    shared: SharedWork[str] = SharedWork("pull")
    begun = False

    async def work() -> AsyncGenerator[Progress, None]:
        nonlocal begun
        begun = True
        none: tuple[Progress, ...] = ()
        for line in none:
            yield line

    async def listen() -> None:
        async for _ in shared.follow("key", work):
            pass

    listener = asyncio.ensure_future(listen())
    await asyncio.sleep(0)  # the work has a task now, which did not run yet
    await shared.aclose()
    with pytest.raises(ShuttingDownError, match="the pull was cancelled"):
        await asyncio.wait_for(listener, 10)
    assert not begun
