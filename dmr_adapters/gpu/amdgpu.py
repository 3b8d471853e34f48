"""AMD GPUs as the kernel tells of them in sysfs.

``class/kfd/kfd/topology/nodes/N/properties`` has a node for each compute device, and for each partition of one (the kernel's
``kfd_topology.c``); the PCI device has its memory (``Documentation/gpu/amdgpu``, "GPU Memory Usage Information").
Everything here is read from the kernel's memory: no GPU is woken, and nothing can hang.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.wording import plain

__all__ = ["AmdGpu", "Topology", "read_topology"]

_LOCAL: Final = (1, 2)
"""Heap types of memory banks that are the device's own: visible to the processor, and not."""

_MOST_NODES: Final = 1024
_MOST_BYTES: Final = 65536
_PROPERTY: Final = re.compile(r"^(\w{1,40}) (\d{1,20})$", re.MULTILINE)

_APUS: Final = frozenset(
    {
        "gfx902",
        "gfx909",
        "gfx90c",
        "gfx1033",
        "gfx1035",
        "gfx1036",
        "gfx1037",
        "gfx1103",
        "gfx1150",
        "gfx1151",
        "gfx1152",
        "gfx1153",
    }
)
"""Targets (LLVM's AMDGPU guide) that are part of a processor."""


@attrs.frozen(kw_only=True)
class AmdGpu:
    """A compute device, or a partition of one. Memory in bytes; ``gtt`` figures are of the machine's memory.

    ``bank`` is what the compute driver says is its own, for a partition its share; ``partition`` the mode, as ``CPX``.
    """

    node: int
    target: str
    name: str = ""
    bus: str = ""
    uuid: str = ""
    minor: int | None = None
    partition: str = ""
    bank: int | None = None
    vram_total: int | None = None
    vram_used: int | None = None
    gtt_total: int | None = None
    gtt_used: int | None = None

    @property
    def integrated(self) -> bool:
        """Whether it is part of a processor."""
        return self.target in _APUS


@attrs.frozen
class Topology:
    """All of them, in the order of the compute driver, and how many nodes the control group hides."""

    gpus: tuple[AmdGpu, ...]
    denied: int = 0
    driver: str = ""


def read_topology(sys: Path) -> Topology:
    """What is below ``sys``; empty where the compute driver is not there."""
    nodes = sys / "class/kfd/kfd/topology/nodes"
    try:
        numbers = sorted(int(name) for name in os.listdir(nodes) if name.isascii() and name.isdigit())  # noqa: PTH208
    except OSError:
        return Topology(())
    gpus, denied = [], 0
    for number in numbers[:_MOST_NODES]:
        try:
            text = (nodes / str(number) / "properties").read_bytes()[:_MOST_BYTES].decode("ascii", "replace")
        except PermissionError:  # how a control group that has not this device shows
            denied += 1
            continue
        except OSError:
            continue
        properties = {name: int(value) for name, value in _PROPERTY.findall(text)}
        if properties.get("gfx_target_version", 0) and properties.get("simd_count", 1):
            gpus.append(_gpu(sys, nodes / str(number), number, properties))
    return Topology(tuple(gpus), denied, _text(sys / "module/amdgpu/version"))


def _gpu(sys: Path, node: Path, number: int, properties: dict[str, int]) -> AmdGpu:
    location, domain = properties.get("location_id", 0), properties.get("domain", 0)
    bus = f"{domain & 0xFFFF:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"
    minor = properties.get("drm_render_minor") or None
    device = sys / "bus/pci/devices" / bus
    if not (device / "mem_info_vram_total").exists() and minor is not None:
        device = sys / f"class/drm/renderD{minor}/device"
    unique = properties.get("unique_id", 0)
    return AmdGpu(
        node=number,
        target=_target(properties["gfx_target_version"]),
        name=_text(device / "product_name") or _text(node / "name"),
        bus=bus if location else "",
        uuid=f"GPU-{unique:016x}" if unique else "",
        minor=minor,
        partition=_text(device / "current_compute_partition"),
        bank=_bank(node),
        vram_total=_number(device / "mem_info_vram_total"),
        vram_used=_number(device / "mem_info_vram_used"),
        gtt_total=_number(device / "mem_info_gtt_total"),
        gtt_used=_number(device / "mem_info_gtt_used"),
    )


def _target(version: int) -> str:
    """As LLVM calls it: two decimal digits each of the major, the minor and the step, the last two written in hexadecimal."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _bank(node: Path) -> int | None:
    total = 0
    try:
        banks = sorted(os.listdir(node / "mem_banks"))[:16]  # noqa: PTH208
    except OSError:
        return None
    for bank in banks:
        found = {
            name: int(value) for name, value in _PROPERTY.findall(_whole(node / "mem_banks" / bank / "properties"))
        }
        if found.get("heap_type") in _LOCAL:
            total += found.get("size_in_bytes", 0)
    return total or None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _text(path: Path) -> str:
    return plain(_whole(path))


def _whole(path: Path) -> str:
    try:
        return path.read_bytes()[:_MOST_BYTES].decode("utf-8", "replace")
    except OSError:
        return ""
