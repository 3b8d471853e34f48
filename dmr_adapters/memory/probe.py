"""The memory probe: the machine, and what our own engines hold of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from dmr_adapters.memory.machine import read_host_memory
from dmr_core.domain.gpu import CPU, Detection
from dmr_core.domain.memory import Footprint
from dmr_core.ports.memory import MachineMemory, MemoryProbe

__all__ = ["MachineMemoryProbe"]


class MachineMemoryProbe(MemoryProbe):
    """Reads ``/proc`` and ``/sys`` below ``root``, in a thread.

    ``engines`` measures all our engines together; ``detections`` is what the accelerators' detectors saw.
    """

    def __init__(
        self,
        engines: Callable[[], Awaitable[Footprint | None]],
        detections: tuple[Detection, ...] = (),
        root: Path = Path("/"),
    ) -> None:
        self._engines = engines
        self._detections = detections
        self._root = root

    async def read(self) -> MachineMemory | None:
        """See :class:`MemoryProbe`."""
        # Together: between the two, an engine could take what is available, and it would be counted for both.
        host, engines = await asyncio.gather(asyncio.to_thread(read_host_memory, self._root), self._engines())
        if host is None:
            return None
        device_total, device_free = self._devices()
        return MachineMemory(
            total=host.total,
            available=host.available,
            engines=engines.anonymous if engines else 0,
            device_total=device_total,
            device_available=device_free,
        )

    def _devices(self) -> tuple[int | None, int | None]:
        """What accelerators had when they were looked at, which was before any engine ran; ``None`` if one does not tell."""
        devices = [device for found in self._detections if found.variant != CPU for device in found.devices]
        totals = [device.memory_total for device in devices]
        free = [device.memory_free if device.memory_free is not None else device.memory_total for device in devices]
        if not devices or None in totals:
            return None, None
        return sum(size or 0 for size in totals), sum(size or 0 for size in free)
