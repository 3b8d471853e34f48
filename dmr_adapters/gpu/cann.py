"""Ascend NPUs: by the driver's device files (``davinci0`` …) whether there are any, then by ``npu-smi``.

``davinci_manager`` is the driver's, not a device. A virtual NPU given to a container has a ``davinci`` file and a line in the table
like any other, with the memory it was given.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.device_files import numbered_files
from dmr_adapters.gpu.pci import ACCELERATOR, HUAWEI, find_accelerators
from dmr_core.domain.gpu import Detection
from dmr_core.ports.gpu import GpuDetector

__all__ = ["CannDetector"]

_LIMIT: Final = 8.0
_BESIDE: Final = ("davinci_manager", "devmm_svm", "hisi_hdc")
"""Files without which no NPU can be used."""


@attrs.frozen(kw_only=True)
class CannDetector(GpuDetector):
    """Looks at a machine whose file systems are at ``dev`` and ``sys``; ``smi`` is the tool, ``None`` looks for it."""

    dev: Path = Path("/dev")
    sys: Path = Path("/sys")
    environ: Mapping[str, str] = attrs.field(factory=lambda: dict(os.environ))
    smi: Path | None = None
    limit: float = _LIMIT

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        files = numbered_files(self.dev, "davinci")
        if not files:
            return _none(await asyncio.to_thread(self._nothing))
        missing = [f"/dev/{name}" for name in _BESIDE if not (self.dev / name).exists()]
        if missing:
            return _none(
                f"There is /dev/{files[0]}, but not {', '.join(missing)}, which every NPU needs: give the container these devices "
                "too, or use the Ascend Docker runtime."
            )
        # Machines without an NPU need not load what follows.
        from dmr_adapters.gpu.ascend_driver import AscendDriver  # noqa: PLC0415 - see above

        return await AscendDriver(environ=self.environ, smi=self.smi, limit=self.limit).ask(files)

    def _nothing(self) -> str:
        found = find_accelerators(self.sys, HUAWEI, (ACCELERATOR,))  # its display controllers are the board's
        if not found:
            return "No Ascend NPU: there is no /dev/davinci0, and none on the PCI bus."
        named = ", ".join(device.address for device in found[:8])
        return (
            f"There is an Ascend NPU at {named}, but no /dev/davinci0: install its driver and firmware; in a container, use the Ascend "
            "Docker runtime, or `--device /dev/davinci0` with davinci_manager, devmm_svm and hisi_hdc."
        )


def _none(detail: str) -> Detection:
    return Detection(variant="cann", detail=detail)
