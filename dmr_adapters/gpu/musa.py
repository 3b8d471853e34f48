"""Moore Threads GPUs: by the driver's device files (``mtgpu.0`` …) whether there are any, then by ``mthreads-gmi``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.device_files import numbered_files
from dmr_adapters.gpu.pci import MOORE_THREADS, find_accelerators
from dmr_core.domain.gpu import Detection
from dmr_core.ports.gpu import GpuDetector

__all__ = ["MusaDetector"]

_LIMIT: Final = 8.0


@attrs.frozen(kw_only=True)
class MusaDetector(GpuDetector):
    """Looks at a machine whose file systems are at ``dev`` and ``sys``; ``gmi`` is the tool, ``None`` looks for it."""

    dev: Path = Path("/dev")
    sys: Path = Path("/sys")
    environ: Mapping[str, str] = attrs.field(factory=lambda: dict(os.environ))
    gmi: Path | None = None
    limit: float = _LIMIT

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        files = numbered_files(self.dev, "mtgpu.")
        if not files:
            return _none(await asyncio.to_thread(self._nothing))
        # Machines without such a GPU need not load what follows.
        from dmr_adapters.gpu.mthreads_driver import MthreadsDriver  # noqa: PLC0415 - see above

        return await MthreadsDriver(environ=self.environ, gmi=self.gmi, limit=self.limit).ask(files)

    def _nothing(self) -> str:
        found = find_accelerators(self.sys, MOORE_THREADS)
        if not found:
            return "No Moore Threads GPU: there is no /dev/mtgpu.0, and none on the PCI bus."
        named = ", ".join(device.address for device in found[:8])
        return (
            f"There is a Moore Threads GPU at {named}, but no /dev/mtgpu.0: install the driver, or load it with `modprobe mtgpu`; in a "
            "container, use the `mthreads` runtime with MTHREADS_VISIBLE_DEVICES=all."
        )


def _none(detail: str) -> Detection:
    return Detection(variant="musa", detail=detail)
