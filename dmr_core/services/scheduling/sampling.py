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
        self._taken = float("-inf")
        self._last = Capacity()
        self._taking: asyncio.Task[None] | None = None

    async def fresh(self) -> None:
        """Return once there is a sample that is at most a second old. Shared by all who ask meanwhile."""
        if self._clock.monotonic() - self._taken < _FRESH:
            return
        await self.take()

    async def take(self) -> None:
        """Take a sample now, or wait for the one that is being taken. Never fails."""
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
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.gather(self._taking, return_exceptions=True)

    async def _take(self) -> None:
        handles = [handle for handle in self._handles() if handle.engine is not None]
        measuring = asyncio.gather(*(_footprint(handle) for handle in handles))
        capacity = await self._read_capacity()
        found = await measuring
        self._taken = self._clock.monotonic()
        used = {handle.id: seen for handle, seen in zip(handles, found, strict=True) if seen is not None}
        self._report(Sample(capacity, used))

    async def _read_capacity(self) -> Capacity:
        """What there is now; what there was last, where that cannot be told in time."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                self._last = await self._capacity() if self._capacity else Capacity()
        except TimeoutError:
            _log.warning("the machine's memory could not be read within %g s", _TIMEOUT)
        except Exception:
            _log.exception("reading the machine's memory failed")
        return self._last


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
