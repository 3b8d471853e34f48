"""The table ``npu-smi info`` prints of Ascend NPUs.

Two lines for each chip: ``| NPU Name | Health | Power … |``, then ``| Chip [Device] | Bus-Id | AICore(%) Memory-Usage(MB)
HBM-Usage(MB) |`` with ``used / total`` pairs. A card of two chips has both lines twice. A second table, of processes, follows.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from dmr_adapters.gpu.wording import plain

__all__ = ["ARGUMENTS", "AscendNpu", "parse_table"]

ARGUMENTS: Final = ("info",)

_MIB: Final = 1 << 20
_VERSION: Final = re.compile(r"Version:\s*([\w.\-+]{1,60})")
_NAMED: Final = re.compile(r"^(\d{1,5})\s+([A-Za-z0-9][\w\-]{0,40})$")
_BUS: Final = re.compile(r"^(?:[0-9A-Fa-f]{4,8}:[0-9A-Fa-fxX]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]|NA)$")
_PAIR: Final = re.compile(r"(\d{1,9})\s*/\s*(\d{1,9})")


@attrs.frozen(kw_only=True)
class AscendNpu:
    """One chip. Memory in bytes; ``health`` as the tool calls it, ``OK`` where all is well."""

    card: int
    chip: int
    name: str
    health: str
    bus: str = ""
    total: int | None = None
    used: int | None = None


def parse_table(text: str) -> tuple[tuple[AscendNpu, ...], str]:
    """The chips, and the driver's version; no chip where it is nonsense."""
    version = _VERSION.search(text[:4096])
    found: list[AscendNpu] = []
    named: tuple[int, str, str] | None = None
    for line in text.splitlines()[:4096]:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3:
            continue
        if _BUS.match(cells[1]):
            if named is not None:
                found.append(_chip(named, cells))
            named = None
        elif head := _NAMED.match(cells[0]):
            named = (int(head[1]), head[2], cells[1])
    return tuple(found[:256]), version[1] if version else ""


def _chip(named: tuple[int, str, str], cells: list[str]) -> AscendNpu:
    card, name, health = named
    # The last pair with a total: chips without HBM say 0 / 0 there, those with it in the column before.
    pairs = [(int(used), int(total)) for used, total in _PAIR.findall(cells[2]) if int(total)]
    used, total = pairs[-1] if pairs else (None, None)
    chip = cells[0].split()
    return AscendNpu(
        card=card,
        chip=int(chip[0]) if chip and chip[0].isdigit() else 0,
        name=name,
        health=plain(health),
        bus="" if cells[1] == "NA" else cells[1],
        total=total * _MIB if total is not None else None,
        used=used * _MIB if used is not None else None,
    )
