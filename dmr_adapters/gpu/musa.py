"""Moore Threads GPUs, by the character devices of their driver (mtgpu.0 …)."""

from __future__ import annotations

from pathlib import Path

import attrs

from dmr_adapters.gpu.device_files import detect_by_files
from dmr_core.domain.gpu import Detection
from dmr_core.ports.gpu import GpuDetector

__all__ = ["MusaDetector"]


@attrs.frozen
class MusaDetector(GpuDetector):
    """Looks below ``dev`` for the driver's device files."""

    dev: Path = Path("/dev")

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        return detect_by_files(
            "musa",
            self.dev,
            "mtgpu.[0-9]*",
            "Moore Threads GPU",
            "no /dev/mtgpu.* device: no Moore Threads GPU, or its driver is not loaded",
        )
