"""Whether the kernel killed something for want of memory: its own count, per control group.

Formats: ``memory.events`` (``Documentation/admin-guide/cgroup-v2.rst``) and ``memory.oom_control`` of version 1
(``cgroup-v1/memory.rst``), both lines of a name and a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["OomCounter"]

_MOUNT: Final = "/sys/fs/cgroup"
_SYSTEM: Final = "/proc/vmstat"
_FIELD: Final = "oom_kill"


class OomCounter:
    """How often the kernel killed for memory in our control group, and on the whole machine.

    Children belong to our own group. The count of the machine alone would blame its killings elsewhere on us, so it
    is looked at only where there is no group of ours to look at.
    """

    def __init__(self) -> None:
        self._before = self._read()

    def counted(self) -> bool:
        """Whether the count has grown since this was made."""
        now = self._read()
        return now is not None and self._before is not None and now > self._before

    @staticmethod
    def _read() -> int | None:
        path = _source()
        return _count(path) if path is not None else None


@cache
def _source() -> str | None:
    return next((path for path in (*_candidates(), _SYSTEM) if _count(path) is not None), None)


def _candidates() -> Iterator[str]:
    """Files that may have our group's count, the closest first; a container sees its own group as the root."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield f"{_MOUNT}/memory{path}/memory.oom_control"
            yield f"{_MOUNT}/memory/memory.oom_control"
        elif not controllers:
            yield f"{_MOUNT}{path}/memory.events"


def _count(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - read at every start and end of an engine
            for line in file:
                name, _, value = line.partition(" ")
                if name == _FIELD:
                    return int(value)
    except (OSError, ValueError):
        pass
    return None
