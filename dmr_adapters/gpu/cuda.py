"""NVIDIA GPUs: by the driver's device files whether there are any, then by its library (NVML), else by ``nvidia-smi``.

``NVIDIA_VISIBLE_DEVICES`` speaks to a container runtime, which has obeyed it before we start: it renumbers what it lets in, and
with CDI says ``void`` beside GPUs that are there. So of its values ``none`` alone hides GPUs that can be seen; the others explain
why there are none. ``CUDA_VISIBLE_DEVICES`` counts as it does for every CUDA program.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.device_files import numbered_files
from dmr_adapters.gpu.nvidia_absence import nothing_here
from dmr_core.domain.gpu import Detection
from dmr_core.ports.gpu import GpuDetector

__all__ = ["CudaDetector"]

_VARIANT: Final = "cuda"

_LIMIT: Final = 8.0
"""Seconds. A machine with eight GPUs and no persistence daemon wakes each of them first, which takes seconds."""

# Not imported, as it would bring ctypes into every service, and most have no such GPU.
_NVML: Final = (sys.executable, "-I", "-S", str(Path(__file__).with_name("nvml.py")))


@attrs.frozen(kw_only=True)
class CudaDetector(GpuDetector):
    """Looks at a machine whose file systems are at ``dev``, ``sys`` and ``proc``.

    ``nvml`` is the program that reads the library, ``smi`` the tool that is asked where that cannot; ``None`` looks for it.
    """

    dev: Path = Path("/dev")
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    environ: Mapping[str, str] = attrs.field(factory=lambda: dict(os.environ))
    nvml: tuple[str, ...] = _NVML
    smi: Path | None = None
    limit: float = _LIMIT

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        files = numbered_files(self.dev, "nvidia")
        if not files and not (self.dev / "dxg").exists():
            return _none(await asyncio.to_thread(nothing_here, self.sys, self.proc, self.environ))
        if self.environ.get("NVIDIA_VISIBLE_DEVICES", "").strip() == "none":
            return _none("NVIDIA_VISIBLE_DEVICES=none hides the GPUs of this machine: set it to `all` to use them.")
        # Machines without such a GPU need not load what follows.
        from dmr_adapters.gpu.nvidia_driver import NvidiaDriver  # noqa: PLC0415 - see above

        driver = NvidiaDriver(
            dev=self.dev, proc=self.proc, environ=self.environ, nvml=self.nvml, smi=self.smi, limit=self.limit
        )
        return await driver.ask(files)


def _none(detail: str) -> Detection:
    return Detection(variant=_VARIANT, detail=detail)
