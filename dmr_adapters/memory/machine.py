"""What the machine, and the control group this service runs in, really have.

Files as in ``proc(5)`` (``meminfo``), the kernel's ``cgroup-v2.rst`` and ``cgroup-v1/memory.rst``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

__all__ = ["HostMemory", "read_host_memory"]

_MEMINFO: Final = re.compile(r"^(\w+):\s+(\d{1,18}) kB$", re.MULTILINE)
_NO_LIMIT_V1: Final = 1 << 60
"""Version 1 says "no limit" with a number near 2**63 that depends on the page size."""


@attrs.frozen
class HostMemory:
    """Bytes there are, and bytes that can be had without swapping."""

    total: int
    available: int


def read_host_memory(root: Path = Path("/")) -> HostMemory | None:
    """The tightest of the machine and every control group above this process; ``None`` where nothing is told."""
    machine = _machine(root)
    if machine is None:
        return None
    total, available = machine.total, machine.available
    for group in _groups(root):
        total = min(total, group.total)
        available = min(available, group.available)
    return HostMemory(total, max(0, available))


def _machine(root: Path) -> HostMemory | None:
    figures = {name: int(kib) * 1024 for name, kib in _MEMINFO.findall(_text(root / "proc/meminfo"))}
    if "MemTotal" not in figures or "MemAvailable" not in figures:
        return None
    return HostMemory(figures["MemTotal"], figures["MemAvailable"])


def _groups(root: Path) -> list[HostMemory]:
    """The limits that bind us, from our own group up to the root of the hierarchy."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            found += _walk(root / "sys/fs/cgroup", path, _version_2)
        elif "memory" in controllers.split(","):
            found += _walk(root / "sys/fs/cgroup/memory", path, _version_1)
    return found


def _walk(mount: Path, path: str, read: Callable[[Path], HostMemory | None]) -> list[HostMemory]:
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    found = []
    while True:
        group = read(mount.joinpath(*parts))
        if group is not None:
            found.append(group)
        if not parts:
            return found
        parts.pop()


def _version_2(group: Path) -> HostMemory | None:
    limit = min(
        (value for name in ("memory.max", "memory.high") if (value := _number(group / name)) is not None), default=None
    )
    used = _number(group / "memory.current")
    if limit is None or used is None:
        return None
    return HostMemory(limit, limit - used + _reclaimable(group, ("inactive_file", "active_file")))


def _version_1(group: Path) -> HostMemory | None:
    limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    if limit is None or used is None or limit >= _NO_LIMIT_V1:
        return None
    return HostMemory(limit, limit - used + _reclaimable(group, ("total_inactive_file", "total_active_file")))


def _reclaimable(group: Path, names: tuple[str, ...]) -> int:
    """The page cache, which the kernel gives up before it kills anybody."""
    total = 0
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in names:
            total += _amount(value) or 0
    return total


def _number(path: Path) -> int | None:
    return _amount(_text(path).strip())  # "max" is no limit


def _amount(text: str) -> int | None:
    return int(text) if text.isdigit() and len(text) < 20 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
