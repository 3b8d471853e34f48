"""The processor itself, with the memory and the cores that this process may use: the machine's, or its control groups' share.

Files as in ``proc(5)`` and the kernel's ``cgroup-v2.rst`` (``cpu.max``) and ``sched-bwc.rst`` (``cpu.cfs_quota_us``).
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

from dmr_adapters.gpu.wording import plain
from dmr_adapters.memory.machine import read_host_memory
from dmr_core.domain.gpu import CPU, Detection, GpuDevice
from dmr_core.ports.gpu import GpuDetector

__all__ = ["CpuDetector"]

_MOST_BYTES: Final = 4 << 20
_MODEL: Final = re.compile(r"^(?:model name|Model|cpu model)\s*: (.{1,120})$", re.MULTILINE)


def _affinity() -> int:
    """Cores the scheduler lets us have."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # systems without affinity


@attrs.frozen(kw_only=True)
class CpuDetector(GpuDetector):
    """Always finds one device, on a machine whose ``proc`` and ``sys`` are below ``root``."""

    root: Path = Path("/")
    affinity: Callable[[], int] = _affinity

    async def detect(self) -> Detection:
        """See :class:`GpuDetector`."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> Detection:
        memory = read_host_memory(self.root)
        cores = self.affinity()
        quota = _quota(self.root)
        text = f"{cores} core{'' if cores == 1 else 's'}"
        if quota is not None and quota < cores:
            text = f"{quota:g} of {text} by control group"
        model = _MODEL.search(_text(self.root / "proc/cpuinfo"))
        device = GpuDevice(
            index=0,
            name=f"{(plain(model[1]) if model else '') or platform.machine()}, {text}",
            memory_total=memory.total if memory is not None else None,
            memory_free=memory.available if memory is not None else None,
            memory_used=memory.total - memory.available if memory is not None else None,
            architecture=platform.machine(),
            shares_host_memory=True,
        )
        detail = "" if memory is not None else "This system does not tell how much memory there is."
        return Detection(variant=CPU, devices=(device,), detail=detail)


def _quota(root: Path) -> float | None:
    """Cores' worth of time the tightest control group allows; ``None`` where none limits."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            found += [_quota_of(_text(group / "cpu.max").split()) for group in _above(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            mounts = (root / "sys/fs/cgroup/cpu", root / "sys/fs/cgroup/cpu,cpuacct")
            mount = next((mount for mount in mounts if mount.is_dir()), mounts[0])
            found += [
                _quota_of([_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")])
                for group in _above(mount, path)
            ]
    return min((quota for quota in found if quota is not None), default=None)


def _above(mount: Path, path: str) -> list[Path]:
    """A group's folder and those of all above it."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _quota_of(figures: list[str]) -> float | None:
    texts = [text.strip() for text in figures]
    if len(texts) != 2 or not all(text.isascii() and text.isdigit() and len(text) < 16 for text in texts):
        return None  # "max", or -1, or nothing
    quota, period = int(texts[0]), int(texts[1])
    return round(quota / period, 2) if quota and period else None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
