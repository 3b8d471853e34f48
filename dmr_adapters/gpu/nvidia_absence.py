"""Why there is no device file of an NVIDIA GPU, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dmr_adapters.gpu.pci import NVIDIA, find_accelerators

__all__ = ["nothing_here"]

_VERSION = r"(?<!\S)\d{2,4}(?:\.\d{1,4}){1,3}(?!\S)"


def nothing_here(sys: Path, proc: Path, environ: Mapping[str, str]) -> str:
    """Why there is no device file."""
    version = _driver_version(proc)
    if version is not None:
        asked = environ.get("NVIDIA_VISIBLE_DEVICES")
        setting = f" (NVIDIA_VISIBLE_DEVICES={asked!r})" if asked is not None and asked != "all" else ""
        return (
            f"The NVIDIA driver {version} is loaded, but there is no /dev/nvidia0{setting}: start the container with "
            "`--gpus all`; outside of one, run `nvidia-modprobe -c 0 -u`."
        )
    found = find_accelerators(sys, NVIDIA)
    if not found:
        return "No NVIDIA GPU: there is no /dev/nvidia0, and none on the PCI bus."
    named = ", ".join(device.address for device in found[:8])
    drivers = sorted({device.driver for device in found if device.driver and device.driver != "nvidia"})
    if drivers:
        return f"The NVIDIA GPU at {named} is driven by {', '.join(drivers)}, which cannot compute with CUDA: install NVIDIA's driver."
    return (
        f"There is an NVIDIA GPU at {named}, but no /dev/nvidia0: install NVIDIA's driver, or load it with `modprobe nvidia`; "
        "in a container, start it with `--gpus all`."
    )


def _driver_version(proc: Path) -> str | None:
    try:
        text = (proc / "driver/nvidia/version").read_bytes()[:4096].decode("ascii", "replace")
    except OSError:
        return None
    found = re.search(_VERSION, text)
    return found[0] if found else "(of unknown version)"
