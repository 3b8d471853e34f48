"""Registers the built-in detectors through the same hook a third party uses, one entry point each."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from dmr_adapters.gpu.cann import CannDetector
from dmr_adapters.gpu.cpu import CpuDetector
from dmr_adapters.gpu.cuda import CudaDetector
from dmr_adapters.gpu.musa import MusaDetector
from dmr_adapters.gpu.rocm import RocmDetector
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import DetectorSpec

__all__ = ["cann", "cpu", "cuda", "musa", "rocm"]


@attrs.frozen
class _DetectorPlugin:
    spec: DetectorSpec

    @hookimpl
    def dmr_gpu_detectors(self) -> Iterable[DetectorSpec]:
        yield self.spec


cpu = _DetectorPlugin(DetectorSpec(variant="cpu", summary="The processor", priority=0, factory=CpuDetector))
cuda = _DetectorPlugin(DetectorSpec(variant="cuda", summary="NVIDIA GPUs", priority=40, factory=CudaDetector))
rocm = _DetectorPlugin(DetectorSpec(variant="rocm", summary="AMD GPUs", priority=30, factory=RocmDetector))
musa = _DetectorPlugin(DetectorSpec(variant="musa", summary="Moore Threads GPUs", priority=20, factory=MusaDetector))
cann = _DetectorPlugin(DetectorSpec(variant="cann", summary="Ascend NPUs", priority=10, factory=CannDetector))
