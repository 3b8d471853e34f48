"""The processor itself, with the memory this process may use: the machine's, or its control group's limit."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import attrs

from dmr_core.domain.gpu import Detection, GpuDevice
from dmr_core.ports.gpu import GpuDetector

__all__ = ["CpuDetector"]


@attrs.frozen
class CpuDetector(GpuDetector):
    """Always finds one device. Memory comes from ``/proc/meminfo`` and cgroup v2's ``memory.max``."""

    meminfo: Path = Path("/proc/meminfo")
    cgroup: Path = Path("/sys/fs/cgroup")

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        total, free = self._machine()
        limit, used = _bytes(self.cgroup / "memory.max"), _bytes(self.cgroup / "memory.current")
        if limit is not None and (total is None or limit < total):
            total = limit
            if used is not None:
                free = min(limit - used, free) if free is not None else limit - used
            elif free is not None:
                free = min(limit, free)
        name = f"{platform.machine()}, {os.cpu_count() or 1} cores"
        return Detection(variant="cpu", devices=(GpuDevice(index=0, name=name, memory_total=total, memory_free=free),))

    def _machine(self) -> tuple[int | None, int | None]:
        try:
            lines = self.meminfo.read_text(errors="replace").splitlines()
        except OSError:
            return None, None
        found = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
        return _kibibytes(found.get("MemTotal")), _kibibytes(found.get("MemAvailable"))


def _kibibytes(fields: list[str] | None) -> int | None:
    return int(fields[0]) * 1024 if fields and fields[0].isdecimal() else None


def _bytes(path: Path) -> int | None:
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
