"""The time of the system we run on."""

from __future__ import annotations

import asyncio
import time

from dmr_core.ports.clock import Clock

__all__ = ["SystemClock"]


class SystemClock(Clock):
    """The operating system's clocks, and the event loop's sleep."""

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()

    def time(self) -> float:
        """See :class:`Clock`."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """See :class:`Clock`."""
        await asyncio.sleep(seconds)
