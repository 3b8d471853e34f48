"""Graphics and compute devices on the PCI bus, whether or not a driver knows them.

Reads what the kernel keeps in memory (``Documentation/ABI/testing/sysfs-bus-pci``); no device is woken by it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import attrs

__all__ = ["ACCELERATOR", "AMD", "DISPLAY", "HUAWEI", "MOORE_THREADS", "NVIDIA", "PciDevice", "find_accelerators"]

NVIDIA: Final = 0x10DE
AMD: Final = 0x1002
MOORE_THREADS: Final = 0x1ED5
HUAWEI: Final = 0x19E5

DISPLAY: Final = 0x03
"""The class of display controllers, VGA and 3D."""

ACCELERATOR: Final = 0x12
"""The class of processing accelerators."""

_MOST: Final = 4096


@attrs.frozen
class PciDevice:
    """Its address (``0000:00:06.0``), and the kernel module that drives it; empty where none does."""

    address: str
    driver: str


def find_accelerators(
    sys: Path, vendor: int, classes: tuple[int, ...] = (DISPLAY, ACCELERATOR)
) -> tuple[PciDevice, ...]:
    """Those of one vendor, by address."""
    bus = sys / "bus/pci/devices"
    try:
        addresses = sorted(os.listdir(bus))[:_MOST]  # noqa: PTH208 - names, not paths
    except OSError:
        return ()
    return tuple(
        PciDevice(address, _driver(bus / address))
        for address in addresses
        if _number(bus / address / "vendor") == vendor and (_number(bus / address / "class") or 0) >> 16 in classes
    )


def _driver(device: Path) -> str:
    try:
        return (device / "driver").readlink().name
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_bytes()[:32], 16)
    except (OSError, ValueError):
        return None
