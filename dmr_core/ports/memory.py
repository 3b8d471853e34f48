"""How much memory the machine really has, and what was learnt about models that ran."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import attrs

from dmr_core.domain.memory import Memory

__all__ = ["FootprintLedger", "MachineMemory", "MemoryProbe"]


@attrs.frozen(kw_only=True)
class MachineMemory:
    """One reading, in bytes.

    ``available`` is what could be had without swapping, the tighter of the machine and the control group this
    service runs in; ``engines`` is what our own engines hold and the kernel cannot drop, so that it would become
    available if they ended. Device figures are ``None`` where no driver tells.
    """

    total: int
    available: int
    engines: int = 0
    device_total: int | None = None
    device_available: int | None = None
    device_engines: int = 0


class MemoryProbe(Protocol):
    """Reads the machine's memory."""

    @abstractmethod
    async def read(self) -> MachineMemory | None:
        """How things stand now; ``None`` where it cannot be told. A few milliseconds, and never an error."""


class FootprintLedger(Protocol):
    """Remembers what models were seen to need, across restarts."""

    @abstractmethod
    def get(self, name: str) -> Memory | None:
        """The most that was seen under ``name``."""

    @abstractmethod
    async def record(self, name: str, seen: Memory) -> None:
        """Keep ``seen`` where it is more than what is known. Losing it to a crash costs an estimate, no more."""
