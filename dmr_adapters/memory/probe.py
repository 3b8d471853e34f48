"""The memory probe: the machine, and what our own engines hold of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from dmr_adapters.memory.machine import read_host_memory
from dmr_core.domain.gpu import CPU, Detection
from dmr_core.domain.memory import Footprint
from dmr_core.ports.memory import MachineMemory, MemoryProbe

__all__ = ["MachineMemoryProbe"]

_PATIENCE: Final = 1.0
"""Seconds that a look at the accelerators may take; where it takes longer, what was known stands."""

_FRESH: Final = 2.0
"""Seconds for which what was seen needs no other look, as at the start of the service."""

_SETTLING: Final = 15.0
"""Seconds after our engines were last seen in which less free memory may still be theirs: drivers release it late."""


class MachineMemoryProbe(MemoryProbe):
    """Reads ``/proc`` and ``/sys`` below ``root``, in a thread.

    ``engines`` measures all our engines together; ``detections`` is what the accelerators' detectors saw before any engine ran.
    ``look`` has them look again; it gives ``None`` while engines of ours are there, as what those hold would count as taken.
    """

    def __init__(
        self,
        engines: Callable[[], Awaitable[Footprint | None]],
        detections: tuple[Detection, ...] = (),
        root: Path = Path("/"),
        *,
        look: Callable[[], Awaitable[tuple[Detection, ...] | None]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = engines
        self._devices = _total_and_free(detections)
        self._root = root
        self._look = look if self._devices[0] is not None else None
        self._held_at = float("-inf")
        self._now = now
        self._seen_at = now()

    async def read(self) -> MachineMemory | None:
        """See :class:`MemoryProbe`."""
        # Together: between the two, an engine could take what is available, and it would be counted for both.
        host, engines, _ = await asyncio.gather(
            asyncio.to_thread(read_host_memory, self._root), self._engines(), self._renew()
        )
        if host is None:
            return None
        device_total, device_free = self._devices
        return MachineMemory(
            total=host.total,
            available=host.available,
            engines=engines.anonymous if engines else 0,
            device_total=device_total,
            device_available=device_free,
        )

    async def _renew(self) -> None:
        """Look at the accelerators again, as others may have come or gone."""
        if self._look is None or self._now() - self._seen_at < _FRESH:
            return
        self._seen_at = self._now()
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await self._look()
        except TimeoutError:
            return
        if found is None:
            self._held_at = self._now()
            return
        total, free = _total_and_free(found)
        known = self._devices[1]
        if total is None or free is None:
            return
        if known is not None and self._now() - self._held_at < _SETTLING:
            free = max(free, known)
        self._devices = total, free


def _total_and_free(detections: tuple[Detection, ...]) -> tuple[int | None, int | None]:
    """What all accelerators have together, in bytes; ``None`` if one does not tell."""
    devices = [device for found in detections if found.variant != CPU for device in found.devices]
    totals = [device.memory_total for device in devices]
    free = [device.memory_free if device.memory_free is not None else device.memory_total for device in devices]
    if not devices or None in totals:
        return None, None
    return sum(size or 0 for size in totals), sum(size or 0 for size in free)
