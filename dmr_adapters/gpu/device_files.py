"""Seeing an accelerator by the device files its kernel driver makes.

A directory listing: it costs nothing where the hardware is absent, and cannot hang.
"""

from __future__ import annotations

from pathlib import Path

from dmr_core.domain.gpu import Detection, GpuDevice

__all__ = ["detect_by_files"]


def detect_by_files(variant: str, root: Path, pattern: str, name: str, missing: str) -> Detection:
    """One device per file below ``root`` that matches ``pattern``; ``missing`` says what it means that there is none."""
    # By length first: number 10 comes after number 2.
    found = sorted(root.glob(pattern), key=lambda path: (len(path.name), path.name)) if root.is_dir() else []
    devices = tuple(GpuDevice(index=index, name=f"{name} ({path.name})") for index, path in enumerate(found))
    return Detection(variant=variant, devices=devices, detail="" if devices else missing)
