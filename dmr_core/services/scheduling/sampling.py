"""Looking at memory: what there is, and what each runner uses. Beside the pump, never in its way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import attrs

from dmr_core.domain.memory import Capacity, Footprint
from dmr_core.errors import DmrError
from dmr_core.ports.clock import Clock
from dmr_core.services.plugin_calls import guarded
from dmr_core.services.scheduling.lease import Handle

__all__ = ["CapacityReader", "Sample", "Sampler"]

_log: Final = logging.getLogger("dmr.scheduler")

CapacityReader = Callable[[], Awaitable[Capacity]]
"""Says what all runners may occupy together, now."""

_FRESH: Final = 1.0
_PERIOD: Final = 10.0
_TIMEOUT: Final = 2.0


@attrs.frozen
class Sample:
    """One look: the capacity, and what runners use, by their number."""

    capacity: Capacity
    used: dict[int, Footprint]


class Sampler:
    """Takes samples: every ten seconds while there are runners, and when somebody needs a fresh one."""

    def __init__(
        self,
        *,
        clock: Clock,
        capacity: CapacityReader | None,
        handles: Callable[[], Iterable[Handle]],
        report: Callable[[Sample], None],
    ) -> None:
        self._clock = clock
        self._capacity = capacity
        self._handles = handles
        self._report = report
        self._read_at = float("-inf")
        self._last = Capacity()
        self._reading: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[None] | None = None

    async def fresh(self) -> None:
        """Return once the capacity is known as of a second ago at most; no engine can hold that up. Never fails."""
        if self._clock.monotonic() - self._read_at < _FRESH:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read(), name="memory-capacity")
        await asyncio.wait({self._reading})

    async def take(self) -> None:
        """Take a whole sample now, or wait for the one that is being taken. Never fails."""
        if self._taking is None or self._taking.done():
            self._taking = asyncio.get_running_loop().create_task(self._take(), name="memory-sample")
        await asyncio.wait({self._taking})

    async def run(self) -> None:
        """Sample for ever."""
        while True:
            await self._clock.sleep(_PERIOD)
            if any(handle.engine for handle in self._handles()):
                await self.take()

    async def aclose(self) -> None:
        """Stop what is being taken."""
        tasks = [task for task in (self._reading, self._taking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self) -> None:
        handles = [handle for handle in self._handles() if handle.engine is not None]
        measuring = asyncio.gather(*(_footprint(handle) for handle in handles))
        try:
            await self._read()
            found = await measuring
        finally:
            measuring.cancel()
        used = {handle.id: seen for handle, seen in zip(handles, found, strict=True) if seen is not None}
        if used:
            self._report(Sample(self._last, used))

    async def _read(self) -> None:
        """Report what there is now; what there was last, where that cannot be told in time."""
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT):
                self._last = await self._capacity() if self._capacity else Capacity()
        except TimeoutError:
            _log.warning("the machine's memory could not be read within %g s", _TIMEOUT)
        except Exception:
            _log.exception("reading the machine's memory failed")
        self._read_at = began
        self._report(Sample(self._last, {}))


async def _footprint(handle: Handle) -> Footprint | None:
    """What one engine uses; one that does not tell in time holds up nobody else's figures."""
    engine = handle.engine
    if engine is None:
        return None
    try:
        return await guarded(engine.memory, f"{handle.key}: memory()", timeout=_TIMEOUT)
    except DmrError as exc:
        _log.warning("%s", exc.message)
        return None
