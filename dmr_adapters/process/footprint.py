"""How much memory processes use, as Linux accounts for it.

The proportional set size counts a page that several processes share only once among them, so those of a process
and its workers can be added up (``proc(5)``, ``smaps_rollup``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dmr_core.domain.memory import Footprint

__all__ = ["footprint_of"]

_KIB: Final = re.compile(rb"^(\w+):\s+(\d{1,18}) kB$", re.MULTILINE)


def footprint_of(pids: Iterable[int], proc: Path = Path("/proc")) -> Footprint | None:
    """What these processes use together; ``None`` if there is nothing to be read about any of them."""
    resident = anonymous = 0
    seen = False
    for pid in pids:
        found = _rollup(proc / str(pid) / "smaps_rollup") or _status(proc / str(pid) / "status")
        if found is not None:
            resident, anonymous, seen = resident + found[0], anonymous + found[1], True
    return Footprint(resident=resident, anonymous=anonymous) if seen else None


def _rollup(path: Path) -> tuple[int, int] | None:
    figures = _figures(path)
    if b"Pss" not in figures:
        return None
    anonymous = figures.get(b"Pss_Anon", figures.get(b"Anonymous", 0))
    return figures[b"Pss"], anonymous + figures.get(b"Pss_Shmem", 0)


def _status(path: Path) -> tuple[int, int] | None:
    """The resident set, where the kernel has no rollup or keeps it from us; what is shared counts more than once."""
    figures = _figures(path)
    if b"VmRSS" not in figures:
        return None
    return figures[b"VmRSS"], figures.get(b"RssAnon", 0) + figures.get(b"RssShmem", 0)


def _figures(path: Path) -> dict[bytes, int]:
    try:
        return {name: int(kib) * 1024 for name, kib in _KIB.findall(path.read_bytes())}
    except OSError:
        return {}
