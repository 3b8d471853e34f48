"""AMD GPUs, by the memory the amdgpu driver reports in sysfs (``mem_info_vram_total``)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from dmr_core.domain.gpu import Detection, GpuDevice
from dmr_core.ports.gpu import GpuDetector

__all__ = ["RocmDetector"]

_MISSING: Final = "no /dev/kfd: no AMD GPU, or its compute driver is not loaded"


@attrs.frozen
class RocmDetector(GpuDetector):
    """Needs the compute device ``/dev/kfd`` and at least one card with video memory of its own."""

    dev: Path = Path("/dev")
    drm: Path = Path("/sys/class/drm")

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        if not (self.dev / "kfd").exists():
            return Detection(variant="rocm", detail=_MISSING)
        devices: list[GpuDevice] = []
        for card in sorted(self.drm.glob("card[0-9]*/device"), key=lambda path: (len(path.parent.name), path)):
            total = _number(card / "mem_info_vram_total")
            if total:
                used = _number(card / "mem_info_vram_used")
                free = total - used if used is not None else None
                name = f"AMD GPU ({card.parent.name})"
                devices.append(GpuDevice(index=len(devices), name=name, memory_total=total, memory_free=free))
        detail = "" if devices else "/dev/kfd exists, but no card reports video memory"
        return Detection(variant="rocm", devices=tuple(devices), detail=detail)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None
