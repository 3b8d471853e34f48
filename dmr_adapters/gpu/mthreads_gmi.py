"""What ``mthreads-gmi -q`` tells of Moore Threads GPUs: with ``--json`` an object, else indented ``Key : value`` lines.

The object's ``GPU`` is a list with ``Index``, ``Product Name``, ``GPU UUID``, and under ``FB Memory Usage`` a ``Total`` and a ``Used``
such as ``49152MiB``. The text has the same names below a heading ``GPU0``; tools too old for ``--json`` print that.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import attrs

from dmr_adapters.gpu.wording import plain

__all__ = ["ARGUMENTS", "MthreadsGpu", "parse_report"]

ARGUMENTS: Final = (("-q", "--json"), ("-q",))
"""What to ask, the better first."""

_SIZE: Final = re.compile(r"(\d{1,12})\s*(KiB|MiB|GiB|KB|MB|GB)")
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_HEADING: Final = re.compile(r"^\s*GPU\s*(\d{1,4})\b[^:]*$|^\s*GPU\s*(\d{1,4})\s+[0-9a-fA-F]{4,8}:")
_LINE: Final = re.compile(r"^\s*([A-Za-z][\w /()]{0,60}?)\s*:\s*(.*?)\s*$")
_FRAME_BUFFER: Final = "FB Memory Usage"


@attrs.frozen(kw_only=True)
class MthreadsGpu:
    """One GPU; memory in bytes."""

    index: int
    name: str = ""
    uuid: str = ""
    bus: str = ""
    total: int | None = None
    used: int | None = None


def parse_report(text: str) -> tuple[tuple[MthreadsGpu, ...], str]:
    """The GPUs, and the driver's version; no GPU where it is nonsense."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _from_text(text)
    if not isinstance(found, dict) or not isinstance(found.get("GPU"), list):
        return (), ""
    items = [item for item in found["GPU"] if isinstance(item, dict)][:256]
    gpus = tuple(gpu for position, item in enumerate(items) if (gpu := _gpu(item, position)) is not None)
    return gpus, plain(found.get("Driver Version"))


def _from_text(text: str) -> tuple[tuple[MthreadsGpu, ...], str]:
    items: list[dict[str, Any]] = []
    driver, section = "", ""
    for line in text.splitlines()[:20000]:
        if heading := _HEADING.match(line):
            items.append({"Index": heading[1] or heading[2], _FRAME_BUFFER: {}})
            section = ""
        elif (pair := _LINE.match(line)) is None:
            section = line.strip()
        elif pair[1] == "Driver Version" and not items:
            driver = plain(pair[2])
        elif items and not pair[2]:
            section = pair[1]
        elif items and section == _FRAME_BUFFER:
            items[-1][_FRAME_BUFFER].setdefault(pair[1], pair[2])
        elif items:
            items[-1].setdefault(pair[1], pair[2])
    gpus = tuple(gpu for position, item in enumerate(items[:256]) if (gpu := _gpu(item, position)) is not None)
    return gpus, driver


def _gpu(item: dict[str, Any], position: int) -> MthreadsGpu | None:
    name = plain(item.get("Product Name"))
    memory = item.get(_FRAME_BUFFER)
    memory = memory if isinstance(memory, dict) else {}
    total = _bytes(memory.get("Total")) or None
    if not name and total is None:
        return None
    index = str(item.get("Index", position))
    pci = item.get("PCI") or item.get("Pci")
    return MthreadsGpu(
        index=int(index) if index.isascii() and index.isdigit() and len(index) < 5 else position,
        name=name,
        uuid=plain(item.get("GPU UUID")),
        bus=plain(pci.get("Bus Id") if isinstance(pci, dict) else item.get("Bus Id")),
        total=total,
        used=_bytes(memory.get("Used")) if total else None,
    )


def _bytes(found: object) -> int | None:
    size = _SIZE.match(found.strip()) if isinstance(found, str) else None
    return int(size[1]) * _UNITS[size[2][0]] if size is not None else None
