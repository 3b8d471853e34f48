"""AMD GPUs as devices: which of them can be reached, what memory each has, and what variables leave of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.amdgpu import AmdGpu, Topology, read_topology
from dmr_adapters.gpu.visible import select_visible
from dmr_adapters.memory.machine import read_host_memory
from dmr_core.domain.gpu import Detection, GpuDevice

__all__ = ["GROUP", "AmdDriver"]

_GIB: Final = 1 << 30

GROUP: Final = "add its user to the group that owns it (`render`, on some systems `video`), and log in again"
"""What to do about a file that cannot be opened."""


@attrs.frozen(kw_only=True)
class AmdDriver:
    """Settings as those of :class:`~dmr_adapters.gpu.rocm.RocmDetector`."""

    dev: Path
    sys: Path
    proc: Path
    environ: Mapping[str, str]
    may_use: Callable[[Path], bool]

    def ask(self) -> Detection:
        """What it says of its GPUs."""
        topology = read_topology(self.sys)
        notes: list[str] = []
        gpus = [gpu for gpu in topology.gpus if self._reachable(gpu, notes)]
        if not gpus:
            return _none(" ".join(notes) or _nobody(topology))
        units = [(gpu, self._device(gpu, topology, notes)) for gpu in gpus]
        devices = self._visible([device for _, device in units], notes)
        return Detection(variant="rocm", devices=devices, detail=" ".join(dict.fromkeys(notes)))

    def _reachable(self, gpu: AmdGpu, notes: list[str]) -> bool:
        """Whether the file through which its memory is mapped can be used."""
        file = self.dev / f"dri/renderD{gpu.minor}"
        if gpu.minor is None or self.may_use(file):
            return True
        label = gpu.bus or f"node {gpu.node}"
        if file.exists():
            notes.append(f"This process may not open /dev/dri/{file.name} of the AMD GPU at {label}: {GROUP}.")
        else:
            notes.append(
                f"/dev/dri/{file.name} of the AMD GPU at {label} is missing: give the container `--device /dev/dri`."
            )
        return False

    def _device(self, gpu: AmdGpu, topology: Topology, notes: list[str]) -> GpuDevice:
        parts = Counter(other.bus for other in topology.gpus)[gpu.bus] if gpu.bus else 1
        total, used = gpu.vram_total, gpu.vram_used
        free = max(0, total - used) if total is not None and used is not None else None
        shared = gpu.integrated and (gpu.gtt_total or 0) > (total or 0)
        name = gpu.name if gpu.name and gpu.name != "ip discovery" else "AMD GPU"
        if shared:
            # As the driver itself decides: the larger of the two is what programs get.
            total, used, free = self._borrowed(gpu)
            carved = f"{gpu.vram_total / _GIB:.1f}" if gpu.vram_total else "0"
            notes.append(
                f"{name} ({gpu.target}) is part of the processor and computes in the machine's memory, of which it may have "
                f"{(total or 0) / _GIB:.1f} GiB (ttm.pages_limit); {carved} GiB are set aside for it by the firmware."
            )
        elif parts > 1:
            share = gpu.bank if gpu.bank is not None else (total // parts if total else None)
            # What is free is known of the whole alone; each has its share of it, so that together they have no more.
            free = free * share // total if free is not None and share and total else None
            total, used = share, None
        elif total is None:
            total = gpu.bank
        mode = f" {gpu.partition} partition {_position(gpu, topology)}" if parts > 1 else ""
        return GpuDevice(
            index=0,
            name=f"{name}{mode}",
            memory_total=total or None,
            memory_free=min(free, total) if free is not None and total else None,
            memory_used=used,
            uuid=gpu.uuid,
            bus=gpu.bus,
            driver=topology.driver,
            architecture=gpu.target,
            parent=gpu.bus if parts > 1 else "",
            shares_host_memory=shared,
        )

    def _borrowed(self, gpu: AmdGpu) -> tuple[int | None, int | None, int | None]:
        total, used = gpu.gtt_total, gpu.gtt_used
        free = max(0, total - used) if total is not None and used is not None else None
        host = read_host_memory(self.proc.parent)
        if free is not None and host is not None:
            free = min(free, host.available)
        return total, used, free

    def _visible(self, devices: list[GpuDevice], notes: list[str]) -> tuple[GpuDevice, ...]:
        for names in (("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")):
            name = next((name for name in names if name in self.environ), None)
            if name is None:
                continue
            value = self.environ[name]
            selection = select_visible(value, [device.uuid for device in devices])
            if selection.broken and selection.broken != "-1":
                notes.append(f"{name}={value!r}: {selection.broken!r} names no GPU here, or one twice; correct it.")
            elif devices and not selection.kept:
                notes.append(f"{name}={value!r} hides every GPU: unset it to use them.")
            devices = [devices[position] for position in selection.kept]
        return tuple(attrs.evolve(device, index=index) for index, device in enumerate(devices))


def _position(gpu: AmdGpu, topology: Topology) -> int:
    return [other.node for other in topology.gpus if other.bus == gpu.bus].index(gpu.node)


def _nobody(topology: Topology) -> str:
    if topology.denied:
        return (
            "The container's control group denies the AMD GPUs: start it with `--device /dev/kfd --device /dev/dri`, or with the "
            "AMD device plugin."
        )
    return "There is /dev/kfd, but the compute driver knows no GPU: see `dmesg` for messages of amdgpu, and whether ROCm supports it."


def _none(detail: str) -> Detection:
    return Detection(variant="rocm", detail=detail)
