"""AMD GPUs, by what the amdgpu driver tells in sysfs; see :mod:`dmr_adapters.gpu.amdgpu` and :mod:`~dmr_adapters.gpu.amd_driver`.

``ROCR_VISIBLE_DEVICES`` chooses among them first, ``HIP_VISIBLE_DEVICES`` (else ``CUDA_VISIBLE_DEVICES``, which HIP takes as well)
among those it left; see "GPU isolation techniques" of the ROCm documentation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.patience import look_within
from dmr_adapters.gpu.pci import AMD, find_accelerators
from dmr_core.domain.gpu import Detection
from dmr_core.ports.gpu import GpuDetector

__all__ = ["RocmDetector"]

_LIMIT: Final = 8.0


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


@attrs.frozen(kw_only=True)
class RocmDetector(GpuDetector):
    """Looks at a machine whose file systems are at ``dev``, ``sys`` and ``proc``; ``may_use`` says whether we may open a file."""

    dev: Path = Path("/dev")
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    environ: Mapping[str, str] = attrs.field(factory=lambda: dict(os.environ))
    may_use: Callable[[Path], bool] = _may_use
    limit: float = _LIMIT

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        try:
            return await look_within(self.limit, self._look)
        except TimeoutError:
            return _none(
                f"The amdgpu driver did not answer within {self.limit:g} s: see `dmesg` for messages of amdgpu, and restart the machine."
            )

    def _look(self) -> Detection:
        kfd = self.dev / "kfd"
        if not kfd.exists():
            return _none(self._without_driver())
        # Machines without such a GPU need not load what follows.
        from dmr_adapters.gpu.amd_driver import GROUP, AmdDriver  # noqa: PLC0415 - see above

        if not self.may_use(kfd):
            return _none(f"This process may not open /dev/kfd, which computing on an AMD GPU needs: {GROUP}.")
        return AmdDriver(dev=self.dev, sys=self.sys, proc=self.proc, environ=self.environ, may_use=self.may_use).ask()

    def _without_driver(self) -> str:
        found = find_accelerators(self.sys, AMD)
        if not found:
            return "No AMD GPU: there is no /dev/kfd, and none on the PCI bus."
        named = ", ".join(device.address for device in found[:8])
        if any(device.driver == "amdgpu" for device in found):
            return (
                f"The AMD GPU at {named} has its driver, but there is no /dev/kfd: start the container with `--device /dev/kfd "
                "--device /dev/dri`; outside of one, the kernel was built without CONFIG_HSA_AMD."
            )
        driver = next((device.driver for device in found if device.driver), "")
        using = f" It is driven by {driver}." if driver else ""
        return f"There is an AMD GPU at {named}, but no /dev/kfd: install the amdgpu driver, or load it with `modprobe amdgpu`.{using}"


def _none(detail: str) -> Detection:
    return Detection(variant="rocm", detail=detail)
