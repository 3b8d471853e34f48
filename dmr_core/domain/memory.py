"""Amounts of memory: what a runner needs, what it was seen to use, and what there is for all of them."""

from __future__ import annotations

import re
from typing import Final

import attrs

from dmr_core.errors import InvalidConfigurationError

__all__ = ["Capacity", "Footprint", "Memory", "MemoryBudget", "binary_size"]

_AMOUNT: Final = re.compile(r"(?P<number>\d{1,18}(?:\.\d{1,6})?) ?(?P<unit>[A-Za-z]*|%)")
_SCALES: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
    **{letter: 1024**power for power, letter in enumerate("kmgt", 1)},
}


@attrs.frozen
class Memory:
    """Bytes of the machine's own memory (``host``) and of its accelerators' (``device``)."""

    host: int = 0
    device: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.host + other.host, self.device + other.device)

    def __bool__(self) -> bool:
        return self.host > 0 or self.device > 0

    def at_least(self, other: Memory) -> Memory:
        """The larger amount of each kind."""
        return Memory(max(self.host, other.host), max(self.device, other.device))


@attrs.frozen
class Capacity:
    """Bytes all runners may occupy together, by kind; ``None`` is a kind that is not limited, or not known."""

    host: int | None = None
    device: int | None = None

    def holds(self, wanted: Memory) -> bool:
        """Whether runners that need ``wanted`` together fit."""
        return (self.host is None or wanted.host <= self.host) and (self.device is None or wanted.device <= self.device)

    def without(self, used: Memory) -> Capacity:
        """What is left beside runners that need ``used``; never negative."""
        return Capacity(
            None if self.host is None else max(0, self.host - used.host),
            None if self.device is None else max(0, self.device - used.device),
        )


@attrs.frozen(kw_only=True)
class Footprint:
    """What one engine uses now, in bytes.

    ``resident`` is the proportional set size of all its processes (``Pss`` of ``/proc/PID/smaps_rollup``);
    ``anonymous`` the part of it that the kernel cannot drop; ``device`` what it holds on accelerators.
    """

    resident: int
    anonymous: int = 0
    device: int = 0

    @property
    def memory(self) -> Memory:
        """As an amount that can be reserved."""
        return Memory(self.resident, self.device)


@attrs.frozen(kw_only=True)
class MemoryBudget:
    """What the operator allows: at most ``limit`` bytes, or ``share`` of the machine's memory; or nothing is checked."""

    limit: int | None = None
    share: float | None = None
    enforced: bool = True

    @classmethod
    def parse(cls, text: str) -> MemoryBudget:
        """Read ``8GiB``, ``512MB``, ``80%`` or ``off``.

        Raises:
            InvalidConfigurationError: it is none of these.
        """
        word = text.strip()
        if word.lower() == "off":
            return cls(enforced=False)
        found = _AMOUNT.fullmatch(word)
        if found is not None and found["unit"] == "%" and 0 < float(found["number"]) <= 100:
            return cls(share=float(found["number"]) / 100)
        scale = _SCALES.get(found["unit"].lower()) if found is not None else None
        if found is None or scale is None or not (limit := int(float(found["number"]) * scale)):
            raise InvalidConfigurationError(
                f"{text!r} is no amount of memory: use bytes with a unit, such as 8GiB or 512MB, a share of the machine's "
                "such as 80%, or 'off'"
            )
        return cls(limit=limit)


def binary_size(count: int) -> str:
    """Bytes as people read memory: ``512 B``, ``1.5 GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
