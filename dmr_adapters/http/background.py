"""Work that outlives the request that started it, but not the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from dmr_core.errors import DmrError

__all__ = ["BackgroundTasks"]

_log: Final = logging.getLogger("dmr.http")


class BackgroundTasks:
    """Keeps tasks alive until they end, logs what becomes of them, and cancels the rest at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str, *, timeout: float) -> None:
        """Run ``work`` for ``timeout`` seconds at most."""
        task = asyncio.get_running_loop().create_task(self._run(work, name, timeout), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _task: work.close())  # cancelled before it began, nobody else would

    async def aclose(self) -> None:
        """Cancel what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, work: Coroutine[Any, Any, None], name: str, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await work
        except TimeoutError:
            _log.warning("%s: given up after %g s", name, timeout)
        except DmrError as exc:
            _log.warning("%s: %s", name, exc.message.partition("\n")[0])
