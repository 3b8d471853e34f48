"""NVIDIA GPUs, by the character devices of their driver (nvidia0, nvidia1 …)."""

from __future__ import annotations

from pathlib import Path

import attrs

from dmr_adapters.gpu.device_files import detect_by_files
from dmr_core.domain.gpu import Detection
from dmr_core.ports.gpu import GpuDetector

__all__ = ["CudaDetector"]


@attrs.frozen
class CudaDetector(GpuDetector):
    """Looks below ``dev`` for the driver's device files."""

    dev: Path = Path("/dev")

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        return detect_by_files(
            "cuda",
            self.dev,
            "nvidia[0-9]*",
            "NVIDIA GPU",
            "no /dev/nvidia* device: no NVIDIA GPU, or its driver is not loaded",
        )
