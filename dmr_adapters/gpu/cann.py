"""Ascend NPUs, by the character devices of their driver (davinci0 …; davinci_manager is no device)."""

from __future__ import annotations

from pathlib import Path

import attrs

from dmr_adapters.gpu.device_files import detect_by_files
from dmr_core.domain.gpu import Detection
from dmr_core.ports.gpu import GpuDetector

__all__ = ["CannDetector"]


@attrs.frozen
class CannDetector(GpuDetector):
    """Looks below ``dev`` for the driver's device files."""

    dev: Path = Path("/dev")

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        return detect_by_files(
            "cann",
            self.dev,
            "davinci[0-9]*",
            "Ascend NPU",
            "no /dev/davinci* device: no Ascend NPU, or its driver is not loaded",
        )
